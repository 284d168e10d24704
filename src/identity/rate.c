#include "identity/rate.h"

#include "base/macro.h"
#include "base/mem.h"

#include <string.h>
#include <uthash.h>

#define MINUTE_MS 60000

struct bucket {
    uint8_t key[16];
    uint64_t filled_ms; /* when `left` was right */
    uint64_t left;      /* attempts times MINUTE_MS, so that a refill of a millisecond counts */
    UT_hash_handle hh;
};

struct rate {
    uint32_t per_minute, max_addresses;
    struct bucket *buckets; /* in order of their last use */
};

struct rate *rate_new(uint32_t per_minute, uint32_t max_addresses)
{
    struct rate *r = NEW(struct rate);
    r->per_minute = per_minute;
    r->max_addresses = max_addresses;
    return r;
}

void rate_free(struct rate *r)
{
    struct bucket *b, *next;
    if (!r)
        return;
    HASH_ITER (hh, r->buckets, b, next) {
        HASH_DEL(r->buckets, b);
        mem_free(b);
    }
    mem_free(r);
}

void rate_set(struct rate *r, uint32_t per_minute)
{
    r->per_minute = per_minute;
}

static struct bucket *touch(struct rate *r, const uint8_t key[16], uint64_t now_ms)
{
    struct bucket *b;
    HASH_FIND(hh, r->buckets, key, 16, b);
    if (b) {
        HASH_DEL(r->buckets, b);
    } else {
        if (HASH_COUNT(r->buckets) >= r->max_addresses) {
            struct bucket *oldest = r->buckets;
            HASH_DEL(r->buckets, oldest);
            mem_free(oldest);
        }
        b = NEW(struct bucket);
        memcpy(b->key, key, 16);
        b->filled_ms = now_ms;
        b->left = (uint64_t)r->per_minute * MINUTE_MS;
    }
    HASH_ADD(hh, r->buckets, key, 16, b);
    return b;
}

uint64_t rate_take(struct rate *r, const struct addr *a, uint64_t now_ms)
{
    uint8_t key[16];
    addr_origin(a, key);
    struct bucket *b = touch(r, key, now_ms);
    uint64_t waited = MIN(now_ms - b->filled_ms, (uint64_t)MINUTE_MS);
    b->left = MIN(b->left + waited * r->per_minute, (uint64_t)r->per_minute * MINUTE_MS);
    b->filled_ms = now_ms;
    if (b->left >= MINUTE_MS) {
        b->left -= MINUTE_MS;
        return 0;
    }
    return (MINUTE_MS - b->left + r->per_minute - 1) / r->per_minute;
}
