#include "http/h2_side.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/h2conn.h"

#include <string.h>

#define SHUTDOWN_MS  5000
#define LINGER_MS    2000
#define LINGER_BYTES (1024 * 1024)

/* ---- connections ---- */

static void shut_down(struct http_h2_link *l, uint32_t grace_ms)
{
    if (!l->is_ending)
        h2conn_shutdown(l->hc, grace_ms);
    l->is_ending = true;
}

static void link_drain(struct http_link *link)
{
    shut_down(container_of(link, struct http_h2_link, link), HTTP_STALL_MS);
}

static void link_abort(struct http_link *link)
{
    struct http_h2_link *l = container_of(link, struct http_h2_link, link);
    timer_stop(&l->idle);
    h2conn_abort(l->hc, ERR_CANCELED);
}

static const struct http_link_ops link_ops = {link_drain, link_abort};

void http_h2_link_init(struct http_h2_link *l, struct http_server *s, struct conn *c,
                       void (*on_idle)(struct timer *t))
{
    http_link_add(&l->link, s, c, &link_ops);
    timer_init(&l->idle, s->loop, on_idle);
    timer_start(&l->idle, s->limits.idle_ms);
}

void http_h2_link_joined(struct http_h2_link *l)
{
    l->streams++;
    timer_stop(&l->idle);
}

void http_h2_link_left(struct http_h2_link *l)
{
    if (--l->streams == 0 && l->link.server)
        timer_start(&l->idle, l->link.server->limits.idle_ms);
}

void http_h2_link_close_idle(struct http_h2_link *l)
{
    shut_down(l, SHUTDOWN_MS);
}

void http_h2_link_closed(void *arg, int err)
{
    struct http_h2_link *l = arg;
    timer_stop(&l->idle);
    http_link_remove(&l->link);
    mem_free(l);
}

void http_h2_refuse(struct h2_stream *s, const char *status)
{
    h2_respond(s, H2_HEADERS({":status", status}), 1, false);
}

/* ---- answers ---- */

static size_t unsent(const struct http_h2_out *o)
{
    return o->data.len - o->at;
}

void http_h2_out_done(struct http_h2_out *o)
{
    timer_stop(&o->deadline);
    buf_done(&o->data);
}

size_t http_h2_out_add(struct http_h2_out *o, const void *data, size_t len)
{
    buf_append(&o->data, data, len);
    if (!timer_is_running(&o->deadline))
        timer_start(&o->deadline, HTTP_STALL_MS);
    h2_resume(o->stream);
    return unsent(o);
}

void http_h2_out_end(struct http_h2_out *o, bool lingers)
{
    o->is_ended = true;
    o->lingers = lingers;
    timer_start(&o->deadline, lingers ? LINGER_MS : HTTP_STALL_MS);
    h2_resume(o->stream);
}

void http_h2_out_stop_lingering(struct http_h2_out *o)
{
    o->lingers = false;
    timer_start(&o->deadline, HTTP_STALL_MS);
    h2_resume(o->stream);
}

void http_h2_out_read_over(struct http_h2_out *o, size_t len)
{
    o->lingered += len;
    if (!o->lingers)
        return; /* what still comes stops at the stream's window */
    if (o->lingered > LINGER_BYTES)
        http_h2_out_stop_lingering(o);
    else
        h2_consume(o->stream, len);
}

bool http_h2_out_produce(struct http_h2_out *o, uint8_t *out, size_t cap, size_t *ret_n, bool *eof)
{
    size_t n = *ret_n = MIN(cap, unsent(o));
    if (n > 0) {
        memcpy(out, o->data.data + o->at, n);
        o->at += n;
        if (!o->lingers)
            timer_start(&o->deadline, HTTP_STALL_MS);
    }
    if (unsent(o) > 0)
        return false;
    buf_clear(&o->data);
    o->at = 0;
    *eof = o->is_ended && !o->lingers;
    if (!o->is_ended)
        timer_stop(&o->deadline);
    return true;
}
