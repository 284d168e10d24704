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
 * until the address has answered or for three seconds; a full table (1,024 entries by default, of
 * the whole machine) cuts off everybody. Addresses that have not answered of late and that the
 * kernel does not know share three quarters of the entries that nobody else has, and at most
 * `unresolved_max`: dials and datagrams in turns, each first come, first served, and what is
 * patient last, and not from the last eighth. A few may always try, in a table that is full, too:
 * the kernel then throws out what is old.
 *
 * Thread: one loop's.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"
#include "net/neighbours.h"

struct dial_gate;
struct dial_target;

struct dial_gate_config {
    struct loop *loop;
    size_t max;            /* dials under way; as many more may wait, half of them datagrams */
    size_t per_target;     /* ... to one address */
    uint32_t spare_ms;     /* a dial gives way only after it had so long */
    size_t unresolved_max; /* 0: nobody has to wait */
    void (*room)(struct neighbour_room *ret); /* NULL: neighbours_room */
    /* Whether an address is of an attached network; NULL: by this machine's interfaces. */
    bool (*is_attached)(const uint8_t ip[16]);
};

/* Embedded in its owner; zero-initialise, set the two functions. */
struct dial_ticket {
    void (*on_turn)(struct dial_ticket *t);  /* from the loop, unless enter said go */
    void (*give_way)(struct dial_ticket *t); /* it has left already */
    bool is_patient;                         /* one of a sweep's: others are let in first */
    bool is_passing;            /* no dial, only a first packet: outside again when it goes */
    struct dial_target *target; /* NULL: outside */
    uint8_t waits;              /* for what, if for anything: the gate's affair */
    uint64_t since_ms;
    struct dial_ticket *prev, *next;
};

#define DIAL_GATE_WAIT 1

struct dial_gate *dial_gate_new(const struct dial_gate_config *cfg);
/* One more that lets go of it by dial_gate_free; everybody has left at the last. */
struct dial_gate *dial_gate_ref(struct dial_gate *g);
void dial_gate_free(struct dial_gate *g); /* NULL is fine */

/* 0: dial now. DIAL_GATE_WAIT: at on_turn. ERR_LIMIT: neither. The port does not count. */
int dial_gate_enter(struct dial_gate *g, struct dial_ticket *t, const struct addr *target);
/* `err`: how the dial went (0, ERR_REFUSED, ERR_UNREACHABLE…), or why it was not finished. Harmless
 * when it is outside. */
void dial_gate_leave(struct dial_ticket *t, int err);

/* To one that passed, or the like, more may be sent without asking for so long; always, once it
 * has answered, which is to be told. */
#define DIAL_GATE_PASS_MS 3000
void dial_gate_answered(struct dial_gate *g, const struct addr *a);

bool dial_gate_is_attached(struct dial_gate *g, const struct addr *a);
size_t dial_gate_pending(const struct dial_gate *g); /* the waiting ones, too */

struct dial_gate_stats {
    size_t dials, fullest;                 /* under way; ... to one target */
    size_t waiting_place, waiting_address; /* ... for the neighbours */
    size_t unresolved, unresolved_max;     /* entries held of the neighbour table */
    uint64_t refused, gave_way;            /* since the start */
};
void dial_gate_get_stats(struct dial_gate *g, struct dial_gate_stats *ret);
