/*
 * A queue of bytes that owns memory only while it holds some: blocks of 64 KiB from a free list of
 * the thread, the one given back last first. Thousands of idle flows cost nothing, and however many
 * are busy, they use the same few blocks as long as their readers keep up, which then stay in the
 * processor's cache.
 *
 * All rings of a thread share a budget. The fuller they are together, the less ring_fair_room gives
 * each of them; beyond the budget a ring that holds next to nothing still gets a little, so that
 * whoever fills thousands of rings stops nobody else.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define RING_BLOCK ((size_t)64 << 10)
#define RING_SPACE                                                                \
    (RING_BLOCK + 64) /* of one that others fill: a packet and what a device adds \
                       */
#define RING_ADOPT  (RING_BLOCK / 4 * 3) /* so many bytes of it are worth keeping all of it */
#define RING_SIZE   ((size_t)512 << 10)  /* what one is offered at most */
#define RING_MAX    ((size_t)8 << 20)    /* ... and holds: what a long path had under way */
#define RING_FLOOR  ((size_t)16 << 10)   /* what a ring always takes */
#define RING_BUDGET ((size_t)64 << 20)
#define RING_PIECES 5 /* at most; so many hold RING_LENGTH bytes wherever they begin */
#define RING_LENGTH ((RING_PIECES - 1) * RING_BLOCK)

struct ring_block;

/* Zero-initialised is valid and empty. */
struct ring {
    struct ring_block *last; /* its next one is the first; NULL while empty */
    uint32_t len;
};

static inline size_t ring_room(const struct ring *r)
{
    return RING_MAX - r->len;
}

/* What a ring should be offered now, of RING_SIZE. */
size_t ring_fair_room(const struct ring *r);
/* What it must take at most now, whatever it was offered before. */
size_t ring_hard_room(const struct ring *r);

void ring_put(struct ring *r, const uint8_t *data, size_t len); /* len <= ring_room */
/* The same for bytes within a block, which the ring keeps instead of copying them where that is
 * worth it: *block is NULL then. `block` may be NULL, or *block. */
void ring_put_from(struct ring *r, struct ring_block **block, const uint8_t *data, size_t len);
/* `len` bytes, at most RING_LENGTH, from the offset `at`, in pieces: their count.
 * at + len <= r->len */
int ring_pieces(const struct ring *r, size_t at, size_t len, struct iovec ret[RING_PIECES]);
size_t ring_take(struct ring *r, uint8_t *out,
                 size_t cap); /* copies and drops; returns the count */
void ring_drop(struct ring *r, size_t len);
void ring_done(struct ring *r);

/* A block for others to fill, of RING_SPACE bytes. */
struct ring_block *ring_block_new(void);
void ring_block_free(struct ring_block *b); /* may be NULL */
uint8_t *ring_block_data(struct ring_block *b);

void ring_free_spare(void); /* the thread's free list; at the end of a thread */
