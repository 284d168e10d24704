/*
 * The target's side: HTTP/1.1 on a stream that the owner has dialled, or one that an earlier
 * request has left.
 *
 *   dialled ──► busy (x) ──answer complete, both sided──► idle ──► busy …   until sweep, or its end
 *                 └── the answer had no length, was cut, the client left ──► closed
 *
 * A local socket that is shut for writing has ended properly; one that is closed was cut, or never
 * came to be: why, gateway_dialled tells, for which a stream without an answer waits
 * (`waits_for_end`). An idle stream may have been closed by the target just when it is used again:
 * what is safe to send twice then goes over a new one.
 */
#include "http/gateway_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/gateway_rules.h"
#include "net/conn.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#define SWEEP_MS        1000
#define FRESH_MS        2000 /* idle for less: used for requests that cannot be repeated, too */
#define END_PATIENCE_MS 3000 /* for gateway_dialled after the socket's end */
#define ANSWER_BYTES    (64 * 1024)
#define CHUNK_FRAMING   32
#define FILL_MIN        16384

/* ---- life ---- */

static void stream_free(struct gateway_stream *s)
{
    timer_stop(&s->patience);
    http1_done(&s->parser);
    buf_done(&s->out);
    mem_free(s);
}

/* Out of its list, and the owner is told, before our end is closed. */
static void leave_gateway(struct gateway_stream *s, int err)
{
    struct gateway *g = s->gateway;
    if (!g)
        return;
    if (s->is_idle) {
        DL_DELETE(g->idle, s);
        g->stats.idle_streams--;
    } else {
        DL_DELETE(g->busy, s);
    }
    s->gateway = NULL;
    g->ops->done(g->arg, TAKE(s->dialled), err);
}

static void close_stream(struct gateway_stream *s, int err)
{
    if (!s->conn) {
        leave_gateway(s, err);
        stream_free(s);
        return;
    }
    if (err < 0)
        leave_gateway(s, err);
    s->is_dying = true;
    if (err < 0)
        conn_abort(s->conn, err);
    else
        conn_close(s->conn);
}

void gateway_stream_drop(struct gateway_stream *s, int err)
{
    s->x = NULL;
    close_stream(s, err < 0 ? err : ERR_CANCELED);
}

void gateway_stream_abandon_all(struct gateway *g)
{
    while (g->idle)
        close_stream(g->idle, ERR_CANCELED);
    while (g->busy)
        close_stream(g->busy, ERR_CANCELED);
}

static bool is_superseded(const char *was, const char *key)
{
    size_t target = strcspn(key, " ") + 1;
    size_t both = target + strcspn(key + target, " ");
    return strncmp(was, key, target) == 0 &&
           (strncmp(was, key, both) != 0 || (was[both] && was[both] != ' '));
}

void gateway_stream_close_idle(struct gateway *g, const char *key)
{
    struct gateway_stream *s, *next;
    DL_FOREACH_SAFE (g->idle, s, next) {
        if (!s->is_dying && (!key || is_superseded(s->key, key)))
            close_stream(s, 0);
    }
}

static void make_idle(struct gateway_stream *s)
{
    struct gateway *g = s->gateway;
    DL_DELETE(g->busy, s);
    s->is_idle = true;
    s->was_used = true;
    s->idle_since_ms = loop_now_ms(g->loop);
    DL_APPEND(g->idle, s);
    if (++g->stats.idle_streams > g->limits.idle_streams)
        close_stream(g->idle, ERR_CANCELED);
    if (!timer_is_running(&g->sweep))
        timer_start(&g->sweep, SWEEP_MS);
}

void gateway_stream_sweep(struct timer *t)
{
    struct gateway *g = container_of(t, struct gateway, sweep);
    uint64_t now = loop_now_ms(g->loop);
    struct gateway_stream *s, *next;
    DL_FOREACH_SAFE (g->idle, s, next) {
        if (!s->is_dying && now - s->idle_since_ms >= g->limits.idle_stream_ms)
            close_stream(s, 0);
    }
    if (g->idle)
        timer_start(t, SWEEP_MS);
}

/* ---- the end of an answer ---- */

static struct gateway_exchange *take_exchange(struct gateway_stream *s)
{
    struct gateway_exchange *x = TAKE(s->x);
    x->stream = NULL;
    return x;
}

static void finish(struct gateway_stream *s, bool is_reusable)
{
    struct gateway_exchange *x = take_exchange(s);
    bool all_sent = s->sent_end && gateway_exchange_waiting(x) == 0 && s->out_at == s->out.len;
    if (x->side)
        x->ops->finish(x);
    gateway_exchange_end(x);
    if (!is_reusable || !all_sent || s->is_dying || !s->conn || !conn_is_open(s->conn) ||
        s->gateway->server->is_draining) {
        close_stream(s, all_sent ? 0 : ERR_CANCELED);
        return;
    }
    conn_resume(s->conn);
    make_idle(s);
}

static bool may_repeat(const struct gateway_exchange *x)
{
    static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"};
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (strcmp(x->method, methods[i]) == 0)
            return !x->has_body && !x->is_websocket;
    }
    return false;
}

static bool retry(struct gateway_stream *s)
{
    struct gateway_exchange *x = s->x;
    if (!s->was_used || s->has_answered || x->was_retried || !may_repeat(x))
        return false;
    take_exchange(s);
    x->was_retried = true;
    close_stream(s, ERR_CANCELED);
    gateway_stream_begin(x);
    return true;
}

/* The stream has ended, and how is known. */
static void judge_end(struct gateway_stream *s)
{
    bool is_proper = s->is_told && s->told_err == 0;
    s->waits_for_end = false;
    timer_stop(&s->patience);
    if (s->has_answered && is_proper && http1_finish(&s->parser) == 0)
        finish(s, false);
    else if (s->has_answered)
        gateway_exchange_fail(s->x, ERR_RESET, NULL);
    else if (s->is_told && s->told_err < 0)
        gateway_exchange_fail(s->x, s->told_err, s->told_reason);
    else
        gateway_exchange_fail(s->x, ERR_RESET,
                              "the target closed the connection without an answer");
}

static void on_patience(struct timer *t)
{
    struct gateway_stream *s = container_of(t, struct gateway_stream, patience);
    if (s->waits_for_end && s->x)
        judge_end(s);
}

static void await_end(struct gateway_stream *s)
{
    if (s->is_told) {
        judge_end(s);
        return;
    }
    s->waits_for_end = true;
    timer_start(&s->patience, END_PATIENCE_MS);
}

void gateway_dialled(struct gateway_stream *s, int err, const char *reason)
{
    s->is_told = true;
    s->told_err = err;
    snprintf(s->told_reason, sizeof(s->told_reason), "%s", reason ? reason : "");
    if (s->waits_for_end && s->x)
        judge_end(s);
}

/* ---- the answer: struct http1_ops ---- */

static bool has_body(const struct gateway_exchange *x, const struct http1_head *h)
{
    if (x->is_head || h->status == 204 || h->status == 304 || h->status == 101)
        return false;
    return h->has_body || h->content_length < 0; /* chunked, or until the end */
}

static int on_head(struct http1 *p, const struct http1_head *head)
{
    struct gateway_stream *s = container_of(p, struct gateway_stream, parser);
    struct gateway_exchange *x = s->x;
    struct http_header out[GATEWAY_HEADERS];
    if (head->status == 101 && head->has_body)
        return ERR_PROTO;
    s->has_answered = true;
    x->is_raw = head->status == 101;
    x->gateway->stats.status_class[(unsigned)head->status / 100 % 6]++;
    size_t n =
        gateway_answer_fields(&x->arena, head->fields, head->n_fields, x->is_raw && x->is_h2, out);
    x->step = EXCHANGE_ANSWERED;
    gateway_exchange_moved(x);
    x->ops->begin(x, head->status, out, n, has_body(x, head), head->content_length);
    return 0;
}

static void send_on(struct gateway_stream *s, const void *data, size_t len)
{
    if (s->x->side && s->x->ops->send(s->x, data, len) > GATEWAY_OUT_MAX)
        conn_pause(s->conn);
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    send_on(container_of(p, struct gateway_stream, parser), data, len);
    return 0;
}

static int on_message_end(struct http1 *p)
{
    return 0;
}

static const struct http1_ops parser_ops = {on_head, on_body, on_message_end};

static void fail_proto(struct gateway_stream *s)
{
    gateway_exchange_fail(s->x, ERR_PROTO,
                          s->has_answered ? NULL : "the target's answer was no proper HTTP");
}

/* ---- struct conn_ops ---- */

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct gateway_stream *s = arg;
    size_t used = 0;
    if (!s->x) { /* idle: nobody asked for anything */
        if (!s->is_dying)
            close_stream(s, ERR_CANCELED);
        return len;
    }
    gateway_exchange_moved(s->x);
    if (!s->x->is_raw) {
        int64_t n = http1_feed(&s->parser, data, len);
        if (n < 0) {
            fail_proto(s);
            return len;
        }
        used = (size_t)n;
        if (s->parser.ended && !s->x->is_raw) {
            finish(s, s->parser.head.keep_alive && used == len);
            return len;
        }
    }
    if (s->x->is_raw && used < len)
        send_on(s, data + used, len - used);
    return len;
}

/* Its other end is closed, not only shut for writing: then that was no proper end. */
static bool other_is_gone(const struct gateway_stream *s)
{
    struct pollfd p = {.fd = conn_fd(s->conn)};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

static void on_end(void *arg)
{
    struct gateway_stream *s = arg;
    if (!s->x) {
        if (!s->is_dying)
            close_stream(s, 0);
        return;
    }
    if (retry(s))
        return;
    bool is_gone = other_is_gone(s);
    if (!s->is_told && (!is_gone || s->has_answered)) {
        s->is_told = true;
        s->told_err = is_gone ? ERR_RESET : 0;
    }
    if (s->x->is_raw && s->told_err == 0)
        finish(s, false);
    else
        await_end(s);
}

static void on_close(void *arg, int err)
{
    struct gateway_stream *s = arg;
    s->conn = NULL;
    if (!s->x) {
        leave_gateway(s, 0);
        stream_free(s);
    } else if (!s->waits_for_end && !retry(s)) {
        if ((err == ERR_TLS || err == ERR_TIMEOUT) && !s->has_answered)
            gateway_exchange_fail(s->x, err, "no TLS connection to the target could be made");
        else
            await_end(s);
    }
}

static size_t fill_body(struct gateway_stream *s, uint8_t *out, size_t cap)
{
    struct gateway_exchange *x = s->x;
    size_t room = s->is_chunked ? cap - CHUNK_FRAMING : cap, n = 0;
    size_t part = MIN(room, gateway_exchange_waiting(x));
    if (part > 0 && s->is_chunked)
        n = (size_t)snprintf((char *)out, CHUNK_FRAMING, "%zx\r\n", part);
    if (part > 0) {
        memcpy(out + n, x->body.data + x->body_at, part);
        n += part;
        x->body_at += part;
        if (s->is_chunked)
            n += (size_t)snprintf((char *)out + n, 3, "\r\n");
        gateway_exchange_moved(x);
    }
    if (x->body_at == x->body.len) {
        buf_done(&x->body);
        x->body_at = 0;
    }
    if (part > 0 && x->side)
        x->ops->taken(x, part);
    return n;
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct gateway_stream *s = arg;
    struct gateway_exchange *x = s->x;
    if (!x || s->is_dying)
        return 0;
    if (s->out_at < s->out.len) {
        size_t n = MIN(cap, s->out.len - s->out_at);
        memcpy(out, s->out.data + s->out_at, n);
        s->out_at += n;
        return n;
    }
    if (x->is_websocket && !x->is_raw)
        return 0;
    size_t n = x->has_body || x->is_raw ? fill_body(s, out, cap) : 0;
    if (n > 0 || !x->body_ended || gateway_exchange_waiting(x) > 0 || s->sent_end)
        return n;
    s->sent_end = true;
    if (x->is_raw)
        conn_shut(s->conn);
    if (!s->is_chunked || x->is_raw)
        return 0;
    memcpy(out, "0\r\n\r\n", 5);
    return 5;
}

static const struct conn_ops stream_ops = {
    .on_data = on_data, .on_end = on_end, .on_fill = on_fill, .on_close = on_close};

void gateway_stream_wake(struct gateway_stream *s)
{
    if (s->conn)
        conn_wake(s->conn);
}

void gateway_stream_resume(struct gateway_stream *s)
{
    if (s->conn)
        conn_resume(s->conn);
}

/* ---- the request ---- */

static struct gateway_stream *find_idle(struct gateway *g, const struct gateway_exchange *x)
{
    struct gateway_stream *s, *found = NULL;
    uint64_t now = loop_now_ms(g->loop);
    gateway_stream_close_idle(g, x->key);
    if (x->was_retried || x->is_websocket)
        return NULL;
    DL_FOREACH (g->idle, s) { /* the one used last: the others may end */
        if (!s->is_dying && strcmp(s->key, x->key) == 0 &&
            (may_repeat(x) || now - s->idle_since_ms < FRESH_MS))
            found = s;
    }
    return found;
}

static struct gateway_stream *dial(struct gateway *g, struct gateway_exchange *x)
{
    int fds[2];
    struct conn *c;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return NULL;
    int rc = x->tls ? conn_new_client(g->loop, fds[0], &x->peer, x->tls, &c)
                    : conn_new_plain(g->loop, fds[0], &x->peer, &c);
    if (rc < 0) {
        close(fds[1]);
        return NULL;
    }
    struct gateway_stream *s = NEW(struct gateway_stream);
    s->gateway = g;
    s->conn = c;
    snprintf(s->key, sizeof(s->key), "%s", x->key);
    timer_init(&s->patience, g->loop, on_patience);
    http1_init_client(&s->parser, &parser_ops,
                      (struct http1_limits){ANSWER_BYTES, GATEWAY_HEADERS - 20});
    DL_APPEND(g->busy, s);
    s->dialled = g->ops->dial(g->arg, s, s->key, fds[1], &x->peer);
    conn_start(c, &stream_ops, s);
    return s;
}

static bool wants_length(const char *method)
{
    return strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
           strcmp(method, "PATCH") == 0;
}

static void put_request(struct gateway_stream *s, struct gateway_exchange *x)
{
    if (x->body_ended && !x->is_websocket && x->content_length < 0) {
        x->content_length = (int64_t)gateway_exchange_waiting(x);
        x->has_body = x->content_length > 0;
    }
    struct gateway_head head = {
        .method = x->is_websocket ? "GET" : x->method,
        .target = x->target,
        .host = x->authority,
        .fields = x->fields,
        .n_fields = x->n_fields,
        .peer = &x->peer,
        .is_websocket = x->is_websocket,
        .needs_key = x->is_websocket && x->is_h2,
        .drop_authorization = x->drop_authorization,
        .drop_cookie = x->drop_cookie,
        .is_forward = x->gateway->is_forward,
        .has_body = x->has_body,
        .content_length = x->content_length,
    };
    if (!head.has_body && wants_length(x->method)) {
        head.has_body = true;
        head.content_length = 0;
    }
    s->is_chunked = x->has_body && x->content_length < 0;
    buf_clear(&s->out);
    s->out_at = 0;
    gateway_put_head(&s->out, &head);
}

void gateway_stream_begin(struct gateway_exchange *x)
{
    struct gateway *g = x->gateway;
    struct gateway_stream *s = find_idle(g, x);
    if (s) {
        DL_DELETE(g->idle, s);
        DL_APPEND(g->busy, s);
        g->stats.idle_streams--;
        s->is_idle = false;
        http1_next(&s->parser);
    } else {
        s = dial(g, x);
    }
    if (!s) {
        gateway_exchange_fail(x, ERR_LIMIT, "no more connections fit");
        return;
    }
    s->x = x;
    x->stream = s;
    s->has_answered = s->sent_end = false;
    if (x->is_head)
        http1_expect_no_body(&s->parser);
    if (x->is_websocket)
        http1_expect_upgrade(&s->parser);
    put_request(s, x);
    if (x->has_body && !x->body_ended)
        x->ops->go_on(x);
    conn_wake(s->conn);
}
