/*
 * TCP sockets whose connection was refused, kept for the thread's next dial to the same address:
 * who asks a host for many ports, as a scan does, is spared half of what a refusal costs.
 *
 * Only to the same address, because the kernel numbers a socket's next connection from where the
 * last one was: another host could guess from the first what a second one may not know (RFC 6528).
 * At most SPARE_SOCKETS_MAX a thread, the oldest gives way; they have no port and no peer.
 */
#pragma once

#include "base/addr.h"

#define SPARE_SOCKETS_MAX 64

/* What of it differs from a new socket. */
enum spare_kind { SPARE_PLAIN, SPARE_WATCHED /* errqueue_watch */ };

/* A socket for a dial to this address, or -1. */
int spare_socket_take(const struct addr *to, enum spare_kind kind);
/* Takes the descriptor: connect() has said ECONNREFUSED, its error queue is empty, nobody watches
 * it. */
void spare_socket_keep(int fd, const struct addr *to, enum spare_kind kind);
void spare_sockets_close(void); /* all of the thread; its end does so too */
