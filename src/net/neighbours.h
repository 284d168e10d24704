/*
 * The kernel's table of neighbours (ARP, NDP): who on the attached networks has answered for an
 * address, and with which hardware address. Anybody may read it.
 */
#pragma once

#include "base/addr.h"
#include "loop/io.h"

#define NEIGHBOUR_MAC_SIZE 18 /* "52:54:00:12:34:56" */
void neighbour_mac_text(const uint8_t mac[6], char ret[NEIGHBOUR_MAC_SIZE]);

struct neighbour {
    uint8_t ip[16];   /* IPv4 as ::ffff:a.b.c.d */
    bool is_answered; /* just now, within the time for which the kernel trusts it */
    char mac[NEIGHBOUR_MAC_SIZE];
};

struct neighbours {
    struct neighbour *items; /* by address */
    size_t n;
    size_t n_roomless[2]; /* IPv4, IPv6: those that leave room for others */
    size_t n_asked[2];    /* ... that are being asked for */
};

#define NEIGHBOURS_READ_MAX 16384

/* The kernel answers at once. Without an answer the table is empty. */
void neighbours_read(struct neighbours *ret);
void neighbours_done(struct neighbours *n);
const struct neighbour *neighbours_find(const struct neighbours *n, const uint8_t ip[16]);

struct neighbour_room {
    size_t free;  /* addresses that could be asked for now */
    size_t asked; /* that are being asked for, in this network namespace */
};

/* Of the version of IP that has less room. The kernel's limit (gc_thresh3) is the whole machine's;
 * what has not answered in another network namespace counts as in use, though the kernel would
 * throw it out. */
void neighbours_room(struct neighbour_room *ret);

/* Tells who answers, as it happens. When there is too much of it some are left out. */
struct neighbour_watch {
    struct io io;
    void (*on_answer)(struct neighbour_watch *w, const struct neighbour *n);
};

/* `on_answer` is set. Where it fails nothing is told, and stopping is harmless. */
int neighbour_watch_start(struct neighbour_watch *w, struct loop *l);
void neighbour_watch_stop(struct neighbour_watch *w);
