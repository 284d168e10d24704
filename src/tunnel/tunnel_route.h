/*
 * The route of a tunnel: which hub serves it through which agent, as the database says, and what
 * that means for one hub. Pure functions, no I/O.
 *
 *                      ours                                  another hub's, and it stands
 *   ROUTE_SERVE ◄────────────────── the row of tunnel ──────────────────────► ROUTE_FORWARD
 *                                          │ none, or void
 *                          ROUTE_CLAIM ◄───┴───► ROUTE_WAIT
 *                 an agent of the network is here, and    not so
 *                 this hub may claim
 *
 * A route is void when its hub has started anew, or does not live, or when the session of its agent
 * is not the newest one any more. Void or not, it is the database that decides between those who
 * claim at once (tunnel_store_take_lease); what is worked out here only says who should try.
 */
#pragma once

#include "base/id.h"

#include <stdbool.h>
#include <stdint.h>

struct tunnel_route {
    char hub[ID_SIZE]; /* empty: nobody serves it */
    uint64_t hub_epoch;
    char agent[ID_SIZE];
    uint64_t session; /* of the agent; 0: of several agents of that hub */
    uint64_t epoch;   /* of the lease; rises with each claim */
};

/* What a hub knows when it looks at a route. */
struct route_view {
    const char *hub; /* itself */
    bool may_claim, has_agent;
    bool is_hub_live;     /* the route's hub, with that epoch: its lease runs, or it answers */
    bool is_session_live; /* the route's agent is logged in under that session, as far as known */
};

enum route_duty { ROUTE_SERVE, ROUTE_FORWARD, ROUTE_CLAIM, ROUTE_WAIT };

enum route_duty route_duty(const struct tunnel_route *r, const struct route_view *v);

/* Whether `to` replaces `from`: epochs never go back; of one epoch, one that was released does. */
bool route_is_news(const struct tunnel_route *from, const struct tunnel_route *to);
