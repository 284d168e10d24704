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
 * `lock` guards queue, completed, stats and the flags beside them. The back end belongs to the
 * thread once that runs; subscribers belong to the loop.
 */
#include "store/backend.h"

#include "base/arena.h"
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

#define BATCH_MAX       256
#define QUEUE_LIMIT     10000
#define FEED_KEEP_MS    86400000
#define FEED_KEEP_ROWS  100000
#define FEED_TRIM_EVERY 1000 /* changes */

struct request {
    enum store_mode mode;
    int (*work)(struct tx *tx, void *arg);
    void (*done)(void *arg, int err); /* NULL: nobody to tell */
    void *arg;
    int err;
    int *waiter; /* where store_run_wait looks for the result; 1 means not yet */
    struct arena arena;
    struct change *changes;
    struct request *next;
};

struct request_list {
    struct request *head, **tail;
    uint64_t n;
};

struct store {
    struct loop *loop;
    const struct backend_ops *ops;
    struct backend *backend;
    struct store_options options;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t wake;     /* the thread: something is queued, or stopping */
    pthread_cond_t finished; /* store_run_wait */
    struct request_list queue, completed;
    struct store_stats stats;
    bool stopping, posted;

    struct store_subscriber *subscribers, *next_subscriber;
    bool delivering;

    uint32_t changes_since_trim; /* the thread's */
    bool in_trouble;             /* the thread's: the last commit failed, and it was logged */
};

static void list_init(struct request_list *list)
{
    *list = (struct request_list){.tail = &list->head};
}

static void list_push(struct request_list *list, struct request *r)
{
    r->next = NULL;
    *list->tail = r;
    list->tail = &r->next;
    list->n++;
}

static struct request *list_pop(struct request_list *list)
{
    struct request *r = list->head;
    if (r) {
        list->head = r->next;
        list->n--;
        if (!list->head)
            list->tail = &list->head;
    }
    return r;
}

static void request_free(struct request *r)
{
    arena_done(&r->arena);
    mem_free(r);
}

/* ---- on the loop ---- */

static void tell_subscribers(struct store *s, const struct store_change *change)
{
    for (struct store_subscriber *sub = s->subscribers; sub; sub = s->next_subscriber) {
        s->next_subscriber = sub->next; /* store_unsubscribe moves it on */
        sub->fn(sub, change);
    }
    s->next_subscriber = NULL;
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
        if (r->err >= 0) {
            for (struct change *change = r->changes; change; change = change->next)
                tell_subscribers(s, &change->c);
        }
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
static void complete(struct store *s, struct request *r)
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
    DL_DELETE(s->subscribers, sub);
    sub->store = NULL;
}

/* ---- any thread ---- */

static struct request *request_new(enum store_mode mode, int (*work)(struct tx *tx, void *arg),
                                   void (*done)(void *arg, int err), void *arg)
{
    struct request *r = NEW(struct request);
    r->mode = mode;
    r->work = work;
    r->done = done;
    r->arg = arg;
    return r;
}

/* With the lock held. */
static void submit(struct store *s, struct request *r)
{
    if (s->stopping || s->queue.n >= s->options.queue_limit) {
        s->stats.refused++;
        r->err = ERR_UNAVAILABLE;
        complete(s, r);
        return;
    }
    list_push(&s->queue, r);
    pthread_cond_signal(&s->wake);
}

void store_run(struct store *s, enum store_mode mode, int (*work)(struct tx *tx, void *arg),
               void (*done)(void *arg, int err), void *arg)
{
    struct request *r = request_new(mode, work, done, arg);
    pthread_mutex_lock(&s->lock);
    submit(s, r);
    pthread_mutex_unlock(&s->lock);
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
    struct request *r = request_new(mode, work, NULL, arg);
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
    pthread_mutex_unlock(&s->lock);
}

/* ---- on the store's thread ---- */

static int trim_work(struct tx *tx, void *arg)
{
    struct store *s = arg;
    return store_feed_trim(tx, time_wall_ms(), s->options.feed_keep_ms, s->options.feed_keep_rows);
}

static void run_work(struct store *s, struct request *r)
{
    const struct backend_ops *ops = s->ops;
    struct backend *b = s->backend;
    struct tx tx;
    tx_init(&tx, ops, b, r->mode, &r->arena);
    if (r->mode == STORE_WRITE)
        r->err = ops->savepoint(b);
    if (r->err >= 0) {
        r->err = r->work(&tx, r->arg);
        if (tx.err < 0 && r->err >= 0)
            r->err = tx.err;
        ops->end_all(b);
        if (r->mode == STORE_WRITE && ops->in_transaction(b)) {
            int rc = r->err < 0 ? ops->savepoint_undo(b) : ops->savepoint_keep(b);
            if (rc < 0) { /* what it wrote would be committed with the rest: nothing is, then */
                r->err = rc;
                ops->rollback(b);
            }
        }
    }
    r->changes = tx.changes;
    if (r->err >= 0)
        s->changes_since_trim += tx.n_changes;
}

/* Some errors (a full disk) make a database roll back everything on its own; then what ran before
 * in this batch is lost too, and what has not run yet starts over in a new transaction. */
static int run_transaction(struct store *s, struct request_list *batch, enum store_mode mode,
                           struct request_list *ran)
{
    const struct backend_ops *ops = s->ops;
    struct request *r;
    int rc = ops->begin(s->backend, mode);
    if (rc < 0) {
        while ((r = list_pop(batch)))
            list_push(ran, r);
        return rc;
    }
    while ((r = list_pop(batch))) {
        run_work(s, r);
        list_push(ran, r);
        if (!ops->in_transaction(s->backend))
            return r->err < 0 ? r->err : ERR_IO;
    }
    rc = ops->commit(s->backend);
    if (rc < 0)
        ops->rollback(s->backend);
    return rc;
}

static void log_trouble(struct store *s, int rc)
{
    if (rc < 0 && !s->in_trouble)
        LOG_ERROR("database cannot commit", LOG_ERR(rc),
                  LOG_STR("reason", s->ops->last_error(s->backend)),
                  LOG_STR("path", s->options.path));
    else if (rc >= 0 && s->in_trouble)
        LOG_INFO("database commits again", LOG_STR("path", s->options.path));
    s->in_trouble = rc < 0;
}

static void run_batch(struct store *s, struct request_list *batch)
{
    enum store_mode mode = STORE_READ;
    struct request *r;
    for (r = batch->head; r; r = r->next) {
        if (r->mode == STORE_WRITE)
            mode = STORE_WRITE;
    }
    while (batch->head) {
        struct request_list ran;
        list_init(&ran);
        int rc = run_transaction(s, batch, mode, &ran);
        log_trouble(s, rc);
        pthread_mutex_lock(&s->lock);
        if (rc >= 0 && mode == STORE_WRITE)
            s->stats.commits++;
        while ((r = list_pop(&ran))) {
            if (rc < 0 && r->err >= 0)
                r->err = rc;
            if (r->err < 0)
                s->stats.failed++;
            else
                s->stats.done++;
            complete(s, r);
        }
        pthread_mutex_unlock(&s->lock);
    }
}

/* With the lock held. */
static void take_batch(struct store *s, struct request_list *batch)
{
    list_init(batch);
    if (s->changes_since_trim >= FEED_TRIM_EVERY) {
        s->changes_since_trim = 0;
        list_push(batch, request_new(STORE_WRITE, trim_work, NULL, s));
    }
    while (s->queue.head && batch->n < BATCH_MAX)
        list_push(batch, list_pop(&s->queue));
}

static void *thread_main(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->queue.head && !s->stopping)
            pthread_cond_wait(&s->wake, &s->lock);
        if (!s->queue.head)
            break;
        struct request_list batch;
        take_batch(s, &batch);
        pthread_mutex_unlock(&s->lock);
        run_batch(s, &batch);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- open and close ---- */

static void destroy(void *arg)
{
    struct store *s = arg;
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->finished);
    mem_free((char *)s->options.path);
    mem_free(s);
}

static struct store *store_new(struct loop *l, const struct store_options *options)
{
    struct store *s = NEW(struct store);
    s->loop = l;
    s->ops = &store_sqlite_ops;
    s->options = *options;
    s->options.path = mem_strdup(options->path);
    if (!s->options.queue_limit)
        s->options.queue_limit = QUEUE_LIMIT;
    if (!s->options.feed_keep_ms)
        s->options.feed_keep_ms = FEED_KEEP_MS;
    if (!s->options.feed_keep_rows)
        s->options.feed_keep_rows = FEED_KEEP_ROWS;
    s->changes_since_trim = FEED_TRIM_EVERY; /* what grew old while nobody ran */
    list_init(&s->queue);
    list_init(&s->completed);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->finished, NULL);
    return s;
}

/* Signals are the loops' business: none is delivered to this thread. */
static int start_thread(struct store *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
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
    if (rc >= 0 && (rc = start_thread(s)) < 0)
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

/* ---- inside a transaction ---- */

void tx_init(struct tx *tx, const struct backend_ops *ops, struct backend *b, enum store_mode mode,
             struct arena *arena)
{
    *tx = (struct tx){.ops = ops, .backend = b, .mode = mode, .arena = arena};
    tx->changes_tail = &tx->changes;
}

struct store_value store_value_text(const char *s)
{
    if (!s)
        return STORE_NULL;
    return (struct store_value){STORE_VALUE_TEXT, 0, s, strlen(s)};
}

int tx_exec_values(struct tx *tx, const char *sql, const struct store_value *values, size_t n)
{
    if (tx->err < 0)
        return tx->err;
    tx->err = tx->ops->exec(tx->backend, tx->mode, sql, values, n, &tx->changed);
    return tx->err;
}

int64_t tx_changed(const struct tx *tx)
{
    return tx->changed;
}

struct rows tx_query_values(struct tx *tx, const char *sql, const struct store_value *values,
                            size_t n)
{
    struct rows rows = {.tx = tx};
    if (tx->err >= 0)
        tx->err = tx->ops->query(tx->backend, tx->mode, sql, values, n, &rows.cursor);
    rows.err = tx->err;
    return rows;
}

int row_next(struct rows *rows)
{
    if (!rows->cursor)
        return rows->err;
    int rc = rows->tx->ops->next(rows->cursor);
    if (rc > 0)
        return rc;
    if (rc < 0)
        rows->err = rows->tx->err = rc;
    rows_done(rows);
    return rc;
}

void rows_done(struct rows *rows)
{
    if (rows->cursor)
        rows->tx->ops->end(TAKE(rows->cursor));
}

const char *row_text(const struct rows *rows, int column)
{
    return rows->tx->ops->text(rows->cursor, column);
}

int64_t row_int(const struct rows *rows, int column)
{
    return rows->tx->ops->integer(rows->cursor, column);
}

const void *row_blob(const struct rows *rows, int column, size_t *ret_len)
{
    return rows->tx->ops->blob(rows->cursor, column, ret_len);
}

bool row_is_null(const struct rows *rows, int column)
{
    return rows->tx->ops->is_null(rows->cursor, column);
}

int tx_query_int_values(struct tx *tx, int64_t *ret, const char *sql,
                        const struct store_value *values, size_t n)
{
    struct rows rows = tx_query_values(tx, sql, values, n);
    if (!TRY(row_next(&rows)))
        return ERR_NOT_FOUND;
    int64_t v = row_int(&rows, 0);
    rows_done(&rows);
    *ret = v;
    return 0;
}
