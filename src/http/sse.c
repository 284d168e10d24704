/*
 * Server-sent events (WHATWG HTML §9.2). The stream is what its request has become: the request
 * lives until http_sse_end(). Whatever ends it on the other side is told once, from the loop.
 */
#include "http/internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

static struct http_request *request_of(struct http_sse *sse)
{
    return container_of(sse, struct http_request, sse);
}

static void tell(struct defer *d)
{
    struct http_sse *sse = container_of(d, struct http_sse, tell);
    void (*fn)(void *) = TAKE(sse->on_close);
    if (fn)
        fn(sse->arg);
}

static void tell_room(struct defer *d)
{
    struct http_sse *sse = container_of(d, struct http_sse, room);
    if (sse->on_room && sse->on_close)
        sse->on_room(sse->arg);
}

/* False: the stream has ended. */
static bool check_welcome(struct http_request *req)
{
    const struct http_hooks *hooks = req->server ? &req->server->hooks : NULL;
    if (!req->side)
        return false;
    if (!hooks || !hooks->is_still_welcome || !req->caller ||
        hooks->is_still_welcome(req, hooks->arg))
        return true;
    http_sse_drain(req);
    return false;
}

static void check(struct defer *d)
{
    check_welcome(request_of(container_of(d, struct http_sse, check)));
}

static void heartbeat(struct timer *t)
{
    struct http_sse *sse = container_of(t, struct http_sse, heartbeat);
    struct http_request *req = request_of(sse);
    if (!check_welcome(req))
        return;
    req->ops->send(req, ":\n\n", 3);
    timer_start(t, HTTP_HEARTBEAT_MS);
}

struct http_sse *http_sse_start(struct http_request *req, void (*on_close)(void *arg), void *arg)
{
    struct http_sse *sse = &req->sse;
    *sse = (struct http_sse){.on_close = on_close,
                             .arg = arg,
                             .tell = {.fn = tell},
                             .room = {.fn = tell_room},
                             .check = {.fn = check}};
    timer_init(&sse->heartbeat, req->loop, heartbeat);
    req->step = HTTP_STEP_STREAM;
    if (!req->side || !req->server) {
        loop_defer(req->loop, &sse->tell);
        return sse;
    }
    req->server->stats.status_class[2]++;
    req->server->stats.streams++;
    sse->is_counted = true;
    struct http_header headers[HTTP_ANSWER_HEADERS];
    struct http_answer a = http_answer_make(req, 200, "text/event-stream", NULL, 0, headers);
    if (req->is_head || req->server->is_draining) {
        req->ops->answer(req, &a);
        loop_defer(req->loop, &sse->tell);
        return sse;
    }
    req->ops->begin(req, &a);
    timer_start(&sse->heartbeat, HTTP_HEARTBEAT_MS);
    return sse;
}

/* Each line of the data gets its own "data: ". */
static void write_event(struct buf *b, const char *id, const char *event, const char *data)
{
    if (id)
        buf_printf(b, "id: %s\n", id);
    if (event)
        buf_printf(b, "event: %s\n", event);
    for (const char *at = data;; at++) {
        size_t len = strcspn(at, "\r\n");
        buf_puts(b, "data: ");
        buf_append(b, at, len);
        buf_puts(b, "\n");
        at += len;
        if (at[0] == '\r' && at[1] == '\n')
            at++;
        if (!*at)
            break;
    }
    buf_puts(b, "\n");
}

int http_sse_send(struct http_sse *sse, const char *id, const char *event, const char *data)
{
    struct http_request *req = request_of(sse);
    if (!req->side)
        return ERR_CLOSED;
    struct buf b = {0};
    write_event(&b, id, event, data);
    size_t backlog = req->ops->send(req, b.data, b.len);
    buf_done(&b);
    sse->waiting = backlog;
    if (backlog <= req->server->limits.sse_backlog)
        return 0;
    req->ops->cut(req);
    timer_stop(&sse->heartbeat);
    loop_defer(req->loop, &sse->tell);
    return ERR_LIMIT;
}

void http_sse_end(struct http_sse *sse)
{
    struct http_request *req = request_of(sse);
    if (req->side)
        req->ops->finish(req);
    if (req->server && sse->is_counted)
        req->server->stats.streams--;
    http_request_free(req);
}

void http_sse_check(struct http_sse *sse)
{
    loop_defer(request_of(sse)->loop, &sse->check);
}

size_t http_sse_waiting(const struct http_sse *sse)
{
    return sse->waiting;
}

void http_sse_on_room(struct http_sse *sse, void (*fn)(void *arg))
{
    sse->on_room = fn;
}

void http_sse_sent(struct http_request *req)
{
    req->sse.waiting = 0;
    if (req->sse.on_room)
        loop_defer(req->loop, &req->sse.room);
}

void http_sse_lost(struct http_request *req)
{
    timer_stop(&req->sse.heartbeat);
    loop_defer(req->loop, &req->sse.tell);
}

void http_sse_drain(struct http_request *req)
{
    if (!req->side)
        return;
    req->ops->finish(req);
    http_sse_lost(req);
}
