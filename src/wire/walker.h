/*
 * The agent's half of reading ahead: follows the walks of one flow between a program and a device,
 * says what to ask the device next, and which requests of the program need not go there because
 * their answer has been sent or is being asked for. No I/O, no clock.
 *
 *     program's request ─► ASKED ─ its answer ─► READY ─ walker_next, walker_answer ─┐
 *          ▲                                       ▲└───────────────────────────────┘
 *          └── the program asks the next itself ── PAUSED ◄─ silence, the end of what it walks
 *
 * One request is under way at a time, never sent again. How far the device is read ahead of the
 * program grows with the answers that the program has used (WALKER_GROWTH for each), and is bounded
 * by what it uses in half the time that an answer lives, by READ_AHEAD_WINDOW and _BYTES; a walk
 * that has left the subtree it began at waits until the program goes on, too. So a program that
 * stops costs the device little.
 *
 * A request that is kept (walker_request) is never lost: if its answer does not come in time it is
 * given back (walker_orphan), to be sent to the device after all.
 */
#pragma once

#include "base/buf.h"
#include "wire/read_ahead.h"

#include <stdbool.h>

#define WALKER_REQUEST_MAX 1472 /* bytes; longer ones are not followed */
#define WALKER_START       64   /* answers ahead before any was used, more of a fast device */
#define WALKER_GROWTH      16
#define WALKER_NEVER       UINT64_MAX

struct walker;

struct walker *walker_new(uint32_t seed); /* chooses the first request-id */
void walker_free(struct walker *w);
/* Answers ahead at first, if not WALKER_START; 0: only after two requests in a row. */
void walker_set_window(struct walker *w, uint32_t window);

void walker_note(struct walker *w, const struct read_ahead_note *n, uint64_t now_ms);

/* The program's datagrams to the device. true: it is kept, else it must go to the device. */
bool walker_request(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms);
/* What the device says to the program. */
void walker_response(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms);

/* The request to ask the device now, its size; 0: none. */
size_t walker_next(struct walker *w, uint64_t now_ms, uint8_t out[WALKER_REQUEST_MAX]);
/* What the device says to that; true: an answer of an AHEAD capsule was appended to `out`. Whatever
 * is not its answer is ignored. */
bool walker_answer(struct walker *w, const uint8_t *data, size_t len, uint64_t now_ms,
                   struct buf *out);
void walker_fail(struct walker *w); /* it will not answer: an ICMP error */
uint64_t walker_due_ms(const struct walker *w);
void walker_timeout(struct walker *w, uint64_t now_ms);
bool walker_is_waiting(const struct walker *w); /* for the device's answer */

/* A request that was kept and must go to the device after all, once; NULL: none. Look after each of
 * the calls above. Valid until the next one. */
const uint8_t *walker_orphan(struct walker *w, size_t *ret_len);

/* With which window to begin the next time at this device, where it was `otherwise`. */
uint32_t walker_lesson(const struct walker *w, uint32_t otherwise);
