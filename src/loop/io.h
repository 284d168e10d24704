/*
 * Readiness of a descriptor on a loop. Edge-triggered underneath: an event only sets `readable`,
 * `writable` or `hup`, and calls `on_event`. The flags stay set until the owner's own read or write
 * met EAGAIN and cleared them, so nothing is lost by doing only part of the work in a turn; the
 * owner then continues from a deferred call.
 *
 * `hup` (peer finished or reset) never clears, and while it is set `readable` must not be cleared
 * on a short read: an end-of-file that is already there makes no further edge. `error` says that
 * the socket has, or had, a pending error (SO_ERROR), such as a reset by its peer.
 */
#pragma once

#include "loop/loop.h"

#include <stddef.h>

struct io {
    int fd; /* -1: not open. Owned by whoever embeds this */
    bool readable, writable, hup, error;
    struct loop *loop;
    void (*on_event)(struct io *io);
};

/* Starts to watch `fd`, which must be non-blocking. Both flags start as false; the first event
 * tells the present state (so a fresh socket gets one event at once). */
int io_start(struct io *io, struct loop *l, int fd, void (*on_event)(struct io *io));

/* The same for who never waits for room to write, such as for datagrams that may be dropped: each
 * that has left would wake it otherwise. `writable` means nothing. */
int io_start_reading(struct io *io, struct loop *l, int fd, void (*on_event)(struct io *io));

/* `to` watches what `from` watched, which is free then: half the system calls of a stop and a
 * start. As after a start the first event tells the present state. On failure `from` is as it was.
 */
int io_move(struct io *to, struct io *from, void (*on_event)(struct io *io));

/* Stops watching without closing; no event arrives after this, not even one already collected. */
void io_stop(struct io *io);

/* io_stop and close. Harmless on a zeroed or closed one whose fd is -1 or whose loop is NULL. */
void io_close(struct io *io);

/* As many descriptors as the system lets this process have. Once, at the start of a program. */
void io_raise_descriptor_limit(void);
size_t io_descriptor_limit(void); /* how many that is now */
