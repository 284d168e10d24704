/*
 * A reverse connection: dialled by an agent, used by the hub as an HTTP/2 client.
 *
 * It lives on the worker loop that accepted it and is known to the main loop by its pointer. The
 * two sides talk by posting:
 *
 *   worker: TLS done                                    -> main: listed
 *   worker: SETTINGS with the session's epoch -> main: of the live session? then on_link_up
 *   worker: connection gone                   -> main: on_link_down -> worker: freed
 *
 * Whatever main posted to the worker before it let go of the link therefore still finds it in
 * place.
 */
#pragma once

#include "base/id.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct conn;
struct fleet;
struct h2conn;

/* The HTTP/2 setting by which an agent tells the session its reverse connection belongs to: the
 * session's epoch. Experimental range, see docs/ARCHITECTURE.md. */
#define FLEET_SETTING_EPOCH 0xf0e0

/* Who uses a link on its worker and must know at once that it is gone. Embedded. */
struct link_user {
    void (*on_gone)(struct link_user *u);
    struct link_user *prev, *next;
};

struct fleet_link {
    /* Constant. */
    struct fleet *fleet;
    struct loop *worker;
    char tenant[ID_SIZE], agent[ID_SIZE];

    /* The worker's. */
    struct h2conn *hc; /* NULL once gone */
    struct link_user *users;
    uint64_t epoch;
    struct timer deadline; /* for the SETTINGS */

    /* The main loop's. */
    bool is_up;
    struct fleet_link *prev, *next;         /* of its agent */
    struct fleet_link *all_prev, *all_next; /* of the fleet */
};

/* Worker: takes a connection whose handshake has finished on this loop. */
void fleet_link_accept(struct fleet *f, struct conn *c);

/* Worker. A user is off the list when on_gone is called; unuse is harmless then. */
void fleet_link_use(struct fleet_link *l, struct link_user *u);
void fleet_link_unuse(struct fleet_link *l, struct link_user *u);

/* Main: ends the connection; on_link_down follows. */
void fleet_link_cut(struct fleet_link *l);
