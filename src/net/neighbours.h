/*
 * The kernel's table of neighbours (ARP, NDP): who on the attached networks has answered for an
 * address, and with which hardware address. Anybody may read it.
 */
#pragma once

#include "base/addr.h"

#define NEIGHBOUR_MAC_SIZE 18 /* "52:54:00:12:34:56" */

struct neighbour {
    uint8_t ip[16];   /* IPv4 as ::ffff:a.b.c.d */
    bool is_answered; /* just now, within the time for which the kernel trusts it */
    char mac[NEIGHBOUR_MAC_SIZE];
};

struct neighbours {
    struct neighbour *items;
    size_t n;
};

#define NEIGHBOURS_READ_MAX 16384

/* The kernel answers at once. Without an answer the table is empty. */
void neighbours_read(struct neighbours *ret);
void neighbours_done(struct neighbours *n);
const struct neighbour *neighbours_find(const struct neighbours *n, const struct addr *a);
