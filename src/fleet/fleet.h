/*
 * The fleet as one hub sees it: networks, their agents, who is logged in, and which reverse
 * connections each agent keeps open.
 *
 * Everything here belongs to the main loop; a pool of reverse connections has another side on its
 * worker (fleet/pool.h). The view is loaded at start and follows the store's feed; a login raises
 * the agent's epoch in the database, and everything of a lower epoch (an older session, its reverse
 * connections) is ended.
 */
#pragma once

#include "base/diag.h"
#include "base/id.h"
#include "store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

struct conn;
struct fleet_pool;
struct rpc_call;
struct rpc_server;

#define FLEET_NAME_SIZE     64
#define FLEET_ALLOW_MAX     64 /* rules an agent may report */
#define FLEET_ADDRESSES_MAX 8  /* ... and addresses of its machine */

/* By which something of a tenant is found; fleet_view.c's. */
struct fleet_key {
    char text[ID_SIZE + FLEET_NAME_SIZE]; /* "TENANT NAME" */
    UT_hash_handle hh;
};

struct fleet_network {
    char id[ID_SIZE], tenant[ID_SIZE];
    char name[FLEET_NAME_SIZE];
    struct fleet_key key;
    int64_t version, created;
    bool is_automatic;          /* made on an agent's enrolment; nobody named it */
    struct fleet_agent *agents; /* utlist through `next_in_network` */
    size_t online;              /* how many of them are logged in */
    UT_hash_handle hh;
};

struct fleet_agent {
    struct fleet *fleet;
    char id[ID_SIZE], tenant[ID_SIZE];
    char name[FLEET_NAME_SIZE];
    struct fleet_key key;
    struct fleet_network *network;
    char token[ID_SIZE];
    char serial[64];
    int64_t version, not_after, created, revoked, pending, draining; /* wall ms; 0: no */
    int64_t drain_grace_ms; /* that its streams may go on; 0: until they end */

    /* Of the newest session; the rest is about the live one only. */
    uint64_t epoch;
    char hub[ID_SIZE]; /* where it is; empty: written before there were several */
    uint64_t hub_epoch;
    int64_t connected, disconnected;
    char address[64], hostname[FLEET_NAME_SIZE], software[FLEET_NAME_SIZE];
    char *allow, *addresses; /* JSON, arrays of texts */
    struct fleet_lan *lan;   /* what it reports of its LANs (lan_hub.c) */
    bool was_moved;          /* during on_network_merged: it was in the network that is gone */
    struct rpc_call *call;   /* of Connect; NULL: offline */

    struct fleet_pool *pool; /* NULL: no reverse connection in this session so far */
    uint64_t roots;      /* roots_digest of what it trusts, of this session; 0: too old to say */
    uint64_t roots_told; /* ... and of what it was told last */
    int64_t knows;       /* the newest root that it trusts, as the database has it */
    uint32_t short_sessions; /* in a row */
    uint64_t logins_paid_ms; /* loop time; see fleet_session.c */
    bool is_touched;         /* see fleet_agent_touch */
    bool is_told_to_move;    /* in this session, to another hub */
    uint64_t hubs_told;      /* the version of the list of hubs that it has */
    struct fleet_agent *prev, *next_in_network;
    UT_hash_handle hh;
};

/* What an agent does at present. */
struct fleet_agent_load {
    size_t tunnels, lingering; /* leases it holds; those that have moved on but for their streams */
    uint64_t streams;
    bool is_leaving; /* it said that it stops */
};

/* Told on the main loop. `on_pool_up`: the agent can be reached by data from now on, until
 * `on_pool_down`. `on_down` and `on_pool_down` come while the object is still in place. */
struct fleet_observer {
    void (*on_up)(struct fleet_observer *o, struct fleet_agent *a);
    void (*on_down)(struct fleet_observer *o, struct fleet_agent *a);
    void (*on_pool_up)(struct fleet_observer *o, struct fleet_pool *p);
    void (*on_pool_down)(struct fleet_observer *o, struct fleet_pool *p);
    /* It has moved to another hub, as this one asked it to. Its pool (NULL: it has none) goes on:
     * true if it is used, until fleet_left_over or on_pool_down. May be NULL. */
    bool (*on_left)(struct fleet_observer *o, struct fleet_agent *a, struct fleet_pool *p);
    /* It is to be drained, or not any more. */
    void (*on_drain)(struct fleet_observer *o, struct fleet_agent *a);
    /* Its session at another hub has begun or ended; hubs have come or gone. */
    void (*on_elsewhere)(struct fleet_observer *o, struct fleet_agent *a);
    void (*on_hubs)(struct fleet_observer *o);
    /* Adds what the agent does. */
    void (*describe)(struct fleet_observer *o, const struct fleet_agent *a,
                     struct fleet_agent_load *ret);
    /* What is still used in a network, asked before it is deleted. */
    size_t (*count_in_network)(struct fleet_observer *o, const char *network);
    /* Inside a transaction, on the store's thread: the same of the database; and `from` becomes
     * `to`, which publishes the objects. ERR_LIMIT: too many for one network. */
    int (*count_stored)(struct tx *tx, const char *network, int64_t *ret);
    int (*write_merge)(struct tx *tx, const char *tenant, const char *from, const char *to);
    /* After that has committed. The agents are in `to` already, those of `from` have was_moved. */
    void (*on_network_merged)(struct fleet_observer *o, const char *from, struct fleet_network *to);
    struct fleet_observer *next;
};

/* A network that was merged into another one, by whose id and name that one is still found. */
struct fleet_alias {
    char id[ID_SIZE], tenant[ID_SIZE], network[ID_SIZE];
    char name[FLEET_NAME_SIZE];
    struct fleet_key key;
    int64_t at;
    char *why;
    UT_hash_handle hh;
};

struct fleet;

struct fleet_config {
    struct loop *loop;
    struct store *store;
    struct store_hub hub;
    const char *name;            /* of this hub's machine; outlives the fleet */
    const char *trust_domain;    /* outlives the fleet */
    uint32_t lease_ms, renew_ms; /* told to agents at login */
    uint32_t links_max;      /* reverse connections of an agent; 0: 32, at most FLEET_LINKS_MAX */
    uint32_t links_quiet_ms; /* after which those without use are closed; 0: 60 s */
    uint32_t logins_per_second; /* at which agents of a hub that is gone may come back; 0: 1000 */
};

/* Loads the view; blocks, for start-up. */
int fleet_new(const struct fleet_config *cfg, struct fleet **ret, struct diag *d);
/* A worker that can be a home for reverse connections; all of them before the first arrives. */
void fleet_add_worker(struct fleet *f, struct loop *worker);
/* Ends every session; `done` when the last reverse connection is gone from its worker. */
void fleet_stop(struct fleet *f, void (*done)(void *arg), void *arg);
void fleet_free(struct fleet *f);
void fleet_observe(struct fleet *f, struct fleet_observer *o);

/* The server of the control sessions. Connect is registered; other capabilities add their rows. */
struct rpc_server *fleet_rpc(struct fleet *f);

const struct store_hub *fleet_hub(const struct fleet *f);
const char *fleet_hub_name(const struct fleet *f); /* of this hub's machine */
struct store *fleet_store(const struct fleet *f);
struct loop *fleet_loop(const struct fleet *f);

struct fleet_agent *fleet_agent_find(struct fleet *f, const char *id);
struct fleet_network *fleet_network_find(struct fleet *f, const char *id);
/* By id or name within a tenant, of networks also by that of a merged one; NULL: none. */
struct fleet_agent *fleet_agent_lookup(struct fleet *f, const char *tenant, const char *ref);
struct fleet_network *fleet_network_lookup(struct fleet *f, const char *tenant, const char *ref);
struct fleet_agent *fleet_agents(struct fleet *f); /* heads of the hashes, for iteration */
struct fleet_network *fleet_networks(struct fleet *f);

/* The agent that makes this call, if `session_epoch` is that of its live session; otherwise NULL
 * and the call has been failed. */
struct fleet_agent *fleet_caller(struct fleet *f, struct rpc_call *call, uint64_t session_epoch);

/* Sends a HubEvent; harmless when the agent is offline. */
typedef struct Warren__V1__HubEvent Warren__V1__HubEvent;
void fleet_send(struct fleet_agent *a, const Warren__V1__HubEvent *event);

/* Ends the agent's session, reverse connections and whatever control connections it has, now. */
void fleet_cut(struct fleet *f, struct fleet_agent *a, const char *why);
/* The same for one that was revoked a moment ago, perhaps before the view has seen it. */
void fleet_cut_revoked(struct fleet *f, const char *agent);

/* What is shown of it has changed: watchers are told, soon. */
void fleet_agent_touch(struct fleet_agent *a);

/* Whether streams can be opened to it: between on_pool_up and on_pool_down. */
bool fleet_agent_is_reachable(const struct fleet_agent *a);
/* Ends the agent's reverse connections; it may dial new ones. */
void fleet_cut_links(struct fleet_agent *a);

/* Sends the agents to other hubs, each at a moment of its own within fleet_return_ms or
 * `within_max_ms`, and logs none in as long as there are others. What is open goes on for
 * `grace_ms` more, then it is cut. Again: with another grace, from now. */
void fleet_drain(struct fleet *f, uint32_t grace_ms, uint32_t within_max_ms);
void fleet_undrain(struct fleet *f); /* who has not moved yet may stay */
bool fleet_is_draining(const struct fleet *f);
bool fleet_is_drained(const struct fleet *f); /* nobody is left, nor what they have left open */
size_t fleet_left(const struct fleet *f);     /* sessions left behind whose streams go on */
/* From an observer that said true to on_left: the pool is not used any more, and ends. */
void fleet_left_over(struct fleet_pool *p);

size_t fleet_online(const struct fleet *f);

struct fleet_stats {
    size_t links;             /* reverse connections */
    uint64_t moves;           /* of streams from one to another */
    size_t shortcuts;         /* connections of other hubs' agents */
    uint64_t shortcuts_taken; /* by streams */
    uint64_t logins_refused;
};
void fleet_stats(const struct fleet *f, struct fleet_stats *ret);

/* The rotation of the CA (fleet_ca.c): what agents are told of its roots, and the REST rows. Before
 * the first agent comes; without, agents are told nothing. */
struct http_server;
struct identity;
void fleet_ca_new(struct fleet *f, struct identity *identity, struct http_server *http);
void fleet_roots_changed(struct fleet *f); /* identity's on_roots */

json_t *fleet_agent_json(const struct fleet *f, const struct fleet_agent *a);
json_t *fleet_network_json(const struct fleet *f, const struct fleet_network *n);
/* The same, with what is too long for a list: who hears whom. */
json_t *fleet_agent_detail(struct fleet *f, const struct fleet_agent *a);
json_t *fleet_network_detail(struct fleet *f, const struct fleet_network *n);

/* An operator's orders; `done` once, on the main loop. Why it failed is in `d`. */
struct identity_caller;
typedef void fleet_done(void *arg, const struct diag *d);
void fleet_network_merge(struct fleet *f, const struct identity_caller *by, const char *from,
                         const char *into, fleet_done *done, void *arg);
void fleet_agent_move(struct fleet *f, const struct identity_caller *by, const char *agent,
                      const char *network, fleet_done *done, void *arg);

/* ---- the other hubs of the cluster, which peer/ keeps up to date ---- */

#define FLEET_HUB_ADDRESS_SIZE 272

struct fleet_hub {
    char id[ID_SIZE];
    uint64_t epoch;
    char address[FLEET_HUB_ADDRESS_SIZE];       /* HOST:PORT for other hubs */
    char agent_address[FLEET_HUB_ADDRESS_SIZE]; /* ... for agents; empty: by a balancer only */
    char name[FLEET_NAME_SIZE], software[FLEET_NAME_SIZE];
    int64_t started;           /* wall ms */
    int64_t draining, drained; /* wall ms: since when it is to be, and it is; 0: no */
    int64_t drain_grace_ms;
    int64_t roots;    /* the newest root of the CA that it trusts; 0: too old to say */
    int64_t expires;  /* of its lease, by the database's clock, as read last */
    uint64_t ends_ms; /* loop time: of its lease, as far as known */
    bool is_linked;   /* it answers us */
    UT_hash_handle hh;
};

struct fleet_hub *fleet_hub_find(const struct fleet *f, const char *id); /* not this one */
struct fleet_hub *fleet_hub_put(struct fleet *f, const char *id);        /* found or made */
void fleet_hub_remove(struct fleet *f, struct fleet_hub *h);
void fleet_hubs_changed(struct fleet *f);            /* observers are told, and agents */
struct fleet_hub *fleet_hub_self(struct fleet *f);   /* this one's own row, in no list */
struct fleet_hub *fleet_hubs(const struct fleet *f); /* head of the hash, for iteration */

/* Whether what this start of a hub has written still counts: it is this process, or its lease runs,
 * or it answers, although it cannot reach the database. */
bool fleet_hub_is_live(const struct fleet *f, const char *id, uint64_t epoch);
/* Until when this hub knows by itself that no other one has taken its agents' tunnels; for ever,
 * where nobody says otherwise. A hub that has slept longer opens no stream to an agent before peer/
 * has found out. By time_mono_ms() and not by a loop's clock: what a loop has read before it slept
 * is not to be served after it. Any thread. */
void fleet_set_sure_until(struct fleet *f, uint64_t mono_ms);
bool fleet_is_sure(const struct fleet *f);
/* Whether agents of this hub can go to another one: it lives and is not being drained. */
bool fleet_has_other_hub(const struct fleet *f);
/* Over what time agents of this hub should come back elsewhere, were it gone. */
uint32_t fleet_return_ms(const struct fleet *f);
/* Whether this hub is the first of those that live, for what one of them shall do. */
bool fleet_hub_is_first(const struct fleet *f);

/* Whether the agent is logged in, here or at another hub. */
bool fleet_agent_is_online(const struct fleet_agent *a);
bool fleet_network_is_online(const struct fleet_network *n); /* any of its agents */

struct fleet_lan_stats {
    uint64_t sightings; /* agents that agents hear on their LANs now */
    uint64_t merges, moves, clones;
    uint64_t foreign, replayed, elsewhere, dropped; /* beacons that agents refused */
};
void fleet_lan_stats(struct fleet *f, struct fleet_lan_stats *ret);

extern const struct store_schema fleet_schema;
