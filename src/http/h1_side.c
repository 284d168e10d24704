#include "http/h1_side.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/conn.h"

#include <string.h>

#define LINGER_BYTES (1024 * 1024)

static void on_stall(struct timer *t)
{
    http_h1_abort(container_of(t, struct http_h1_link, stall), ERR_TIMEOUT);
}

void http_h1_init(struct http_h1_link *l, struct http_server *s, struct conn *c,
                  const struct http_link_ops *link_ops, const struct http1_ops *parser_ops,
                  void (*on_deadline)(struct timer *t))
{
    http_link_add(&l->link, s, c, link_ops);
    http1_init_server(&l->parser, parser_ops,
                      (struct http1_limits){s->limits.header_bytes, s->limits.header_count});
    timer_init(&l->deadline, s->loop, on_deadline);
    timer_init(&l->stall, s->loop, on_stall);
}

static void stop_timers(struct http_h1_link *l)
{
    timer_stop(&l->deadline);
    timer_stop(&l->stall);
}

void http_h1_done(struct http_h1_link *l)
{
    l->has_closed = true;
    stop_timers(l);
    http_link_remove(&l->link);
    http1_done(&l->parser);
    buf_done(&l->out);
}

size_t http_h1_unsent(const struct http_h1_link *l)
{
    return l->out.len - l->out_at;
}

void http_h1_wake(struct http_h1_link *l)
{
    if (l->has_closed)
        return;
    if (!timer_is_running(&l->stall))
        timer_start(&l->stall, HTTP_STALL_MS);
    conn_wake(l->link.conn);
}

size_t http_h1_fill(struct http_h1_link *l, uint8_t *out, size_t cap)
{
    size_t n = MIN(cap, http_h1_unsent(l));
    if (n > 0) {
        memcpy(out, l->out.data + l->out_at, n);
        l->out_at += n;
        timer_start(&l->stall, HTTP_STALL_MS);
    }
    if (http_h1_unsent(l) > 0)
        return n;
    timer_stop(&l->stall);
    buf_clear(&l->out);
    l->out_at = 0;
    return n;
}

void http_h1_pause(struct http_h1_link *l)
{
    l->is_paused = true;
    conn_pause(l->link.conn);
}

void http_h1_resume(struct http_h1_link *l)
{
    if (!l->is_paused || l->has_closed)
        return;
    l->is_paused = false;
    conn_resume(l->link.conn);
}

void http_h1_read_over(struct http_h1_link *l, size_t len)
{
    l->lingered += len;
    if (l->lingered > LINGER_BYTES)
        http_h1_close(l);
}

void http_h1_close(struct http_h1_link *l)
{
    if (l->has_closed)
        return;
    l->has_closed = true;
    stop_timers(l);
    conn_close(l->link.conn);
}

void http_h1_abort(struct http_h1_link *l, int err)
{
    if (l->has_closed)
        return;
    l->has_closed = true;
    stop_timers(l);
    conn_abort(l->link.conn, err);
}

/* Also one that is closing: the loop may end before it has. */
void http_h1_link_abort(struct http_link *link)
{
    struct http_h1_link *l = container_of(link, struct http_h1_link, link);
    l->has_closed = true;
    stop_timers(l);
    conn_abort(link->conn, ERR_CANCELED);
}
