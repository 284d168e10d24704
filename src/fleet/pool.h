/*
 * The reverse connections of one agent's session, all on one worker: its home, the one that had the
 * fewest pools when the first of them arrived. Whoever needs a stream to the agent asks the pool,
 * on that worker, for the connection to open it on.
 *
 * The worker knows which connections can be used; main hears when there is a first one
 * (on_pool_up) and when the last is gone (on_pool_down), any number of times in a session. A pool
 * lives until its session has ended and its last connection is gone: what main posts to the worker
 * from within on_pool_down, or before, still finds it in place.
 */
#pragma once

#include "base/id.h"
#include "loop/loop.h"
#include "wire/h2.h"

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

struct conn;
struct fleet;
struct fleet_left;
struct fleet_link;
struct fleet_pool;
struct h2conn;
struct pool_bulk;
struct relay;
struct relay_worker;

#define FLEET_LINKS_MAX     64u /* connections of one session */
#define FLEET_SHORTCUTS_MAX 8u  /* ... to one worker of a hub where the session is not */

#define FLEET_SHORTCUT_NAME_SIZE (ID_SIZE + 48)

/* Who uses a pool on its worker and must know at once that no connection is left. Embedded. */
struct pool_user {
    void (*on_gone)(struct pool_user *u);
    struct pool_user *prev, *next;
};

/* Of a pool that is no agent's: connections that this hub has dialled (peer/). Main loop. */
struct fleet_pool_ops {
    void (*on_up)(void *arg, struct fleet_pool *p);
    void (*on_down)(void *arg, struct fleet_pool *p);
    /* One connection less, to that worker; the last call. */
    void (*on_link_gone)(void *arg, struct fleet_pool *p, uint32_t far_worker);
};

struct fleet_pool {
    /* Constant. */
    struct fleet *fleet;
    struct loop *worker;
    const struct fleet_pool_ops *ops; /* NULL: an agent's */
    void *arg;
    char tenant[ID_SIZE], agent[ID_SIZE]; /* or the hub's id */
    uint64_t epoch;                       /* of the session */
    bool is_shortcut;                     /* of an agent that is at another hub: shortcut_hub.c */

    /* The worker's. */
    struct fleet_link *links; /* those that can be used */
    struct pool_user *users;
    struct pool_bulk *bulks;        /* the streams that fill a connection */
    uint32_t wanted, wanted_before; /* how many connections the agent shall keep; a tick ago */
    uint64_t busy_ms;               /* when all of them were of use, the last time */
    struct timer timer;
    struct h2_budget budget; /* of all connections */
    bool is_found;           /* a shortcut, by fleet_shortcut_pick */
    UT_hash_handle worker_hh;

    /* The main loop's. */
    struct fleet_link *members; /* all that the worker has or will have */
    size_t n_members;
    size_t home;
    bool is_up, is_over;
    struct fleet_left *left;             /* of a session that its agent has left (fleet_move.c) */
    void *left_user;                     /* the observer's that uses it nevertheless */
    char name[FLEET_SHORTCUT_NAME_SIZE]; /* of a shortcut */
    UT_hash_handle hh;
};

/* Main. A pool to another hub, on the worker `home`; it ends with fleet_pool_end, after which no
 * callback comes. */
struct fleet_pool *fleet_pool_new_to_hub(struct fleet *f, const char *hub, size_t home,
                                         const struct fleet_pool_ops *ops, void *arg);
/* Detached, its handshake done. It ends at that worker of the other hub, modulo how many it has. */
void fleet_pool_add(struct fleet_pool *p, struct conn *c, uint32_t far_worker);
void fleet_pool_end(struct fleet_pool *p); /* cuts all, and there will be no more */
size_t fleet_n_workers(const struct fleet *f);

/* What a stream will carry. */
enum pool_class { POOL_STREAM, POOL_DATAGRAMS };

/* Worker: the connection for a new stream; NULL: there is none now, or it is an agent's that may be
 * another hub's (fleet_is_sure). `to`: of those to another hub,
 * rather one that ends at this worker of it. */
struct h2conn *fleet_pool_pick(struct fleet_pool *p, enum pool_class class,
                               const struct relay_worker *to);
bool fleet_pool_is_usable(const struct fleet_pool *p);

/* Worker of `p`, which leads to another hub: a connection to that hub's agent itself, the one with
 * the fewest streams; NULL: there is none. `ret_is_last`: there will hardly be one with fewer. */
struct h2conn *fleet_shortcut_pick(struct fleet_pool *p, const char *agent, size_t *ret_streams,
                                   bool *ret_is_last);
void fleet_shortcut_taken(struct fleet_pool *p); /* for the statistics */

/* Worker: what a relay of this pool tells by on_bulk; it may be moved to another connection.
 * `owner` lives as long as the relay, NULL at first; call fleet_pool_bulk_end before it goes. */
void fleet_pool_bulk(struct fleet_pool *p, struct pool_bulk **owner, struct relay *r);
void fleet_pool_bulk_end(struct pool_bulk **owner);

/* Worker. A user is off the list when on_gone is called; unuse is harmless then. */
void fleet_pool_use(struct fleet_pool *p, struct pool_user *u);
void fleet_pool_unuse(struct fleet_pool *p, struct pool_user *u);
