#include "mount/ring.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

#define SPARE_MAX  64
#define FAIR_PARTS 64 /* so many rings may be full before each gets less */

struct ring_block {
    struct ring_block *next;
    uint8_t data[RING_BLOCK];
};

static _Thread_local struct {
    struct ring_block *first;
    size_t n;
} spare;
static _Thread_local size_t held; /* bytes in all rings */

static struct ring_block *take_block(void)
{
    struct ring_block *b = spare.first;
    if (!b)
        return mem_grow(NULL, sizeof(*b));
    spare.first = b->next;
    spare.n--;
    return b;
}

static void give_block(struct ring_block *b)
{
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
        mem_free(take_block());
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
    for (at += r->head; at >= RING_BLOCK; at -= RING_BLOCK)
        b = b->next;
    for (; len; b = b->next, at = 0) {
        size_t piece = MIN(len, RING_BLOCK - at);
        ret[n++] = (struct iovec){b->data + at, piece};
        len -= piece;
    }
    return n;
}

static void append_block(struct ring *r)
{
    struct ring_block *b = take_block();
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
    give_block(b);
}

void ring_put(struct ring *r, const uint8_t *data, size_t len)
{
    assert(len <= ring_room(r));
    while (len) {
        size_t at = (r->head + r->len) % RING_BLOCK, n = MIN(len, RING_BLOCK - at);
        if (!at)
            append_block(r);
        memcpy(r->last->data + at, data, n);
        r->len += (uint32_t)n;
        held += n;
        data += n;
        len -= n;
    }
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
    for (len += r->head; len >= RING_BLOCK; len -= RING_BLOCK)
        drop_first_block(r);
    r->head = (uint32_t)len;
}

size_t ring_take(struct ring *r, uint8_t *out, size_t cap)
{
    size_t taken = 0;
    while (taken < cap && r->len) {
        size_t wanted = MIN(cap - taken, (size_t)r->len), n = MIN(wanted, RING_BLOCK - r->head);
        assert(r->last);
        memcpy(out + taken, r->last->next->data + r->head, n);
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
