/*
 * One HTTP/1.1 connection of the server.
 *
 *      IDLE ──byte──► HEAD ──► BODY ──► HELD ──answer──► IDLE, or CLOSING
 *                      │        │        └─► STREAM ──end──► CLOSING
 *                      └─error──┴─► LINGER (reads over what still comes, so that the answer is not
 *                                   lost to a reset) ──► closed
 *
 * Requests are read one at a time: while one is held, more input pauses the connection, and the
 * kernel's buffers hold the client back.
 */
#include "http/h1_side.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/conn.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define OUT_MAX    (256 * 1024) /* unsent bytes above which no further request is read */
#define METHOD_MAX 32           /* bytes of a method and the blank after it */
#define LINE_MS    20           /* until the rest of a request line is looked for */

enum h1_state { H1_IDLE, H1_HEAD, H1_BODY, H1_HELD, H1_STREAM, H1_LINGER, H1_LEAVING, H1_CLOSING };

struct h1 {
    struct http_h1_link l;
    enum h1_state state;
    struct http_request *req; /* that is being read or held */
    int refuse_status;        /* of a request that was refused by its head, */
    struct diag refusal;      /* and why */
    struct timer leave;       /* a request for a proxy has begun, or may have */
    bool has_begun;           /* ... the latter */
};

static void enter(struct h1 *h, enum h1_state state)
{
    const struct http_limits *l = &h->l.link.server->limits;
    h->state = state;
    switch (state) {
    case H1_IDLE:
        timer_start(&h->l.deadline, l->idle_ms);
        break;
    case H1_HEAD:
        timer_start(&h->l.deadline, l->header_ms);
        break;
    case H1_BODY:
        timer_start(&h->l.deadline, l->body_ms);
        break;
    case H1_LINGER:
        timer_start(&h->l.deadline, HTTP_H1_LINGER_MS);
        http_h1_resume(&h->l);
        break;
    case H1_HELD:
    case H1_STREAM:
    case H1_LEAVING:
    case H1_CLOSING:
        timer_stop(&h->l.deadline);
        break;
    }
}

/* The answer is in `out`: what now? */
static void answered(struct h1 *h)
{
    bool unread = h->state == H1_HEAD || h->state == H1_BODY;
    bool close = h->l.close_after || !h->l.parser.head.keep_alive || h->l.link.server->is_draining;
    h->req = NULL;
    h->refuse_status = 0;
    http_h1_wake(&h->l);
    if (unread) {
        enter(h, H1_LINGER);
    } else if (close) {
        enter(h, H1_CLOSING);
    } else {
        http1_next(&h->l.parser);
        enter(h, H1_IDLE);
        if (http_h1_unsent(&h->l) < OUT_MAX)
            http_h1_resume(&h->l);
    }
}

/* --- writing: struct http_side_ops ------------------------------------------------------------ */

static void put_head(struct h1 *h, const struct http_answer *a)
{
    http1_put_status(&h->l.out, a->status);
    for (size_t i = 0; i < a->n_headers; i++)
        http1_put_field(&h->l.out, a->headers[i].name, a->headers[i].value);
    bool reads_on = h->state == H1_HELD && h->l.parser.head.keep_alive && !h->l.close_after;
    if (!reads_on || h->l.link.server->is_draining)
        http1_put_field(&h->l.out, "connection", "close");
    else if (h->l.parser.head.minor == 0)
        http1_put_field(&h->l.out, "connection", "keep-alive");
}

static void put_answer(struct h1 *h, const struct http_answer *a, bool is_head)
{
    char length[24];
    put_head(h, a);
    if (a->status != 204 && a->status != 304) {
        snprintf(length, sizeof(length), "%zu", a->len);
        http1_put_field(&h->l.out, "content-length", length);
    }
    http1_put_end(&h->l.out);
    if (!is_head && a->status != 204 && a->status != 304)
        buf_append(&h->l.out, a->body, a->len);
}

static void side_answer(struct http_request *req, const struct http_answer *a)
{
    struct h1 *h = http_request_leave(req);
    put_answer(h, a, req->is_head);
    answered(h);
}

static void side_begin(struct http_request *req, const struct http_answer *a)
{
    struct h1 *h = req->side;
    h->l.close_after = true; /* an event stream ends with its connection */
    put_head(h, a);
    if (h->l.parser.head.minor == 1)
        http1_put_field(&h->l.out, "transfer-encoding", "chunked");
    http1_put_end(&h->l.out);
    enter(h, H1_STREAM);
    http_h1_wake(&h->l);
}

static size_t side_send(struct http_request *req, const void *data, size_t len)
{
    struct h1 *h = req->side;
    if (h->l.parser.head.minor == 1)
        http1_put_chunk(&h->l.out, data, len);
    else
        buf_append(&h->l.out, data, len);
    http_h1_wake(&h->l);
    return http_h1_unsent(&h->l);
}

static void side_finish(struct http_request *req)
{
    struct h1 *h = http_request_leave(req);
    if (h->l.parser.head.minor == 1)
        http1_put_chunk(&h->l.out, NULL, 0);
    answered(h);
}

static void side_cut(struct http_request *req)
{
    struct h1 *h = http_request_leave(req);
    h->req = NULL;
    enter(h, H1_CLOSING);
    http_h1_abort(&h->l, ERR_LIMIT);
}

static void free_h1(struct h1 *h)
{
    timer_stop(&h->leave);
    http_h1_done(&h->l);
    mem_free(h);
}

static struct conn *side_take(struct http_request *req)
{
    struct h1 *h = req->side;
    struct conn *c = h->l.link.conn;
    if (h->l.has_closed || http_h1_unsent(&h->l) > 0 || !conn_is_open(c))
        return NULL;
    http_request_leave(req);
    conn_detach(c);
    free_h1(h);
    return c;
}

static const struct http_side_ops side_ops = {side_answer, side_begin, side_send,
                                              side_finish, side_cut,   side_take};

/* --- reading: struct http1_ops ---------------------------------------------------------------- */

static int on_head(struct http1 *p, const struct http1_head *head)
{
    struct h1 *h = container_of(p, struct h1, l.parser);
    h->req = http_request_new(&h->l.link, &side_ops, h, http1_take_arena(p), head->method,
                              head->target, head->fields, head->n_fields);
    h->refuse_status =
        http_request_admit(h->req, head->has_body, head->content_length, &h->refusal);
    enter(h, H1_BODY);
    if (h->refuse_status && head->has_body)
        return ERR_DENIED; /* answered without reading the body */
    if (head->expect_continue) {
        http1_put_status(&h->l.out, 100);
        http1_put_end(&h->l.out);
        http_h1_wake(&h->l);
    }
    return 0;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    struct h1 *h = container_of(p, struct h1, l.parser);
    return http_request_body(h->req, data, len);
}

static int on_message_end(struct http1 *p)
{
    return 0;
}

static const struct http1_ops parser_ops = {on_head, on_body, on_message_end};

/* An answer to something that never became a request. */
static void answer_unread(struct h1 *h, int status, const struct diag *d)
{
    char date[40];
    struct buf body = {0};
    struct http_header headers[] = {
        {"content-type", "application/problem+json"},
        {"date", http_date(h->l.link.server->loop, date)},
    };
    http_problem_write(&body, status, d);
    h->l.link.server->stats.refused++;
    h->l.link.server->stats.status_class[status / 100]++;
    struct http_answer a = {status, headers, ARRAY_SIZE(headers), body.data, body.len};
    put_answer(h, &a, false);
    buf_done(&body);
    answered(h);
}

static void refuse(struct h1 *h, int status, const struct diag *d)
{
    h->l.close_after = true;
    if (h->req)
        http_respond_problem(h->req, status, d);
    else
        answer_unread(h, status, d);
}

static void refuse_input(struct h1 *h, int code)
{
    struct diag d = {.code = code};
    int status = h->refuse_status;
    if (status) {
        d = h->refusal;
    } else if (code == ERR_TOO_LARGE && h->state == H1_BODY && !h->l.parser.status) {
        status = 413;
        diag_set(&d, code, "the body may have %zu bytes", http_route(h->req)->body_max);
    } else {
        status = h->l.parser.status ? h->l.parser.status : 400;
        diag_set(&d, code, "%s", h->l.parser.reason ? h->l.parser.reason : error_text(code));
    }
    refuse(h, status, &d);
}

/* --- the connection --------------------------------------------------------------------------- */

static void run(struct h1 *h)
{
    h->state = H1_HELD;
    timer_stop(&h->l.deadline);
    if (h->refuse_status)
        http_respond_problem(h->req, h->refuse_status, &h->refusal);
    else
        http_request_run(h->req);
}

/* ---- requests for a proxy ---- */

/* Whether a request line begins as one in absolute-form does. */
static enum forward {
    FORWARD_NO,
    FORWARD_YES,
    FORWARD_UNKNOWN
} is_forward(const uint8_t *data, size_t len)
{
    static const char scheme[] = "http://";
    const uint8_t *blank = memchr(data, ' ', MIN(len, (size_t)METHOD_MAX));
    if (!blank)
        return len < METHOD_MAX && !memchr(data, '\n', len) ? FORWARD_UNKNOWN : FORWARD_NO;
    size_t n = MIN(len - (size_t)(blank + 1 - data), strlen(scheme));
    if (strncasecmp((const char *)blank + 1, scheme, n) != 0)
        return FORWARD_NO;
    return n == strlen(scheme) ? FORWARD_YES : FORWARD_UNKNOWN;
}

static void on_leave(struct timer *t)
{
    struct h1 *h = container_of(t, struct h1, leave);
    struct http_server *s = h->l.link.server;
    struct conn *c = h->l.link.conn;
    if (h->l.has_closed)
        return;
    if (h->state != H1_LEAVING || !s || !conn_is_open(c)) {
        http_h1_resume(&h->l); /* perhaps there is more of the line now */
        return;
    }
    conn_detach(c);
    free_h1(h);
    s->on_forward(s->forward_ctx, c);
}

/* True: the input waits, for its new owner or for the rest of the request line. */
static bool leaves(struct h1 *h, const uint8_t *data, size_t len)
{
    if (!h->l.link.server->on_forward || http_h1_unsent(&h->l) > 0)
        return false;
    enum forward f = is_forward(data, len);
    if (f == FORWARD_NO)
        return false;
    if (f == FORWARD_YES)
        h->state = H1_LEAVING;
    else if (!h->has_begun)
        timer_start(&h->l.deadline, h->l.link.server->limits.header_ms);
    h->has_begun = true;
    http_h1_pause(&h->l);
    timer_start(&h->leave, f == FORWARD_YES ? 0 : LINE_MS);
    return true;
}

static bool reads_on(const struct h1 *h)
{
    return h->state == H1_HEAD || h->state == H1_BODY ||
           (h->state == H1_IDLE && http_h1_unsent(&h->l) < OUT_MAX);
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct h1 *h = arg;
    size_t used = 0;
    while (used < len) {
        if (h->l.has_closed || h->state == H1_CLOSING)
            return len;
        if (h->state == H1_LINGER) {
            http_h1_read_over(&h->l, len - used);
            return len;
        }
        if (!reads_on(h)) {
            http_h1_pause(&h->l);
            return used;
        }
        if (h->state == H1_IDLE && leaves(h, data + used, len - used))
            return used;
        if (h->state == H1_IDLE)
            enter(h, H1_HEAD);
        h->has_begun = false;
        int64_t n = http1_feed(&h->l.parser, data + used, len - used);
        if (n < 0) {
            refuse_input(h, (int)n);
            return len;
        }
        used += (size_t)n;
        if (h->l.parser.ended)
            run(h);
    }
    return used;
}

static void on_end(void *arg)
{
    struct h1 *h = arg;
    h->l.close_after = true;
    if (h->state == H1_HELD) /* the client has finished asking; it may still read the answer */
        return;
    if (h->state != H1_CLOSING || http_h1_unsent(&h->l) == 0)
        http_h1_close(&h->l);
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct h1 *h = arg;
    size_t n = http_h1_fill(&h->l, out, cap);
    if (http_h1_unsent(&h->l) > 0)
        return n;
    buf_done(&h->l.out);
    if (h->state == H1_STREAM && h->req && n)
        http_sse_sent(h->req);
    if (h->state == H1_CLOSING)
        http_h1_close(&h->l);
    else if (h->state == H1_IDLE)
        http_h1_resume(&h->l);
    return n;
}

static void on_close(void *arg, int err)
{
    struct h1 *h = arg;
    h->l.has_closed = true;
    if (h->req)
        http_request_gone(TAKE(h->req));
    free_h1(h);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_end, .on_fill = on_fill, .on_close = on_close};

static void on_deadline(struct timer *t)
{
    struct h1 *h = container_of(t, struct h1, l.deadline);
    struct diag d = {0};
    if ((h->state == H1_HEAD && h->l.parser.in_message) || h->state == H1_BODY) {
        diag_set(&d, ERR_TIMEOUT, "the request did not arrive in time");
        refuse(h, 408, &d);
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

void http_h1_take(struct http_server *s, struct conn *c)
{
    struct h1 *h = NEW(struct h1);
    http_h1_init(&h->l, s, c, &link_ops, &parser_ops, on_deadline);
    timer_init(&h->leave, s->loop, on_leave);
    enter(h, H1_IDLE);
    conn_start(c, &conn_ops, h);
}
