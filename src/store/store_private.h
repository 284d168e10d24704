/*
 * The store's own state, shared by store.c (any thread, the loop) and store_thread.c.
 *
 * `lock` guards queue, completed, stats, poll_at and the flags beside them. The back end belongs to
 * the thread once that runs; subscribers belong to the loop.
 */
#pragma once

#include "store/backend.h"

#include "base/arena.h"
#include "base/backoff.h"

#include <pthread.h>

struct request {
    enum store_mode mode;
    int (*work)(struct tx *tx, void *arg);
    void (*done)(void *arg, int err); /* NULL: nobody to tell */
    void *arg;
    int err;
    bool is_first;    /* before all that waits */
    bool is_patient;  /* waits until the database is there */
    bool is_internal; /* nobody asked for it: not counted */
    bool was_put_back;
    uint64_t asked_ms; /* monotonic clock */
    bool is_full;      /* a poll that read as much as it may */
    bool is_undoing;   /* the database has lost changes, */
    int64_t kept;      /* those after this one */
    int *waiter;       /* where store_run_wait looks for the result; 1 means not yet */
    struct arena arena;
    struct change *changes; /* told if all went well */
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
    struct store_subscriber *listener; /* which is being told; NULL: it has unsubscribed */
    bool delivering;

    /* The thread's own. */
    uint32_t changes_since_trim;
    bool in_trouble;         /* the last commit failed, and it was logged */
    int64_t seen;            /* of a shared database: the last change that was told */
    struct store_told *told; /* store_follow.c */
    uint64_t away_since;     /* monotonic clock, since when the database is away; 0: it is there */
    struct backoff backoff;
    struct request_list unsure; /* committed or not: the answer was lost */

    uint64_t poll_at; /* with the lock: when the feed is read next */
};

static inline void list_init(struct request_list *list)
{
    *list = (struct request_list){.tail = &list->head};
}

static inline void list_push(struct request_list *list, struct request *r)
{
    r->next = NULL;
    *list->tail = r;
    list->tail = &r->next;
    list->n++;
}

static inline void list_unshift(struct request_list *list, struct request *r)
{
    r->next = list->head;
    list->head = r;
    if (!r->next)
        list->tail = &r->next;
    list->n++;
}

static inline struct request *list_pop(struct request_list *list)
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

struct request *store_request_new(enum store_mode mode, int (*work)(struct tx *tx, void *arg),
                                  void (*done)(void *arg, int err), void *arg);
/* With the lock held: to the loop, and to who waits. */
void store_complete(struct store *s, struct request *r);

int store_thread_prepare(struct store *s); /* before it starts */
void *store_thread_main(void *arg);

/* ---- store_follow.c: what others change ---- */

/* The database's newest change is the first that is not told. */
int store_follow_begin(struct store *s, struct tx *tx);
void store_follow_wake(void *store); /* any thread: the feed may have grown */
/* With the lock held: adds a reading of the feed if it is time for one. */
void store_follow_poll(struct store *s, struct request_list *batch);
/* In the transaction: others' changes before the first of ours go before all that `ran`. */
int store_follow_gap(struct store *s, struct request_list *ran);
/* The request's changes will be told. */
void store_follow_told(struct store *s, const struct request *r);
