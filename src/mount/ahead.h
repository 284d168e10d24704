/*
 * The mount's half of reading ahead (wire/read_ahead.h): answers of a device that came before the
 * program has asked for them, in one flow. No I/O, no clock.
 *
 * An answer is given once, to a request that is the same in all but its request-id, while it is
 * younger than its time to live, counted from when the device was asked. A request whose answer is
 * not here is forwarded, and noted: the agent may know that the answer is on its way, which then
 * is given as it comes. Whatever else the program sends may change the device, so that all that
 * was read before is void (ahead_reset, for all flows to that device).
 *
 * Bounded, whatever an agent sends: answers by twice READ_AHEAD_WINDOW and _BYTES of
 * wire/read_ahead.h, in all flows of a mount by AHEAD_TOTAL_BYTES; requests that wait by
 * AHEAD_WAITING.
 */
#pragma once

#include "base/buf.h"
#include "wire/read_ahead.h"

#include <stdbool.h>

#define AHEAD_WAITING     32
#define AHEAD_REQUEST_MAX 1472 /* bytes; an agent follows no longer ones */
#define AHEAD_TOTAL_BYTES ((size_t)64 << 20)

struct ahead;

/* Of all flows of a mount. */
struct ahead_stats {
    uint64_t hits, wasted; /* answers that were given to a program; or never */
    size_t bytes;          /* held now */
};

/* Counts into `stats`, which outlives it. */
struct ahead *ahead_new(uint32_t ttl_ms, struct ahead_stats *stats);
void ahead_free(struct ahead *a);

enum ahead_verdict {
    AHEAD_FORWARD, /* to the agent; first a note if one is due */
    AHEAD_GIVE,    /* `answer` to the program; nothing is forwarded */
    AHEAD_VOID,    /* forward; but first ahead_reset for all flows to the device */
};
enum ahead_verdict ahead_request(struct ahead *a, const uint8_t *data, size_t len, uint64_t now_ms,
                                 struct buf *answer);
/* The device's own answers pass by. true: to something that may have changed it; ahead_reset for
 * all flows to the device before it is given to the program. */
bool ahead_response(struct ahead *a, const uint8_t *data, size_t len);

/* One of an AHEAD capsule. AHEAD_GIVE: `answer` is what a request waited for, to be given to
 * the program now; AHEAD_FORWARD: otherwise. What waited for an answer that is too old has to be
 * forwarded again: see ahead_take_waiting. */
enum ahead_verdict ahead_push(struct ahead *a, const struct read_ahead_answer *from,
                              uint64_t now_ms, struct buf *answer);

/* Makes everything void that was read until now. Requests that wait are to be forwarded again,
 * after a note. */
void ahead_reset(struct ahead *a);
const struct buf *ahead_take_waiting(struct ahead *a); /* the next of those; NULL: none is left */

/* Lets go what is too old; true: something was. */
bool ahead_expire(struct ahead *a, uint64_t now_ms);

/* Whether the agent should hear how far we are; what it should hear. */
bool ahead_has_news(const struct ahead *a);
void ahead_note(struct ahead *a, uint64_t now_ms, struct read_ahead_note *ret);
