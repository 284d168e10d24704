/*
 * A mount: packets of a program in a network namespace become streams to a network's agents, and
 * what happens to those becomes packets again. TCP is terminated here, so that only bytes cross the
 * distance; each side has its own kernel's idea of the path.
 *
 *     program ═ kernel ═ TUN ─ packet ─ tcp ─ stream (CONNECT) ═══ hub ═══ agent ─ target
 *
 * Answers are those of the target: SYN-ACK once it accepted, RST where it refused, an ICMP error
 * where there was one, silence where there was silence.
 *
 * Thread: that of its loop. Bounded: flows, dials under way, and for each flow two rings, which
 * share a budget.
 */
#pragma once

#include "loop/loop.h"
#include "mount/packet.h"
#include "net/dial_gate.h"
#include "net/h2conn.h"

struct mount;

#define MOUNT_FLOWS_MAX 16384
#define MOUNT_DIALS_MAX 8192 /* under way at once; who gives way to more: net/dial_gate.h */
/* Where names are asked for in a mount, and the target that stands for it. */
#define MOUNT_RESOLVER_4      "198.18.0.1"
#define MOUNT_RESOLVER_TARGET "resolver.agent:53"
/* The target that stands for everything that is pinged. */
#define MOUNT_ECHO_TARGET "echo.agent:7"
#define MOUNT_MTU         1500
#define MOUNT_HEADERS_MAX 6

/* The window of a stream to be opened: what a flow's ring takes, so that bytes that arrive always
 * have a place. */
#define MOUNT_STREAM_WINDOW     (512u << 10)
#define MOUNT_STREAM_WINDOW_MAX (8u << 20) /* at 100 ms some 600 Mbit/s */

/* How streams are opened. Strings and headers outlive the mount. */
struct mount_uplink {
    /* The connection to the hub, or NULL: none now; programs hear nothing and try again. */
    struct h2conn *(*conn)(void *arg);
    void *arg;
    const struct h2_header *headers; /* of each request: who asks, and for which tunnel */
    size_t n_headers;
    const char *authority;           /* the hub's, for requests that name their target elsewhere */
    uint32_t read_ahead_ttl_ms;      /* how long an answer lives that was read ahead; 0: none are */
    const struct mount_names *names; /* NULL: the network's name server knows all there are */
    /* Something that the program cannot see and whoever runs it should know; may be NULL. */
    void (*note)(void *arg, const char *text);
};

/* What the mount itself says to who asks its name server. */
struct mount_names {
    /* The addresses of the agent that is "NAME.agent" (IPv4 as ::ffff:a.b.c.d): their number, or
     * ERR_NOT_FOUND, or ERR_UNAVAILABLE: not known yet. */
    int (*find_agent)(void *arg, const char *name, uint8_t (*ret)[16], size_t max);
    void *arg;
    bool is_all; /* there are no others: the network's name server is not asked */
};

struct mount_stats {
    uint64_t tcp_open, udp_open, flows_total, dials_failed, packets_ignored;
    uint64_t bytes_up, bytes_down;
    uint64_t ahead_hits, ahead_wasted; /* answers that were read ahead: given, or never */
    struct dial_gate_stats dials;
};

/* Takes the TUN descriptor (tun_open), also on failure. */
int mount_start(struct loop *l, int tun, const struct mount_uplink *uplink, struct mount **ret);
/* Ends every flow and closes the device; the last of it goes when the loop settles. NULL is fine.
 */
void mount_stop(struct mount *m);

void mount_get_stats(const struct mount *m, struct mount_stats *ret);
