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
#include "http/h1_side.h"
#include "net/conn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SLICE 32768 /* fed at a time: a full exchange stops the next */

enum h1_state { H1_IDLE, H1_HEAD, H1_BUSY, H1_RAW, H1_LINGER, H1_CLOSING };

struct h1 {
    struct http_h1_link l;
    struct gateway *gateway;
    enum h1_state state;
    struct gateway_exchange *x;
    bool expects; /* the client waits for 100 Continue */
    bool is_chunked;
};

static void enter(struct h1 *h, enum h1_state state)
{
    const struct http_limits *l = &h->gateway->server->limits;
    h->state = state;
    if (state == H1_IDLE)
        timer_start(&h->l.deadline, l->idle_ms);
    else if (state == H1_HEAD)
        timer_start(&h->l.deadline, l->header_ms);
    else if (state == H1_LINGER)
        timer_start(&h->l.deadline, HTTP_H1_LINGER_MS);
    else
        timer_stop(&h->l.deadline);
    if (state == H1_LINGER || state == H1_RAW)
        http_h1_resume(&h->l);
}

static bool is_draining(const struct h1 *h)
{
    return !h->l.link.server || h->l.link.server->is_draining;
}

/* ---- the answer: struct gateway_side_ops ---- */

static void side_go_on(struct gateway_exchange *x)
{
    struct h1 *h = x->side;
    if (!h->expects)
        return;
    h->expects = false;
    http1_put_status(&h->l.out, 100);
    http1_put_end(&h->l.out);
    http_h1_wake(&h->l);
}

static void put_fields(struct h1 *h, int status, const struct http_header *fields, size_t n)
{
    http1_put_status(&h->l.out, status);
    for (size_t i = 0; i < n; i++)
        http1_put_field(&h->l.out, fields[i].name, fields[i].value);
}

static void side_begin(struct gateway_exchange *x, int status, const struct http_header *fields,
                       size_t n, bool has_body, int64_t length)
{
    struct h1 *h = x->side;
    bool is_old = h->l.parser.head.minor == 0;
    put_fields(h, status, fields, n);
    if (status == 101) {
        http1_put_field(&h->l.out, "connection", "upgrade");
        http1_put_field(&h->l.out, "upgrade", "websocket");
        http1_put_end(&h->l.out);
        enter(h, H1_RAW);
        http_h1_wake(&h->l);
        return;
    }
    h->is_chunked = has_body && length < 0 && !is_old;
    if (x->refuse_status)
        h->l.close_after = true;
    if (!h->l.parser.head.keep_alive || !h->l.parser.ended || is_draining(h) ||
        (has_body && length < 0 && is_old))
        h->l.close_after = true;
    if (h->is_chunked)
        http1_put_field(&h->l.out, "transfer-encoding", "chunked");
    else if (length >= 0 && status != 204)
        buf_printf(&h->l.out, "content-length: %" PRId64 "\r\n", length);
    if (h->l.close_after)
        http1_put_field(&h->l.out, "connection", "close");
    else if (is_old)
        http1_put_field(&h->l.out, "connection", "keep-alive");
    http1_put_end(&h->l.out);
    http_h1_wake(&h->l);
}

static size_t side_send(struct gateway_exchange *x, const void *data, size_t len)
{
    struct h1 *h = x->side;
    if (h->is_chunked && len > 0)
        http1_put_chunk(&h->l.out, data, len);
    else
        buf_append(&h->l.out, data, len);
    http_h1_wake(&h->l);
    return http_h1_unsent(&h->l);
}

static void side_taken(struct gateway_exchange *x, size_t len)
{
    struct h1 *h = x->side;
    if (!gateway_exchange_is_full(x))
        http_h1_resume(&h->l);
}

static void side_finish(struct gateway_exchange *x)
{
    struct h1 *h = gateway_exchange_leave(x);
    bool was_raw = h->state == H1_RAW;
    h->x = NULL;
    if (h->is_chunked)
        http1_put_chunk(&h->l.out, NULL, 0);
    h->is_chunked = false;
    http_h1_wake(&h->l);
    if (!was_raw && !h->l.parser.ended) {
        enter(h, H1_LINGER);
    } else if (was_raw || h->l.close_after) {
        enter(h, H1_CLOSING);
    } else {
        http1_next(&h->l.parser);
        enter(h, H1_IDLE);
        http_h1_resume(&h->l);
    }
}

/* The answer cannot be completed, and its reader must see that. */
static void side_cut(struct gateway_exchange *x, int err)
{
    struct h1 *h = gateway_exchange_leave(x);
    h->x = NULL;
    http_h1_abort(&h->l, err == ERR_RESET ? ERR_RESET : ERR_CANCELED);
}

static const struct gateway_side_ops side_ops = {side_go_on, side_begin,  side_send,
                                                 side_taken, side_finish, side_cut};

/* ---- the request: struct http1_ops ---- */

static int on_head(struct http1 *p, const struct http1_head *head)
{
    struct h1 *h = container_of(p, struct h1, l.parser);
    struct gateway_exchange *x =
        gateway_exchange_new(h->gateway, &h->l.link, &side_ops, h, http1_take_arena(p));
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
    gateway_exchange_begin(x, h->l.link.conn);
    return 0;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    struct h1 *h = container_of(p, struct h1, l.parser);
    if (h->x)
        gateway_exchange_body(h->x, data, len);
    return 0;
}

static int on_message_end(struct http1 *p)
{
    struct h1 *h = container_of(p, struct h1, l.parser);
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
    int status = h->l.parser.status ? h->l.parser.status : 400;
    if (h->x) { /* its target has a part of it already: that request must not end well */
        struct gateway_exchange *x = TAKE(h->x);
        bool has_begun = x->step == EXCHANGE_ANSWERED;
        gateway_exchange_gone(x);
        if (has_begun) {
            http_h1_abort(&h->l, ERR_PROTO);
            return;
        }
    }
    diag_set(&d, ERR_PROTO, "%s", h->l.parser.reason ? h->l.parser.reason : "malformed request");
    http_problem_write(&body, status, &d);
    snprintf(length, sizeof(length), "%zu", body.len);
    const struct http_header fields[] = {{"content-type", "application/problem+json"},
                                         {"content-length", length},
                                         {"connection", "close"}};
    h->gateway->stats.status_class[status / 100]++;
    put_fields(h, status, fields, ARRAY_SIZE(fields));
    http1_put_end(&h->l.out);
    buf_append(&h->l.out, body.data, body.len);
    h->l.close_after = true;
    http_h1_wake(&h->l);
    enter(h, H1_LINGER);
}

/* Whether the next bytes may be looked at now. */
static bool reads_on(const struct h1 *h)
{
    switch (h->state) {
    case H1_IDLE:
        return http_h1_unsent(&h->l) < GATEWAY_OUT_MAX;
    case H1_BUSY:
        return !h->l.parser.ended && !gateway_exchange_is_full(h->x);
    case H1_RAW:
        return !gateway_exchange_is_full(h->x);
    default:
        return true;
    }
}

/* Returns how many bytes it took. */
static size_t read_some(struct h1 *h, const uint8_t *data, size_t len)
{
    if (h->l.has_closed || h->state == H1_CLOSING)
        return len;
    if (h->state == H1_LINGER) {
        http_h1_read_over(&h->l, len);
        return len;
    }
    if (h->state == H1_RAW) {
        gateway_exchange_body(h->x, data, len);
        return len;
    }
    if (h->state == H1_IDLE)
        enter(h, H1_HEAD);
    int64_t n = http1_feed(&h->l.parser, data, MIN(len, (size_t)SLICE));
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
        if (!h->l.has_closed && !reads_on(h)) {
            http_h1_pause(&h->l);
            return used;
        }
        used += read_some(h, data + used, len - used);
    }
    return used;
}

static void on_end(void *arg)
{
    struct h1 *h = arg;
    h->l.close_after = true;
    if (h->state == H1_RAW)
        gateway_exchange_body_end(h->x);
    else if (h->state != H1_BUSY && (h->state != H1_CLOSING || http_h1_unsent(&h->l) == 0))
        http_h1_close(&h->l);
    else if (h->state == H1_BUSY && !h->l.parser.ended)
        http_h1_abort(&h->l, ERR_CLOSED); /* cut short: gone by on_close */
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct h1 *h = arg;
    size_t n = http_h1_fill(&h->l, out, cap);
    if (http_h1_unsent(&h->l) > 0)
        return n;
    if (h->x && n)
        gateway_exchange_room(h->x);
    if (h->state == H1_CLOSING)
        http_h1_close(&h->l);
    else if (h->state == H1_IDLE) {
        buf_done(&h->l.out);
        http_h1_resume(&h->l);
    }
    return n;
}

static void on_close(void *arg, int err)
{
    struct h1 *h = arg;
    h->l.has_closed = true;
    if (h->x)
        gateway_exchange_gone(TAKE(h->x));
    http_h1_done(&h->l);
    mem_free(h);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_end, .on_fill = on_fill, .on_close = on_close};

static void on_deadline(struct timer *t)
{
    struct h1 *h = container_of(t, struct h1, l.deadline);
    if (h->state == H1_HEAD && h->l.parser.in_message) {
        h->l.parser.status = 408;
        h->l.parser.reason = "the request did not arrive in time";
        refuse_input(h);
    } else if (h->state == H1_IDLE && http_h1_unsent(&h->l) > 0) {
        enter(h, H1_IDLE); /* not idle: still taking the last answer, see http_h1_wake */
    } else {
        http_h1_close(&h->l);
    }
}

static void link_drain(struct http_link *link)
{
    struct h1 *h = container_of(link, struct h1, l.link);
    h->l.close_after = true;
    if (h->state == H1_IDLE && http_h1_unsent(&h->l) == 0)
        http_h1_close(&h->l);
    else if (h->state == H1_IDLE)
        enter(h, H1_CLOSING);
}

static const struct http_link_ops link_ops = {link_drain, http_h1_link_abort};

void gateway_h1_take(struct gateway *g, struct conn *c)
{
    struct h1 *h = NEW(struct h1);
    h->gateway = g;
    http_h1_init(&h->l, g->server, c, &link_ops, &parser_ops, on_deadline);
    enter(h, H1_IDLE);
    conn_start(c, &conn_ops, h);
}
