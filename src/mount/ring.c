#include "mount/ring.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

#define SPARE_MAX  64
#define FAIR_PARTS 64 /* so many rings may be full before each gets less */

struct ring_block {
    struct ring_block *next;
    uint32_t begin, end; /* of what is in it */
    uint8_t data[RING_SPACE];
};

static _Thread_local struct {
    struct ring_block *first;
    size_t n;
} spare;
static _Thread_local size_t held; /* bytes in all rings */

static struct ring_block *take_spare(void)
{
    struct ring_block *b = spare.first;
    spare.first = b->next;
    spare.n--;
    return b;
}

struct ring_block *ring_block_new(void)
{
    struct ring_block *b = spare.first ? take_spare() : mem_grow(NULL, sizeof(*b));
    b->begin = b->end = 0;
    return b;
}

uint8_t *ring_block_data(struct ring_block *b)
{
    return b->data;
}

void ring_block_free(struct ring_block *b)
{
    if (!b)
        return;
    if (spare.n == SPARE_MAX) {
        mem_free(b);
        return;
    }
    b->next = spare.first;
    spare.first = b;
    spare.n++;
}

void ring_free_spare(void)
{
    while (spare.first)
        mem_free(take_spare());
}

static size_t room_up_to(const struct ring *r, size_t limit)
{
    limit = limit < RING_FLOOR ? RING_FLOOR : MIN(limit, RING_SIZE);
    return r->len < limit ? limit - r->len : 0;
}

size_t ring_fair_room(const struct ring *r)
{
    size_t left = held < RING_BUDGET ? RING_BUDGET - held : 0;
    return room_up_to(r, left / FAIR_PARTS);
}

size_t ring_hard_room(const struct ring *r)
{
    return room_up_to(r, held < RING_BUDGET ? RING_SIZE : 0);
}

int ring_pieces(const struct ring *r, size_t at, size_t len, struct iovec ret[RING_PIECES])
{
    int n = 0;
    assert(at + len <= r->len && len <= RING_LENGTH);
    if (!len)
        return 0;
    struct ring_block *b = r->last->next;
    for (; at >= b->end - b->begin; b = b->next)
        at -= b->end - b->begin;
    for (; len; b = b->next, at = 0) {
        size_t piece = MIN(len, b->end - b->begin - at);
        ret[n++] = (struct iovec){b->data + b->begin + at, piece};
        len -= piece;
    }
    return n;
}

static void append_block(struct ring *r, struct ring_block *b)
{
    b->next = r->last ? r->last->next : b;
    if (r->last)
        r->last->next = b;
    r->last = b;
}

static void drop_first_block(struct ring *r)
{
    assert(r->last);
    struct ring_block *b = r->last->next;
    r->last->next = b->next;
    if (b == r->last)
        r->last = NULL;
    ring_block_free(b);
}

static void count(struct ring *r, size_t n)
{
    r->len += (uint32_t)n;
    held += n;
}

void ring_put(struct ring *r, const uint8_t *data, size_t len)
{
    assert(len <= ring_room(r));
    while (len) {
        if (!r->last || r->last->end >= RING_BLOCK)
            append_block(r, ring_block_new());
        struct ring_block *b = r->last;
        size_t n = MIN(len, RING_BLOCK - b->end);
        memcpy(b->data + b->end, data, n);
        b->end += (uint32_t)n;
        count(r, n);
        data += n;
        len -= n;
    }
}

void ring_put_from(struct ring *r, struct ring_block **block, const uint8_t *data, size_t len)
{
    if (!block || !*block || len < RING_ADOPT) {
        ring_put(r, data, len);
        return;
    }
    struct ring_block *b = TAKE(*block);
    assert(len <= ring_room(r) && data >= b->data && data + len <= b->data + RING_SPACE);
    b->begin = (uint32_t)(data - b->data);
    b->end = b->begin + (uint32_t)len;
    append_block(r, b);
    count(r, len);
}

void ring_drop(struct ring *r, size_t len)
{
    assert(len <= r->len);
    held -= len;
    r->len -= (uint32_t)len;
    if (!r->len) {
        ring_done(r);
        return;
    }
    for (;;) {
        assert(r->last);
        struct ring_block *b = r->last->next;
        if (len < b->end - b->begin) {
            b->begin += (uint32_t)len;
            return;
        }
        len -= b->end - b->begin;
        drop_first_block(r);
    }
}

size_t ring_take(struct ring *r, uint8_t *out, size_t cap)
{
    size_t taken = 0;
    while (taken < cap && r->len) {
        assert(r->last);
        const struct ring_block *b = r->last->next;
        size_t n = MIN(cap - taken, (size_t)(b->end - b->begin));
        memcpy(out + taken, b->data + b->begin, n);
        ring_drop(r, n);
        taken += n;
    }
    return taken;
}

void ring_done(struct ring *r)
{
    while (r->last)
        drop_first_block(r);
    held -= r->len;
    *r = (struct ring){0};
}
