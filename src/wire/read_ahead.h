/*
 * Reading ahead: an agent asks a device what the program in a mount will ask next, and sends the
 * answers before they are asked for. What the two ends say to each other, in capsules of the flow
 * (wire/capsule.h):
 *
 *     NOTE, mount to agent:  generation, received, held, held bytes, hits, wasted, think µs,
 *                            time-to-live ms, now ms; varints, others may follow
 *     AHEAD, agent to mount: a byte: 0: as it is, 1: deflated (RFC 1951); then answers, each
 *                            generation, number, read ms, the sizes of what follows; varints
 *                            the request · the answer
 *
 * Answers of a walk are small and much alike, so that many of them deflated together are a tenth of
 * their size: a connection that has been idle may send no more than 14 KB in its first round trip.
 *
 * The first note permits the agent to begin, so that an agent or a mount that knows nothing of it
 * is never bothered. A new generation makes all that was read before it void: something may have
 * changed the device. Times are those of the mount's clock; "read" is not later than when the
 * device was asked, for it is derived from the last note's "now" and the time since that came.
 */
#pragma once

#include "base/buf.h"

#define READ_AHEAD_TTL_MS     2000
#define READ_AHEAD_TTL_MAX_MS 60000
#define READ_AHEAD_WINDOW     4096 /* answers that are unused: on their way, or held by a mount */
#define READ_AHEAD_BYTES      (1u << 20)  /* ... their size */
#define READ_AHEAD_ANSWER_MAX 16384       /* request and answer; longer ones are not read ahead */
#define READ_AHEAD_BATCH_MAX  (32u << 10) /* the answers of a capsule, before they are deflated */

struct read_ahead_note {
    uint64_t generation;
    uint64_t received; /* the highest number that came; 0: none */
    uint64_t held, held_bytes;
    uint64_t hits, wasted; /* answers that were given to the program, or never will be; ever */
    uint64_t think_us;     /* the program's time between an answer and its next request */
    uint64_t ttl_ms;
    uint64_t now_ms;
};

struct read_ahead_answer {
    uint64_t generation;
    uint64_t number; /* from 1 in each generation */
    uint64_t read_ms;
    const uint8_t *request, *answer;
    size_t request_len, answer_len;
};

#define READ_AHEAD_NOTE_SIZE 72
#define READ_AHEAD_HEAD_SIZE 40

size_t read_ahead_note_write(const struct read_ahead_note *n, uint8_t out[READ_AHEAD_NOTE_SIZE]);
int read_ahead_note_read(const uint8_t *data, size_t len, struct read_ahead_note *ret);

/* What stands before request and answer. */
size_t read_ahead_head_write(const struct read_ahead_answer *a, uint8_t out[READ_AHEAD_HEAD_SIZE]);
/* Takes the next answer, moving *data and *len on. 1: there is one, which points into the data; 0:
 * that was the last; ERR_PROTO. */
int read_ahead_answer_next(const uint8_t **data, size_t *len, struct read_ahead_answer *ret);

/* Answers, of at most READ_AHEAD_BATCH_MAX bytes, as the value of an AHEAD capsule, which is at
 * most one byte longer, appended to `out`; and back, ERR_PROTO. */
void read_ahead_pack(const uint8_t *answers, size_t len, struct buf *out);
int read_ahead_unpack(const uint8_t *value, size_t len, struct buf *out);
