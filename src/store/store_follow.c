/*
 * Changes that other hubs of a shared database make. On the store's thread.
 *
 * `told` keeps the newest changes that subscribers heard of. Changes of our own batch that follow
 * the last of them directly are all there is; otherwise others have written in between, and theirs
 * are read and told first, so that everyone hears of every change once and in order.
 *
 * A database that failed over to a replica that was behind has lost the newest commits: its feed
 * ends earlier than what was told, or goes on differently (each row bears its time). Then the
 * objects of all changes that are there no more are told again as `is_undone`, and after them what
 * the database has instead.
 */
#include "store/store_private.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>

#define READ_MAX 1000 /* changes read at a time */
#define POLL_MS  1000
#define TOLD_MAX 4096 /* changes that may be undone */

/* A change that was told. */
struct store_told {
    int64_t seq, at_ms;
    char tenant[ID_SIZE], kind[16], id[ID_SIZE];
};

static const struct store_told *told_at(const struct store *s, int64_t seq)
{
    const struct store_told *t = s->told ? &s->told[seq % TOLD_MAX] : NULL;
    return t && t->seq == seq ? t : NULL;
}

static void keep_told(struct store *s, const struct store_change *c)
{
    if (!s->told)
        s->told = mem_new(TOLD_MAX * sizeof(*s->told));
    struct store_told *t = &s->told[c->seq % TOLD_MAX];
    t->seq = c->seq;
    t->at_ms = c->at_ms;
    snprintf(t->tenant, sizeof(t->tenant), "%s", c->tenant);
    snprintf(t->kind, sizeof(t->kind), "%s", c->kind);
    snprintf(t->id, sizeof(t->id), "%s", c->id);
}

void store_follow_told(struct store *s, const struct request *r)
{
    if (!s->ops->is_shared || r->err < 0)
        return;
    if (r->is_undoing) {
        LOG_ERROR("the database has lost changes; their objects are read again",
                  LOG_INT("told", s->seen), LOG_INT("kept", r->kept));
        s->seen = r->kept;
        s->poll_at = 0;
    }
    if (r->is_full)
        s->poll_at = 0; /* there is more */
    for (const struct change *c = r->changes; c; c = c->next) {
        if (c->c.seq <= s->seen)
            continue;
        s->seen = c->c.seq;
        keep_told(s, &c->c);
    }
}

static void take_change(void *arg, const struct store_change *c)
{
    tx_add_change(arg, c)->c.is_elsewhere = true;
}

/* ---- a database that has lost changes ---- */

struct compare {
    const struct store *store;
    int64_t same; /* up to here it is as it was told */
    bool is_over;
};

static void compare(void *arg, const struct store_change *c)
{
    struct compare *cmp = arg;
    const struct store_told *t = told_at(cmp->store, c->seq);
    cmp->is_over |= !t || t->at_ms != c->at_ms || strcmp(t->id, c->id) != 0;
    if (!cmp->is_over)
        cmp->same = c->seq;
}

/* 1: the last change that was told is still there; else 0, or an error. */
static int is_same_history(struct store *s, struct tx *tx)
{
    int64_t oldest, newest, at;
    const struct store_told *t = told_at(s, s->seen);
    TRY(store_feed_range(tx, &oldest, &newest));
    if (s->seen > newest)
        return 0;
    if (s->seen <= oldest || !t)
        return 1; /* dropped because of its age; or from before this hub's start */
    int rc = tx_query_int(tx, &at, "SELECT at FROM feed WHERE seq = $1 AND id = $2",
                          STORE_INT(s->seen), STORE_TEXT(t->id));
    return rc == ERR_NOT_FOUND ? 0 : rc < 0 ? rc : at == t->at_ms;
}

static int undo(struct store *s, struct tx *tx, struct request *r)
{
    int64_t oldest, newest, first = s->seen;
    TRY(store_feed_range(tx, &oldest, &newest));
    while (first > oldest && told_at(s, first))
        first--; /* the one before all that are remembered */
    struct compare cmp = {.store = s, .same = MIN(first, newest)};
    if (first >= oldest && first <= newest)
        TRY(store_feed_read(tx, NULL, first, TOLD_MAX, compare, &cmp));
    for (int64_t seq = cmp.same + 1; seq <= s->seen; seq++) {
        const struct store_told *t = told_at(s, seq);
        if (t)
            tx_add_change(tx, &(struct store_change){.seq = cmp.same,
                                                     .tenant = t->tenant,
                                                     .kind = t->kind,
                                                     .id = t->id,
                                                     .op = STORE_PUT,
                                                     .at_ms = t->at_ms,
                                                     .is_elsewhere = true,
                                                     .is_undone = true});
    }
    r->is_undoing = true;
    r->kept = cmp.same;
    return 0;
}

/* ---- reading ---- */

static int poll_work(struct tx *tx, void *arg)
{
    struct request *r = container_of(tx->arena, struct request, arena);
    struct store *s = arg;
    if (!TRY(is_same_history(s, tx)))
        return undo(s, tx, r);
    int rc = store_feed_read(tx, NULL, s->seen, READ_MAX, take_change, tx);
    r->is_full = rc == READ_MAX;
    if (rc != ERR_EXPIRED)
        return rc;
    LOG_ERROR("this hub was away for longer than changes are kept, and has missed some: start it "
              "again",
              LOG_INT("seen", s->seen));
    int64_t oldest;
    r->is_undoing = true;
    return store_feed_range(tx, &oldest, &r->kept);
}

void store_follow_poll(struct store *s, struct request_list *batch)
{
    uint64_t now = time_mono_ms();
    if (!s->ops->is_shared || now < s->poll_at)
        return;
    s->poll_at = now + POLL_MS;
    struct request *poll = store_request_new(STORE_READ, poll_work, NULL, s);
    poll->is_internal = true;
    list_push(batch, poll);
}

void store_follow_wake(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    s->poll_at = 0;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

int store_follow_begin(struct store *s, struct tx *tx)
{
    int64_t oldest;
    return store_feed_range(tx, &oldest, &s->seen);
}

/* ---- between others' changes and ours ---- */

struct gap {
    struct tx *tx;
    int64_t before;
};

static void take_change_in_gap(void *arg, const struct store_change *c)
{
    const struct gap *gap = arg;
    if (c->seq < gap->before)
        take_change(gap->tx, c);
}

/* The first change of ours, 0 if there is none, and what was told before it. */
static int64_t find_first_own(const struct request_list *ran, int64_t *seen)
{
    for (const struct request *r = ran->head; r; r = r->next) {
        for (const struct change *c = r->err < 0 ? NULL : r->changes; c; c = c->next) {
            if (!c->c.is_elsewhere)
                return c->c.seq;
            *seen = c->c.seq;
        }
    }
    return 0;
}

int store_follow_gap(struct store *s, struct request_list *ran)
{
    int64_t seen = s->seen, first = find_first_own(ran, &seen);
    if (first <= seen + 1)
        return 0; /* nobody's, or a number that was told already: the next poll finds that out */
    struct request *r = store_request_new(STORE_READ, NULL, NULL, NULL);
    struct tx tx;
    r->is_internal = true;
    tx_init(&tx, s->ops, s->backend, STORE_READ, &r->arena);
    struct gap gap = {&tx, first};
    int rc = store_feed_read(&tx, NULL, seen, (int)MIN(first - seen, (int64_t)INT32_MAX),
                             take_change_in_gap, &gap);
    r->changes = tx.changes;
    r->next = ran->head;
    ran->head = r;
    ran->n++;
    return rc == ERR_EXPIRED ? 0 : rc;
}
