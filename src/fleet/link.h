/*
 * A reverse connection: dialled by an agent, used by the hub as an HTTP/2 client.
 *
 *   some worker: TLS done -> main: of an agent that is logged in? then a member of its pool
 *     -> the pool's worker: SETTINGS with the session's epoch? then of use to the pool
 *     -> the pool's worker: connection gone -> main: no member any more -> the worker: freed
 */
#pragma once

#include "fleet/pool.h"

struct conn;

/* The HTTP/2 setting by which an agent tells the session its reverse connection belongs to: the
 * session's epoch. Experimental range, see docs/ARCHITECTURE.md. */
#define FLEET_SETTING_EPOCH 0xf0e0
/* ... and the number, from 1, by which it knows the connection in this session: net/relay.h,
 * relay_move. */
#define FLEET_SETTING_NUMBER 0xf0e1

/* Each end of a session's reverse connections. A window of 24 MiB carries 1 Gbit/s over 100 ms; a
 * stream gets there only while its reader keeps up, and all of them together are bounded. */
#define FLEET_STREAM_WINDOW_MAX (24u << 20)
#define FLEET_BULK_WINDOW       (1u << 20)  /* between hubs; see bulk_window */
#define FLEET_CONNECTION_WINDOW (64u << 20) /* given back on receipt: not what bounds memory */
#define FLEET_BUDGET                                          \
    {                                                         \
        .window_limit = 64u << 20, .buffer_limit = 128u << 20 \
    }

/* Whoever dials a hub may ask for one of its workers by the name in the ClientHello, "w1.HUB-ID",
 * modulo how many there are. */
#define FLEET_WORKER_NAME_SIZE (ID_SIZE + 8)
void fleet_worker_name(char out[FLEET_WORKER_NAME_SIZE], uint32_t worker, const char *hub);
int fleet_worker_number(const char *name); /* -1: it says nothing */

struct fleet_link {
    /* Constant. */
    struct fleet_pool *pool;
    uint32_t far_worker; /* see fleet_pool_add */

    /* The worker's. */
    struct h2conn *hc;     /* NULL: not yet, or gone */
    bool is_usable;        /* in the pool's `links` */
    struct timer deadline; /* for the SETTINGS */
    uint32_t number;       /* by which the agent knows it; 0: it can do no more than be used */
    size_t n_bulk;         /* bulk streams on it */
    bool is_hot;           /* much moves on it, and no bulk stream does it */
    uint64_t measured_ms, measured_bytes;
    struct fleet_link *prev, *next;

    /* The main loop's. */
    bool is_cut;
    struct fleet_link *member_prev, *member_next;
};

/* Main: takes a connection whose handshake has finished, and which is on main's loop. */
void fleet_link_accept(struct fleet *f, struct conn *c);

/* Main: ends the connection; the worker hears of it before anything that is posted later. */
void fleet_link_cut(struct fleet_link *l);
