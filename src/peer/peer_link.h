/*
 * Links to the other hubs: for each of them and each worker a pool (fleet/pool.h) of connections
 * that this hub dials, again whenever one is gone, as long as they are wanted: PEER_LINKS to each
 * worker of the other hub, so that a stream can come out where the agent's connections are. Two, so
 * that what is small is not behind what is bulk. Main loop.
 *
 * Which worker a connection is for is told by the name that the ClientHello asks for
 * (fleet_worker_name); who dials takes it that the other has as many as itself.
 */
#pragma once

#include "fleet/fleet.h"
#include "fleet/pool.h"

struct identity;
struct peer_links;

#define PEER_LINKS       2
#define PEER_WORKERS_MAX 8

struct peer_links_config {
    struct loop *loop;
    struct identity *identity;
    void (*on_pool_up)(void *arg, struct fleet_pool *p);
    void (*on_pool_down)(void *arg, struct fleet_pool *p);
    void *arg;
};

struct peer_links *peer_links_new(const struct peer_links_config *cfg);
/* Dials that hub at its present address, unless it is being dialled or linked already. */
void peer_links_want(struct peer_links *ls, struct fleet *f, const struct fleet_hub *h);
void peer_links_drop(struct peer_links *ls, const char *hub);
void peer_links_end(struct peer_links *ls); /* drops all, for good */
void peer_links_free(struct peer_links *ls);

bool peer_links_any(const struct peer_links *ls, const char *hub); /* whether a pool is up */
struct fleet_pool *peer_links_pool(const struct peer_links *ls, const char *hub,
                                   const char *tunnel);
size_t peer_links_count(const struct peer_links *ls);
