#include "mount/ring.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

#define SPARE_MAX  32
#define FAIR_PARTS 64 /* so many rings may be full before each gets less */

static _Thread_local struct {
    uint8_t *blocks[SPARE_MAX];
    size_t n;
} spare;
static _Thread_local size_t held; /* bytes in all rings */

static uint8_t *take_block(size_t size)
{
    return size == RING_SIZE && spare.n ? spare.blocks[--spare.n] : mem_new(size);
}

static void give_block(uint8_t *block, size_t size)
{
    if (size == RING_SIZE && spare.n < SPARE_MAX)
        spare.blocks[spare.n++] = block;
    else
        mem_free(block);
}

void ring_free_spare(void)
{
    while (spare.n)
        mem_free(spare.blocks[--spare.n]);
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

int ring_pieces(const struct ring *r, size_t at, size_t len, struct iovec ret[2])
{
    assert(at + len <= r->len);
    if (!len)
        return 0;
    size_t start = (r->head + at) & (r->size - 1), first = MIN(len, r->size - start);
    ret[0] = (struct iovec){r->data + start, first};
    ret[1] = (struct iovec){r->data, len - first};
    return first < len ? 2 : 1;
}

/* Takes a block that has room for `need` bytes. */
static void grow(struct ring *r, size_t need)
{
    struct iovec from[2];
    size_t size = r->size ? r->size : RING_SIZE, at = 0;
    while (size < need)
        size *= 2;
    uint8_t *block = take_block(size);
    int n = ring_pieces(r, 0, r->len, from);
    for (int i = 0; i < n; i++) {
        memcpy(block + at, from[i].iov_base, from[i].iov_len);
        at += from[i].iov_len;
    }
    if (r->data)
        give_block(r->data, r->size);
    r->data = block;
    r->size = (uint32_t)size;
    r->head = 0;
}

void ring_put(struct ring *r, const uint8_t *data, size_t len)
{
    struct iovec at[2];
    assert(len <= ring_room(r));
    if (!len)
        return;
    if (r->len + len > r->size)
        grow(r, r->len + len);
    size_t had = r->len;
    r->len += (uint32_t)len;
    held += len;
    int n = ring_pieces(r, had, len, at);
    for (int i = 0; i < n; i++) {
        memcpy(at[i].iov_base, data, at[i].iov_len);
        data += at[i].iov_len;
    }
}

void ring_drop(struct ring *r, size_t len)
{
    assert(len <= r->len);
    r->head = (uint32_t)((r->head + len) & (r->size - 1));
    r->len -= (uint32_t)len;
    held -= len;
    if (!r->len)
        ring_done(r);
}

size_t ring_take(struct ring *r, uint8_t *out, size_t cap)
{
    struct iovec from[2];
    size_t len = MIN(cap, (size_t)r->len);
    int n = ring_pieces(r, 0, len, from);
    for (int i = 0; i < n; i++) {
        memcpy(out, from[i].iov_base, from[i].iov_len);
        out += from[i].iov_len;
    }
    if (len)
        ring_drop(r, len);
    return len;
}

void ring_done(struct ring *r)
{
    if (r->data)
        give_block(r->data, r->size);
    held -= r->len;
    *r = (struct ring){0};
}
