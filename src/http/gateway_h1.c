/*
 * One HTTP/1.1 connection of the gateway. Requests are read one at a time.
 *
 *      IDLE ──byte──► HEAD ──► BUSY ──answer, request read──► IDLE, or CLOSING
 *                      │        ├──101──► RAW ──► CLOSING
 *                      └─error──┴─► LINGER (reads over what still comes) ──► CLOSING
 *
 * What makes the end of a request doubtful closes the connection: nothing after it is ever read as
 * another request.
 */
#include "http/gateway_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/gateway_rules.h"
#include "net/conn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LINGER_MS    1000
#define LINGER_BYTES (1024 * 1024)
#define SLICE        32768 /* fed at a time: a full exchange stops the next */

enum h1_state { H1_IDLE, H1_HEAD, H1_BUSY, H1_RAW, H1_LINGER, H1_CLOSING };

struct h1 {
    struct http_link link;
    struct gateway *gateway;
    struct http1 parser;
    enum h1_state state;
    struct gateway_exchange *x;
    struct buf out;
    size_t out_at;
    struct timer deadline; /* of the state */
    struct timer stall;
    size_t lingered;
    bool expects; /* the client waits for 100 Continue */
    bool is_chunked, close_after, is_paused, has_closed;
};

static size_t unsent(const struct h1 *h)
{
    return h->out.len - h->out_at;
}

static void wake(struct h1 *h)
{
    if (h->has_closed)
        return;
    if (!timer_is_running(&h->stall))
        timer_start(&h->stall, HTTP_STALL_MS);
    conn_wake(h->link.conn);
}

static void stop_timers(struct h1 *h)
{
    timer_stop(&h->deadline);
    timer_stop(&h->stall);
}

static void close_now(struct h1 *h)
{
    if (h->has_closed)
        return;
    h->has_closed = true;
    stop_timers(h);
    conn_close(h->link.conn);
}

static void abort_now(struct h1 *h, int err)
{
    if (h->has_closed)
        return;
    h->has_closed = true;
    stop_timers(h);
    conn_abort(h->link.conn, err);
}

static void resume(struct h1 *h)
{
    if (!h->is_paused || h->has_closed)
        return;
    h->is_paused = false;
    conn_resume(h->link.conn);
}

static void enter(struct h1 *h, enum h1_state state)
{
    const struct http_limits *l = &h->gateway->server->limits;
    h->state = state;
    if (state == H1_IDLE)
        timer_start(&h->deadline, l->idle_ms);
    else if (state == H1_HEAD)
        timer_start(&h->deadline, l->header_ms);
    else if (state == H1_LINGER)
        timer_start(&h->deadline, LINGER_MS);
    else
        timer_stop(&h->deadline);
    if (state == H1_LINGER || state == H1_RAW)
        resume(h);
}

static bool is_draining(const struct h1 *h)
{
    return !h->link.server || h->link.server->is_draining;
}

/* ---- the answer: struct gateway_side_ops ---- */

static void side_go_on(struct gateway_exchange *x)
{
    struct h1 *h = x->side;
    if (!h->expects)
        return;
    h->expects = false;
    http1_put_status(&h->out, 100);
    http1_put_end(&h->out);
    wake(h);
}

static void put_fields(struct h1 *h, int status, const struct http_header *fields, size_t n)
{
    http1_put_status(&h->out, status);
    for (size_t i = 0; i < n; i++)
        http1_put_field(&h->out, fields[i].name, fields[i].value);
}

static void side_begin(struct gateway_exchange *x, int status, const struct http_header *fields,
                       size_t n, bool has_body, int64_t length)
{
    struct h1 *h = x->side;
    bool is_old = h->parser.head.minor == 0;
    put_fields(h, status, fields, n);
    if (status == 101) {
        http1_put_field(&h->out, "connection", "upgrade");
        http1_put_field(&h->out, "upgrade", "websocket");
        http1_put_end(&h->out);
        enter(h, H1_RAW);
        wake(h);
        return;
    }
    h->is_chunked = has_body && length < 0 && !is_old;
    if (x->refuse_status)
        h->close_after = true;
    if (!h->parser.head.keep_alive || !h->parser.ended || is_draining(h) ||
        (has_body && length < 0 && is_old))
        h->close_after = true;
    if (h->is_chunked)
        http1_put_field(&h->out, "transfer-encoding", "chunked");
    else if (length >= 0 && status != 204)
        buf_printf(&h->out, "content-length: %" PRId64 "\r\n", length);
    if (h->close_after)
        http1_put_field(&h->out, "connection", "close");
    else if (is_old)
        http1_put_field(&h->out, "connection", "keep-alive");
    http1_put_end(&h->out);
    wake(h);
}

static size_t side_send(struct gateway_exchange *x, const void *data, size_t len)
{
    struct h1 *h = x->side;
    if (h->is_chunked && len > 0)
        http1_put_chunk(&h->out, data, len);
    else
        buf_append(&h->out, data, len);
    wake(h);
    return unsent(h);
}

static void side_taken(struct gateway_exchange *x, size_t len)
{
    struct h1 *h = x->side;
    if (!gateway_exchange_is_full(x))
        resume(h);
}

static void side_finish(struct gateway_exchange *x)
{
    struct h1 *h = gateway_exchange_leave(x);
    bool was_raw = h->state == H1_RAW;
    h->x = NULL;
    if (h->is_chunked)
        http1_put_chunk(&h->out, NULL, 0);
    h->is_chunked = false;
    wake(h);
    if (!was_raw && !h->parser.ended) {
        enter(h, H1_LINGER);
    } else if (was_raw || h->close_after) {
        enter(h, H1_CLOSING);
    } else {
        http1_next(&h->parser);
        enter(h, H1_IDLE);
        resume(h);
    }
}

/* The answer cannot be completed, and its reader must see that. */
static void side_cut(struct gateway_exchange *x, int err)
{
    struct h1 *h = gateway_exchange_leave(x);
    h->x = NULL;
    abort_now(h, err == ERR_RESET ? ERR_RESET : ERR_CANCELED);
}

static const struct gateway_side_ops side_ops = {side_go_on, side_begin,  side_send,
                                                 side_taken, side_finish, side_cut};

/* ---- the request: struct http1_ops ---- */

static int on_head(struct http1 *p, const struct http1_head *head)
{
    struct h1 *h = container_of(p, struct h1, parser);
    struct gateway_exchange *x =
        gateway_exchange_new(h->gateway, &h->link, &side_ops, h, http1_take_arena(p));
    x->method = head->method;
    x->target = head->target;
    x->fields = head->fields;
    x->n_fields = head->n_fields;
    x->authority = http_header_get(head->fields, head->n_fields, "host");
    x->has_body = head->has_body;
    x->body_ended = !head->has_body;
    x->content_length = head->content_length;
    x->is_websocket =
        !head->has_body && gateway_wants_websocket(head->method, head->fields, head->n_fields);
    if (x->is_websocket)
        x->body_ended = false; /* what follows the answer */
    h->x = x;
    h->expects = head->expect_continue;
    enter(h, H1_BUSY);
    gateway_exchange_begin(x, h->link.conn);
    return 0;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    struct h1 *h = container_of(p, struct h1, parser);
    if (h->x)
        gateway_exchange_body(h->x, data, len);
    return 0;
}

static int on_message_end(struct http1 *p)
{
    struct h1 *h = container_of(p, struct h1, parser);
    if (h->x && h->x->has_body)
        gateway_exchange_body_end(h->x);
    return 0;
}

static const struct http1_ops parser_ops = {on_head, on_body, on_message_end};

/* ---- the connection ---- */

/* What never became a request, or turned out not to be one in its body. */
static void refuse_input(struct h1 *h)
{
    char length[24];
    CLEANUP(buf_done) struct buf body = {0};
    struct diag d = {0};
    int status = h->parser.status ? h->parser.status : 400;
    if (h->x) { /* its target has a part of it already: that request must not end well */
        struct gateway_exchange *x = TAKE(h->x);
        bool has_begun = x->step == EXCHANGE_ANSWERED;
        gateway_exchange_gone(x);
        if (has_begun) {
            abort_now(h, ERR_PROTO);
            return;
        }
    }
    diag_set(&d, ERR_PROTO, "%s", h->parser.reason ? h->parser.reason : "malformed request");
    http_problem_write(&body, status, &d);
    snprintf(length, sizeof(length), "%zu", body.len);
    const struct http_header fields[] = {{"content-type", "application/problem+json"},
                                         {"content-length", length},
                                         {"connection", "close"}};
    h->gateway->stats.status_class[status / 100]++;
    put_fields(h, status, fields, ARRAY_SIZE(fields));
    http1_put_end(&h->out);
    buf_append(&h->out, body.data, body.len);
    h->close_after = true;
    wake(h);
    enter(h, H1_LINGER);
}

/* Whether the next bytes may be looked at now. */
static bool reads_on(const struct h1 *h)
{
    switch (h->state) {
    case H1_IDLE:
        return unsent(h) < GATEWAY_OUT_MAX;
    case H1_BUSY:
        return !h->parser.ended && !gateway_exchange_is_full(h->x);
    case H1_RAW:
        return !gateway_exchange_is_full(h->x);
    default:
        return true;
    }
}

/* Returns how many bytes it took. */
static size_t read_some(struct h1 *h, const uint8_t *data, size_t len)
{
    if (h->has_closed || h->state == H1_CLOSING)
        return len;
    if (h->state == H1_LINGER) {
        h->lingered += len;
        if (h->lingered > LINGER_BYTES)
            close_now(h);
        return len;
    }
    if (h->state == H1_RAW) {
        gateway_exchange_body(h->x, data, len);
        return len;
    }
    if (h->state == H1_IDLE)
        enter(h, H1_HEAD);
    int64_t n = http1_feed(&h->parser, data, MIN(len, (size_t)SLICE));
    if (n >= 0)
        return (size_t)n;
    refuse_input(h);
    return len;
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct h1 *h = arg;
    size_t used = 0;
    while (used < len) {
        if (!h->has_closed && !reads_on(h)) {
            h->is_paused = true;
            conn_pause(h->link.conn);
            return used;
        }
        used += read_some(h, data + used, len - used);
    }
    return used;
}

static void on_end(void *arg)
{
    struct h1 *h = arg;
    h->close_after = true;
    if (h->state == H1_RAW)
        gateway_exchange_body_end(h->x);
    else if (h->state != H1_BUSY && (h->state != H1_CLOSING || unsent(h) == 0))
        close_now(h);
    else if (h->state == H1_BUSY && !h->parser.ended)
        abort_now(h, ERR_CLOSED); /* cut short: gone by on_close */
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct h1 *h = arg;
    size_t n = MIN(cap, unsent(h));
    if (n > 0) {
        memcpy(out, h->out.data + h->out_at, n);
        h->out_at += n;
        timer_start(&h->stall, HTTP_STALL_MS);
    }
    if (unsent(h) > 0)
        return n;
    timer_stop(&h->stall);
    buf_clear(&h->out);
    h->out_at = 0;
    if (h->x && n)
        gateway_exchange_room(h->x);
    if (h->state == H1_CLOSING)
        close_now(h);
    else if (h->state == H1_IDLE) {
        buf_done(&h->out);
        resume(h);
    }
    return n;
}

static void on_close(void *arg, int err)
{
    struct h1 *h = arg;
    h->has_closed = true;
    stop_timers(h);
    if (h->x)
        gateway_exchange_gone(TAKE(h->x));
    http_link_remove(&h->link);
    http1_done(&h->parser);
    buf_done(&h->out);
    mem_free(h);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_end, .on_fill = on_fill, .on_close = on_close};

static void on_deadline(struct timer *t)
{
    struct h1 *h = container_of(t, struct h1, deadline);
    if (h->state == H1_HEAD && h->parser.in_message) {
        h->parser.status = 408;
        h->parser.reason = "the request did not arrive in time";
        refuse_input(h);
    } else if (h->state == H1_IDLE && unsent(h) > 0) {
        enter(h, H1_IDLE); /* not idle: still taking the last answer, see on_stall */
    } else {
        close_now(h);
    }
}

static void on_stall(struct timer *t)
{
    abort_now(container_of(t, struct h1, stall), ERR_TIMEOUT);
}

static void link_drain(struct http_link *link)
{
    struct h1 *h = container_of(link, struct h1, link);
    h->close_after = true;
    if (h->state == H1_IDLE && unsent(h) == 0)
        close_now(h);
    else if (h->state == H1_IDLE)
        enter(h, H1_CLOSING);
}

static void link_abort(struct http_link *link)
{
    struct h1 *h = container_of(link, struct h1, link);
    stop_timers(h);
    h->has_closed = true;
    conn_abort(link->conn, ERR_CANCELED); /* also one that is closing: the loop may end before it */
}

static const struct http_link_ops link_ops = {link_drain, link_abort};

void gateway_h1_take(struct gateway *g, struct conn *c)
{
    struct h1 *h = NEW(struct h1);
    h->gateway = g;
    http_link_add(&h->link, g->server, c, &link_ops);
    http1_init_server(
        &h->parser, &parser_ops,
        (struct http1_limits){g->server->limits.header_bytes, g->server->limits.header_count});
    timer_init(&h->deadline, g->loop, on_deadline);
    timer_init(&h->stall, g->loop, on_stall);
    enter(h, H1_IDLE);
    conn_start(c, &conn_ops, h);
}
