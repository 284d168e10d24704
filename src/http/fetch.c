/*
 * The blocking forms of the client: each has a loop of its own for as long as it takes.
 */
#include "http/client.h"

#include "base/error.h"
#include "base/macro.h"
#include "loop/loop.h"

#include <string.h>

struct fetch {
    struct http_reply *reply; /* where it goes */
    struct diag *diag;
    bool is_done;
    int rc;
    /* http_watch only */
    struct http_event_reader events;
    int (*on_event)(void *arg, const struct http_event *e);
    void *on_event_arg;
    bool is_stream;
    int stopped; /* what on_event returned */
    struct buf problem;
};

static void on_done(void *arg, struct http_reply *reply, const struct diag *d)
{
    struct fetch *f = arg;
    f->is_done = true;
    f->rc = d->code;
    if (reply) {
        *f->reply = *reply;
        *reply = (struct http_reply){0};
    } else if (f->diag && !f->stopped) {
        *f->diag = *d;
    }
}

static int run(const struct http_client_config *cfg, const struct http_ask *ask,
               const struct http_exchange_ops *ops, struct fetch *f)
{
    struct loop *l;
    struct http_client *c;
    int rc = loop_new(&l);
    if (rc < 0)
        return diag_set(f->diag, rc, "no event loop can be made");
    rc = http_client_new(l, cfg, &c, f->diag);
    if (rc == 0) {
        http_client_start(c, ask, ops, f);
        while (!f->is_done || !http_client_is_idle(c))
            loop_turn(l, true);
        http_client_free(c);
        rc = f->rc;
    }
    loop_free(l);
    return rc;
}

int http_fetch(const struct http_client_config *cfg, const struct http_ask *ask,
               struct http_reply *ret, struct diag *d)
{
    static const struct http_exchange_ops ops = {.done = on_done};
    struct http_reply reply = {0};
    struct fetch f = {.reply = &reply, .diag = d};
    TRY(run(cfg, ask, &ops, &f));
    *ret = reply;
    return 0;
}

/* --- events ----------------------------------------------------------------------------------- */

static int on_watch_head(void *arg, const struct http_reply *head)
{
    struct fetch *f = arg;
    f->is_stream = head->status == 200;
    return 0;
}

static int on_watch_data(void *arg, const void *data, size_t len)
{
    struct fetch *f = arg;
    if (!f->is_stream)
        return buf_append(&f->problem, data, len);
    int rc = http_events_read(&f->events, data, len, f->on_event, f->on_event_arg);
    if (rc != 0 && rc != ERR_TOO_LARGE)
        f->stopped = rc;
    return rc > 0 ? ERR_CANCELED : rc;
}

int http_watch(const struct http_client_config *cfg, const struct http_ask *ask,
               int (*on_event)(void *arg, const struct http_event *e), void *arg, struct diag *d)
{
    static const struct http_exchange_ops ops = {
        .on_head = on_watch_head, .on_data = on_watch_data, .done = on_done};
    struct http_reply reply = {0};
    struct fetch f = {.reply = &reply,
                      .diag = d,
                      .on_event = on_event,
                      .on_event_arg = arg,
                      .problem.limit = HTTP_EVENT_MAX};
    int rc = run(cfg, ask, &ops, &f);
    if (f.stopped)
        rc = f.stopped;
    else if (rc == 0 && reply.status != 200) {
        reply.body = f.problem;
        f.problem = (struct buf){0};
        rc = http_reply_diag(&reply, d);
    }
    http_events_done(&f.events);
    buf_done(&f.problem);
    http_reply_done(&reply);
    return rc;
}
