/*
 * The store's thread: batches of transactions, and the feed of a database that others write to.
 *
 * While the database is away (a restart, a fail-over, a cut) requests wait for PATIENCE_MS, then
 * fail with ERR_UNAVAILABLE, and from then on at once, until it is back. Those that were lost with
 * the connection fail; what had not begun yet is tried again. A batch whose commit was not answered
 * is `unsure` until the database can be asked, or until the same patience is over: then its callers
 * hear ERR_IN_DOUBT, and what it changed, if it did, comes from the feed like another hub's.
 *
 * Others wait while a batch holds the database's one writer, and so does what is to come first: a
 * lease that is renewed late is lost. So where statements are slow a batch ends after BATCH_MS, and
 * the rest of it waits anew; and what comes first is a batch of its own.
 */
#include "store/store_private.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/time.h"

#define FEED_TRIM_EVERY 1000 /* changes */
#define BATCH_MS        200
#define PATIENCE_MS     5000
#define RECONNECT_FIRST 100
#define RECONNECT_MAX   1000

/* ---- batches ---- */

static int trim_work(struct tx *tx, void *arg)
{
    struct store *s = arg;
    return store_feed_trim(tx, time_wall_ms(), s->options.feed_keep_ms, s->options.feed_keep_rows);
}

static size_t gather_new(const struct request_list *ran, struct change **ret)
{
    size_t n = 0;
    for (struct request *r = ran->head; r; r = r->next) {
        for (struct change *c = r->err < 0 ? NULL : r->changes; c; c = c->next) {
            if (c->c.seq)
                continue;
            if (ret)
                ret[n] = c;
            n++;
        }
    }
    return n;
}

/* Changes of what `ran` that are not in the feed yet: all at once, instead of a statement for each.
 */
static int append_changes(struct store *s, const struct request_list *ran)
{
    struct arena arena = {0};
    struct tx tx;
    size_t n = gather_new(ran, NULL);
    if (!n)
        return 0;
    struct change **changes = arena_alloc(&arena, n * sizeof(struct change *));
    gather_new(ran, changes);
    tx_init(&tx, s->ops, s->backend, STORE_WRITE, &arena);
    int rc = store_feed_append(&tx, changes, n);
    s->ops->end_all(s->backend);
    arena_done(&arena);
    return rc;
}

static void run_work(struct store *s, struct request *r)
{
    const struct backend_ops *ops = s->ops;
    struct backend *b = s->backend;
    bool is_undoable = r->mode == STORE_WRITE || ops->is_shared;
    struct tx tx;
    tx_init(&tx, ops, b, r->mode, &r->arena);
    if (is_undoable)
        r->err = ops->savepoint(b);
    if (r->err >= 0) {
        r->err = r->work(&tx, r->arg);
        if (tx.err < 0 && r->err >= 0)
            r->err = tx.err;
        ops->end_all(b);
        if (is_undoable && ops->in_transaction(b)) {
            int rc = r->err < 0 ? ops->savepoint_undo(b) : ops->savepoint_keep(b);
            if (rc < 0) { /* what it wrote would be committed with the rest: nothing is, then */
                r->err = rc;
                ops->rollback(b);
            }
        }
    }
    r->changes = tx.changes;
    if (r->err >= 0 && r->mode == STORE_WRITE)
        s->changes_since_trim += tx.n_changes;
}

/* Some errors (a full disk, a lost connection) roll back everything; then what ran before in this
 * batch is lost too, and what has not run yet is left in `batch`. */
static int run_transaction(struct store *s, struct request_list *batch, enum store_mode mode,
                           struct request_list *ran)
{
    const struct backend_ops *ops = s->ops;
    struct request *r;
    TRY(ops->begin(s->backend, mode)); /* has waited for the others */
    uint64_t until = time_mono_ms() + BATCH_MS;
    while ((!ran->head || time_mono_ms() < until) && (r = list_pop(batch))) {
        if (r->mode == STORE_READ && (r->err = append_changes(s, ran)) < 0)
            ops->rollback(s->backend); /* it may read the feed */
        else
            run_work(s, r);
        list_push(ran, r);
        if (!ops->in_transaction(s->backend))
            return r->err < 0 ? r->err : ERR_IO;
    }
    int rc = append_changes(s, ran);
    if (rc >= 0 && ops->is_shared && mode == STORE_WRITE)
        rc = store_follow_gap(s, ran);
    if (rc >= 0)
        rc = ops->commit(s->backend, mode);
    if (rc < 0)
        ops->rollback(s->backend);
    return rc;
}

static void log_trouble(struct store *s, int rc)
{
    if (rc < 0 && !s->in_trouble)
        LOG_ERROR("database cannot commit", LOG_ERR(rc),
                  LOG_STR("reason", s->ops->last_error(s->backend)), LOG_STR("db", s->options.db));
    else if (rc >= 0 && s->in_trouble)
        LOG_INFO("database commits again", LOG_STR("db", s->options.db));
    s->in_trouble = rc < 0;
}

/* With the lock held. */
static void put_before_queue(struct store *s, struct request_list *first)
{
    struct request *r;
    if (!first->head)
        return;
    while ((r = list_pop(&s->queue)))
        list_push(first, r);
    s->queue = *first;
}

/* With the lock held. */
static void answer(struct store *s, struct request *r)
{
    s->stats.failed += !r->is_internal && r->err < 0;
    s->stats.done += !r->is_internal && r->err >= 0;
    store_follow_told(s, r);
    store_complete(s, r);
}

/* To their callers, in order. `rc`: what became of their transaction. */
static void complete_all(struct store *s, struct request_list *ran, int rc)
{
    struct request_list again;
    struct request *r;
    list_init(&again);
    pthread_mutex_lock(&s->lock);
    while ((r = list_pop(ran))) {
        if (rc < 0 && r->err >= 0)
            r->err = rc;
        if (r->err == ERR_UNAVAILABLE && r->is_patient && !s->stopping) {
            r->err = 0;
            list_push(&again, r);
        } else {
            answer(s, r);
        }
    }
    put_before_queue(s, &again);
    pthread_mutex_unlock(&s->lock);
}

static bool has_own_changes(const struct request_list *ran)
{
    for (const struct request *r = ran->head; r; r = r->next) {
        for (const struct change *c = r->err < 0 ? NULL : r->changes; c; c = c->next) {
            if (!c->c.is_elsewhere)
                return true;
        }
    }
    return false;
}

static void committed(struct store *s, struct request_list *ran, enum store_mode mode)
{
    bool is_news = s->ops->is_shared && has_own_changes(ran);
    pthread_mutex_lock(&s->lock);
    s->stats.commits += mode == STORE_WRITE;
    pthread_mutex_unlock(&s->lock);
    complete_all(s, ran, 0);
    if (is_news)
        s->ops->notify(s->backend);
}

/* Patience counts from when the batch began that found the connection gone. */
static void note_loss(struct store *s, uint64_t since)
{
    s->away_since = since;
    pthread_mutex_lock(&s->lock);
    s->stats.losses++;
    pthread_mutex_unlock(&s->lock);
}

/* Puts back before the queue what has not run. Once: a database that takes no transaction, though
 * it can be reached, shall not be asked for ever. */
static void put_back(struct store *s, struct request_list *batch)
{
    struct request_list again;
    struct request_list failed;
    struct request *r;
    list_init(&again);
    list_init(&failed);
    while ((r = list_pop(batch))) {
        list_push(r->was_put_back ? &failed : &again, r);
        r->was_put_back = true;
    }
    complete_all(s, &failed, ERR_UNAVAILABLE);
    pthread_mutex_lock(&s->lock);
    put_before_queue(s, &again);
    pthread_mutex_unlock(&s->lock);
}

/* Behind those of the queue that come first. */
static void put_off(struct store *s, struct request_list *batch)
{
    struct request_list next;
    struct request *r;
    list_init(&next);
    pthread_mutex_lock(&s->lock);
    while (s->queue.head && s->queue.head->is_first)
        list_push(&next, list_pop(&s->queue));
    while ((r = list_pop(batch)))
        list_push(&next, r);
    put_before_queue(s, &next);
    pthread_mutex_unlock(&s->lock);
}

static void run_batch(struct store *s, struct request_list *batch)
{
    enum store_mode mode = STORE_READ;
    uint64_t since = time_mono_ms();
    for (struct request *r = batch->head; r; r = r->next) {
        if (r->mode == STORE_WRITE)
            mode = STORE_WRITE;
    }
    while (batch->head) {
        struct request_list ran;
        list_init(&ran);
        int rc = run_transaction(s, batch, mode, &ran);
        bool has_begun = ran.n > 0;
        log_trouble(s, rc);
        if (rc == STORE_UNSURE) {
            s->unsure = ran;
            note_loss(s, since);
            return;
        }
        if (rc == 0)
            committed(s, &ran, mode);
        else
            complete_all(s, &ran, rc);
        if (rc < 0 && s->ops->is_lost && s->ops->is_lost(s->backend)) {
            put_back(s, batch);
            note_loss(s, since);
            return;
        }
        if (!has_begun)
            complete_all(s, batch, rc);
        else if (rc == 0)
            put_off(s, batch);
    }
}

/* ---- a database that is away ---- */

static int settle_unsure(struct store *s)
{
    if (!s->unsure.head)
        return 0;
    int rc = TRY(s->ops->was_committed(s->backend));
    if (rc)
        committed(s, &s->unsure, STORE_WRITE);
    else
        complete_all(s, &s->unsure, ERR_UNAVAILABLE);
    return 0;
}

static bool is_patience_over(const struct store *s)
{
    return s->stopping || time_mono_ms() - s->away_since >= PATIENCE_MS;
}

/* With the lock held. Those that came after `since` may wait on. */
static void refuse_waiting(struct store *s, uint64_t since)
{
    struct request_list patient;
    struct request *r;
    list_init(&patient);
    while ((r = list_pop(&s->queue))) {
        if ((r->is_patient || r->asked_ms > since) && !s->stopping) {
            list_push(&patient, r);
            continue;
        }
        r->err = ERR_UNAVAILABLE;
        s->stats.refused++;
        store_complete(s, r);
    }
    put_before_queue(s, &patient);
}

/* With the lock held. Nobody waits any longer to hear what became of the commit. */
static void give_up_unsure(struct store *s)
{
    struct request_list patient;
    struct request *r;
    list_init(&patient);
    if (s->unsure.head)
        LOG_ERROR("the database has not answered a commit: its transactions may or may not have "
                  "taken effect",
                  LOG_INT("transactions", s->unsure.n));
    while ((r = list_pop(&s->unsure))) {
        if (r->is_patient && !s->stopping) {
            r->err = 0;
            list_push(&patient, r);
            continue;
        }
        if (r->err >= 0)
            r->err = r->mode == STORE_WRITE ? ERR_IN_DOUBT : ERR_UNAVAILABLE;
        s->stats.failed += !r->is_internal;
        store_complete(s, r);
    }
    put_before_queue(s, &patient);
}

/* With the lock held. */
static void lose_patience(struct store *s)
{
    give_up_unsure(s);
    refuse_waiting(s, UINT64_MAX);
}

/* The database takes long to answer: those behind whoever asked do not wait for ever. */
static void on_slow(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    if (s->away_since && is_patience_over(s))
        give_up_unsure(s);
    refuse_waiting(s, time_mono_ms() - PATIENCE_MS);
    pthread_mutex_unlock(&s->lock);
}

/* With the lock held; `at_ms` of the monotonic clock, 0: never. */
static void sleep_until(struct store *s, uint64_t at_ms)
{
    struct timespec at = {.tv_sec = (time_t)(at_ms / 1000),
                          .tv_nsec = (long)(at_ms % 1000) * 1000000};
    if (at_ms)
        pthread_cond_timedwait(&s->wake, &s->lock, &at);
    else
        pthread_cond_wait(&s->wake, &s->lock);
}

/* With the lock held. Until it is time to try again. */
static void wait_away(struct store *s)
{
    uint64_t until = time_mono_ms() + backoff_next(&s->backoff);
    if (!s->away_since)
        s->away_since = time_mono_ms();
    s->stats.is_away = true;
    do {
        if (is_patience_over(s))
            lose_patience(s);
        else
            until = MIN(until, s->away_since + PATIENCE_MS);
        if (s->stopping)
            return;
        sleep_until(s, until);
    } while (time_mono_ms() < until);
}

/* With the lock held, which is released meanwhile. */
static bool is_there(struct store *s)
{
    if (!s->ops->connect)
        return true;
    if (s->away_since && is_patience_over(s))
        lose_patience(s); /* to connect takes its time, too */
    pthread_mutex_unlock(&s->lock);
    int rc = s->ops->connect(s->backend);
    if (rc >= 0)
        rc = settle_unsure(s);
    if (rc < 0)
        log_trouble(s, rc);
    pthread_mutex_lock(&s->lock);
    if (rc < 0)
        return false;
    s->away_since = 0;
    s->stats.is_away = false;
    backoff_reset(&s->backoff);
    return true;
}

/* ---- the thread ---- */

int store_thread_prepare(struct store *s)
{
    struct arena arena = {0};
    struct tx tx;
    s->changes_since_trim = FEED_TRIM_EVERY; /* what grew old while nobody ran */
    s->backoff = (struct backoff){.first_ms = RECONNECT_FIRST, .max_ms = RECONNECT_MAX};
    list_init(&s->unsure);
    if (s->ops->on_slow)
        s->ops->on_slow(s->backend, on_slow, s);
    TRY(s->ops->begin(s->backend, STORE_READ));
    tx_init(&tx, s->ops, s->backend, STORE_READ, &arena);
    int rc = store_follow_begin(s, &tx);
    s->ops->end_all(s->backend);
    s->ops->rollback(s->backend);
    arena_done(&arena);
    return rc;
}

/* With the lock held. */
static void take_batch(struct store *s, struct request_list *batch)
{
    list_init(batch);
    if (s->changes_since_trim >= FEED_TRIM_EVERY) { /* alone: who only reads needs no lock for it */
        s->changes_since_trim = 0;
        list_push(batch, store_request_new(STORE_WRITE, trim_work, NULL, s));
        return;
    }
    store_follow_poll(s, batch);
    bool has_first = s->queue.head && s->queue.head->is_first;
    while (s->queue.head && batch->n < s->ops->batch_max && s->queue.head->is_first == has_first)
        list_push(batch, list_pop(&s->queue));
}

/* With the lock held. False: stopping, and nothing is left to do. */
static bool wait_for_work(struct store *s)
{
    while (!s->queue.head && !s->stopping && !s->unsure.head) {
        if (s->ops->is_shared && time_mono_ms() >= s->poll_at)
            break;
        sleep_until(s, s->ops->is_shared ? s->poll_at : 0);
    }
    return s->queue.head || !s->stopping;
}

void *store_thread_main(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    while (wait_for_work(s)) {
        struct request_list batch;
        if (!is_there(s)) {
            wait_away(s);
            continue;
        }
        take_batch(s, &batch);
        pthread_mutex_unlock(&s->lock);
        run_batch(s, &batch);
        pthread_mutex_lock(&s->lock);
    }
    give_up_unsure(s);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
