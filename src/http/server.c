/*
 * The server: its tables, its connections and their caps. What a connection does is in h1_server.c
 * and h2_server.c, what a request does in request.c.
 */
#include "http/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/conn.h"

#include <string.h>
#include <utlist.h>

static const struct http_limits default_limits = {
    .conns = 4096,
    .conns_per_addr = 256,
    .requests_per_conn = 64,
    .requests_per_addr = 2048,
    .header_bytes = 16 * 1024,
    .header_count = 100,
    .header_ms = 10 * 1000,
    .body_ms = 30 * 1000,
    .idle_ms = 60 * 1000,
    .sse_backlog = 1024 * 1024,
};

void http_fill_limits(void *limits, const void *defaults, size_t size)
{
    uint32_t *l = limits;
    const uint32_t *d = defaults;
    for (size_t i = 0; i < size / sizeof(*l); i++)
        l[i] = l[i] ? l[i] : d[i];
}

int http_server_new(const struct http_server_config *cfg, struct http_server **ret)
{
    struct http_server *s = NEW(struct http_server);
    s->loop = cfg->loop;
    s->hooks = cfg->hooks;
    s->limits = cfg->limits;
    http_fill_limits(&s->limits, &default_limits, sizeof(s->limits));
    *ret = s;
    return 0;
}

void http_server_add(struct http_server *s, const struct http_route *rows, size_t n, void *ctx)
{
    struct http_table *t = NEW(struct http_table);
    *t = (struct http_table){.rows = rows, .n = n, .ctx = ctx};
    LL_APPEND(s->tables, t);
}

void http_server_on_connect(struct http_server *s,
                            void (*handler)(struct http_request *req, void *ctx), void *ctx)
{
    s->connect = (struct http_route){.method = "CONNECT", .role = HTTP_PUBLIC, .handler = handler};
    s->connect_ctx = ctx;
}

void http_server_on_connect_stream(struct http_server *s,
                                   void (*handler)(void *ctx, struct h2_stream *stream,
                                                   const struct h2_headers *h),
                                   void *ctx)
{
    s->on_connect_stream = handler;
    s->connect_stream_ctx = ctx;
}

void http_server_on_host(struct http_server *s, bool (*is_elsewhere)(void *arg, const char *host),
                         void *arg)
{
    s->is_elsewhere = is_elsewhere;
    s->is_elsewhere_arg = arg;
}

void http_server_on_forward(struct http_server *s, void (*handler)(void *ctx, struct conn *c),
                            void *ctx)
{
    s->on_forward = handler;
    s->forward_ctx = ctx;
}

void http_server_stats(const struct http_server *s, struct http_stats *ret)
{
    *ret = s->stats;
}

/* --- connections ------------------------------------------------------------------------------ */

static struct http_source *source_get(struct http_server *s, const struct addr *a)
{
    uint8_t key[16];
    struct http_source *src = NULL;
    addr_origin(a, key);
    HASH_FIND(hh, s->sources, key, sizeof(key), src);
    if (!src) {
        src = NEW(struct http_source);
        memcpy(src->ip, key, sizeof(key));
        HASH_ADD(hh, s->sources, ip, sizeof(src->ip), src);
    }
    return src;
}

static void source_put(struct http_server *s, struct http_source *src)
{
    if (src->conns > 0)
        return;
    HASH_DEL(s->sources, src);
    mem_free(src);
}

bool http_server_admit(struct http_server *s, struct conn *c)
{
    struct http_source *src = source_get(s, conn_peer_addr(c));
    bool fits = !s->is_draining && s->stats.conns < s->limits.conns &&
                src->conns < s->limits.conns_per_addr;
    source_put(s, src);
    if (!fits)
        conn_abort(c, ERR_LIMIT);
    return fits;
}

void http_server_take(struct http_server *s, struct conn *c)
{
    if (!http_server_admit(s, c))
        return;
    if (strcmp(conn_alpn(c), "h2") == 0)
        http_h2_take(s, c);
    else
        http_h1_take(s, c);
}

void http_link_add(struct http_link *link, struct http_server *s, struct conn *c,
                   const struct http_link_ops *ops)
{
    *link = (struct http_link){.server = s, .conn = c, .peer = *conn_peer_addr(c), .ops = ops};
    link->source = source_get(s, &link->peer);
    link->source->conns++;
    s->stats.conns++;
    DL_APPEND(s->links, link);
}

static void check_drained(struct http_server *s)
{
    if (!s->is_draining || s->links || !s->on_drained)
        return;
    void (*fn)(void *) = TAKE(s->on_drained);
    fn(s->on_drained_arg);
}

void http_link_remove(struct http_link *link)
{
    struct http_server *s = link->server;
    if (!s)
        return;
    DL_DELETE(s->links, link);
    s->stats.conns--;
    link->source->conns--;
    source_put(s, link->source);
    link->server = NULL;
    check_drained(s);
}

/* --- the end ---------------------------------------------------------------------------------- */

void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg)
{
    s->is_draining = true;
    s->on_drained = done;
    s->on_drained_arg = arg;
    struct http_request *req, *next_req;
    DL_FOREACH_SAFE (s->requests, req, next_req)
        if (req->step == HTTP_STEP_STREAM)
            http_sse_drain(req);
    struct http_link *link, *next;
    DL_FOREACH_SAFE (s->links, link, next)
        link->ops->drain(link);
    check_drained(s);
}

static void abandon(struct http_server *s, struct http_request *req)
{
    if (req->side)
        req->ops->cut(req);
    DL_DELETE(s->requests, req);
    req->server = NULL;
    if (req->step == HTTP_STEP_BODY)
        http_request_free(req);
    else if (req->step == HTTP_STEP_STREAM)
        http_sse_lost(req);
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    s->on_drained = NULL;
    struct http_request *req, *next_req;
    DL_FOREACH_SAFE (s->requests, req, next_req)
        abandon(s, req);
    struct http_link *link, *next_link;
    DL_FOREACH_SAFE (s->links, link, next_link) {
        link->ops->abort(link);
        http_link_remove(link);
    }
    struct http_table *t, *next_table;
    LL_FOREACH_SAFE (s->tables, t, next_table)
        mem_free(t);
    mem_free(s);
}
