/*
 * A turn (docs/ARCHITECTURE.md draws it). libuv runs timers and its own events; the sleeping is
 * done in its prepare step, on our epoll set, which contains libuv's (loop/io.c):
 *
 *   uv timers -> prepare: deferred calls, then [wait, socket events, deferred calls]... -> uv
 * events
 *                                              '--- as long as libuv has nothing to do ---'
 *
 * Deferred calls run both before and after the wait, so that what a timer deferred is not left
 * lying while the loop sleeps. A call deferred by a deferred call waits for the next run, before
 * which we poll without sleeping. libuv registers descriptors only when it polls itself, so whoever
 * may have given it one sets `uv_dirty`.
 */
#include "loop/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <utlist.h>

struct loop_signal {
    uv_signal_t uv;
    void (*fn)(void *arg, int signum);
    void *arg;
    struct loop_signal *next;
};

static void on_idle(uv_idle_t *handle)
{
    (void)handle;
}

/* Runs what is pending now. A call that defers again goes to the list's tail, beyond `end`. */
static void run_deferred(struct loop *l)
{
    struct defer end = {0}; /* marks where this batch ends */
    if (!l->deferred)
        return;
    l->has_worked = true;
    loop_defer(l, &end);
    while (l->deferred != &end) {
        struct defer *d = l->deferred;
        loop_defer_cancel(d);
        d->fn(d);
    }
    loop_defer_cancel(&end);
}

static void note_busy_time(struct loop *l)
{
    if (!l->turn_started_ns)
        return;
    uint64_t us = (uv_hrtime() - l->turn_started_ns) / 1000;
    if (us > l->max_busy_us)
        l->max_busy_us = us;
    l->turn_started_ns = 0;
}

static void on_before_wait(uv_prepare_t *handle)
{
    struct loop *l = handle->data;
    bool uv_is_next = l->uv_dirty;
    uv_idle_stop(&l->busy);
    run_deferred(l);
    do {
        note_busy_time(l);
        bool may_sleep = !uv_is_next && !l->deferred && l->turn != TURN_NOWAIT &&
                         !(l->turn == TURN_ONE && l->has_worked);
        loop_io_wait(l, may_sleep ? uv_backend_timeout(&l->uv) : 0);
        run_deferred(l);
        uv_is_next =
            l->uv_ready || l->uv_dirty || l->turn != TURN_MANY || uv_backend_timeout(&l->uv) == 0;
    } while (!uv_is_next);
    l->uv_ready = l->uv_dirty = false;
    uv_idle_start(&l->busy, on_idle);
}

static void on_after_wait(uv_check_t *handle)
{
    struct loop *l = handle->data;
    run_deferred(l);
}

static void run_posted(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    struct posted *p = l->posted;
    l->posted = NULL;
    l->posted_tail = &l->posted;
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    while (p) {
        struct posted *next = p->next;
        p->fn(p->arg);
        mem_free(p);
        p = next;
    }
    if (stop)
        uv_stop(&l->uv);
}

static void on_wake(uv_async_t *handle)
{
    run_posted(handle->data);
}

int loop_new(struct loop **ret)
{
    struct loop *l = NEW(struct loop);
    int rc = uv_loop_init(&l->uv);
    if (rc < 0) {
        mem_free(l);
        return error_from_errno(-rc);
    }
    pthread_mutex_init(&l->lock, NULL);
    l->posted_tail = &l->posted;
    l->uv_dirty = true;
    uv_async_init(&l->uv, &l->wake, on_wake);
    uv_prepare_init(&l->uv, &l->before_wait);
    uv_check_init(&l->uv, &l->after_wait);
    uv_idle_init(&l->uv, &l->busy);
    l->wake.data = l->before_wait.data = l->after_wait.data = l->busy.data = l;
    uv_prepare_start(&l->before_wait, on_before_wait);
    uv_check_start(&l->after_wait, on_after_wait);
    loop_timer_init(l);
    rc = loop_io_init(l);
    if (rc < 0) {
        loop_free(l);
        return rc;
    }
    *ret = l;
    return 0;
}

int loop_new_virtual(struct loop **ret, uint64_t start_ms)
{
    TRY(loop_new(ret));
    (*ret)->is_virtual = true;
    (*ret)->virtual_ms = start_ms;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    run_posted(l);
    loop_timer_done(l);
    uv_walk(&l->uv, close_handle, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    run_posted(l);
    int rc = uv_loop_close(&l->uv);
    assert(rc == 0);
    (void)rc;
    loop_io_done(l);
    while (l->signals) {
        struct loop_signal *next = l->signals->next;
        mem_free(l->signals);
        l->signals = next;
    }
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

void loop_run(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    if (!stop)
        uv_run(&l->uv, UV_RUN_DEFAULT);
    pthread_mutex_lock(&l->lock);
    l->stop = false;
    pthread_mutex_unlock(&l->lock);
}

void loop_turn(struct loop *l, bool wait)
{
    l->turn = wait ? TURN_ONE : TURN_NOWAIT;
    l->has_worked = false;
    uv_run(&l->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    l->turn = TURN_MANY;
}

static bool is_settled(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    bool is_empty = !l->posted;
    pthread_mutex_unlock(&l->lock);
    return is_empty && !l->deferred;
}

void loop_settle(struct loop *l)
{
    do
        loop_turn(l, false);
    while (!is_settled(l));
}

void loop_stop(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->wake);
}

uint64_t loop_now_ms(const struct loop *l)
{
    return l->is_virtual ? l->virtual_ms : uv_now(&l->uv);
}

void loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct posted *p = NEW(struct posted);
    *p = (struct posted){fn, arg, NULL};
    pthread_mutex_lock(&l->lock);
    *l->posted_tail = p;
    l->posted_tail = &p->next;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->wake);
}

void loop_defer(struct loop *l, struct defer *d)
{
    if (d->loop)
        return;
    DL_APPEND(l->deferred, d);
    d->loop = l;
}

void loop_defer_cancel(struct defer *d)
{
    if (!d->loop)
        return;
    DL_DELETE(d->loop->deferred, d);
    d->loop = NULL;
}

static void on_signal(uv_signal_t *uv, int signum)
{
    struct loop_signal *s = container_of(uv, struct loop_signal, uv);
    s->fn(s->arg, signum);
}

int loop_on_signal(struct loop *l, int signum, void (*fn)(void *arg, int signum), void *arg)
{
    struct loop_signal *s = NEW(struct loop_signal);
    s->fn = fn;
    s->arg = arg;
    uv_signal_init(&l->uv, &s->uv);
    s->next = l->signals;
    l->signals = s;
    l->uv_dirty = true;
    int rc = uv_signal_start(&s->uv, on_signal, signum);
    return rc < 0 ? error_from_errno(-rc) : 0;
}

uint64_t loop_take_max_busy_us(struct loop *l)
{
    uint64_t us = l->max_busy_us;
    l->max_busy_us = 0;
    return us;
}

uv_loop_t *loop_uv(struct loop *l)
{
    l->uv_dirty = true;
    return &l->uv;
}
