/* Shared by the files of this folder only. */
#pragma once

#include "loop/io.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <uv.h>

#define IO_BATCH 256

struct posted {
    void (*fn)(void *arg);
    void *arg;
    struct posted *next;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t before_wait;
    uv_check_t after_wait;
    uv_timer_t uv_timer;
    uv_idle_t busy; /* active only to keep libuv from sleeping: we did */

    bool uv_dirty;   /* libuv may have something to register with the kernel */
    bool has_worked; /* something was called in this turn: a turn of loop_turn need not wait */
    enum { TURN_MANY, TURN_ONE, TURN_NOWAIT } turn; /* what loop_run or loop_turn asked for */
    int epoll_fd;                                   /* every io, and libuv's own set */
    bool uv_ready;                                  /* libuv's set has an event */
    struct epoll_event events[IO_BATCH];
    int n_events;

    struct defer *deferred;

    struct timer **heap;
    uint32_t heap_len, heap_cap;
    bool is_virtual;
    uint64_t virtual_ms;

    pthread_mutex_t lock; /* guards the three below */
    struct posted *posted;
    struct posted **posted_tail;
    bool stop;

    struct loop_signal *signals;
    uint64_t turn_started_ns, max_busy_us;
};

int loop_io_init(struct loop *l);
void loop_io_wait(struct loop *l, int timeout_ms); /* and calls on_event; sets uv_ready */
void loop_io_done(struct loop *l);

void loop_timer_init(struct loop *l);
void loop_timer_done(struct loop *l);
