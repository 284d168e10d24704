/*
 * A stream that the main loop asked for. Two threads share a struct exposure_dial:
 *
 *   main: exposure_dial ──────────► worker: relay          main: exposure_dial_done ─► worker:
 *   main: on_open, on_end ◄──────── worker: opened, ended        relay_other_ended
 *
 * Each of the two sides holds a reference until its last message, which carries it over. The
 * exposure itself is touched only where a relay keeps it in place.
 *
 * Of one that is here both sides are the worker's, and what would be messages are calls.
 */
#include "tunnel/expose_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "net/relay.h"

#include <assert.h>
#include <stdatomic.h>

struct exposure_dial {
    _Atomic uint32_t refs;
    struct loop *main, *worker;
    const struct exposure_dial_ops *ops;
    void *arg;
    struct exposure *exposure; /* valid until the relay began */
    int fd;
    struct relay_pair *pair;
    struct addr client;
    struct exposure_goal goal;
    bool has_goal, is_other_hubs, is_again, is_here;
    bool is_starting;    /* of one that is here: its end is what exposure_dial_here returns */
    struct relay *relay; /* the worker's; NULL: ended */
    int end_err;         /* the worker's, then the main loop's */
    struct icmp_cause end_cause;
    bool has_ended; /* the main loop's: the worker is done with it */
    bool is_done;   /* the main loop's: the caller wants no more */
    int done_err;   /* the main loop's, then the worker's */
};

static void unref(struct exposure_dial *d)
{
    if (atomic_fetch_sub(&d->refs, 1) == 1)
        mem_free(d);
}

static void tell_caller(struct exposure_dial *d, void (*fn)(void *arg))
{
    if (d->is_here)
        fn(d);
    else
        loop_post(d->main, fn, d);
}

static void opened_on_main(void *arg)
{
    struct exposure_dial *d = arg;
    if (!d->is_done)
        d->ops->on_open(d->arg);
    unref(d);
}

void exposure_dial_opened(struct exposure_dial *d)
{
    atomic_fetch_add(&d->refs, 1);
    tell_caller(d, opened_on_main);
}

static void ended_on_main(void *arg)
{
    struct exposure_dial *d = arg;
    d->has_ended = true;
    if (!d->is_done && !d->is_starting)
        d->ops->on_end(d->arg, d->end_err);
    unref(d);
}

const struct icmp_cause *exposure_dial_cause(const struct exposure_dial *d)
{
    return &d->end_cause;
}

void exposure_dial_ended(struct exposure_dial *d, int err, const struct icmp_cause *cause)
{
    d->relay = NULL;
    d->end_err = err;
    d->end_cause = *cause;
    tell_caller(d, ended_on_main);
}

static void start_on_worker(void *arg)
{
    struct exposure_dial *d = arg;
    struct relay *r = exposure_open_dial(d->exposure, d, d->has_goal ? &d->goal : NULL, d->fd,
                                         TAKE(d->pair), &d->client, d->is_other_hubs);
    if (r)
        d->relay = r;
}

static void start_given_on_worker(void *arg)
{
    struct exposure *e = ((struct exposure_dial *)arg)->exposure;
    start_on_worker(arg);
    atomic_fetch_add_explicit(&e->n_arrived, 1, memory_order_release);
}

/* Main. It counts as load at once. */
static void give(struct exposure *e, struct exposure_dial *d)
{
    e->n_given++;
    loop_post(d->worker, start_given_on_worker, d);
}

struct exposure_dial *exposure_dial(struct exposure *e, const struct exposure_goal *goal, int fd,
                                    struct relay_pair *pair, const struct addr *client,
                                    bool is_other_hubs, const struct exposure_dial_ops *ops,
                                    void *arg)
{
    assert(exposure_is_serving(e) && !(pair && e->forward));
    struct exposure_dial *d = NEW(struct exposure_dial);
    d->refs = 2;
    d->main = e->main;
    d->worker = e->worker;
    d->ops = ops;
    d->arg = arg;
    d->exposure = e;
    d->fd = fd;
    d->pair = pair;
    d->client = *client;
    d->has_goal = goal != NULL;
    d->is_other_hubs = is_other_hubs;
    if (goal)
        d->goal = *goal;
    give(e, d);
    return d;
}

int exposure_dial_here(struct exposure *e, const struct exposure_goal *goal,
                       struct relay_pair *pair, const struct addr *client,
                       const struct exposure_dial_ops *ops, void *arg, struct exposure_dial **ret)
{
    struct exposure_dial *d = NEW(struct exposure_dial);
    *d = (struct exposure_dial){.main = e->worker,
                                .worker = e->worker,
                                .ops = ops,
                                .arg = arg,
                                .exposure = e,
                                .fd = -1,
                                .pair = pair,
                                .client = *client,
                                .goal = *goal,
                                .has_goal = true,
                                .is_other_hubs = true,
                                .is_here = true,
                                .is_starting = true};
    d->refs = 2;
    atomic_store_explicit(&e->passed_ms, loop_now_ms(e->worker), memory_order_relaxed);
    start_on_worker(d);
    d->is_starting = false;
    if (d->has_ended) {
        int err = d->end_err;
        unref(d);
        return err;
    }
    *ret = d;
    return 0;
}

/* ---- turned away by another hub: the worker's reference has come to the main loop ---- */

bool exposure_dial_is_again(const struct exposure_dial *d)
{
    return d->is_again;
}

bool exposure_dial_is_wanted(const struct exposure_dial *d)
{
    return !d->is_done;
}

void exposure_dial_again(struct exposure_dial *d, struct exposure *e, int fd)
{
    d->exposure = e;
    d->worker = e->worker;
    d->fd = fd;
    d->is_again = true;
    give(e, d);
}

void exposure_dial_turned_away(struct exposure_dial *d)
{
    d->end_err = ERR_UNAVAILABLE;
    ended_on_main(d);
}

static void done_on_worker(void *arg)
{
    struct exposure_dial *d = arg;
    if (d->relay)
        relay_other_ended(d->relay, d->done_err);
    unref(d);
}

void exposure_dial_done(struct exposure_dial *d, int err)
{
    d->is_done = true;
    d->done_err = err;
    if (d->has_ended)
        unref(d);
    else if (d->is_here)
        done_on_worker(d);
    else
        loop_post(d->worker, done_on_worker, d);
}
