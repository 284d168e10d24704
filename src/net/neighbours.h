/*
 * The kernel's table of neighbours (ARP, NDP): who on the attached networks has answered for an
 * address, and with which hardware address. Anybody may read it.
 */
#pragma once

#include "base/addr.h"
#include "loop/io.h"

#define NEIGHBOUR_MAC_SIZE 18 /* "52:54:00:12:34:56" */

struct neighbour {
    uint8_t ip[16];   /* IPv4 as ::ffff:a.b.c.d */
    bool is_answered; /* just now, within the time for which the kernel trusts it */
    char mac[NEIGHBOUR_MAC_SIZE];
};

struct neighbours {
    struct neighbour *items; /* by address */
    size_t n;
    size_t n_failed[2]; /* IPv4, IPv6: have not answered, and may be thrown out */
};

#define NEIGHBOURS_READ_MAX 16384

/* The kernel answers at once. Without an answer the table is empty. */
void neighbours_read(struct neighbours *ret);
void neighbours_done(struct neighbours *n);
const struct neighbour *neighbours_find(const struct neighbours *n, const uint8_t ip[16]);

/* How many more addresses the kernel could ask for at once: its limit (gc_thresh3, of the whole
 * machine) less what is in use, of that version of IP where it is less. */
size_t neighbours_room(void);

/* Tells who answers, as it happens. When there is too much of it some are left out. */
struct neighbour_watch {
    struct io io;
    void (*on_answer)(struct neighbour_watch *w, const struct neighbour *n);
};

/* `on_answer` is set. Where it fails nothing is told, and stopping is harmless. */
int neighbour_watch_start(struct neighbour_watch *w, struct loop *l);
void neighbour_watch_stop(struct neighbour_watch *w);
