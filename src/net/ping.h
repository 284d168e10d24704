/*
 * Sockets for ICMP echo, of either kind that a system lets a process have: a ping socket
 * (net.ipv4.ping_group_range names its group, for IPv6 too), or a raw one (CAP_NET_RAW).
 *
 * A socket sends to many targets; what comes back is told apart by the sequence number alone.
 */
#pragma once

#include "base/addr.h"
#include "wire/icmp_cause.h"

enum ping_way { PING_NOT_PERMITTED, PING_SOCKET, PING_RAW };
/* Which kind this process would get; and for people. */
enum ping_way ping_find_way(bool is_v6);
const char *ping_way_text(enum ping_way way); /* "not permitted", "ping socket", "raw socket" */

struct ping {
    int fd; /* non-blocking */
    bool is_v6, is_raw;
    uint16_t id; /* raw: of our echoes */
};

/* ERR_DENIED: not permitted; ERR_LIMIT. */
int ping_open(bool is_v6, struct ping *ret);

struct ping_request {
    const struct addr *to;
    uint8_t ttl; /* 0: as usual */
    uint8_t tos;
    uint16_t seq;
    const void *data;
    size_t len;
};
/* 0, or a positive errno value. */
int ping_send(const struct ping *p, const struct ping_request *r);

struct ping_answer {
    uint16_t seq;
    bool is_error; /* then `cause`, else the rest */
    struct icmp_cause cause;
    uint8_t from[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t ttl;
    const uint8_t *data; /* valid until the next call on this thread */
    size_t len;
};
/* 1: an answer; 0: there is none now; negative: something else was passed over, ask again. */
int ping_receive(const struct ping *p, struct ping_answer *ret);
