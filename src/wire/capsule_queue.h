/*
 * Datagrams that wait for room in a byte stream, as capsules. What is beyond the limit makes the
 * oldest go, for a datagram that is late is worth less than a new one. No I/O.
 */
#pragma once

#include "base/buf.h"
#include "wire/capsule.h"

struct capsule_queue {
    uint32_t limit; /* bytes of capsules; the owner's to set, at least of one largest datagram */
    uint8_t *data;  /* whole capsules, from head to tail */
    uint32_t head, tail, cap;
    struct buf rest;  /* of a capsule that was given out in part: goes first, is never dropped */
    uint64_t dropped; /* datagrams, ever */
};

#define CAPSULE_QUEUE_MIN (CAPSULE_HEAD_MAX + CAPSULE_PAYLOAD_MAX)

/* Adds a datagram (at most CAPSULE_PAYLOAD_MAX bytes); a whole capsule, from capsule_error. */
void capsule_queue_put(struct capsule_queue *q, const void *payload, size_t len,
                       const struct capsule_mark *mark); /* NULL: none */
void capsule_queue_note(struct capsule_queue *q, const uint8_t *capsule, size_t size);

/* Drops the oldest; false if there is none that could be. */
bool capsule_queue_drop(struct capsule_queue *q);

/* Moves at most `cap` bytes of what is next in the stream to `out`. A capsule is cut only where it
 * would be the first. */
size_t capsule_queue_take(struct capsule_queue *q, uint8_t *out, size_t cap);

size_t capsule_queue_bytes(const struct capsule_queue *q);
/* Whether the stream is between two capsules, so that another may be put in between. */
bool capsule_queue_is_between(const struct capsule_queue *q);
void capsule_queue_done(struct capsule_queue *q);
