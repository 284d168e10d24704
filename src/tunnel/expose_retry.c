/*
 * Clients of the proxy over HTTP/1.1 whom another hub turned away. Their connection stays on its
 * worker; the main loop finds out who serves the tunnel now, and dials there for them.
 *
 *   worker: exposure_retry_new ──► main: exposure_try_again or exposure_give_up
 *   worker: opened, ended ◄─────── main: on_open, on_end of the dial
 *   worker: exposure_retry_end ──► main: exposure_dial_done, nothing is posted any more
 *
 * The worker's reference goes over with its last message; each message to it carries one.
 */
#include "tunnel/expose_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/loop.h"

#include <stdatomic.h>

struct exposure_retry {
    _Atomic uint32_t refs;
    struct loop *main, *worker;
    struct exposure_goal goal;
    struct client *client;      /* the worker's; NULL: gone */
    struct exposure_dial *dial; /* the main loop's */
    bool is_over;               /* the main loop's: the client has gone */
    int end_err;                /* the client's, on its way to the main loop */
};

static void unref(struct exposure_retry *r)
{
    if (atomic_fetch_sub(&r->refs, 1) == 1)
        mem_free(r);
}

/* ---- main to worker ---- */

struct news {
    struct exposure_retry *retry;
    int err;
};

static void send_news(struct exposure_retry *r, void (*fn)(void *arg), int err)
{
    struct news *n = NEW(struct news);
    *n = (struct news){r, err};
    atomic_fetch_add(&r->refs, 1);
    loop_post(r->worker, fn, n);
}

static void opened_on_worker(void *arg)
{
    CLEANUP(mem_free) struct news *n = arg;
    if (n->retry->client)
        exposure_client_opened(n->retry->client);
    unref(n->retry);
}

static void ended_on_worker(void *arg)
{
    CLEANUP(mem_free) struct news *n = arg;
    if (n->retry->client)
        exposure_client_ended(n->retry->client, n->err);
    unref(n->retry);
}

static void on_open(void *arg)
{
    send_news(arg, opened_on_worker, 0);
}

static void on_end(void *arg, int err)
{
    send_news(arg, ended_on_worker, err);
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_open, .on_end = on_end};

/* ---- main ---- */

bool exposure_retry_is_wanted(const struct exposure_retry *r)
{
    return !r->is_over;
}

void exposure_retry_dial(struct exposure_retry *r, struct exposure *e, int fd,
                         const struct addr *peer)
{
    r->dial = exposure_dial(e, &r->goal, fd, NULL, peer, false, &dial_ops, r);
    unref(r);
}

void exposure_retry_give_up(struct exposure_retry *r)
{
    send_news(r, ended_on_worker, ERR_UNAVAILABLE);
    unref(r);
}

static void over_on_main(void *arg)
{
    struct exposure_retry *r = arg;
    r->is_over = true;
    if (r->dial)
        exposure_dial_done(TAKE(r->dial), r->end_err);
    unref(r);
}

/* ---- worker ---- */

struct exposure_retry *exposure_retry_new(struct exposure *e, struct client *c,
                                          const struct exposure_goal *goal)
{
    struct exposure_retry *r = NEW(struct exposure_retry);
    r->refs = 2; /* the client's, and that of the decision */
    r->main = e->main;
    r->worker = e->worker;
    r->goal = *goal;
    r->client = c;
    return r;
}

void exposure_retry_end(struct exposure_retry *r, int err)
{
    r->client = NULL;
    r->end_err = err;
    loop_post(r->main, over_on_main, r);
}
