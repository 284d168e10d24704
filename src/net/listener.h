/*
 * Listening sockets and their accept loops. A bound socket may be watched on several loops at once:
 * whoever is first accepts.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"

struct listener;
struct proxy_trust;

/* A non-blocking listening TCP socket, whose connections will have TCP_NODELAY and keepalive.
 * Port 0: any; `ret_bound` tells which (may be NULL).
 * ERR_EXISTS: in use; ERR_DENIED: not permitted; ERR_UNREACHABLE: no such local address. */
int listener_bind(const struct addr *a, bool reuse_port, int *ret_fd, struct addr *ret_bound,
                  struct diag *d);

/* What errno says after a bind that failed, as an error and in words; closes `fd`. */
int listener_bind_failed(int fd, const struct addr *a, struct diag *d);

/* Begins to accept. `on_accept` owns the accepted descriptor (non-blocking). Accepts
 * at most 64 a turn; waits 100 ms when the process is out of descriptors. The listener uses `fd`
 * but does not own it: close it after the last listener on it has stopped. */
int listener_start(struct loop *l, int fd,
                   void (*on_accept)(void *arg, int fd, const struct addr *peer), void *arg,
                   struct listener **ret);
/* Connections from these addresses tell who is behind them by a PROXY header (net/proxy_gate.h):
 * `on_accept` comes when it was read, with that address. NULL: nobody is trusted. Before the first
 * connection, so right after listener_start. */
void listener_trust(struct listener *li, struct proxy_trust *trust);
void listener_pause(struct listener *li); /* new connections wait in the kernel's queue */
void listener_resume(struct listener *li);
void listener_stop(struct listener *li); /* frees it; from on_accept too */
