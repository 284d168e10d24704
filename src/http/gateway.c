/*
 * Exchanges: a request from its head to the end of its answer. The client's side is in gateway_h1.c
 * and gateway_h2.c, the target's in gateway_stream.c; each of the two may end first.
 *
 *   READING ──► ASKED ──gateway_decide──► SENT ──the answer's head──► ANSWERED ──► freed
 *      └──────────┴──────── refused, failed, client gone ─────┴──────────┴──► freed
 *
 * An exchange that waits for gateway_decide is freed there only. Nothing is kept of a body but
 * what one batch brought: a full exchange stops its client's connection, a full client its stream.
 */
#include "http/gateway_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/gateway_rules.h"
#include "net/conn.h"
#include "net/tls.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#define READING_MS 30000

static const struct gateway_limits default_limits = {
    .exchanges = 8192,
    .idle_streams = 256,
    .answer_ms = 60 * 1000,
    .silence_ms = 5 * 60 * 1000,
    .socket_ms = 60 * 60 * 1000,
    .idle_stream_ms = 15 * 1000,
};

/* ---- time ---- */

void gateway_exchange_moved(struct gateway_exchange *x)
{
    x->moved_ms = loop_now_ms(x->gateway->loop);
}

static uint32_t patience(const struct gateway_exchange *x)
{
    const struct gateway_limits *l = &x->gateway->limits;
    switch (x->step) {
    case EXCHANGE_READING:
        return READING_MS;
    case EXCHANGE_ASKED:
        return UINT32_MAX;
    case EXCHANGE_SENT:
        return l->answer_ms;
    case EXCHANGE_ANSWERED:
        break;
    }
    return x->is_raw ? l->socket_ms : l->silence_ms;
}

static bool waits_for_client(const struct gateway_exchange *x)
{
    return !x->body_ended && gateway_exchange_waiting(x) == 0 && !x->is_websocket;
}

static void on_timer(struct timer *t)
{
    struct gateway_exchange *x = container_of(t, struct gateway_exchange, timer);
    uint64_t due = x->moved_ms + patience(x), now = loop_now_ms(x->gateway->loop);
    if (now < due)
        timer_start(t, due - now);
    else if (x->step != EXCHANGE_ANSWERED && waits_for_client(x))
        gateway_page_refuse(x, 408, "the request did not arrive in time", NULL);
    else
        gateway_exchange_fail(x, ERR_TIMEOUT, "the target did not answer in time");
}

static void enter(struct gateway_exchange *x, enum exchange_step step)
{
    x->step = step;
    gateway_exchange_moved(x);
    if (step == EXCHANGE_ASKED)
        timer_stop(&x->timer);
    else
        timer_start(&x->timer, patience(x));
}

/* ---- life ---- */

static void on_refuse(struct defer *d)
{
    struct gateway_exchange *x = container_of(d, struct gateway_exchange, refuse);
    gateway_page_refuse(x, x->refuse_status, x->refuse_reason, NULL);
}

struct gateway_exchange *gateway_exchange_new(struct gateway *g, struct http_link *link,
                                              const struct gateway_side_ops *ops, void *side,
                                              struct arena arena)
{
    struct gateway_exchange *x = NEW(struct gateway_exchange);
    x->gateway = g;
    x->ops = ops;
    x->side = side;
    x->arena = arena;
    x->peer = link->peer;
    x->content_length = -1;
    x->source = link->source;
    x->source->in_flight++;
    x->refuse.fn = on_refuse;
    timer_init(&x->timer, g->loop, on_timer);
    DL_APPEND(g->exchanges, x);
    g->stats.exchanges++;
    g->stats.requests++;
    return x;
}

void *gateway_exchange_leave(struct gateway_exchange *x)
{
    void *side = TAKE(x->side);
    if (x->source)
        x->source->in_flight--;
    x->source = NULL;
    return side;
}

void gateway_exchange_end(struct gateway_exchange *x)
{
    struct gateway *g = x->gateway;
    timer_stop(&x->timer);
    loop_defer_cancel(&x->refuse);
    if (g) {
        DL_DELETE(g->exchanges, x);
        g->stats.exchanges--;
    }
    tls_client_unref(x->tls);
    buf_done(&x->body);
    arena_done(&x->arena);
    mem_free(x);
}

void gateway_exchange_gone(struct gateway_exchange *x)
{
    gateway_exchange_leave(x);
    if (x->stream)
        gateway_stream_drop(TAKE(x->stream), ERR_CANCELED);
    if (x->step != EXCHANGE_ASKED || x->refuse_status)
        gateway_exchange_end(x);
}

void gateway_exchange_fail(struct gateway_exchange *x, int err, const char *reason)
{
    char *why = arena_strdup(&x->arena, reason ? reason : ""); /* it may be the stream's */
    if (x->stream)
        gateway_stream_drop(TAKE(x->stream), err);
    if (x->step != EXCHANGE_ANSWERED) {
        gateway_page_error(x, err, why);
        return;
    }
    if (x->side)
        x->ops->cut(x, err);
    gateway_exchange_end(x);
}

/* ---- the request ---- */

static const char *field(const struct gateway_exchange *x, const char *name)
{
    return http_header_get(x->fields, x->n_fields, name);
}

static void ask(struct gateway_exchange *x)
{
    const char *mode = field(x, "sec-fetch-mode"), *accept = field(x, "accept");
    const struct gateway_ask a = {
        .method = x->method,
        .path = x->target,
        .host = x->host,
        .authorization = field(x, "authorization"),
        .cookie = field(x, "cookie"),
        .origin = field(x, "origin"),
        .accept = accept,
        .body = buf_text(&x->body),
        .peer = x->peer,
        .is_navigation =
            mode ? strcmp(mode, "navigate") == 0 : accept && http_value_has(accept, "text/html"),
        .proxy_authorization = field(x, "proxy-authorization"),
        .authority = x->forward_to,
        .own = x->own,
    };
    enter(x, EXCHANGE_ASKED);
    x->gateway->ops->on_request(x->gateway->arg, x, &a);
}

static void refuse_later(struct gateway_exchange *x, int status, const char *reason)
{
    x->step = EXCHANGE_ASKED;
    x->refuse_status = status;
    x->refuse_reason = reason;
    loop_defer(x->gateway->loop, &x->refuse);
}

static bool is_misdirected(const struct gateway_exchange *x, struct conn *c)
{
    char asked[HOST_SIZE];
    return host_name_parse(conn_server_name(c), asked) == 0 && strcmp(asked, x->host) != 0 &&
           !conn_cert_covers(c, x->host);
}

static int check_host(struct gateway_exchange *x, const char **reason)
{
    if (x->gateway->is_forward)
        return 0;
    *reason = "this is no name of a host";
    if (!x->authority || gateway_host(x->authority, x->host) < 0)
        return 400;
    return 0;
}

static int check_target(struct gateway_exchange *x, const char **reason)
{
    struct host_port to;
    char text[HOST_SIZE + 8];
    *reason = "the request's target is malformed, or of another host";
    if (!http_is_token(x->method))
        return 400;
    if (!x->gateway->is_forward)
        return gateway_target(x->method, x->target, x->host, &x->target) < 0 ? 400 : 0;
    *reason = "a request to a proxy goes as http://host/path";
    if (gateway_absolute(&x->arena, x->method, x->target, &to, &x->authority, &x->target) < 0)
        return 400;
    snprintf(x->host, sizeof(x->host), "%s", to.host);
    host_port_format(&to, text, sizeof(text));
    x->forward_to = arena_strdup(&x->arena, text);
    return 0;
}

/* 0, or the status to refuse it with. */
static int check(struct gateway_exchange *x, struct conn *c, const char **reason)
{
    const struct gateway *g = x->gateway;
    int status = check_host(x, reason);
    if (status)
        return status;
    *reason = "the method is not allowed here";
    if (!x->is_websocket && (strcmp(x->method, "CONNECT") == 0 || strcmp(x->method, "TRACE") == 0))
        return 405;
    if ((status = check_target(x, reason)))
        return status;
    *reason = "the connection was made to another host";
    if (!g->is_forward && is_misdirected(x, c))
        return 421;
    *reason = "too many requests are being served; try again";
    if (g->stats.exchanges > g->limits.exchanges ||
        x->source->in_flight > g->server->limits.requests_per_addr)
        return 503;
    *reason = "the body is too large";
    return gateway_is_own(x) && x->content_length > GATEWAY_OWN_MAX ? 413 : 0;
}

bool gateway_is_own(const struct gateway_exchange *x)
{
    return !x->gateway->is_forward &&
           strncmp(x->target, GATEWAY_OWN_PATH, strlen(GATEWAY_OWN_PATH)) == 0;
}

void gateway_exchange_begin(struct gateway_exchange *x, struct conn *c)
{
    const char *reason;
    int status = check(x, c, &reason);
    x->own.len = sizeof(x->own.in6);
    if (!x->gateway->is_forward || getsockname(conn_fd(c), &x->own.sa, &x->own.len) < 0)
        x->own.len = 0;
    x->is_head = strcmp(x->method, "HEAD") == 0;
    if (status)
        refuse_later(x, status, reason);
    else if (gateway_is_own(x) && !x->body_ended)
        enter(x, EXCHANGE_READING);
    else
        ask(x);
}

void gateway_exchange_body(struct gateway_exchange *x, const void *data, size_t len)
{
    if (x->refuse_status) { /* read over */
        x->ops->taken(x, len);
        return;
    }
    gateway_exchange_moved(x);
    if (x->step == EXCHANGE_READING)
        x->ops->taken(x, len);
    if (x->step == EXCHANGE_READING && gateway_exchange_waiting(x) + len > GATEWAY_OWN_MAX) {
        timer_stop(&x->timer);
        refuse_later(x, 413, "the body is too large");
        return;
    }
    buf_append(&x->body, data, len);
    if (x->stream)
        gateway_stream_wake(x->stream);
}

void gateway_exchange_body_end(struct gateway_exchange *x)
{
    x->body_ended = true;
    if (x->step == EXCHANGE_READING)
        ask(x);
    else if (x->stream)
        gateway_stream_wake(x->stream);
}

size_t gateway_exchange_waiting(const struct gateway_exchange *x)
{
    return x->body.len - x->body_at;
}

bool gateway_exchange_is_full(const struct gateway_exchange *x)
{
    return gateway_exchange_waiting(x) >= GATEWAY_BODY_MAX;
}

void gateway_exchange_room(struct gateway_exchange *x)
{
    gateway_exchange_moved(x);
    if (x->stream)
        gateway_stream_resume(x->stream);
}

void gateway_decide(struct gateway_exchange *x, const struct gateway_decision *d)
{
    x->tls = d->tls;
    if (!x->gateway || !x->side) {
        gateway_exchange_end(x);
    } else if (d->error) {
        gateway_page_error(x, d->error, d->body);
    } else if (!d->status && gateway_is_own(x)) {
        gateway_page_refuse(x, 404, "there is nothing here", NULL);
    } else if (d->status && !d->content_type && d->body && *d->body) {
        gateway_page_refuse(x, d->status, d->body, d->headers);
    } else if (d->status) {
        gateway_page_answer(x, d->status, d->content_type, d->body, d->headers);
    } else {
        memcpy(x->key, d->key, sizeof(x->key));
        x->drop_authorization = d->drop_authorization;
        x->drop_cookie = d->drop_cookie;
        enter(x, EXCHANGE_SENT);
        gateway_stream_begin(x);
    }
}

/* ---- the gateway ---- */

struct gateway *gateway_new(const struct gateway_config *cfg)
{
    const struct http_server_config server = {.loop = cfg->loop,
                                              .limits = {.conns = 16384, .conns_per_addr = 1024}};
    struct gateway *g = NEW(struct gateway);
    g->loop = cfg->loop;
    g->ops = cfg->ops;
    g->arg = cfg->arg;
    g->limits = cfg->limits;
    http_fill_limits(&g->limits, &default_limits, sizeof(g->limits));
    g->is_forward = cfg->is_forward;
    http_server_new(&server, &g->server);
    timer_init(&g->sweep, g->loop, gateway_stream_sweep);
    return g;
}

void gateway_take(struct gateway *g, struct conn *c)
{
    if (!http_server_admit(g->server, c))
        return;
    if (strcmp(conn_alpn(c), "h2") == 0)
        gateway_h2_take(g, c);
    else
        gateway_h1_take(g, c);
}

static void drained(void *arg)
{
}

void gateway_drain(struct gateway *g)
{
    http_server_drain(g->server, drained, NULL);
    gateway_stream_close_idle(g, NULL);
}

void gateway_supersede(struct gateway *g, const char *key)
{
    gateway_stream_close_idle(g, key);
}

void gateway_free(struct gateway *g)
{
    struct gateway_exchange *x, *next;
    if (!g)
        return;
    DL_FOREACH_SAFE (g->exchanges, x, next) {
        bool is_held = x->step == EXCHANGE_ASKED && !x->refuse_status;
        if (x->side)
            x->ops->cut(x, ERR_CANCELED);
        if (x->stream)
            gateway_stream_drop(TAKE(x->stream), ERR_CANCELED);
        if (!is_held) {
            gateway_exchange_end(x);
            continue;
        }
        DL_DELETE(g->exchanges, x);
        x->gateway = NULL;
    }
    http_server_free(g->server);
    gateway_stream_abandon_all(g);
    timer_stop(&g->sweep);
    mem_free(g);
}

const struct gateway_stats *gateway_stats(const struct gateway *g)
{
    return &g->stats;
}
