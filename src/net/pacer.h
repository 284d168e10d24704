/*
 * Bytes of many streams in one direction, held to what meters allow. Who may not move bytes now
 * waits for a turn; turns go round, a share each, so that streams get equal parts however eager
 * they are. Nothing is stored here: who waits leaves its bytes where they are.
 *
 * Thread: that of its loop. The meters are shared with other threads.
 */
#pragma once

#include "loop/loop.h"
#include "net/meter.h"

#define PACER_TICK_MS 10
#define PACER_METERS  2

struct pacer_turn {
    /* May move `n` bytes; gives back what it does not use, and may wait again. */
    void (*fn)(struct pacer_turn *t, size_t n);
    bool is_waiting;
    struct pacer_turn *prev, *next;
};

struct pacer {
    struct loop *loop;
    struct meter *meters[PACER_METERS]; /* NULL: none */
    bool is_out;                        /* which of their buckets */
    struct pacer_turn *waiting;         /* in the order of their turns */
    size_t n_waiting;
    struct timer timer;
};

void pacer_init(struct pacer *p, struct loop *l, struct meter *const meters[PACER_METERS],
                bool is_out);
void pacer_done(struct pacer *p); /* nobody may wait any more */
bool pacer_is_limited(const struct pacer *p);

/* How many of `want` bytes may move now; 0: wait for a turn. */
size_t pacer_take(struct pacer *p, size_t want);
void pacer_give_back(struct pacer *p, size_t n);
/* `n`: how many bytes wait, for the statistics. Waiting already: keeps its place. */
void pacer_wait(struct pacer *p, struct pacer_turn *t, size_t n);
void pacer_forget(struct pacer *p, struct pacer_turn *t); /* harmless if it does not wait */
