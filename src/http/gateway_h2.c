/*
 * One HTTP/2 connection of the gateway: each stream is an exchange. What of a request's body was
 * not passed on yet holds the stream's window shut. The session's own limits are wire/h2's.
 */
#include "http/gateway_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "http/gateway_rules.h"
#include "http/h2_side.h"
#include "net/h2conn.h"

#include <stdio.h>
#include <string.h>

#define WINDOW     (256 * 1024)
#define WINDOW_MAX (2 * 1024 * 1024)

struct h2_link {
    struct http_h2_link l;
    struct gateway *gateway;
};

struct h2_side {
    struct h2_link *link;
    struct gateway_exchange *x; /* NULL once answered */
    struct http_h2_out out;
    size_t unconsumed;
    bool expects, has_read_end;
};

/* ---- the answer: struct gateway_side_ops ---- */

static void side_go_on(struct gateway_exchange *x)
{
    struct h2_side *side = x->side;
    if (side->expects)
        h2_inform(side->out.stream, H2_HEADERS({":status", "100"}), 1);
    side->expects = false;
}

static void side_begin(struct gateway_exchange *x, int status, const struct http_header *fields,
                       size_t n, bool has_body, int64_t length)
{
    struct h2_side *side = x->side;
    struct h2_header headers[GATEWAY_HEADERS + 2];
    char status_text[12], length_text[24];
    size_t count = 0;
    bool is_raw = status == 101;
    snprintf(status_text, sizeof(status_text), "%d", is_raw ? 200 : status);
    snprintf(length_text, sizeof(length_text), "%lld", (long long)length);
    headers[count++] = (struct h2_header){":status", status_text};
    for (size_t i = 0; i < n; i++)
        headers[count++] = (struct h2_header){fields[i].name, fields[i].value};
    if (length >= 0 && !is_raw && status != 204)
        headers[count++] = (struct h2_header){"content-length", length_text};
    if (h2_respond(side->out.stream, headers, count, has_body || is_raw || !side->has_read_end) < 0)
        h2_reset(side->out.stream, H2_INTERNAL_ERROR);
}

static size_t side_send(struct gateway_exchange *x, const void *data, size_t len)
{
    struct h2_side *side = x->side;
    return http_h2_out_add(&side->out, data, len);
}

static void side_taken(struct gateway_exchange *x, size_t len)
{
    struct h2_side *side = x->side;
    side->unconsumed -= len;
    h2_consume(side->out.stream, len);
}

static void side_finish(struct gateway_exchange *x)
{
    struct h2_side *side = gateway_exchange_leave(x);
    side->x = NULL;
    if (side->unconsumed)
        h2_consume(side->out.stream, side->unconsumed);
    side->unconsumed = 0;
    http_h2_out_end(&side->out, !side->has_read_end);
}

static void side_cut(struct gateway_exchange *x, int err)
{
    struct h2_side *side = gateway_exchange_leave(x);
    side->x = NULL;
    timer_stop(&side->out.deadline);
    h2_reset(side->out.stream, x->is_raw ? H2_CONNECT_ERROR : H2_INTERNAL_ERROR);
}

static const struct gateway_side_ops side_ops = {side_go_on, side_begin,  side_send,
                                                 side_taken, side_finish, side_cut};

/* ---- streams ---- */

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct h2_side *side = arg;
    if (side->x) {
        side->unconsumed += len;
        gateway_exchange_body(side->x, data, len);
    } else {
        http_h2_out_read_over(&side->out, len);
    }
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct h2_side *side = arg;
    side->has_read_end = true;
    if (side->x)
        gateway_exchange_body_end(side->x);
    else if (side->out.lingers)
        http_h2_out_stop_lingering(&side->out);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct h2_side *side = arg;
    size_t n;
    if (http_h2_out_produce(&side->out, out, cap, &n, eof) && side->x && n)
        gateway_exchange_room(side->x);
    return (int)n;
}

static void on_stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct h2_side *side = arg;
    struct h2_link *l = side->link;
    http_h2_out_done(&side->out);
    if (side->x)
        gateway_exchange_gone(side->x);
    mem_free(side);
    http_h2_link_left(&l->l);
}

static const struct h2_stream_ops stream_ops = {
    .on_data = on_data, .on_end = on_end, .on_produce = on_produce, .on_close = on_stream_close};

static void on_side_deadline(struct timer *t)
{
    struct http_h2_out *out = container_of(t, struct http_h2_out, deadline);
    if (out->lingers)
        http_h2_out_stop_lingering(out);
    else
        h2_reset(out->stream, H2_CANCEL);
}

/* ---- requests ---- */

/* The regular fields; NULL when there are too many. */
static struct http_header *copy_fields(struct arena *a, const struct h2_headers *h, size_t max,
                                       size_t *ret_n)
{
    if (h->count > max)
        return NULL;
    struct http_header *fields = arena_alloc(a, (h->count + 1) * sizeof(*fields));
    size_t n = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct h2_header *f = &h->items[i];
        if (f->name[0] != ':' && http_is_token(f->name) && http_value_is_safe(f->value))
            fields[n++] = (struct http_header){arena_strdup(a, f->name), arena_strdup(a, f->value)};
    }
    *ret_n = n;
    return fields;
}

/* Of a request that says it in two places they must be one (RFC 9113 section 8.3.1). */
static const char *authority_of(const struct h2_headers *h)
{
    const char *authority = h2_headers_get(h, ":authority"), *host = h2_headers_get(h, "host");
    char a[HOST_SIZE], b[HOST_SIZE];
    size_t n_hosts = 0;
    for (size_t i = 0; i < h->count; i++)
        n_hosts += strcmp(h->items[i].name, "host") == 0;
    if (n_hosts > 1)
        return NULL;
    if (!authority || !host)
        return authority ? authority : host;
    bool is_same = gateway_host(authority, a) == 0 && gateway_host(host, b) == 0 && !strcmp(a, b);
    return is_same ? authority : NULL;
}

static void fill_exchange(struct gateway_exchange *x, const struct h2_headers *h,
                          const struct http_header *fields, size_t n)
{
    const char *length = h2_headers_get(h, "content-length");
    const char *protocol = h2_headers_get(h, ":protocol"), *authority = authority_of(h);
    uint64_t len;
    x->is_h2 = true;
    x->method = arena_strdup(&x->arena, h2_headers_get(h, ":method"));
    x->target = arena_strdup(&x->arena, h2_headers_get(h, ":path"));
    x->authority = authority ? arena_strdup(&x->arena, authority) : NULL;
    x->fields = fields;
    x->n_fields = n;
    x->is_websocket = protocol && strcmp(protocol, "websocket") == 0;
    x->has_body = !x->is_websocket;
    if (length && text_to_u64(length, INT64_MAX, &len) == 0)
        x->content_length = (int64_t)len;
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct h2_link *l = arg;
    struct arena arena = {0};
    size_t n = 0;
    if (!l->l.link.server || !h2_headers_get(h, ":method") || !h2_headers_get(h, ":path")) {
        http_h2_refuse(s, "400");
        return;
    }
    struct http_header *fields = copy_fields(&arena, h, l->l.link.server->limits.header_count, &n);
    if (!fields) {
        arena_done(&arena);
        http_h2_refuse(s, "431");
        return;
    }
    struct h2_side *side = NEW(struct h2_side);
    side->link = l;
    side->out.stream = s;
    side->x = gateway_exchange_new(l->gateway, &l->l.link, &side_ops, side, arena);
    timer_init(&side->out.deadline, l->gateway->loop, on_side_deadline);
    fill_exchange(side->x, h, fields, n);
    const char *expect = h2_headers_get(h, "expect");
    side->expects = expect && strcmp(expect, "100-continue") == 0;
    http_h2_link_joined(&l->l);
    h2_stream_set(s, &stream_ops, side);
    gateway_exchange_begin(side->x, l->l.link.conn);
}

/* ---- the connection ---- */

static const struct h2conn_ops h2conn_ops = {.on_request = on_request,
                                             .on_close = http_h2_link_closed};

static void on_idle(struct timer *t)
{
    http_h2_link_close_idle(container_of(t, struct http_h2_link, idle));
}

void gateway_h2_take(struct gateway *g, struct conn *c)
{
    struct h2_link *l = NEW(struct h2_link);
    l->gateway = g;
    http_h2_link_init(&l->l, g->server, c, on_idle);
    const struct h2conn_config cfg = {.h2 = {.is_server = true,
                                             .max_streams = g->server->limits.requests_per_conn,
                                             .stream_window = WINDOW,
                                             .stream_window_max = WINDOW_MAX,
                                             .connection_window = 4 * 1024 * 1024,
                                             .window_budget = 8 * 1024 * 1024,
                                             .max_header_bytes = g->server->limits.header_bytes,
                                             .enable_connect = true}};
    l->l.hc = h2conn_new(c, &cfg, &h2conn_ops, l);
}
