/*
 * One agent's lease of one tunnel as a state machine: values and rules, no I/O.
 *
 *   WRITING ─written─► OFFERED ─take─► TAKEN ─start─► HELD ─linger─► LINGERING
 *      │ lose:            │ lose         │ lose         │ lose            │ lose
 *      │ doomed           ▼              ▼              ▼                 ▼
 *      └─written─────► (over)         (over)         CLEARING ◄───────────┘
 *                                                       │ cleared           drained ──► (over)
 *                                                       ▼
 *                                                    (over)
 *
 * The hub decides who shall hold a tunnel (tunnel_spread.h), raises the epoch in the database
 * (WRITING), offers the lease to the agent (OFFERED), which takes it (TAKEN) and serves (HELD) when
 * its turn has come.
 *
 * Two ways lead out. A lease is *lost* when its agent has gone, sleeps, or does not reach the
 * target: CLEARING is what fences, its streams are being closed on the workers, and no other agent
 * serves the tunnel before not one is left. A lease that *moves* of free will lingers: the next
 * agent serves what is new, and what is open goes on until it ends.
 *
 * A tunnel that one agent serves has at most one lease that is HELD and one on its way there; one
 * that is spread by connection has one for each agent.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum lease_state {
    LEASE_WRITING,
    LEASE_OFFERED,
    LEASE_TAKEN,
    LEASE_HELD,
    LEASE_LINGERING,
    LEASE_CLEARING,
    LEASE_STATE_COUNT
};

struct lease {
    enum lease_state state;
    bool is_doomed; /* WRITING, but nobody wants it any more */
    uint64_t epoch; /* 0: WRITING */
};

#define LEASE_LIFE_MS  10000
#define LEASE_RENEW_MS 3000

/* It is over: to be forgotten. */
#define LEASE_OVER 1
/* It is CLEARING: streams are to be closed first. */
#define LEASE_CLOSES 2

/* The database has committed `epoch`. 0: to be offered; LEASE_OVER: it was doomed. */
int lease_written(struct lease *l, uint64_t epoch);
/* ERR_STALE unless it is on offer. */
int lease_take(struct lease *l);
void lease_start(struct lease *l);  /* TAKEN */
void lease_linger(struct lease *l); /* HELD */

/* 0: that is known already, or the database has yet to answer; LEASE_OVER; LEASE_CLOSES. */
int lease_lose(struct lease *l);

/* Whether it is on its way to be held. */
bool lease_is_coming(const struct lease *l);
/* Whether the agent may have streams under it. */
bool lease_is_live(const struct lease *l);

const char *lease_state_name(enum lease_state s);
