/*
 * This hub's lease on its identity as a state machine: values and rules, no I/O; time is passed in
 * (loop time, ms).
 *
 *   NONE ─renewed─► HELD ─no renewal for LIFE - MARGIN─► LATE ─renewed─► HELD
 *                    │                                     │
 *                    └──────────── superseded ─────────────┴──► LOST
 *
 * HELD: the hub may claim what is free. LATE: the database has not answered in time, its row may
 * have run out: it claims nothing, and keeps what it has. LOST: the row is of a later start of the
 * same id; this process must end.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define HUB_LEASE_LIFE_MS   10000 /* by the database's clock */
#define HUB_LEASE_RENEW_MS  3000
#define HUB_LEASE_DOUBT_MS  5000 /* that a hub of which nothing is known yet counts as alive */
#define HUB_LEASE_MARGIN_MS 3000 /* that our clock may be slower in, and for what is on its way */

enum hub_lease_state { HUB_LEASE_NONE, HUB_LEASE_HELD, HUB_LEASE_LATE, HUB_LEASE_LOST };

struct hub_lease {
    bool was_renewed, is_lost;
    uint64_t asked_ms; /* when the newest renewal that was granted was asked for */
};

/* The database granted what was asked for at `asked_ms`. Answers may come out of order. */
void hub_lease_renewed(struct hub_lease *l, uint64_t asked_ms);
void hub_lease_superseded(struct hub_lease *l);
enum hub_lease_state hub_lease_state(const struct hub_lease *l, uint64_t now_ms);
/* How long from `now_ms` it is HELD without another renewal; 0: it is not. */
uint64_t hub_lease_left_ms(const struct hub_lease *l, uint64_t now_ms);
