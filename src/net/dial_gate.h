/*
 * Dials under way, bounded and shared fairly by target: who scans a network has thousands of them,
 * most without an answer, and nobody else shall wait for that.
 *
 *     enter ─► (its turn) ─► the owner dials ─► leave
 *                                 └─ gives way: when all places are taken, the oldest dial of the
 *                                    target that has most of them ends unanswered
 *
 * So the dials of silent targets, which pile up, are the ones that go, and one that is answered
 * never waits for them.
 *
 * Those that wait do so for one of two things. For a place, if all of them were taken within the
 * last `spare_ms`: a scanner's burst, most of which is answered soon. Or for the neighbours: a
 * first packet to an address of an attached network costs an entry of the kernel's neighbour table,
 * until the address has answered or for three seconds; a full table (1,024 entries, of the whole
 * machine) cuts off everybody. Addresses that have not answered of late share `unresolved_max` such
 * entries, first come, first served.
 *
 * Thread: one loop's.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"

struct dial_gate;
struct dial_target;

struct dial_gate_config {
    struct loop *loop;
    size_t max;            /* dials under way; as many more may wait for their turn */
    size_t per_target;     /* ... to one address */
    uint32_t spare_ms;     /* a dial gives way only after it had so long */
    size_t unresolved_max; /* 0: nobody has to wait */
    /* Whether an address is of an attached network; NULL: by this machine's interfaces. */
    bool (*is_attached)(const uint8_t ip[16]);
};

/* Embedded in its owner; zero-initialise, set the two functions. */
struct dial_ticket {
    void (*on_turn)(struct dial_ticket *t);  /* from the loop, unless enter said go */
    void (*give_way)(struct dial_ticket *t); /* it has left already */
    struct dial_target *target;              /* NULL: outside */
    uint8_t waits;                           /* for what, if for anything: the gate's affair */
    uint64_t since_ms;
    struct dial_ticket *prev, *next;
};

#define DIAL_GATE_WAIT 1

struct dial_gate *dial_gate_new(const struct dial_gate_config *cfg);
void dial_gate_free(struct dial_gate *g); /* everybody has left */

/* 0: dial now. DIAL_GATE_WAIT: at on_turn. ERR_LIMIT: neither. The port does not count. */
int dial_gate_enter(struct dial_gate *g, struct dial_ticket *t, const struct addr *target);
/* `err`: how the dial went (0, ERR_REFUSED, ERR_UNREACHABLE…), or why it was not finished. Harmless
 * when it is outside. */
void dial_gate_leave(struct dial_ticket *t, int err);

bool dial_gate_is_attached(struct dial_gate *g, const struct addr *a);
size_t dial_gate_pending(const struct dial_gate *g); /* the waiting ones, too */
