/*
 * Fragments of IP (RFC 791 section 3.2, RFC 8200 section 4.5) put together again. A program's
 * kernel cuts what is larger than the device's MTU: long UDP datagrams and long pings.
 *
 * Bounded: packets under way at once, the oldest giving way, each for at most REASSEMBLY_MS.
 * Fragments that overlap make a packet void (RFC 5722), for both versions.
 */
#pragma once

#include "mount/packet.h"

#define REASSEMBLY_SETS 64
#define REASSEMBLY_MS   5000

struct reassembly_set;

/* Zero-initialised is valid. */
struct reassembly {
    struct reassembly_set *sets; /* oldest first */
    size_t count;
    struct reassembly_set *whole; /* what the last call gave out */
};

/* Takes one fragment (packet.is_fragment). 1: a packet is complete, *ret_data is a whole one
 * without fragmentation, to be parsed again, valid until the next call; 0: not yet; ERR_PROTO: it
 * fits nothing, or made a packet void. */
int reassembly_add(struct reassembly *r, const struct packet *p, uint64_t now_ms,
                   const uint8_t **ret_data, size_t *ret_len);
void reassembly_done(struct reassembly *r);
