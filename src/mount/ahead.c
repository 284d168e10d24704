#include "mount/ahead.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "wire/snmp.h"

#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define HELD_MAX     (2u * READ_AHEAD_WINDOW)
#define BYTES_MAX    (2u * READ_AHEAD_BYTES)
#define NEWS_SHARE   8    /* of what is held, was used: the agent hears of it ... */
#define NEWS_MS      5    /* ... not more often */
#define THINK_MAX_MS 1000 /* a longer pause is none of the walk's */
#define THINK_SHARE  16

/* An answer that was not used yet. */
struct held {
    uint64_t hash; /* key: of the request */
    uint64_t read_ms;
    size_t request_len, answer_len;
    struct held *prev, *next; /* as they came */
    UT_hash_handle hh;
    uint8_t bytes[]; /* request, answer */
};

/* A request of the program that was forwarded. */
struct waiting {
    struct buf request;
    uint64_t hash;
    int32_t id;
    bool is_due; /* to be forwarded again */
    uint64_t order;
};

struct ahead {
    struct ahead_stats *stats;
    uint32_t ttl_ms;
    struct held *table, *list;
    size_t bytes;
    struct waiting waiting[AHEAD_WAITING];
    uint64_t orders;
    uint64_t generation, received, hits, wasted;
    uint64_t hits_told, told_ms;
    bool has_news;
    bool is_read;    /* the agent may read ahead */
    bool is_writing; /* a Set, or something unknown, was sent and not answered */
    uint64_t gave_ms;
    bool has_given;
    int64_t think_us; /* mean, of the last ones most */
    int n_thoughts;
};

struct ahead *ahead_new(uint32_t ttl_ms, struct ahead_stats *stats)
{
    struct ahead *a = NEW(struct ahead);
    a->ttl_ms = ttl_ms;
    a->stats = stats;
    a->generation = 1;
    return a;
}

/* ---- what is held ---- */

static void forget(struct ahead *a, struct held *h)
{
    HASH_DEL(a->table, h); /* NOLINT(clang-analyzer-core.NullDereference): it is in both */
    DL_DELETE(a->list, h); /* NOLINT(clang-analyzer-core.NullDereference) */
    a->bytes -= h->request_len + h->answer_len;
    a->stats->bytes -= h->request_len + h->answer_len;
    mem_free(h);
}

static void waste(struct ahead *a)
{
    a->wasted++;
    a->stats->wasted++;
}

static void waste_first(struct ahead *a)
{
    forget(a, a->list);
    waste(a);
}

static void use(struct ahead *a, uint64_t now_ms)
{
    a->hits++;
    a->stats->hits++;
    a->gave_ms = now_ms;
    a->has_given = true;
}

static bool is_fresh(const struct ahead *a, uint64_t read_ms, uint64_t now_ms)
{
    return now_ms < read_ms + a->ttl_ms;
}

static void keep(struct ahead *a, const struct read_ahead_answer *from, uint64_t hash)
{
    size_t size = from->request_len + from->answer_len;
    struct held *h, *old;
    HASH_FIND(hh, a->table, &hash, sizeof(hash), old);
    if (old) { /* it was read again */
        forget(a, old);
        waste(a);
    }
    while (a->list && (HASH_COUNT(a->table) >= HELD_MAX || a->bytes + size > BYTES_MAX))
        waste_first(a);
    if (a->stats->bytes + size > AHEAD_TOTAL_BYTES) {
        waste(a);
        return;
    }
    h = mem_new(sizeof(*h) + size);
    h->hash = hash;
    h->read_ms = from->read_ms;
    h->request_len = from->request_len;
    h->answer_len = from->answer_len;
    memcpy(h->bytes, from->request, from->request_len);
    memcpy(h->bytes + from->request_len, from->answer, from->answer_len);
    a->bytes += size;
    a->stats->bytes += size;
    HASH_ADD(hh, a->table, hash, sizeof(h->hash), h);
    DL_APPEND(a->list, h);
}

/* The answer under the request-id that the program gave its request. */
static bool put_answer(const uint8_t *data, size_t len, int32_t id, struct buf *out)
{
    struct snmp m;
    if (snmp_read(data, len, &m) < 0 || buf_reserve(out, len + 8) < 0)
        return false;
    int n = snmp_with_id(&m, id, (uint8_t *)out->data + out->len, len + 8);
    if (n < 0)
        return false;
    out->len += (size_t)n;
    return true;
}

static bool give_held(struct ahead *a, const struct snmp *m, uint64_t now_ms, struct buf *answer)
{
    uint64_t hash = snmp_hash(m);
    struct snmp asked;
    struct held *h;
    HASH_FIND(hh, a->table, &hash, sizeof(hash), h);
    if (!h || !is_fresh(a, h->read_ms, now_ms) || snmp_read(h->bytes, h->request_len, &asked) < 0 ||
        !snmp_is_same(&asked, m) ||
        !put_answer(h->bytes + h->request_len, h->answer_len, m->id, answer))
        return false;
    forget(a, h);
    use(a, now_ms);
    return true;
}

bool ahead_expire(struct ahead *a, uint64_t now_ms)
{
    bool was_any = false;
    while (a->list && !is_fresh(a, a->list->read_ms, now_ms)) {
        waste_first(a);
        was_any = true;
    }
    a->has_news |= was_any;
    return was_any;
}

/* ---- who waits ---- */

static void stop_waiting(struct waiting *w)
{
    buf_done(&w->request);
    *w = (struct waiting){0};
}

static void wait_for(struct ahead *a, const struct snmp *m)
{
    struct waiting *place = &a->waiting[0];
    for (size_t i = 0; i < AHEAD_WAITING; i++) {
        struct waiting *w = &a->waiting[i];
        if (w->request.len && w->id == m->id) { /* it asks again */
            place = w;
            break;
        }
        if (w->order < place->order)
            place = w;
    }
    stop_waiting(place);
    (void)buf_append(&place->request, m->whole.data, m->whole.len); /* has no limit */
    place->hash = snmp_hash(m);
    place->id = m->id;
    place->order = ++a->orders;
}

static struct waiting *find_waiting(struct ahead *a, const struct snmp *request, uint64_t hash)
{
    struct waiting *found = NULL;
    struct snmp m;
    for (size_t i = 0; i < AHEAD_WAITING; i++) {
        struct waiting *w = &a->waiting[i];
        if (!w->request.len || w->hash != hash || (found && found->order < w->order))
            continue;
        if (snmp_read((const uint8_t *)w->request.data, w->request.len, &m) == 0 &&
            snmp_is_same(&m, request))
            found = w;
    }
    return found;
}

const struct buf *ahead_take_waiting(struct ahead *a)
{
    for (size_t i = 0; i < AHEAD_WAITING; i++) {
        if (a->waiting[i].is_due) {
            a->waiting[i].is_due = false;
            return &a->waiting[i].request;
        }
    }
    return NULL;
}

/* ---- the program ---- */

static void learn_think(struct ahead *a, uint64_t now_ms)
{
    if (!a->has_given)
        return;
    a->has_given = false;
    a->n_thoughts = MIN(a->n_thoughts + 1, THINK_SHARE);
    int64_t us = 1000 * (int64_t)MIN(now_ms - a->gave_ms, (uint64_t)THINK_MAX_MS);
    a->think_us += (us - a->think_us) / a->n_thoughts;
}

enum ahead_verdict ahead_request(struct ahead *a, const uint8_t *data, size_t len, uint64_t now_ms,
                                 struct buf *answer)
{
    struct snmp m;
    if (snmp_read(data, len, &m) < 0 || (m.pdu != SNMP_GET && !snmp_is_step(&m))) {
        a->is_writing = true;
        return AHEAD_VOID;
    }
    if (m.pdu == SNMP_GET || len > AHEAD_REQUEST_MAX)
        return AHEAD_FORWARD;
    learn_think(a, now_ms);
    if (give_held(a, &m, now_ms, answer)) {
        a->has_news |= now_ms >= a->told_ms + NEWS_MS &&
                       (a->hits - a->hits_told) * NEWS_SHARE > HASH_COUNT(a->table);
        return AHEAD_GIVE;
    }
    wait_for(a, &m);
    a->is_read = a->has_news = true;
    return AHEAD_FORWARD;
}

bool ahead_response(struct ahead *a, const uint8_t *data, size_t len)
{
    struct snmp m;
    bool may_have_changed = a->is_writing;
    a->is_writing = false;
    if (snmp_read(data, len, &m) < 0)
        return may_have_changed;
    for (size_t i = 0; i < AHEAD_WAITING; i++) {
        if (a->waiting[i].request.len && a->waiting[i].id == m.id)
            stop_waiting(&a->waiting[i]);
    }
    return may_have_changed;
}

/* ---- the agent ---- */

enum ahead_verdict ahead_push(struct ahead *a, const struct read_ahead_answer *from,
                              uint64_t now_ms, struct buf *answer)
{
    struct snmp request;
    if (from->generation != a->generation ||
        from->request_len + from->answer_len > READ_AHEAD_ANSWER_MAX ||
        snmp_read(from->request, from->request_len, &request) < 0 || !snmp_is_step(&request))
        return AHEAD_FORWARD;
    a->received = MAX(a->received, from->number);
    uint64_t hash = snmp_hash(&request);
    struct waiting *w = find_waiting(a, &request, hash);
    if (!is_fresh(a, from->read_ms, now_ms)) {
        waste(a);
        a->has_news = true;
        if (w)
            w->is_due = true;
        return AHEAD_FORWARD;
    }
    if (!w || !put_answer(from->answer, from->answer_len, w->id, answer)) {
        keep(a, from, hash);
        return AHEAD_FORWARD;
    }
    stop_waiting(w);
    use(a, now_ms);
    return AHEAD_GIVE;
}

void ahead_reset(struct ahead *a)
{
    while (a->list)
        waste_first(a);
    for (size_t i = 0; i < AHEAD_WAITING; i++)
        a->waiting[i].is_due = a->waiting[i].request.len > 0;
    a->generation++;
    a->received = 0;
    a->has_news = a->is_read;
}

/* ---- notes ---- */

bool ahead_has_news(const struct ahead *a)
{
    return a->has_news;
}

void ahead_note(struct ahead *a, uint64_t now_ms, struct read_ahead_note *ret)
{
    ahead_expire(a, now_ms);
    a->has_news = false;
    a->hits_told = a->hits;
    a->told_ms = now_ms;
    *ret = (struct read_ahead_note){.generation = a->generation,
                                    .received = a->received,
                                    .held = HASH_COUNT(a->table),
                                    .held_bytes = a->bytes,
                                    .hits = a->hits,
                                    .wasted = a->wasted,
                                    .think_us = (uint64_t)a->think_us,
                                    .ttl_ms = a->ttl_ms,
                                    .now_ms = now_ms};
}

void ahead_free(struct ahead *a)
{
    if (!a)
        return;
    while (a->list)
        waste_first(a);
    for (size_t i = 0; i < AHEAD_WAITING; i++)
        stop_waiting(&a->waiting[i]);
    mem_free(a);
}
