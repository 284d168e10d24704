/*
 * A connection and a local stream socket (one end of a socketpair) joined, bytes both ways. What is
 * behind the local socket, a relay or a thread, then needs to know nothing of TLS.
 *
 *     peer ── conn ─ bridge ─ fd ═══ other ── relay_open, or whoever reads and writes it
 *
 * Memory: nothing is kept. What the local socket refuses waits in the connection, which is paused;
 * what the connection does not take waits in the local socket. The end of one side becomes the end
 * of the other (FIN, close_notify), each direction for itself.
 *
 * A local socket cannot say "reset". So its other end's owner tells how that end went, always
 * (bridge_finish), and is told at once when the connection is lost (on_end with an error), before
 * the local socket closes. Thread: the connection's loop.
 */
#pragma once

#include "net/conn.h"

struct bridge;

struct bridge_ops {
    /* Once, from the loop: 0 after bridge_finish(0), or why the connection was lost. The bridge is
     * freed when this returns; the connection is closed. */
    void (*on_end)(void *arg, int err);
};

/* Takes both; the connection is started, or started anew. */
int bridge_new(struct conn *c, int fd, const struct bridge_ops *ops, void *arg,
               struct bridge **ret);

/* Sends these bytes to the peer, before any of the local socket that have not left yet. */
void bridge_say(struct bridge *b, const void *data, size_t len);

/* Nothing of the local socket goes to the peer, until bridge_go_on or bridge_finish. */
void bridge_hold(struct bridge *b);
void bridge_go_on(struct bridge *b);

/* The other end of the local socket is done with: 0: what it has sent goes out, then the connection
 * is closed; else the connection is reset, also after an earlier 0. on_end follows. */
void bridge_finish(struct bridge *b, int err);
