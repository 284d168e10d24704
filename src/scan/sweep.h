/*
 * A sweep: who is there in some ranges of addresses, which ports they have open, and what they say
 * they are. One loop.
 *
 *     address ─► its turn (net/dial_gate) ─► asked in several ways ─┬► nobody
 *                                                                   └► there: its ports ─► on_host
 *
 * Where we may ask by ARP, that is done first, and only who has answered goes on from there.
 *
 * A host is there if it answers anything at all: a port that accepts or refuses, an ICMP error of
 * its own, an echo, SNMP; or, on an attached network, if the kernel has its hardware address. Bound
 * by a rate of probes, by what is under way at once, and by the owner's ceiling for each probe.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"
#include "net/neighbours.h"
#include "scan/probe.h"
#include "scan/scan_request.h"

struct dial_gate;
struct sweep;

/* How it was found. */
enum sweep_sign { SWEEP_TCP, SWEEP_UDP, SWEEP_ECHO, SWEEP_SNMP, SWEEP_NEIGHBOUR, SWEEP_SIGN_COUNT };
const char *sweep_sign_name(enum sweep_sign s); /* "tcp", "arp"… */

struct sweep_host {
    struct addr addr;
    enum sweep_sign sign;
    uint16_t port;     /* SWEEP_TCP: which one has answered */
    bool has_answered; /* rtt_us is known */
    uint32_t rtt_us;
    char mac[NEIGHBOUR_MAC_SIZE]; /* "": unknown */
    const uint16_t *open;         /* in the order in which they answered */
    size_t n_open, n_closed, n_silent;
    bool has_snmp;
    const char *descr, *name; /* SNMP */
};

struct sweep_counts {
    uint32_t addresses, done, up, denied; /* denied: nothing about it may be asked */
    uint32_t open;                        /* ports */
    uint64_t probes;
    double part; /* of the work, as far as it is known: 0 to 1 */
};

struct sweep_ops {
    void (*on_host)(void *arg, const struct sweep_host *h); /* one that is there, complete */
    /* Last; always later. ERR_LIMIT: for 30 s the kernel had no room for one question. */
    void (*on_end)(void *arg, int err);
};

struct sweep_config {
    struct loop *loop;
    const struct scan_request *request;            /* copied */
    struct dial_gate *gate;                        /* outlives it */
    int (*check)(void *arg, const struct addr *a); /* 0, or it may not be asked */
    void *check_arg;
    const struct sweep_ops *ops;
    void *arg;
};

struct sweep *sweep_new(const struct sweep_config *cfg);
void sweep_free(struct sweep *s); /* stops it; no callback follows. NULL is fine */
/* Nothing new is begun meanwhile: whoever takes the results has enough of them. */
void sweep_pause(struct sweep *s, bool is_paused);
void sweep_get_counts(const struct sweep *s, struct sweep_counts *ret);
