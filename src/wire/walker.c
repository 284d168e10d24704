#include "wire/walker.h"

#include "base/macro.h"
#include "base/mem.h"
#include "wire/snmp.h"

#include <string.h>

#define WALKS         4    /* of a flow at once, such as tables that are read side by side */
#define GIVE_UP_MS    5000 /* of a request that nobody waits for */
#define PATIENCE_MS   50   /* of one that the program waits for: at least, and ... */
#define PATIENCE_RTTS 4
#define START_MS      100 /* the device's time that may be spent before any answer was used */
#define LESSON_SHARE  8   /* of the window stays after a walk of which nothing was used */

enum walk_state {
    WALK_NONE,
    WALK_ASKED,  /* the program has asked `next` of the device itself */
    WALK_READY,  /* `next` may be asked */
    WALK_PAUSED, /* ... once the program asks it */
};

struct walk {
    enum walk_state state;
    struct buf root; /* the first request; empty: it may go anywhere */
    struct buf next; /* a request */
    int32_t asked_id;
    uint64_t asked_ms;
    uint64_t used; /* order of use */
    bool was_behind;
    uint64_t behind_hits; /* of the note then */
};

/* An answer on its way to the mount, as far as we know. */
struct sent {
    uint64_t hash;
    uint32_t size;
    bool is_claimed; /* the program's own request for it was kept */
};

struct walker {
    struct walk walks[WALKS];
    uint64_t uses;
    struct read_ahead_note note; /* the last */
    uint64_t note_at_ms;
    bool is_permitted; /* there was one */
    uint32_t window;
    uint64_t number; /* of the last answer sent */
    uint64_t used;   /* answers of any generation that were */
    uint64_t sent_ever;
    struct sent *sent; /* numbers received + 1 to number: a ring */
    uint32_t sent_cap; /* a power of two */
    size_t sent_bytes;

    struct walk *asking; /* NULL: no request is under way */
    int32_t id;
    uint64_t asking_ms, read_ms;
    uint64_t begun_ms; /* the first was asked */
    struct buf joined; /* the program's own request for the same */
    struct buf orphan;
    bool has_orphan;
    uint32_t rtt_ms8; /* of the device, smoothed, times 8 */
};

struct walker *walker_new(uint32_t seed)
{
    struct walker *w = NEW(struct walker);
    w->window = WALKER_START;
    w->id = (int32_t)(seed & INT32_MAX);
    return w;
}

void walker_free(struct walker *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < WALKS; i++) {
        buf_done(&w->walks[i].root);
        buf_done(&w->walks[i].next);
    }
    buf_done(&w->joined);
    buf_done(&w->orphan);
    mem_free(w->sent);
    mem_free(w);
}

void walker_set_window(struct walker *w, uint32_t window)
{
    w->window = window;
}

/* ---- small things ---- */

static void set(struct buf *b, const void *data, size_t len)
{
    buf_clear(b);
    (void)buf_append(b, data, len); /* has no limit; lengths were checked */
}

static bool parse(const struct buf *b, struct snmp *ret)
{
    return b->len && snmp_read((const uint8_t *)b->data, b->len, ret) == 0;
}

static bool is_next(const struct walk *k, const struct snmp *m)
{
    struct snmp next;
    return k->state != WALK_NONE && parse(&k->next, &next) && snmp_is_same(&next, m);
}

static bool is_from(const struct walk *k, const struct snmp *m)
{
    struct snmp root;
    return parse(&k->root, &root) && root.version == m->version && root.pdu == m->pdu &&
           snmp_is_within(&root, m);
}

static void touch(struct walker *w, struct walk *k)
{
    k->used = ++w->uses;
}

static void end_walk(struct walk *k)
{
    k->state = WALK_NONE;
    buf_clear(&k->root);
}

static uint64_t patience(const struct walker *w)
{
    return MAX((uint64_t)PATIENCE_MS, (uint64_t)w->rtt_ms8 * PATIENCE_RTTS / 8);
}

static void learn_rtt(struct walker *w, uint64_t ms)
{
    uint32_t sample = (uint32_t)MIN(ms, (uint64_t)GIVE_UP_MS);
    w->rtt_ms8 += sample - w->rtt_ms8 / 8;
}

/* ---- answers on their way ---- */

static struct sent *sent_at(const struct walker *w, uint64_t number)
{
    return &w->sent[number & (w->sent_cap - 1)];
}

static size_t n_sent(const struct walker *w)
{
    return (size_t)(w->number - w->note.received);
}

static void remember_sent(struct walker *w, uint64_t hash, size_t size)
{
    uint64_t first = w->note.received + 1;
    if (n_sent(w) == w->sent_cap) {
        uint32_t cap = w->sent_cap ? 2 * w->sent_cap : WALKER_START;
        struct sent *grown = mem_new(cap * sizeof(*grown));
        for (uint64_t i = first; i <= w->number; i++)
            grown[i & (cap - 1)] = *sent_at(w, i);
        mem_free(w->sent);
        w->sent = grown;
        w->sent_cap = cap;
    }
    w->number++;
    w->sent_ever++;
    w->sent_bytes += size;
    *sent_at(w, w->number) = (struct sent){hash, (uint32_t)size, false};
}

static bool claim(struct walker *w, uint64_t hash)
{
    for (uint64_t i = w->note.received + 1; i <= w->number; i++) {
        struct sent *s = sent_at(w, i);
        if (s->hash == hash && !s->is_claimed) {
            s->is_claimed = true;
            return true;
        }
    }
    return false;
}

/* ---- the request under way ---- */

/* Nothing comes of it: whoever waits for it gets the device's own answer. */
static void abandon(struct walker *w)
{
    struct walk *k = TAKE(w->asking);
    struct snmp joined;
    if (!k)
        return;
    k->state = WALK_PAUSED;
    if (!parse(&w->joined, &joined))
        return;
    k->state = WALK_ASKED;
    k->asked_id = joined.id;
    k->asked_ms = w->asking_ms;
    set(&w->orphan, w->joined.data, w->joined.len);
    w->has_orphan = true;
    buf_clear(&w->joined);
}

/* ---- notes ---- */

static void reset(struct walker *w)
{
    for (size_t i = 0; i < WALKS; i++)
        w->walks[i].state = WALK_NONE; /* their roots stay, should the program go on */
    w->asking = NULL;
    buf_clear(&w->joined);
    w->has_orphan = false;
    w->number = 0;
    w->sent_bytes = 0;
    w->note.received = 0;
}

static void forget_received(struct walker *w, uint64_t received)
{
    received = MIN(received, w->number);
    while (w->note.received < received)
        w->sent_bytes -= sent_at(w, ++w->note.received)->size;
    if (received == w->number) { /* an idle flow keeps little */
        mem_free(TAKE(w->sent));
        w->sent_cap = 0;
    }
}

static uint64_t rise(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

static void adapt(struct walker *w, uint64_t hits, uint64_t wasted)
{
    uint64_t growth = MIN(hits, (uint64_t)READ_AHEAD_WINDOW) * WALKER_GROWTH;
    if (hits && !w->used) /* it was worth trying so many */
        w->window = (uint32_t)MAX((uint64_t)w->window, n_sent(w));
    w->used += hits;
    w->window = (uint32_t)MIN(w->window + growth, (uint64_t)READ_AHEAD_WINDOW);
    if (wasted > hits)
        w->window = MAX(w->window / 2, 1u);
}

void walker_note(struct walker *w, const struct read_ahead_note *n, uint64_t now_ms)
{
    if (w->is_permitted && n->generation != w->note.generation)
        reset(w);
    w->is_permitted = true;
    adapt(w, rise(n->hits, w->note.hits), rise(n->wasted, w->note.wasted));
    forget_received(w, n->received);
    uint64_t received = w->note.received;
    w->note = *n;
    w->note.received = received;
    w->note_at_ms = now_ms;
}

/* ---- the program's own requests ---- */

static struct walk *find(struct walker *w, const struct snmp *m)
{
    for (size_t i = 0; i < WALKS; i++) {
        if (is_next(&w->walks[i], m))
            return &w->walks[i];
    }
    return NULL;
}

static struct walk *find_root(struct walker *w, const struct snmp *m)
{
    for (size_t i = 0; i < WALKS; i++) {
        if (is_from(&w->walks[i], m))
            return &w->walks[i];
    }
    return NULL;
}

/* Whether the program asks for what was sent already, such as what got lost or too old, and goes on
 * with what it has: the walk is where it should be. */
static bool is_catching_up(struct walker *w, struct walk *k, const struct snmp *m)
{
    struct snmp next;
    bool is_stuck = k->was_behind && k->behind_hits == w->note.hits;
    k->was_behind = k->state == WALK_READY && parse(&k->next, &next) && snmp_is_before(m, &next) &&
                    (n_sent(w) || w->note.held);
    k->behind_hits = w->note.hits;
    return k->was_behind && !is_stuck;
}

static struct walk *pick_place(struct walker *w)
{
    struct walk *best = NULL;
    for (size_t i = 0; i < WALKS; i++) {
        struct walk *k = &w->walks[i];
        bool is_free = k->state == WALK_NONE && !k->root.len;
        if (k == w->asking)
            continue;
        if (!best || is_free || k->used < best->used)
            best = k;
        if (is_free)
            break;
    }
    return best;
}

/* A new walk. Others make way until they are asked for: most likely the program is through with
 * them. */
static struct walk *begin(struct walker *w, const struct snmp *m)
{
    struct walk *k = pick_place(w);
    for (size_t i = 0; i < WALKS; i++) {
        if (w->walks[i].state == WALK_READY)
            w->walks[i].state = WALK_PAUSED;
    }
    set(&k->root, m->whole.data, m->whole.len);
    return k;
}

/* The program went on to where we would have: it walks, wherever it began. */
static void confirm(struct walker *w, struct walk *k, const struct snmp *m)
{
    if (!is_from(k, m))
        buf_clear(&k->root);
    w->window = MAX(w->window, (uint32_t)WALKER_START);
}

bool walker_request(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms)
{
    struct snmp m;
    w->has_orphan = false;
    if (!w->is_permitted || len > WALKER_REQUEST_MAX || snmp_read(data, len, &m) < 0 ||
        !snmp_is_step(&m))
        return false;
    if (w->asking && is_next(w->asking, &m)) {
        if (w->joined.len)
            return false; /* it asks again, and the device may answer again */
        if (now_ms - w->asking_ms <= patience(w)) {
            set(&w->joined, data, len);
            return true;
        }
        abandon(w);
    } else if (claim(w, snmp_hash(&m))) {
        return true;
    }
    struct walk *k = find(w, &m);
    if (k && k->state != WALK_ASKED)
        confirm(w, k, &m);
    if (!k && (k = find_root(w, &m)) && (k == w->asking || is_catching_up(w, k, &m)))
        return false;
    if (!k)
        k = begin(w, &m);
    k->state = WALK_ASKED;
    k->asked_id = m.id;
    k->asked_ms = now_ms;
    set(&k->next, data, len);
    touch(w, k);
    return false;
}

/* ---- answers ---- */

/* Where the walk goes on after this answer to `next`. */
static void follow(struct walk *k, const struct snmp *answer)
{
    uint8_t next[WALKER_REQUEST_MAX];
    struct snmp asked, m;
    int n = parse(&k->next, &asked) ? snmp_follow(&asked, answer, next, sizeof(next)) : 0;
    if (n <= 0 || snmp_read(next, (size_t)n, &m) < 0) {
        end_walk(k);
        return;
    }
    set(&k->next, next, (size_t)n);
    k->state = !k->root.len || is_from(k, &m) ? WALK_READY : WALK_PAUSED;
}

static bool is_answer(const struct walk *k, const struct snmp *m)
{
    struct snmp asked;
    return m->pdu == SNMP_RESPONSE && parse(&k->next, &asked) && asked.version == m->version &&
           asked.community.len == m->community.len &&
           memcmp(asked.community.data, m->community.data, m->community.len) == 0;
}

void walker_response(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms)
{
    struct snmp m;
    w->has_orphan = false;
    if (!w->is_permitted || snmp_read(data, len, &m) < 0)
        return;
    for (size_t i = 0; i < WALKS; i++) {
        struct walk *k = &w->walks[i];
        if (k->state != WALK_ASKED || k->asked_id != m.id || !is_answer(k, &m))
            continue;
        learn_rtt(w, now_ms - k->asked_ms);
        follow(k, &m);
        return;
    }
}

/* ---- reading ahead ---- */

/* How many answers the program uses in half the time that one lives. */
static uint64_t usable(const struct walker *w)
{
    if (w->note.think_us == 0)
        return READ_AHEAD_WINDOW;
    return MAX(w->note.ttl_ms * 500 / w->note.think_us, UINT64_C(1));
}

/* A fast device may be asked more before we know that it is of use: the whole of a short walk, or
 * as much as a program reads until we hear from it. */
static bool is_worth_trying(const struct walker *w, uint64_t now_ms)
{
    return w->window >= WALKER_START && !w->used &&
           (!w->sent_ever || now_ms - w->begun_ms < START_MS);
}

static bool is_far_enough(const struct walker *w, uint64_t now_ms)
{
    uint64_t window = is_worth_trying(w, now_ms) ? READ_AHEAD_WINDOW : w->window;
    uint64_t unused = n_sent(w) + MIN(w->note.held, (uint64_t)READ_AHEAD_WINDOW);
    uint64_t bytes = w->sent_bytes + MIN(w->note.held_bytes, (uint64_t)READ_AHEAD_BYTES);
    return unused >= MIN(window, usable(w)) || bytes >= READ_AHEAD_BYTES;
}

static struct walk *least_used_that_is_ready(struct walker *w)
{
    struct walk *best = NULL;
    for (size_t i = 0; i < WALKS; i++) {
        struct walk *k = &w->walks[i];
        if (k->state == WALK_READY && (!best || k->used < best->used))
            best = k;
    }
    return best;
}

size_t walker_next(struct walker *w, uint64_t now_ms, uint8_t out[WALKER_REQUEST_MAX])
{
    struct snmp m;
    w->has_orphan = false;
    if (w->asking || !w->is_permitted || is_far_enough(w, now_ms))
        return 0;
    struct walk *k = least_used_that_is_ready(w);
    if (!k || !parse(&k->next, &m))
        return 0;
    w->id = (int32_t)(((uint32_t)w->id + 1) & INT32_MAX);
    int n = snmp_with_id(&m, w->id, out, WALKER_REQUEST_MAX);
    if (n < 0) {
        k->state = WALK_PAUSED;
        return 0;
    }
    touch(w, k);
    if (!w->sent_ever)
        w->begun_ms = now_ms;
    w->asking = k;
    w->asking_ms = now_ms;
    w->read_ms = w->note.now_ms + (now_ms - w->note_at_ms);
    return (size_t)n;
}

/* The value of an AHEAD capsule. */
static bool put_answer(struct walker *w, const struct snmp *answer, struct buf *out)
{
    const struct buf *next = &w->asking->next;
    size_t size = next->len + answer->whole.len;
    uint8_t head[READ_AHEAD_HEAD_SIZE];
    struct snmp asked;
    if (size > READ_AHEAD_ANSWER_MAX || !parse(next, &asked))
        return false;
    remember_sent(w, snmp_hash(&asked), size);
    sent_at(w, w->number)->is_claimed = w->joined.len > 0;
    const struct read_ahead_answer a = {.generation = w->note.generation,
                                        .number = w->number,
                                        .read_ms = w->read_ms,
                                        .request_len = next->len,
                                        .answer_len = answer->whole.len};
    (void)buf_append(out, head, read_ahead_head_write(&a, head));
    (void)buf_append(out, next->data, next->len);
    (void)buf_append(out, answer->whole.data, answer->whole.len);
    return true;
}

bool walker_answer(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms,
                   struct buf *out)
{
    struct snmp m;
    w->has_orphan = false;
    if (!w->asking || snmp_read(data, len, &m) < 0 || m.id != w->id || !is_answer(w->asking, &m))
        return false;
    if (!put_answer(w, &m, out)) {
        abandon(w);
        return false;
    }
    learn_rtt(w, now_ms - w->asking_ms);
    buf_clear(&w->joined);
    follow(TAKE(w->asking), &m);
    return true;
}

void walker_fail(struct walker *w)
{
    w->has_orphan = false;
    abandon(w);
}

uint64_t walker_due_ms(const struct walker *w)
{
    if (!w->asking)
        return WALKER_NEVER;
    return w->asking_ms + (w->joined.len ? patience(w) : (uint64_t)GIVE_UP_MS);
}

void walker_timeout(struct walker *w, uint64_t now_ms)
{
    w->has_orphan = false;
    if (now_ms >= walker_due_ms(w))
        abandon(w);
}

bool walker_is_waiting(const struct walker *w)
{
    return w->asking != NULL;
}

const uint8_t *walker_orphan(struct walker *w, size_t *ret_len)
{
    if (!w->has_orphan)
        return NULL;
    w->has_orphan = false;
    *ret_len = w->orphan.len;
    return (const uint8_t *)w->orphan.data;
}

uint32_t walker_lesson(const struct walker *w, uint32_t otherwise)
{
    if (!w->sent_ever)
        return otherwise;
    return w->used ? WALKER_START : w->window / LESSON_SHARE;
}
