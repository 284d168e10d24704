/*
 * Who holds which tunnel: the hub decides, offers, and moves. Shared by the hub's files of this
 * folder only; main loop.
 *
 *   something changed ─► tunnel_plan ─► tunnel_spread.h says who should hold what
 *                                            │ for each tunnel: o->want
 *                                            ▼
 *                       tunnel_settle: what differs is granted, withdrawn, or lingers
 *                                            │
 *   database: epoch + 1 ◄── tunnel_grant ────┘
 *           └─► lease_offered ─► agent ─► TakeLeases ─► tunnel_lease_proceed: serves
 *
 * A tunnel that somebody serves stays served while it moves: the next agent checks the target,
 * takes the lease, has a reverse connection; only then does the old lease linger.
 */
#pragma once

#include "base/id.h"
#include "loop/loop.h"
#include "tunnel/tunnel_lease.h"

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

struct fleet_agent;
struct fleet_observer;
struct fleet_pool;
struct rpc_call;
struct tunnel_network;
struct tunnel_object;
struct tunnels;

/* Why a lease was given to its agent. */
enum tunnel_why {
    TUNNEL_WHY_FREE,    /* nobody held it */
    TUNNEL_WHY_LOST,    /* its agent went away or slept */
    TUNNEL_WHY_CHECK,   /* its agent does not reach the target */
    TUNNEL_WHY_DRAIN,   /* its agent is being drained, or stops */
    TUNNEL_WHY_BALANCE, /* its agent held more than others */
    TUNNEL_WHY_SPREAD,  /* all agents of the network hold it */
    TUNNEL_WHY_COUNT
};

struct tunnel_lease {
    struct tunnel_object *object;
    struct tunnel_peer *peer; /* NULL: its session has ended */
    char agent[ID_SIZE];
    struct lease l;
    enum tunnel_why why;
    char reason[96]; /* for people */
    bool check_first;
    int64_t since;      /* wall ms: of the state */
    struct timer timer; /* OFFERED: for it to be taken; LINGERING: for its streams to end */
    struct tunnel_lease *prev, *next;
    struct tunnel_lease *peer_prev, *peer_next;
    struct tunnel_lease *queue_next; /* for the database */
};

/* A target that an agent does not reach, as far as it told. */
struct tunnel_miss {
    struct tunnel_object *object;
    struct tunnel_peer *peer;
    int err;
    struct tunnel_miss *prev, *next; /* of the object */
    struct tunnel_miss *peer_prev, *peer_next;
};

/* An agent's session. Its leases live and end together: one renewal is for all of them. */
struct tunnel_peer {
    struct tunnels *owner;
    struct fleet_agent *agent;
    char id[ID_SIZE];
    struct tunnel_lease *leases;
    struct tunnel_miss *misses;
    uint64_t began_ms;        /* loop time */
    bool is_leaving;          /* it said that it stops */
    struct fleet_pool *left;  /* it has moved to another hub: by what is left; see on_left */
    uint64_t expires_ms;      /* loop time */
    uint64_t silent_until_ms; /* it did not take an offer, or did not renew: others first */
    uint32_t index;           /* in the plan that is being made */
    uint32_t load;            /* tunnels that want it */
    struct timer timer;
    UT_hash_handle hh;
};

/* tunnel_peer.c */
void tunnel_peer_up(struct tunnels *ts, struct fleet_agent *a);
void tunnel_peer_down(struct tunnels *ts, struct fleet_agent *a);
/* Its agent has moved to another hub: until that has claimed them, what it holds is served by what
 * is left of its session here (true), then what is open goes on. */
bool tunnel_peer_left(struct tunnels *ts, struct fleet_agent *a, struct fleet_pool *pool);
void tunnel_peer_left_down(struct tunnel_peer *p); /* and now nothing is left */
void tunnel_peer_left_idle(struct tunnel_peer *p); /* if it has no lease any more */
struct tunnel_peer *tunnel_peer_of(struct tunnels *ts, const char *agent);
void tunnel_peer_renew(struct tunnel_peer *p); /* it has called: its leases live on */
void tunnel_peer_drain(struct tunnel_peer *p); /* it shall be drained, or not any more */
struct fleet_agent_load;
void tunnel_peer_describe(const struct tunnel_peer *p, struct fleet_agent_load *ret);
bool tunnel_peer_is_draining(const struct tunnel_peer *p);
bool tunnel_peer_is_silent(const struct tunnel_peer *p);
/* What the agent told about a target: err 0 reached. */
void tunnel_peer_report(struct tunnel_peer *p, struct tunnel_object *o, int err);
const struct tunnel_miss *tunnel_miss_of(const struct tunnel_object *o,
                                         const struct tunnel_peer *p); /* NULL: it reaches it */
void tunnel_forget_misses(struct tunnel_object *o);

/* tunnel_place.c */
void tunnel_plan(struct tunnel_network *n); /* soon */
/* The same in a moment, for what only makes it more even: agents that start together. */
void tunnel_plan_later(struct tunnel_network *n);
void tunnel_plan_timer(struct timer *t);
/* The same for one that is new, or has another route: what others have is not looked at, so that
 * thousands at a time cost no more than each alone. */
void tunnel_place(struct tunnel_object *o);
void tunnel_place_cancel(struct tunnel_object *o); /* it goes away */
void tunnel_place_all(struct defer *d);
void tunnel_set_want(struct tunnel_object *o, struct tunnel_peer *want); /* or NULL */

/* tunnel_hold.c: the life of leases */
void tunnel_grant(struct tunnel_object *o, struct tunnel_peer *to, enum tunnel_why why,
                  const char *reason, bool check_first);
void tunnel_grants_write(struct defer *d);
void tunnel_lease_taken(struct tunnel_lease *l);
void tunnel_lease_proceed(struct tunnel_lease *l); /* if it is TAKEN and its turn has come */
void tunnel_lease_linger(struct tunnel_lease *l);
/* The lease may be freed, and so may a deleted object. */
void tunnel_lease_lose(struct tunnel_lease *l, int err, const char *why);
void tunnel_lose_all(struct tunnel_object *o, int err, const char *why);
void tunnel_lease_limit(struct tunnel_lease *l); /* LINGERING: the drain's grace counts from now */
struct tunnel_traffic;
void tunnel_lease_traffic(const struct tunnel_lease *l, struct tunnel_traffic *sum);
/* An exposure of this epoch is gone. */
void tunnel_lease_exposure_gone(struct tunnel_object *o, uint64_t epoch);
struct tunnel_lease *tunnel_lease_find(const struct tunnel_object *o, uint64_t epoch);
struct tunnel_lease *tunnel_holder(const struct tunnel_object *o); /* HELD; NULL: nobody */
/* HELD, or on its way there. */
struct tunnel_lease *tunnel_lease_with(const struct tunnel_object *o, const struct tunnel_peer *p);
