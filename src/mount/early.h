/*
 * What a program sent and came before its turn, because something ahead of it was lost: kept until
 * that has come, and told to the program (SACK, RFC 2018), which then sends only what is missing.
 *
 * Zero-initialised is valid and empty; it owns memory only while there is something. All of a
 * thread share a budget: what is beyond it is not kept, and sent again by the program.
 */
#pragma once

#include "mount/packet.h"

struct early_piece {
    struct early_piece *next;
    uint32_t seq, len;
    bool has_fin; /* behind the bytes */
    uint8_t data[];
};

struct early {
    struct early_piece *first; /* in order; none touches the bytes of another */
    uint16_t n;
    uint32_t latest; /* begin of what came last */
};

#define EARLY_PIECES_MAX 256               /* of one flow */
#define EARLY_BUDGET     ((size_t)8 << 20) /* bytes of all flows, with what each piece costs */

/* What is known already is left out. Segments in order are not for here. */
void early_put(struct early *e, uint32_t begin, const uint8_t *data, size_t len, bool has_fin);

/* The piece that goes on at `seq`, which nothing before it does; it may begin before. What ends
 * before `seq` is dropped. NULL: there is none. Free it with early_drop. */
const struct early_piece *early_at(struct early *e, uint32_t seq);
void early_drop(struct early *e); /* the first piece */
void early_done(struct early *e);

/* What is here: the range that grew last, then the others from the lowest. Returned: how many. */
uint8_t early_ranges(const struct early *e, struct packet_range ret[PACKET_SACKS_MAX]);
