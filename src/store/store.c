/*
 * Theory of operation
 *
 *   any thread            store's thread                          store's loop
 *   store_run ──queue──►  batch: begin, works, commit ──done──►   deliver: changes, then `done`
 *
 * The thread takes what waits (up to BATCH_MAX) as one batch: one transaction of the database, each
 * write inside a savepoint of its own, so that one that fails is undone alone, and one write to
 * stable storage serves all. Nothing is told before the commit: if that fails, every request of the
 * batch gets its error, reads included, for they may have seen what then never was.
 *
 * A database that others write to is also polled for their changes; a notification makes that
 * sooner. Changes are told in the order of their numbers, whoever made them.
 */
#include "store/store_private.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <utlist.h>

#define QUEUE_LIMIT    10000
#define FEED_KEEP_MS   86400000
#define FEED_KEEP_ROWS 100000

static void request_free(struct request *r)
{
    arena_done(&r->arena);
    mem_free(r);
}

/* ---- on the loop ---- */

/* Each subscriber hears all before the next one hears any: whoever reads what changed has asked for
 * that before those who wait until it was read. */
static void tell_subscribers(struct store *s, const struct change *changes)
{
    for (struct store_subscriber *sub = s->subscribers; sub; sub = s->next_subscriber) {
        s->next_subscriber = sub->next; /* store_unsubscribe moves it on, */
        s->listener = sub;              /* and forgets this one */
        for (const struct change *c = changes; c && s->listener; c = c->next)
            sub->fn(sub, &c->c);
        if (s->listener && sub->on_told)
            sub->on_told(sub);
    }
    s->next_subscriber = s->listener = NULL;
}

static void deliver(struct store *s)
{
    s->delivering = true;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct request *r = list_pop(&s->completed);
        pthread_mutex_unlock(&s->lock);
        if (!r)
            break;
        if (r->err >= 0 && r->changes)
            tell_subscribers(s, r->changes);
        if (r->done)
            r->done(r->arg, r->err);
        request_free(r);
    }
    s->delivering = false;
}

static void on_posted(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    s->posted = false;
    pthread_mutex_unlock(&s->lock);
    deliver(s);
}

/* With the lock held. */
void store_complete(struct store *s, struct request *r)
{
    if (r->waiter) {
        *r->waiter = r->err;
        pthread_cond_broadcast(&s->finished);
    }
    list_push(&s->completed, r);
    if (!s->posted) {
        s->posted = true;
        loop_post(s->loop, on_posted, s);
    }
}

void store_subscribe(struct store *s, struct store_subscriber *sub)
{
    assert(!sub->store);
    sub->store = s;
    DL_APPEND(s->subscribers, sub);
}

void store_unsubscribe(struct store_subscriber *sub)
{
    struct store *s = sub->store;
    if (!s)
        return;
    if (s->next_subscriber == sub)
        s->next_subscriber = sub->next;
    if (s->listener == sub)
        s->listener = NULL;
    DL_DELETE(s->subscribers, sub);
    sub->store = NULL;
}

/* ---- any thread ---- */

struct request *store_request_new(enum store_mode mode, int (*work)(struct tx *tx, void *arg),
                                  void (*done)(void *arg, int err), void *arg)
{
    struct request *r = NEW(struct request);
    r->mode = mode;
    r->work = work;
    r->done = done;
    r->arg = arg;
    r->asked_ms = time_mono_ms();
    return r;
}

/* With the lock held. */
static void submit(struct store *s, struct request *r)
{
    if (s->stopping || (s->queue.n >= s->options.queue_limit && !r->is_patient)) {
        s->stats.refused++;
        r->err = ERR_UNAVAILABLE;
        store_complete(s, r);
        return;
    }
    if (r->is_first)
        list_unshift(&s->queue, r);
    else
        list_push(&s->queue, r);
    pthread_cond_signal(&s->wake);
}

static void enqueue(struct store *s, struct request *r)
{
    pthread_mutex_lock(&s->lock);
    submit(s, r);
    pthread_mutex_unlock(&s->lock);
}

void store_run(struct store *s, enum store_mode mode, int (*work)(struct tx *tx, void *arg),
               void (*done)(void *arg, int err), void *arg)
{
    enqueue(s, store_request_new(mode, work, done, arg));
}

void store_run_first(struct store *s, int (*work)(struct tx *tx, void *arg),
                     void (*done)(void *arg, int err), void *arg)
{
    struct request *r = store_request_new(STORE_WRITE, work, done, arg);
    r->is_first = true;
    enqueue(s, r);
}

void store_run_patient(struct store *s, int (*work)(struct tx *tx, void *arg),
                       void (*done)(void *arg, int err), void *arg)
{
    struct request *r = store_request_new(STORE_WRITE, work, done, arg);
    r->is_patient = true;
    enqueue(s, r);
}

void store_reread(struct store *s, int (*work)(struct tx *tx, void *arg),
                  void (*done)(void *arg, int err), void *arg)
{
    struct request *r = store_request_new(STORE_READ, work, done, arg);
    r->is_patient = true;
    enqueue(s, r);
}

static int do_nothing(struct tx *tx, void *arg)
{
    return 0;
}

void store_follow(struct store *s, void (*done)(void *arg, int err), void *arg)
{
    store_run(s, STORE_READ, do_nothing, done, arg);
}

int store_run_wait(struct store *s, enum store_mode mode, int (*work)(struct tx *tx, void *arg),
                   void *arg)
{
    const int not_yet = INT32_MAX;
    int result = not_yet;
    struct request *r = store_request_new(mode, work, NULL, arg);
    r->waiter = &result;
    pthread_mutex_lock(&s->lock);
    submit(s, r);
    while (result == not_yet)
        pthread_cond_wait(&s->finished, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return result;
}

void store_stats(struct store *s, struct store_stats *ret)
{
    pthread_mutex_lock(&s->lock);
    *ret = s->stats;
    ret->queued = s->queue.n;
    ret->feed_seen = s->seen;
    pthread_mutex_unlock(&s->lock);
}

/* ---- open and close ---- */

static void destroy(void *arg)
{
    struct store *s = arg;
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->finished);
    mem_free(s->told);
    mem_free((char *)s->options.db);
    mem_free((char *)s->options.db_password_file);
    mem_free((char *)s->options.db_listen);
    mem_free(s);
}

static struct store *store_new(struct loop *l, const struct store_options *options)
{
    struct store *s = NEW(struct store);
    s->loop = l;
    s->ops = store_is_shared(options->db) ? &store_postgres_ops : &store_sqlite_ops;
    s->options = *options;
    s->options.db = mem_strdup(options->db);
    s->options.db_password_file = mem_strdup(options->db_password_file);
    s->options.db_listen = mem_strdup(options->db_listen);
    if (!s->options.queue_limit)
        s->options.queue_limit = QUEUE_LIMIT;
    if (!s->options.feed_keep_ms)
        s->options.feed_keep_ms = FEED_KEEP_MS;
    if (!s->options.feed_keep_rows)
        s->options.feed_keep_rows = FEED_KEEP_ROWS;
    list_init(&s->queue);
    list_init(&s->completed);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&s->finished, NULL);
    return s;
}

/* Signals are the loops' business: none is delivered to this thread. */
static int start_thread(struct store *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->thread, NULL, store_thread_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc ? ERR_LIMIT : 0;
}

int store_open(struct loop *l, const struct store_options *options, struct store **ret,
               struct diag *d)
{
    struct store *s = store_new(l, options);
    int rc = s->ops->open(&s->options, &s->backend, d);
    if (rc >= 0)
        rc = store_migrate(s->ops, s->backend, &s->options, d);
    if (rc >= 0 && (rc = store_thread_prepare(s)) < 0)
        diag_set(d, rc, "database %s cannot be read: %s", s->options.db,
                 s->ops->last_error(s->backend));
    if (rc >= 0 && s->ops->is_shared)
        rc = s->ops->listen(s->backend, &s->options, store_follow_wake, s);
    if (rc >= 0)
        rc = start_thread(s);
    if (rc < 0 && d && !d->code)
        diag_set(d, rc, "no thread for the database: %s", error_text(rc));
    if (rc < 0) {
        if (s->backend)
            s->ops->close(s->backend);
        destroy(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    assert(!s->delivering);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    deliver(s);
    s->ops->close(s->backend);
    loop_post(s->loop, destroy, s); /* after an on_posted that may still be on its way */
}
