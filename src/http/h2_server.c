/*
 * One HTTP/2 connection of the server: each stream is a request. The session's own limits (streams,
 * resets, floods, header bytes) are wire/h2's; here are the request's deadlines and its answer,
 * which waits in the side's `out` until the windows take it.
 */
#include "http/h2_side.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/h2conn.h"

#include <stdio.h>
#include <string.h>

#define PROXY_STREAMS 256 /* at once; requests have their own limit */

struct h2_side {
    struct http_h2_link *link;
    struct http_request *req; /* NULL once answered */
    struct http_h2_out out;   /* its deadline is the body's before the answer's */
    bool is_run, has_begun;
};

/* --- writing: struct http_side_ops ------------------------------------------------------------ */

static void respond(struct h2_side *side, const struct http_answer *a, bool has_length,
                    bool has_body)
{
    struct h2_header headers[HTTP_ANSWER_HEADERS + 2];
    char status[12], length[24];
    size_t n = 0;
    snprintf(status, sizeof(status), "%d", a->status);
    snprintf(length, sizeof(length), "%zu", a->len);
    headers[n++] = (struct h2_header){":status", status};
    for (size_t i = 0; i < a->n_headers; i++)
        headers[n++] = (struct h2_header){a->headers[i].name, a->headers[i].value};
    if (has_length)
        headers[n++] = (struct h2_header){"content-length", length};
    side->has_begun = true;
    if (h2_respond(side->out.stream, headers, n, has_body) < 0)
        h2_reset(side->out.stream, H2_INTERNAL_ERROR);
}

static void side_answer(struct http_request *req, const struct http_answer *a)
{
    struct h2_side *side = http_request_leave(req);
    bool no_length = a->status == 204 || a->status == 304;
    bool has_body = !req->is_head && !no_length && a->len > 0;
    side->req = NULL;
    if (has_body)
        http_h2_out_add(&side->out, a->body, a->len);
    http_h2_out_end(&side->out, !side->is_run);
    respond(side, a, !no_length, has_body);
}

static void side_begin(struct http_request *req, const struct http_answer *a)
{
    struct h2_side *side = req->side;
    timer_stop(&side->out.deadline);
    respond(side, a, false, true);
}

static size_t side_send(struct http_request *req, const void *data, size_t len)
{
    struct h2_side *side = req->side;
    return http_h2_out_add(&side->out, data, len);
}

static void side_finish(struct http_request *req)
{
    struct h2_side *side = http_request_leave(req);
    side->req = NULL;
    http_h2_out_end(&side->out, false);
}

static void side_cut(struct http_request *req)
{
    struct h2_side *side = http_request_leave(req);
    side->req = NULL;
    timer_stop(&side->out.deadline);
    h2_reset(side->out.stream, H2_CANCEL);
}

static const struct http_side_ops side_ops = {side_answer, side_begin, side_send,
                                              side_finish, side_cut,   NULL};

/* --- streams ---------------------------------------------------------------------------------- */

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct h2_side *side = arg;
    if (!side->req || side->is_run) {
        http_h2_out_read_over(&side->out, len);
        return;
    }
    if (http_request_body(side->req, data, len) < 0) {
        struct diag d;
        diag_set(&d, ERR_TOO_LARGE, "the body may have %zu bytes", http_route(side->req)->body_max);
        http_respond_problem(side->req, 413, &d);
        return;
    }
    h2_consume(s, len);
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct h2_side *side = arg;
    if (side->out.lingers)
        http_h2_out_stop_lingering(&side->out);
    if (!side->req || side->is_run)
        return;
    side->is_run = true;
    timer_stop(&side->out.deadline);
    http_request_run(side->req);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct h2_side *side = arg;
    size_t n;
    if (http_h2_out_produce(&side->out, out, cap, &n, eof)) {
        buf_done(&side->out.data); /* an event stream may be silent for long */
        if (side->req && n && side->req->step == HTTP_STEP_STREAM)
            http_sse_sent(side->req);
    }
    return (int)n;
}

static void on_stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct h2_side *side = arg;
    struct http_h2_link *l = side->link;
    http_h2_out_done(&side->out);
    if (side->req)
        http_request_gone(side->req);
    mem_free(side);
    http_h2_link_left(l);
}

static const struct h2_stream_ops stream_ops = {
    .on_data = on_data, .on_end = on_end, .on_produce = on_produce, .on_close = on_stream_close};

static void on_side_deadline(struct timer *t)
{
    struct h2_side *side = container_of(t, struct h2_side, out.deadline);
    if (side->req && !side->has_begun) {
        struct diag d;
        diag_set(&d, ERR_TIMEOUT, "the request did not arrive in time");
        http_respond_problem(side->req, 408, &d);
    } else if (side->out.lingers) {
        http_h2_out_stop_lingering(&side->out);
    } else {
        h2_reset(side->out.stream, H2_CANCEL);
    }
}

/* --- requests --------------------------------------------------------------------------------- */

/* The regular fields, `host` from :authority; NULL when there are too many. */
static struct http_header *copy_fields(struct arena *a, const struct h2_headers *h, size_t max,
                                       size_t *ret_n)
{
    if (h->count > max)
        return NULL;
    struct http_header *fields = arena_alloc(a, (h->count + 1) * sizeof(*fields));
    size_t n = 0;
    for (size_t i = 0; i < h->count; i++) {
        const char *name = h->items[i].name;
        if (strcmp(name, ":authority") == 0)
            name = "host";
        if (name[0] != ':')
            fields[n++] =
                (struct http_header){arena_strdup(a, name), arena_strdup(a, h->items[i].value)};
    }
    *ret_n = n;
    return fields;
}

static int64_t content_length(const struct h2_headers *h)
{
    const char *text = h2_headers_get(h, "content-length");
    uint64_t len;
    return text && text_to_u64(text, INT64_MAX, &len) == 0 ? (int64_t)len : -1;
}

static void accept_request(struct h2_side *side, const struct h2_headers *h)
{
    struct diag d = {0};
    int64_t len = content_length(h);
    int status = http_request_admit(side->req, len > 0, len, &d);
    if (status) {
        http_respond_problem(side->req, status, &d);
        return;
    }
    const char *expect = h2_headers_get(h, "expect");
    if (expect && strcmp(expect, "100-continue") == 0)
        h2_inform(side->out.stream, H2_HEADERS({":status", "100"}), 1);
    timer_start(&side->out.deadline, side->link->link.server->limits.body_ms);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct http_h2_link *l = arg;
    const char *method = h2_headers_get(h, ":method");
    const char *path = h2_headers_get(h, ":path");
    struct arena arena = {0};
    size_t n = 0;
    if (l->link.server && method && strcmp(method, "CONNECT") == 0 &&
        l->link.server->on_connect_stream) {
        l->link.server->on_connect_stream(l->link.server->connect_stream_ctx, s, h);
        return;
    }
    if (l->link.server && l->streams >= l->link.server->limits.requests_per_conn) {
        http_h2_refuse(s, "429");
        return;
    }
    if (!l->link.server || !method || !path) {
        http_h2_refuse(s, "400");
        return;
    }
    struct http_header *fields = copy_fields(&arena, h, l->link.server->limits.header_count, &n);
    if (!fields) {
        arena_done(&arena);
        http_h2_refuse(s, "431");
        return;
    }
    struct h2_side *side = NEW(struct h2_side);
    side->link = l;
    side->out.stream = s;
    timer_init(&side->out.deadline, l->link.server->loop, on_side_deadline);
    const char *copy = arena_strdup(&arena, method);
    side->req = http_request_new(&l->link, &side_ops, side, arena, copy, path, fields, n);
    http_h2_link_joined(l);
    h2_stream_set(s, &stream_ops, side);
    accept_request(side, h);
}

/* --- the connection --------------------------------------------------------------------------- */

static const struct h2conn_ops h2conn_ops = {.on_request = on_request,
                                             .on_close = http_h2_link_closed};

static void on_idle(struct timer *t)
{
    struct http_h2_link *l = container_of(t, struct http_h2_link, idle);
    if (h2_stream_count(h2conn_session(l->hc)) > 0 && l->link.server) /* they are the proxy's */
        timer_start(t, l->link.server->limits.idle_ms);
    else
        http_h2_link_close_idle(l);
}

void http_h2_take(struct http_server *s, struct conn *c)
{
    struct http_h2_link *l = NEW(struct http_h2_link);
    http_h2_link_init(l, s, c, on_idle);
    const struct h2conn_config cfg = {
        .h2 = {.is_server = true,
               .enable_connect = s->on_connect_stream != NULL,
               .max_streams = MAX(s->limits.requests_per_conn, (uint32_t)PROXY_STREAMS),
               .stream_window = 128 * 1024,
               .stream_window_max = 2048 * 1024,
               .connection_window = 4096 * 1024,
               .window_budget = 8192 * 1024,
               .buffer_budget = 16384 * 1024,
               .max_header_bytes = s->limits.header_bytes}};
    l->hc = h2conn_new(c, &cfg, &h2conn_ops, l);
}
