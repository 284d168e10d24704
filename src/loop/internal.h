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
    uv_poll_t io_poll;
    uv_timer_t uv_timer;
    uv_idle_t busy; /* active only to keep the loop from sleeping while deferred calls wait */

    int epoll_fd;
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
void loop_io_done(struct loop *l);

void loop_timer_init(struct loop *l);
void loop_timer_done(struct loop *l);
