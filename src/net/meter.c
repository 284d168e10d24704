#include "net/meter.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <string.h>
#include <uthash.h>

struct meter_source {
    uint8_t key[16];
    uint64_t filled_ms;
    uint64_t left_ms; /* streams left times 1000 */
    UT_hash_handle hh;
};

/* --- bytes ----------------------------------------------------------------------------------- */

static int64_t most_of(uint64_t rate)
{
    return (int64_t)MAX(rate * METER_BURST_MS / 1000, (uint64_t)1);
}

/* Whole bytes are added for the time they took, so that a low rate loses nothing between calls. */
static void refill(struct bucket *b, uint64_t rate, uint64_t now_us)
{
    const uint64_t long_ago_us = 10 * METER_BURST_MS * UINT64_C(1000);
    uint64_t filled = atomic_load_explicit(&b->filled_us, memory_order_relaxed);
    if (now_us <= filled)
        return;
    uint64_t waited = now_us - filled, to = now_us, bytes = (uint64_t)most_of(rate);
    if (waited < long_ago_us) {
        bytes = rate * waited / 1000000;
        to = filled + bytes * 1000000 / rate;
    }
    if (bytes == 0 || !atomic_compare_exchange_strong(&b->filled_us, &filled, to))
        return; /* too early, or somebody else does it */
    int64_t level = atomic_fetch_add(&b->level, (int64_t)bytes) + (int64_t)bytes;
    if (level > most_of(rate))
        atomic_fetch_sub(&b->level, level - most_of(rate));
}

size_t bucket_take(struct bucket *b, size_t want, size_t least, uint64_t now_ms)
{
    uint64_t rate = atomic_load_explicit(&b->rate, memory_order_relaxed);
    if (rate == 0)
        return want;
    refill(b, rate, now_ms * 1000);
    least = MIN(least, want);
    least = MIN(least, (size_t)most_of(rate));
    int64_t level = atomic_load(&b->level);
    for (;;) {
        if (level <= 0 || (size_t)level < least)
            return 0;
        size_t n = MIN(want, (size_t)level);
        if (atomic_compare_exchange_weak(&b->level, &level, level - (int64_t)n))
            return n;
    }
}

bool bucket_pass(struct bucket *b, size_t n, uint64_t now_ms)
{
    uint64_t rate = atomic_load_explicit(&b->rate, memory_order_relaxed);
    if (rate == 0)
        return true;
    refill(b, rate, now_ms * 1000);
    if (atomic_load(&b->level) <= 0)
        return false;
    atomic_fetch_sub(&b->level, (int64_t)n);
    return true;
}

void bucket_give_back(struct bucket *b, size_t n)
{
    if (atomic_load_explicit(&b->rate, memory_order_relaxed))
        atomic_fetch_add(&b->level, (int64_t)n);
}

static void bucket_set(struct bucket *b, uint64_t rate)
{
    if (atomic_exchange(&b->rate, rate) != rate)
        atomic_store(&b->level, rate ? most_of(rate) : 0);
}

/* --- streams --------------------------------------------------------------------------------- */

int meter_refusal_error(enum meter_refusal r)
{
    return r == METER_OK ? 0 : r == METER_STREAMS ? ERR_LIMIT : ERR_RATE;
}

void meter_init(struct meter *m)
{
    *m = (struct meter){0};
    pthread_mutex_init(&m->lock, NULL);
}

static void forget_sources(struct meter *m)
{
    struct meter_source *s, *next;
    HASH_ITER (hh, m->sources, s, next) {
        HASH_DEL(m->sources, s);
        mem_free(s);
    }
}

void meter_done(struct meter *m)
{
    forget_sources(m);
    pthread_mutex_destroy(&m->lock);
}

void meter_set(struct meter *m, const struct meter_limits *limits)
{
    bucket_set(&m->in, limits->bandwidth);
    bucket_set(&m->out, limits->bandwidth);
    m->max_streams = limits->streams;
    if (atomic_exchange(&m->per_source, limits->streams_per_second) == limits->streams_per_second)
        return;
    pthread_mutex_lock(&m->lock);
    forget_sources(m);
    pthread_mutex_unlock(&m->lock);
}

/* The newest in use is the last of the hash's order. */
static struct meter_source *touch(struct meter *m, const uint8_t key[16], uint32_t rate,
                                  uint64_t now_ms)
{
    struct meter_source *s;
    HASH_FIND(hh, m->sources, key, 16, s);
    if (s) {
        HASH_DEL(m->sources, s);
    } else {
        if (HASH_COUNT(m->sources) >= METER_SOURCES) {
            struct meter_source *oldest = m->sources;
            HASH_DEL(m->sources, oldest);
            mem_free(oldest);
        }
        s = NEW(struct meter_source);
        memcpy(s->key, key, 16);
        s->filled_ms = now_ms;
        s->left_ms = rate * UINT64_C(1000);
    }
    HASH_ADD(hh, m->sources, key, 16, s);
    return s;
}

static bool take_source(struct meter *m, const struct addr *source, uint64_t now_ms)
{
    uint32_t rate = m->per_source;
    uint8_t key[16];
    if (rate == 0)
        return true;
    addr_origin(source, key);
    pthread_mutex_lock(&m->lock);
    struct meter_source *s = touch(m, key, rate, now_ms);
    uint64_t waited = now_ms > s->filled_ms ? MIN(now_ms - s->filled_ms, UINT64_C(1000)) : 0;
    s->left_ms = MIN(s->left_ms + waited * rate, rate * UINT64_C(1000));
    s->filled_ms = now_ms;
    bool has_one = s->left_ms >= 1000;
    if (has_one)
        s->left_ms -= 1000;
    pthread_mutex_unlock(&m->lock);
    return has_one;
}

enum meter_refusal meter_enter(struct meter *m, const struct addr *source, uint64_t now_ms)
{
    uint32_t max = m->max_streams;
    enum meter_refusal why = METER_OK;
    if (!take_source(m, source, now_ms))
        why = METER_SOURCE;
    else if (atomic_fetch_add(&m->open, 1) >= max && max > 0) {
        atomic_fetch_sub(&m->open, 1);
        why = METER_STREAMS;
    }
    if (why != METER_OK)
        atomic_fetch_add_explicit(&m->refused[why], 1, memory_order_relaxed);
    return why;
}

void meter_leave(struct meter *m)
{
    atomic_fetch_sub(&m->open, 1);
}
