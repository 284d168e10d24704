/*
 * The cluster as this hub sees it: its own lease, the other hubs, and the links to them
 * (docs/cluster.md). Main loop.
 *
 * Every HUB_LEASE_RENEW_MS one transaction renews this hub's row and reads all rows; what it finds
 * is put into fleet (fleet_hubs), whose observers are told. To each other hub there is a pool of
 * connections for each worker (fleet/pool.h), dialled again whenever one is gone.
 *
 * A hub that was frozen does not know, when it wakes, who serves its tunnels: another one may since
 * its lease has ended. So fleet is told until when it is sure (fleet_is_sure): nearly as long as
 * the lease runs, and then, while the database does not answer, as long as others hear from it. A
 * hub that has slept longer renews, reads what it has missed, and is sure again.
 *
 * A hub whose database nobody shares has a lease without end, and no peers.
 */
#pragma once

#include "fleet/fleet.h"
#include "fleet/pool.h"
#include "peer/hub_lease.h"

struct identity;
struct peers;

#define PEER_ALPN "warren-hub/1"

struct peers_config {
    struct loop *loop;
    struct store *store;
    struct fleet *fleet;
    struct identity *identity;
    bool is_shared;            /* other hubs may use the database */
    bool has_shared_ca;        /* the CA is in it: without, there may be no other hubs */
    const char *address;       /* HOST:PORT where they reach this one; copied */
    const char *agent_address; /* the same for agents, "": by a balancer only; copied */
    const char *name;          /* of this machine; copied */

    void (*on_pool_up)(void *arg, struct fleet_pool *p);
    void (*on_pool_down)(void *arg, struct fleet_pool *p);
    /* It may claim now, and could not before; or it has slept, and knows now what it has lost. */
    void (*on_claims)(void *arg);
    void (*on_lost)(void *arg); /* another process has this hub's id: this one has to end */
    /* This hub's row was read: it may be another one than before. */
    void (*on_self)(void *arg, const struct fleet_hub *self);
    void *arg;
};

/* Blocks: for start-up, when all workers run. Takes the lease and dials the other hubs. */
int peers_new(const struct peers_config *cfg, struct peers **ret, struct diag *d);
/* Gives the lease back (other hubs hear of it at once) and ends the links. Before fleet_stop. */
void peers_stop(struct peers *p);
void peers_free(struct peers *p);
/* What this hub's row says has changed: it is written now, not in three seconds. */
void peers_renew_now(struct peers *p);

/* What this hub's row says of its drain. */
void peers_set_drained(struct peers *p, bool is_drained);

/* Whether this hub may claim what is free. */
bool peers_may_claim(const struct peers *p);

/* A pool to that hub that is up; NULL: none. Streams of one tunnel go by one worker. */
struct fleet_pool *peers_pool(const struct peers *p, const char *hub, const char *tunnel);

/* What tickets are made of and checked by; any thread may read it, it lives as long as `p`. */
struct peer_clock;
const struct peer_clock *peers_clock(const struct peers *p);
int64_t peer_clock_now(const struct peer_clock *c); /* the database's, estimated */

struct peers_stats {
    size_t hubs, links;        /* others that live; connections that are open */
    uint64_t renewals, failed; /* of the lease */
    enum hub_lease_state state;
    bool has_lease;
};
void peers_stats(const struct peers *p, struct peers_stats *ret);
