/*
 * One event loop a thread (libuv underneath).
 *
 * Everything that belongs to a loop is touched only by that loop's thread; the two exceptions are
 * loop_post and loop_stop. A turn of the loop is: posted calls, timers, socket events, then the
 * deferred calls, once each. Deferring is how work of one turn is gathered: many events mark a
 * connection dirty, one deferred call then writes it out in one go.
 *
 * Time is the loop's: loop_now_ms() is monotonic and does not move within a turn. A loop made with
 * loop_new_virtual() has a clock that only loop_advance() turns, for tests.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct uv_loop_s uv_loop_t;

struct loop;

int loop_new(struct loop **ret);
int loop_new_virtual(struct loop **ret, uint64_t start_ms);
void loop_free(struct loop *l); /* not while it runs; all timers and io must have ended */

/* Runs until loop_stop(). */
void loop_run(struct loop *l);
/* Runs one turn; waits for an event if `wait`. For tests and short-lived commands. */
void loop_turn(struct loop *l, bool wait);
void loop_stop(struct loop *l); /* any thread */

/* Turns until no posted or deferred call is left, without waiting for events: what was closed or
 * aborted reports its end. For the end of a program and for tests. */
void loop_settle(struct loop *l);

uint64_t loop_now_ms(const struct loop *l);
void loop_advance(struct loop *l, uint64_t ms); /* virtual loops: fires what falls due, in order */

/* Any thread. `fn(arg)` runs on the loop's thread, in the order of posting, always later. Calls
 * posted after the loop was freed are a bug; calls posted while it stops run in loop_free(). */
void loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* Embedded in its owner; zero-initialise, set fn. Pending at most once; runs at the end of the turn
 * (or of the next one, if set from a deferred call). */
struct defer {
    void (*fn)(struct defer *d);
    struct loop *loop; /* NULL while not pending */
    struct defer *prev, *next;
};
void loop_defer(struct loop *l, struct defer *d);
void loop_defer_cancel(struct defer *d);

/* Embedded one-shot timer: no close, no callback after timer_stop() returns. */
struct timer {
    struct loop *loop;
    void (*fn)(struct timer *t);
    uint64_t due_ms;
    uint32_t slot; /* 1-based place in the heap; 0: not running */
};
void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t));
void timer_start(struct timer *t, uint64_t delay_ms); /* restarts a running one */
void timer_stop(struct timer *t);                     /* harmless when not running or zeroed */
bool timer_is_running(const struct timer *t);

/* A signal as an event of this loop; once per signal number and process. */
int loop_on_signal(struct loop *l, int signum, void (*fn)(void *arg, int signum), void *arg);

/* How long the last turn's work took and the longest since the last call, for the lag metric. */
uint64_t loop_take_max_busy_us(struct loop *l);

/* For the few users of libuv's own handles (processes, file watching, name resolution). */
uv_loop_t *loop_uv(struct loop *l);
