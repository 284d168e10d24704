/*
 * What changes about networks, inside a transaction, on the store's thread.
 */
#pragma once

#include "fleet/fleet.h"
#include "fleet/lan_beacon.h"
#include "identity/identity.h"

#define NETWORK_WHY_SIZE 320

/* Who does it; the hub itself: NULL. */
struct network_actor {
    bool is_hub;
    struct identity_caller by;
};

/* Two networks become one. Unless `is_given`, where b survives, lan_network_prevails decides. */
struct network_merge {
    struct fleet_observer *observers; /* theirs is the rest of the tables */
    struct network_actor actor;
    char tenant[ID_SIZE], a[ID_SIZE], b[ID_SIZE];
    bool is_given;
    char why[NETWORK_WHY_SIZE];
    int64_t now;
    char from[ID_SIZE], from_name[FLEET_NAME_SIZE], to[ID_SIZE], to_name[FLEET_NAME_SIZE]; /* out */
};
/* ERR_NOT_FOUND: one of them is gone; ERR_CONFLICT: both are named, or kept apart; ERR_LIMIT: more
 * objects than one network holds. The first two not if `is_given`. */
int network_merge_write(struct tx *tx, struct network_merge *m);

/* An agent changes its network. */
struct network_move {
    struct network_actor actor;
    char tenant[ID_SIZE], agent[ID_SIZE], from[ID_SIZE], to[ID_SIZE];
    const char *places; /* its home from now on */
    char why[NETWORK_WHY_SIZE];
    int64_t now;
};
/* ERR_NOT_FOUND; ERR_STALE: it is no longer in `from`. By an operator the two networks are kept
 * apart from then on. */
int network_move_write(struct tx *tx, const struct network_move *m);

int network_places_write(struct tx *tx, const char *agent, const char *places);

/* The tenant's keys, newest first. A new one is made if there is none, if `at_most_ms` have passed
 * since the newest was made, or with `is_revoked`, which also forgets the others. */
int network_keys_write(struct tx *tx, const char *tenant, int64_t now, int64_t at_most_ms,
                       bool is_revoked, struct lan_keys *ret);
