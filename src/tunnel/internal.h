/* Shared by the hub's files of this folder only. */
#pragma once

#include "identity/identity.h"
#include "net/flow_port.h"
#include "net/listener.h"
#include "tunnel/tunnel_hub.h"
#include "tunnel/tunnel_names.h"
#include "tunnel/tunnel_place.h"
#include "tunnel/tunnel_route.h"

/* How long clients wait in the listening socket's queue while no agent serves, such as during a
 * fail-over; after that they are reset at once. */
#define TUNNEL_HOLD_MS 5000

#define TUNNEL_LOST_SIZE 96

#define TUNNEL_RETRY_MS 1000 /* to listen or to serve, when descriptors have run out */

/* Objects in one network: what a login's snapshot and a renewal of all leases can carry. */
#define TUNNELS_PER_NETWORK 10000

/* What keeps the target from being reached, see tunnel_target.c. */
#define TUNNEL_UNREACHED_SIZE 160
struct tunnel_target {
    int err;                               /* that it answered last; 0: it was reached */
    char unreached[TUNNEL_UNREACHED_SIZE]; /* "a1: dns_error, a2: ...": no agent; else empty */
};

struct tunnel_object {
    struct tunnels *owner;
    struct tunnel t;
    struct meter meter, *tenant_meter;
    int64_t ends;              /* wall ms; 0: never */
    struct tunnel_route route; /* as the database has it, as far as known */
    bool is_followed;          /* another hub made or changed it, and chooses a port that is free */
    bool is_forwarding;        /* it was another hub's when that was looked at last */
    bool is_releasing;         /* the database is being told that this hub gives it up */
    struct tunnel_lease *leases;
    struct tunnel_peer *want; /* who shall hold it; NULL: nobody can, or each (spread) */
    bool is_placing;          /* in the owner's list `placing` */
    struct tunnel_miss *misses;
    char lost[TUNNEL_LOST_SIZE]; /* how the last holder lost it; empty: it did not */
    int listen_fd;               /* -1: not listening */
    struct listener *refuser;
    struct flow_port *sink;     /* a UDP tunnel's refuser */
    struct flow_set sunk;       /* what that has thrown away */
    uint64_t picked;            /* epoch of the lease that got the last stream */
    struct listener *sharer;    /* accepts for all exposures: spread by connection */
    struct exposure *exposures; /* running and stopping ones */
    bool rebind;                /* listen anew when the last exposure has stopped */
    bool is_dirty;              /* in the owner's list `dirty` */
    bool is_deleted;            /* freed when the last exposure has stopped */
    char *claimed;              /* the public name that is its; NULL: none */
    char *web_key;              /* of streams by name, as gateways were told last; or NULL */
    struct tunnel_target target;
    enum { TARGET_TOLD, TARGET_CHANGED, TARGET_TELLING } target_state; /* CHANGED: in `targets` */
    char pending[TUNNEL_REASON_SIZE]; /* see tunnel_pending_reason */
    struct tunnel_traffic past;       /* of exposures that are gone, and of earlier hubs */
    struct tunnel_traffic saved;      /* what the database has */
    size_t n_unpruned;                /* rows of the access log since the oldest were dropped */
    struct timer end_timer, hold_timer, idle_timer;
    struct timer listen_timer;         /* tries again to listen */
    uint64_t used_ms;                  /* loop time of the last use of one made on demand */
    bool is_ending;                    /* ... which is being deleted */
    struct exposure_turned *turned;    /* its clients of `turned_clients` */
    struct tunnel_await *awaiting;     /* and of `awaiting` */
    struct tunnel_object *prev, *next; /* in its network */
    struct tunnel_object *internal_prev, *internal_next; /* the same, if the proxy may use it */
    struct tunnel_object *dirty_prev, *dirty_next;
    struct tunnel_object *target_prev, *target_next;
    struct tunnel_object *place_prev, *place_next;
    char key[ID_SIZE + TUNNEL_NAME_SIZE]; /* "TENANT NAME" */
    UT_hash_handle hh, hh_key;
};

struct tunnel_network {
    struct tunnels *owner;
    char id[ID_SIZE];
    struct tunnel_object *objects;
    struct tunnel_object *internal; /* those of them that the proxy may use */
    size_t count;
    struct timer plan_timer;
    uint64_t planned_ms; /* loop time of the last plan */
    UT_hash_handle hh;
};

struct tunnels {
    struct fleet *fleet;
    struct store *store;
    struct loop *loop;
    struct tunnel_object *objects;   /* by id; deleted ones are not in it */
    struct tunnel_object *by_name;   /* the same, by `key` */
    struct tunnel_network *networks; /* by id */
    struct tunnel_peer *peers;       /* by agent */
    struct tunnel_lease *grants;     /* to be written */
    struct defer write_grants;
    struct tunnel_object *placing; /* tunnels for which somebody is sought; see tunnel_place */
    struct defer place;
    struct timer serve_timer; /* tries again to serve what could not be served */
    struct fleet_observer observer;
    struct timer save_timer;
    struct tunnel_object *dirty; /* whose status is to be stored */
    struct timer status_timer;
    uint64_t status_saved_ms;      /* loop time */
    bool is_saving;                /* statuses are being written */
    struct tunnel_object *targets; /* of which something is to be told */
    struct timer target_timer;
    uint64_t targets_told_ms; /* loop time */
    bool is_telling;
    struct exposure_ops exposure_ops;
    struct proxy_trust *trust;
    struct tenant_limits *tenant_limits; /* by tenant */
    struct store_subscriber tenant_feed;
    struct peers *cluster; /* the other hubs; NULL: not yet */
    struct exposure_forward forward;
    struct tunnel_await *awaiting; /* the oldest first */
    size_t n_awaiting;
    struct timer await_timer;
    uint64_t turned; /* clients that other hubs turned away, or that were lost on the way there */
    struct exposure_turned *turned_clients; /* who wait for another try; who ends first is first */
    size_t n_turned_clients;
    struct timer turned_timer;
    uint64_t troubles_since_ms; /* the second in which the last ones were */
    uint32_t n_troubles;        /* in it */
    struct store_subscriber feed;
    struct tunnel_reread *reread; /* to be read; NULL: none */
    struct defer read_rows;
    struct tunnel_releases *releases; /* to be written; NULL: none */
    struct defer write_releases;
    size_t n_exposures;
    bool is_draining;
    uint64_t lease_changes, moves[TUNNEL_WHY_COUNT];
    uint64_t dial_errors[PROXY_STATUS_COUNT]; /* by proxy_status_index */
    struct tunnel_demands *demands;
    struct tunnel_lane *lanes;
    struct tunnel_scan *scans;  /* under way */
    struct tunnel_proxy *proxy; /* NULL: not served */
    struct tunnel_names *names;
    struct tunnel_web *web; /* NULL: not served */
    void (*on_stopped)(void *arg);
    void *on_stopped_arg;
};

/* tunnel_hub.c */
struct tunnel_object *tunnel_find(struct tunnels *ts, const char *id);
struct tunnel_object *tunnel_lookup(struct tunnels *ts, const char *tenant, const char *ref);
struct tunnel_network *tunnel_network_of(struct tunnels *ts, const char *network);
void tunnel_network_free(struct tunnel_network *n);
/* Puts a stored object in place; it listens and waits for an agent. `t` is copied. */
struct tunnel_object *tunnel_add(struct tunnels *ts, const struct tunnel *t, int64_t ends,
                                 const struct tunnel_traffic *past);
void tunnel_settle_exposures(struct tunnel_object *o); /* the route is another one */
void tunnel_begin(struct tunnel_object *o);
/* After the database has the new name, spec, version and end. */
void tunnel_change(struct tunnel_object *o, const struct tunnel *to, int64_t ends);
void tunnel_remove(struct tunnel_object *o);
void tunnel_traffic(const struct tunnel_object *o, struct tunnel_traffic *ret);
json_t *tunnel_object_json(struct tunnel_object *o);
void tunnel_set_phase(struct tunnel_object *o, enum tunnel_phase phase, const char *format, ...)
    PRINTF_LIKE(3, 4);

void tunnel_free_object(struct tunnel_object *o);
bool tunnel_free_if_over(struct tunnel_object *o); /* deleted, and nothing is left of it */

/* tunnel_serve.c */
void tunnel_serve_init(struct tunnels *ts);
void tunnel_serve(struct tunnel_object *o); /* over the pool of each holder */
bool tunnel_is_served(const struct tunnel_object *o);
void tunnel_stop_exposures(struct tunnel_object *o, int err);
/* The last exposure has gone: now happens what waited for its last byte. */
void tunnel_all_stopped(struct tunnel_object *o);
void tunnels_all_ended(struct tunnels *ts); /* ... and that of all tunnels: `on_stopped` */

/* tunnel_why.c */
void tunnel_refresh_phase(struct tunnel_object *o); /* works out pending or active, and why */
/* Why it waits: valid until the next call. */
const char *tunnel_pending_reason(struct tunnel_object *o);
json_t *tunnel_leases_json(const struct tunnel_object *o);
int64_t tunnel_lease_expires(const struct tunnel_lease *l); /* wall ms */

/* tunnel_follow.c: what other hubs do. */
void tunnel_follow_init(struct tunnels *ts);
void tunnel_follow_free(struct tunnels *ts);
void tunnel_settle_route(struct tunnel_object *o); /* it is another one, or another one counts */
/* The database has this route now. Leases of this hub that it does away with are lost. */
void tunnel_take_route(struct tunnel_object *o, const struct tunnel_route *r);
bool tunnel_is_forwarded(const struct tunnel_object *o); /* another hub serves it */
bool tunnel_may_hold(const struct tunnel_object *o);     /* agents of this hub may serve it */
/* Whether it is this hub that keeps its stored status, and deletes it when it is unused. */
bool tunnel_is_ours_to_tell(const struct tunnel_object *o);
/* Lets other hubs claim what no agent of this one can hold. */
void tunnel_release_if_idle(struct tunnel_object *o);
void tunnel_write_releases(struct defer *d);
/* The database has lost the claim of this hub's lease, which agents and other hubs know. */
void tunnel_restore_if_held(struct tunnel_object *o);
/* ... or that it was given up, if that is known: then it is done again. */
void tunnel_unrelease(struct tunnel_object *o, const struct tunnel_route *r);

/* tunnel_rows.c: rows of the database that are not as they were thought to be. */
void tunnel_reread(struct tunnels *ts, const char *id);                /* together with others */
void tunnel_reread_for(struct tunnels *ts, struct exposure_turned *t); /* then decides about it */
void tunnel_rows_init(struct tunnels *ts);                             /* follows the feed */
void tunnel_rows_free(struct tunnels *ts);

/* tunnel_turned.c: clients that came to a hub which is not the right one (any more). They are tried
 * once more where the row says, as soon as somebody serves there, within TUNNEL_HOLD_MS. */
void tunnel_turned_init(struct tunnels *ts);
void tunnel_turned(struct tunnels *ts, struct exposure_turned *t);
void tunnel_turned_decide(struct tunnels *ts, struct exposure_turned *t); /* the row is read */
void tunnel_turned_look(struct tunnel_object *o); /* it may be served, or is gone */
void tunnel_turned_end(struct tunnels *ts);       /* all are given up */
/* Whether one of the hub's own troubles with clients is written down: of a flood not all are. */
bool tunnel_shows_trouble(struct tunnels *ts);

/* tunnel_hubs.c */
bool tunnel_listens_here(const struct tunnel_object *o); /* it is reached from outside here */
bool tunnel_is_served_at(const struct tunnel_object *o, const char *hub); /* ... or there, now */
bool tunnel_is_nowhere(const struct tunnel_object *o); /* none of the selected hubs lives */
/* Whether it is for another hub to choose the port that is free, and to store it. */
bool tunnel_follows_port(const struct tunnel_object *o);
/* Whether this hub keeps the status of a tunnel that `serving` serves. */
bool tunnel_tells_for_serving(const struct tunnel_object *o, const char *serving);

/* tunnel_network.c */
void tunnel_network_init(struct tunnels *ts);

/* tunnel_listen.c */
void tunnel_listen_init(struct tunnel_object *o);
void tunnel_start_listening(struct tunnel_object *o); /* if it shall and does not; may fail it */
/* The port is known now. What other hubs' clients and the proxy's have open goes on. */
void tunnel_listen_late(struct tunnel_object *o);
void tunnel_stop_listening(struct tunnel_object *o);    /* the address is free at once */
void tunnel_hold_clients(struct tunnel_object *o);      /* they wait from now on, for a while */
bool tunnel_awaits_port(const struct tunnel_object *o); /* that another hub chooses */
void tunnel_stop_refusing(struct tunnel_object *o);
/* Spread by connection: the main loop accepts while somebody serves, and chooses for each. */
void tunnel_share_clients(struct tunnel_object *o);

/* tunnel_grant.c: what agents are told, and what they ask. */
void tunnel_grants_init(struct tunnels *ts);
void tunnel_tell_all(struct tunnels *ts, struct fleet_agent *a);      /* who has just logged in */
void tunnel_tell_one(struct tunnel_object *o, struct fleet_agent *a); /* if it can be served */
void tunnel_tell(struct tunnel_object *o);         /* new or changed: to the network's agents */
void tunnel_tell_removed(struct tunnel_object *o); /* deleted or over */
void tunnel_tell_offer(struct tunnel_lease *l);
void tunnel_tell_lost(struct tunnel_lease *l);

/* A stream to the target, see exposure_dial: `fd` (taken on success) goes where the least streams
 * are open. ERR_UNAVAILABLE: nobody serves the tunnel now; tunnel_pending_reason says why. */
int tunnel_dial(struct tunnel_object *o, const struct exposure_goal *goal, int fd,
                const struct addr *client, const struct exposure_dial_ops *ops, void *arg,
                struct exposure_dial **ret);
struct exposure *tunnel_pick_exposure(struct tunnel_object *o); /* NULL: it does not serve */

/* The same for a stream on a lane, whose relay is to begin with `near`: a pair where both are on
 * the lane's loop, else a socket. ERR_LIMIT: out of descriptors. */
struct tunnel_lane_dial {
    const struct exposure_goal *goal;
    const struct addr *client;
    const struct loop *loop; /* the lane's */
    const struct exposure_dial_ops *ops;
    void *arg;
    struct tunnel_near {
        int fd;
        struct relay_pair *pair; /* NULL: fd */
    } near;
    struct exposure_dial *dial;
    const struct loop *far_loop; /* where the agent's connections are */
};
int tunnel_dial_by_lane(struct tunnel_object *o, struct tunnel_lane_dial *d);
/* ... of another hub's client: on an agent of this hub, if the lease of that epoch is held here.
 * ERR_STALE: not here. */
int tunnel_dial_for_hub(struct tunnel_object *o, uint64_t epoch, struct tunnel_lane_dial *d);

/* Another hub's client that has come before the lease which it is to go by can be used: its agent
 * is about to take it, or has no reverse connection yet. Embedded in its owner; main loop. */
struct tunnel_await {
    /* Once, later: 0: it may try again; ERR_STALE: in vain. */
    void (*fn)(struct tunnel_await *w, int err);
    struct tunnel_object *object; /* NULL: it does not wait */
    uint64_t epoch, ends_ms;      /* of the lease; loop time */
    struct tunnel_await *prev, *next;
    struct tunnel_await *same_prev, *same_next; /* of the same tunnel */
};
/* ERR_STALE: there is nothing to wait for. */
int tunnel_await_start(struct tunnel_object *o, uint64_t epoch, struct tunnel_await *w);
void tunnel_await_cancel(struct tunnel_await *w); /* harmless when it does not wait */
void tunnel_await_look(struct tunnel_object *o);  /* it may be served now, or is gone */
void tunnel_await_timer(struct timer *t);

/* tunnel_demand.c: somebody wants to use a target, for which a tunnel with internal access is found
 * or made. Embedded in its owner; all strings are copies. */
struct tunnel_demand {
    const struct tunnel_demand_ops *ops;
    struct identity_caller by;
    char network[ID_SIZE];
    struct host_port target;
    enum tunnel_protocol protocol;
    bool wants_all; /* only a tunnel to the whole network will do, or to just these of it */
    struct tunnel_ranges allow;
    bool wants_own; /* only one to this target: streams of it are kept for others' requests */
    /* tunnel_demand.c's. */
    struct tunnel_demands *demands; /* NULL: not waiting */
    bool is_new;                    /* not looked at so far */
    struct timer deadline;
    struct tunnel_demand *prev, *next;
};
/* One of them, always later; the demand is over. */
struct tunnel_demand_ops {
    void (*on_ready)(struct tunnel_demand *d, struct tunnel_object *o); /* it serves right now */
    void (*on_fail)(struct tunnel_demand *d, int err, const char *text);
};
void tunnel_demand_start(struct tunnels *ts, struct tunnel_demand *d);
void tunnel_demand_goal(const struct tunnel_demand *d, struct exposure_goal *ret);
void tunnel_demand_revoke(struct tunnels *ts, const char *token); /* those that wait fail */
void tunnel_demand_cancel(struct tunnel_demand *d);               /* harmless when it is over */
void tunnel_demand_changed(struct tunnels *ts);         /* something that one may wait for */
void tunnel_demand_watch_idle(struct tunnel_object *o); /* if it was made on demand */
void tunnel_demand_used(struct tunnel_object *o);
void tunnel_demands_init(struct tunnels *ts);
void tunnel_demands_free(struct tunnels *ts);

/* tunnel_proxy.c */
void tunnel_proxy_free(struct tunnels *ts);

/* tunnel_limits.c */
int tunnel_limits_init(struct tunnels *ts); /* blocks */
void tunnel_limits_free(struct tunnels *ts);
void tunnel_limits_begin(struct tunnel_object *o);
void tunnel_limits_count(const struct tunnel_object *o, struct tunnel_traffic *sum);
/* In a transaction: ERR_LIMIT when the tenant has all its tunnels; and that for people. */
int tunnel_check_quota(struct tx *tx, const char *tenant);
int tunnel_quota_diag(struct diag *d);
/* ERR_DENIED when the public name is not of the tenant's domains. */
int tunnel_check_domain(struct tunnels *ts, const char *tenant, const char *host, const char *field,
                        struct diag *d);
/* ERR_LIMIT when the network (id or name; a new one has room) has TUNNELS_PER_NETWORK. */
int tunnel_check_room(struct tunnels *ts, const char *tenant, const char *network, struct diag *d);

/* tunnel_declare.c: PUT */
struct http_server;
void tunnels_serve_declared(struct tunnels *ts, struct http_server *http);

/* tunnel_scan.c */
void tunnels_serve_scans(struct tunnels *ts, struct http_server *http);

/* tunnel_web.c: clients that come by a public name */
void tunnel_web_changed(struct tunnel_object *o); /* who serves it, or what it is */
void tunnel_web_free(struct tunnels *ts);
/* Whether the public name of a spec, if it has one, may be this tunnel's ("": a new one). */
int tunnel_check_host(struct tunnels *ts, const char *tenant, const struct tunnel_spec *spec,
                      const char *tunnel, struct diag *d);

/* tunnel_store.c: on the store's thread unless they say otherwise. */
struct tunnel_stored {
    struct tunnel t;
    struct tunnel_route route;
    int64_t ends;
    struct tunnel_traffic past;
    struct tunnel_target target;
    uint64_t target_epoch; /* of the lease under which that was told */
};
/* Both make hashes of new passwords first. `moves`: tunnel_spec_moves, from that of
 * `if_version`; other hubs must not take the port of before for the one that is chosen next. */
int tunnel_store_insert(struct tx *tx, struct tunnel *t, int64_t ends);
int tunnel_store_update(struct tx *tx, struct tunnel *t, int64_t ends, uint64_t if_version,
                        bool moves);
int tunnel_store_delete(struct tx *tx, const struct tunnel *t, uint64_t if_version);
/* Calls `fn` for those that are there; err < 0: its row cannot be read, and only its id counts. At
 * most STORE_ROWS_MAX. */
int tunnel_store_read(struct tx *tx, const struct store_value *ids, size_t n,
                      void (*fn)(void *arg, const struct tunnel_stored *s, int err), void *arg);
int tunnel_store_each(struct tx *tx, void (*fn)(void *arg, const struct tunnel_stored *s),
                      void *arg);
/* Main loop: queue a write that nobody waits for. */
void tunnel_save_traffic(struct tunnels *ts);
void tunnel_save_records(struct tunnels *ts, const struct exposure_record *records, size_t n);

/* tunnel_target.c: what is known of the target at all hubs. */
void tunnel_targets_init(struct tunnels *ts);
/* Whether it is for this hub to tell what was seen under that lease. */
bool tunnel_target_is_seen(const struct tunnel_object *o, uint64_t lease_epoch);
void tunnel_target_answered(struct tunnel_object *o, int err);             /* 0: it was reached */
void tunnel_target_unreached(struct tunnel_object *o, const char *agents); /* "": it is reached */
/* If there is something to tell, and others may not know. */
void tunnel_target_tell_again(struct tunnel_object *o);
void tunnel_target_forget(struct tunnel_object *o); /* another target, or another lease */
/* What others have told, which is in the row; whether that is news. */
bool tunnel_target_take(struct tunnel_object *o, const struct tunnel_stored *row);
#define TUNNEL_TARGET_COLUMNS "target_epoch, target_error, target_unreached"
void tunnel_target_read(const struct rows *rows, int column, struct tunnel_stored *ret);

/* tunnel_store_route.c: on the store's thread. */
struct tunnel_claim {
    char tunnel[ID_SIZE], tenant[ID_SIZE];
    uint64_t seen; /* the epoch that its route is known to have */
    struct tunnel_route route;
};
/* Takes the routes, all of one hub. The epoch of each is filled in; 0: the tunnel is gone, or
 * another hub's route stands, or has not been seen, or this hub's lease is over. */
int tunnel_store_claim(struct tx *tx, struct tunnel_claim *claims, size_t n);
/* Gives those up that are still the same. */
int tunnel_store_release(struct tx *tx, struct tunnel_claim *claims, size_t n);
/* Writes it again after the database has lost it, unless there is a newer one. */
int tunnel_store_restore(struct tx *tx, const struct tunnel_claim *c);

/* tunnel_status.c: statuses are gathered, and stored at most every TUNNEL_STATUS_MS, some at a
 * time: what flaps costs one transaction for all. */
#define TUNNEL_STATUS_MS 50
void tunnel_save_status(struct tunnel_object *o);
void tunnel_forget_status(struct tunnel_object *o); /* it goes away */
void tunnel_status_timer(struct timer *t);
