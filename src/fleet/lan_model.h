/*
 * The hub's rules about networks and LANs, as pure functions.
 *
 * Evidence is a pair of agents of one tenant that hear each other's authenticated beacons, both
 * ways: a replayed or relayed beacon is heard one way only. A pair of two networks means that one
 * LAN has two ids; what follows depends on where each of the two is at home.
 *
 * A place is how a link looks from outside the tenant's say: its subnet, and its router's hardware
 * address where that is known. An agent's home is the places where it was when it joined its
 * network, or where most of its network has been since. On a link that is none of them it is away:
 * a laptop on a visit, which joins the network it finds and drags nothing along.
 */
#pragma once

#include "fleet/lan_beacon.h"

#define LAN_PLACES_MAX 8
#define LAN_PLACE_SIZE (LAN_PREFIX_SIZE + 20)

/* "10.0.0.0/24 52:54:00:12:34:56"; the address is left out when unknown. An unknown prefix is "":
 * no place, where nobody is away. */
void lan_place_format(const char *prefix, const char *gateway, char out[LAN_PLACE_SIZE]);
bool lan_place_same(const char *a, const char *b);

/* Places one after the other, a newline behind each; NULL: none. */
bool lan_places_have(const char *places, const char *place);
/* The heap text with one more, without its oldest if they are too many; `places` is freed. */
char *lan_places_add(char *places, const char *place);

/* ---- merging and moving ---- */

struct lan_network {
    const char *id;
    bool is_named;   /* by an operator, not made on an agent's enrolment */
    int64_t objects; /* tunnels */
    int64_t created;
};

/* Whether `a` survives a merge: named before automatic, then one with objects, then the older, then
 * the smaller id. */
bool lan_network_prevails(const struct lan_network *a, const struct lan_network *b);

/* One end of a pair that hears each other. */
struct lan_end {
    bool is_named;        /* its network */
    bool is_away;         /* on this link */
    bool speaks_for_none; /* the network's others are on another of its links, none on this one */
};

enum lan_decision {
    LAN_STAY,
    LAN_MERGE,      /* the two networks; lan_network_prevails says which survives */
    LAN_MOVE_FIRST, /* the agent joins the other's network */
    LAN_MOVE_SECOND,
    LAN_CONFLICT, /* an operator named both: it is for him to merge them */
};
/* Of a pair in two different networks. `is_apart`: an operator split the two. */
enum lan_decision lan_decide(const struct lan_end *first, const struct lan_end *second,
                             bool is_apart);

/* Whether an agent that is away is at home now, on the ground of whom of its own network it hears
 * on that link: `at_home` of them are at home there, `heard` of them in all (both ways); `staying`
 * of the network's agents are online and at home elsewhere, `total` agents has it, itself included.
 * An only agent takes its network along when it has been in the new place for LAN_SETTLE_MS and
 * nobody else was there. */
#define LAN_SETTLE_MS INT64_C(3600000)
bool lan_is_settled(size_t at_home, size_t heard, size_t staying, size_t total, int64_t away_ms);

/* ---- copies of an agent ---- */

/* Two machines with one identity end each other's sessions in turn. A process that comes back
 * after another one took its session shows it: one that was restarted never comes back. */
struct lan_lineage {
    char now[20], before[20]; /* instances; "": none */
    int64_t taken_ms;         /* when `now` took the session of `before` */
};
#define LAN_CLONE_MS INT64_C(600000)
/* A login of `instance`; `is_taking`: it ends a session that was live. True: two are at it. */
bool lan_lineage_login(struct lan_lineage *l, const char *instance, bool is_taking, int64_t now_ms);
