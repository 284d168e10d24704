/*
 * What came back instead of an answer: the error queue of a socket with IP_RECVERR or IPV6_RECVERR,
 * where ICMP errors are told with type, code and sender, and not just as an errno value.
 */
#pragma once

#include "wire/icmp_cause.h"

#define ERRQUEUE_QUOTE 64 /* bytes */

struct errqueue_entry {
    int errnum; /* positive */
    struct icmp_cause cause;
    /* Of the packet that came back, behind its header of IP and, for UDP, of UDP. */
    uint8_t quote[ERRQUEUE_QUOTE];
    size_t quote_len;
};

/* `family`: of the socket; AF_UNSPEC: both are tried, which is harmless. */
void errqueue_watch(int fd, int family, bool is_on);

/* Takes the oldest: 1; 0: there is none. A path's MTU is left out, of which the kernel has taken
 * note. */
int errqueue_take(int fd, struct errqueue_entry *ret);
