/*
 * The agent's lease of one tunnel as a state machine: values and rules, no I/O, time passed in.
 *
 *            take                taken (committed)
 *   FREE ----------> TAKING ------------------------> HELD --+ renew
 *    ^  ^               |                              ^ |   |
 *    |  +---------------+ take_failed, taken if doomed +-|---+
 *    |                                                   | lose (expired, released, agent gone)
 *    +----------------------- CLEARING <-----------------+
 *                 cleared
 *
 * CLEARING is what fences: the workers are still closing the old holder's streams, and nobody can
 * take the lease before they reported that not one is left. The epoch comes from the database and
 * rises with every take.
 */
#pragma once

#include "base/id.h"

#include <stdbool.h>
#include <stdint.h>

enum lease_state { LEASE_FREE, LEASE_TAKING, LEASE_HELD, LEASE_CLEARING, LEASE_STATE_COUNT };

struct lease {
    enum lease_state state;
    bool is_doomed; /* TAKING, but the taker has gone meanwhile */
    char agent[ID_SIZE];
    uint64_t epoch;      /* of the newest lease ever taken */
    uint64_t expires_ms; /* loop time; HELD only */
};

#define LEASE_LIFE_MS  10000
#define LEASE_RENEW_MS 3000

/* ERR_CONFLICT: another agent holds it; ERR_UNAVAILABLE: being taken or cleared, ask again. */
int lease_take(struct lease *l, const char *agent);

/* The database has committed `epoch`. 0: held now; LEASE_WAS_DOOMED: free again. */
#define LEASE_WAS_DOOMED 1
int lease_taken(struct lease *l, uint64_t epoch, uint64_t now_ms);
void lease_take_failed(struct lease *l);

/* ERR_STALE unless this agent holds it. */
int lease_renew(struct lease *l, const char *agent, uint64_t now_ms);

/* Whether a held lease has run out. */
bool lease_is_expired(const struct lease *l, uint64_t now_ms);
bool lease_is_held_by(const struct lease *l, const char *agent);

/* The holder is to lose it. True: the caller must now close its streams and then call
 * lease_cleared(); false: there was nothing to close. */
bool lease_lose(struct lease *l);
void lease_cleared(struct lease *l);
