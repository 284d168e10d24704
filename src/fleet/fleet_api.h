/* The REST rows of agents, networks and hubs (api/openapi.yaml). */
#pragma once

#include "fleet/fleet.h"

struct http_server;
struct identity;

struct fleet_api;

struct fleet_api_config {
    struct fleet *fleet;
    struct identity *identity;
    const char *address;  /* of this hub's listener */
    const char *hub_name; /* of this machine */
    /* How many tunnels that hub serves, and whether this one is about to stop. */
    size_t (*count_tunnels)(void *arg, const char *hub);
    bool (*is_draining)(void *arg);
    /* What this hub's row says of its drain has changed (fleet_hub_self). */
    void (*on_self)(void *arg, const struct fleet_hub *self);
    void *arg;
};

struct fleet_api *fleet_api_new(const struct fleet_api_config *cfg, struct http_server *http);
/* hub_api.c: the hubs of the cluster */
struct hub_api;
struct hub_api *hub_api_new(const struct fleet_api_config *cfg, struct http_server *http);
void hub_api_free(struct hub_api *api);
/* network_api.c: merging networks, moving agents */
void fleet_network_routes(struct fleet *f, struct http_server *http);
/* fleet_declare.c: PUT of networks */
void fleet_serve_declared(struct fleet *f, struct http_server *http);
void fleet_api_free(struct fleet_api *api); /* after the server */
