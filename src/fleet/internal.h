/* Shared by the files of this folder only. */
#pragma once

#include "base/addr.h"
#include "fleet/fleet.h"
#include "fleet/link.h"
#include "loop/loop.h"
#include "pki/spiffe.h"

#include <stdatomic.h>

struct fleet_apart;
struct fleet_left;
struct fleet_peer;
struct fleet_tenant;
struct rpc_session;

struct fleet {
    struct fleet_config cfg;
    struct rpc_server *rpc;
    struct fleet_agent *agents;
    struct fleet_network *networks;
    struct fleet_alias *aliases;
    struct fleet_key *agent_names, *network_names, *alias_names;
    struct fleet_tenant *tenants; /* their LAN keys */
    struct fleet_apart *apart;
    struct timer look_timer, key_timer;
    struct fleet_lan *dirty; /* agents whose evidence is to be looked at */
    bool is_changing;        /* a merge or a move is on its way to the database */
    struct fleet_lan_stats lan_stats;
    struct fleet_hub *hubs; /* the others */
    struct fleet_hub self;
    struct {
        bool is_on;
        uint32_t within_ms;      /* agents go at a moment of it */
        uint64_t cut_ms, end_ms; /* loop time: what was left, and who has stayed, end */
        struct timer timer;
    } drain;
    struct fleet_left *left; /* sessions whose agents have moved, while they are used */
    size_t n_left;
    struct {
        struct timer timer;
        struct fleet_agent *next; /* from here on they are to be told; NULL: none */
        uint64_t version;         /* of what agents are told; 0: nothing so far */
        uint64_t digest;
        uint32_t return_ms;
    } told;
    struct fleet_observer *observers;
    struct store_subscriber feed;
    struct fleet_reload *reload; /* agents that are to be read; NULL: none */
    size_t online;
    uint64_t logins_refused;
    struct fleet_peer *peers;  /* by agent */
    struct identity *identity; /* whose CA it is; NULL: unknown, see fleet_ca_new */
    struct timer roots_timer;
    struct fleet_home {
        struct loop *worker;
        size_t n_pools;
        struct fleet_pool *shortcuts; /* the worker's; by agent */
    } * homes;
    size_t n_homes;
    struct fleet_pool *shortcuts; /* by name */
    _Atomic uint64_t shortcuts_taken;
    struct timer touch_timer;
    _Atomic uint64_t moves; /* of streams between connections */
    _Atomic uint64_t sure_until_ms;
    size_t n_pools; /* those whose last connection is still to go among them */
    bool is_stopping;
    void (*on_stopped)(void *arg);
    void *on_stopped_arg;
};

/* An agent as the database has it: what enrolment wrote (table agent) and its newest session. */
struct fleet_row {
    char id[ID_SIZE], tenant[ID_SIZE], network[ID_SIZE], token[ID_SIZE];
    char name[FLEET_NAME_SIZE], serial[64];
    int64_t version, not_after, created, revoked, pending, draining, drain_grace_ms;
    int64_t epoch, connected, disconnected, hub_epoch, knows;
    char hub[ID_SIZE];
    char address[64], hostname[FLEET_NAME_SIZE], software[FLEET_NAME_SIZE];
    char allow[4096];                                     /* JSON array */
    char addresses[FLEET_ADDRESSES_MAX * ADDR_TEXT_SIZE]; /* JSON array */
    char places[800], how[16], why[320];
    int64_t placed;
};

struct fleet_network_row {
    char id[ID_SIZE], tenant[ID_SIZE], name[FLEET_NAME_SIZE];
    int64_t version, created;
    bool is_automatic;
};

/* On the store's thread. ERR_NOT_FOUND. */
int fleet_row_read(struct tx *tx, const char *agent, struct fleet_row *ret);
int fleet_network_row_read(struct tx *tx, const char *network, struct fleet_network_row *ret);
/* The same of those of these agents that are there, in any order. */
int fleet_rows_read(struct tx *tx, const struct store_value *ids, size_t n,
                    void (*fn)(void *arg, const struct fleet_row *row), void *arg);

/* fleet_undone.c: the agent is connected here, and the database does not know it any more. */
void fleet_session_restore(struct fleet *f, const struct fleet_agent *a);
/* fleet_session.c: it is not here (any more), and the database does not know that. */
void fleet_session_end_again(struct fleet *f, struct fleet_row *row);

/* fleet_view.c: what the database says. */
struct fleet_agent *fleet_view_put_agent(struct fleet *f, const struct fleet_row *r);
struct fleet_network *fleet_view_put_network(struct fleet *f, const struct fleet_network_row *r);
void fleet_view_remove_agent(struct fleet *f, const char *id);
void fleet_view_relink(struct fleet_agent *a, struct fleet_network *to); /* changes its network */
void fleet_view_put_alias(struct fleet *f, const char *id, const char *tenant, const char *network,
                          const char *name, int64_t at, const char *why);
void fleet_view_remove_network(struct fleet *f, const char *id); /* unless it has agents */
int fleet_view_load(struct fleet *f, struct diag *d);
void fleet_view_free(struct fleet *f);

/* fleet_follow.c */
void fleet_follow(struct fleet *f);
void fleet_follow_free(struct fleet *f);

/* shortcut_hub.c. NULL: it has enough. `worker`: negative: any. */
struct fleet_pool *fleet_shortcut_pool(struct fleet_agent *a, int worker);
void fleet_shortcuts_cut(struct fleet *f, const char *agent); /* NULL: all */
size_t fleet_shortcut_links(const struct fleet *f);
void fleet_shortcut_up(struct fleet_pool *p); /* these two on its worker */
void fleet_shortcut_down(struct fleet_pool *p);

/* fleet_peer.c: what each agent has open. The first two are callbacks of the rpc server. */
void *fleet_peer_session_open(struct rpc_session *s, void *fleet);
void fleet_peer_session_close(struct rpc_session *s, void *user, int err, void *fleet);
const struct spiffe *fleet_peer_of(struct rpc_call *call); /* NULL: disconnected, or no identity */
void fleet_peer_close_sessions(struct fleet *f, const char *agent);
bool fleet_peer_link_add(struct fleet *f, const char *agent); /* false: one too many */
void fleet_peer_link_remove(struct fleet *f, const char *agent);
void fleet_peers_close(struct fleet *f);
void fleet_peers_free(struct fleet *f); /* after the rpc server */

/* fleet_session.c: as if the connection had gone; the agent logs in anew at once. */
void fleet_session_end(struct fleet *f, struct fleet_agent *a, const char *why);
/* ... because it has logged in at another hub. */
void fleet_session_superseded(struct fleet *f, struct fleet_agent *a);
/* Parts the live session from its agent, which is no longer here; returns its call. */
struct rpc_call *fleet_session_take(struct fleet_agent *a);

/* fleet_ca.c: of a session that has just begun. `roots`: as it says (proto). */
void fleet_ca_on_login(struct fleet *f, struct fleet_agent *a, uint64_t roots);
void fleet_ca_done(struct fleet *f);
/* fleet_move.c: sessions that agents have left, to be at another hub. */
void fleet_move_init(struct fleet *f);
bool fleet_session_may_leave(const struct fleet *f, const struct fleet_agent *a);
void fleet_session_leave(struct fleet *f, struct fleet_agent *a);
void fleet_left_cut(struct fleet *f, const char *agent); /* NULL: of all */

/* fleet_hubs.c */
void fleet_hubs_init(struct fleet *f);
void fleet_tell_hubs(struct fleet_agent *a); /* after Welcome */

/* pool.c, on the worker. */
void fleet_pool_join(struct fleet_link *l);
void fleet_pool_leave(struct fleet_link *l); /* no new streams; may be called again */
/* pool_load.c, on the worker. */
void fleet_pool_link_joined(struct fleet_link *l);
void fleet_pool_link_left(struct fleet_link *l);
void fleet_pool_watch(struct fleet_pool *p); /* while there is something to watch */
void fleet_pool_tick(struct timer *t);
/* pool.c, on the main loop. */
struct fleet_pool *fleet_pool_new(struct fleet_agent *a);
void fleet_pool_up(struct fleet_pool *p);
void fleet_pool_down(struct fleet_pool *p); /* if it is up */
void fleet_pool_cut(struct fleet_pool *p);  /* every connection */
void fleet_pool_free_if_over(struct fleet_pool *p);
