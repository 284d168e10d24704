/*
 * UDP sockets, and many datagrams a system call.
 *
 * Receiving uses buffers of the thread, so what udp_receive returns is valid until its next call on
 * this thread. Sending gathers datagrams whose bytes stay where they are (in an input batch, see
 * h2conn_at_batch_end) and sends those of one socket together.
 */
#pragma once

#include "base/addr.h"
#include "wire/capsule.h"

#include <stdbool.h>

#define UDP_BATCH 32

/* The address of ours that a datagram was sent to, where a socket has more than one. */
struct udp_local {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d; all zero: not known, the kernel chooses */
    unsigned interface;
};

struct udp_datagram {
    const uint8_t *data;
    size_t len;
    struct addr peer;
    struct udp_local local;
};

/* A bound non-blocking socket; port 0: any, `ret_bound` tells which. Errors as of listener_bind. */
int udp_bind(const struct addr *a, int *ret_fd, struct addr *ret_bound, struct diag *d);

/* Prepares a connected socket: ICMP errors are told (net/errqueue.h), buffers are large. */
void udp_watch_errors(int fd);

/* The number of datagrams in `ret`; 0: none is there now; negative: an error of a connected socket,
 * which has passed (ERR_REFUSED, ERR_UNREACHABLE...): ask again. `ret_lost` (may be NULL) gets how
 * many this socket's buffer had no room for so far, if any datagram came. */
int udp_receive(int fd, struct udp_datagram ret[UDP_BATCH], uint32_t *ret_lost);

/* The error that a connected socket still has to tell, when its queue of errors is empty; 0: none.
 */
int udp_take_error(int fd);

/* Where a datagram goes; kept by its owner until it was sent. */
struct udp_path {
    struct addr peer; /* len 0: the socket is connected */
    struct udp_local local;
};

/* Embedded; zero-initialise, set `fd`. */
struct udp_sender {
    int fd;
    uint16_t first, last; /* of the gathered ones; one more than their index */
    uint64_t unsent;      /* no room in the socket, too large for the path, an error */
    int err;              /* the last error of a connected socket; the owner resets it */
};
/* Gathers; sends by itself when the thread's batch is full. */
void udp_send(struct udp_sender *s, const uint8_t *data, size_t len, const struct udp_path *path);
void udp_flush(struct udp_sender *s);
/* Sends one datagram over a connected socket at once, behind what is gathered. */
void udp_send_marked(struct udp_sender *s, const uint8_t *data, size_t len,
                     const struct capsule_mark *mark);
/* Puts the options of `mark` into `control`; returns what to set msg_controllen to. */
#define UDP_MARK_SIZE 64
size_t udp_mark_control(char control[UDP_MARK_SIZE], const struct capsule_mark *mark, bool is_v6);
bool udp_is_gathering(const struct udp_sender *s);
