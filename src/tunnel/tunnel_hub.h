/*
 * The tunnels of one hub: objects, leases, listeners. Main loop only.
 *
 * Writers (the REST rows, the agents' calls, timers) change the database first; the objects in
 * memory follow when the transaction has committed.
 */
#pragma once

#include "fleet/fleet.h"
#include "pki/ticket.h"
#include "tunnel/expose.h"
#include "tunnel/tunnel_place.h"
#include "tunnel/tunnel_model.h"
#include "wire/proxy_status.h"

struct tunnels;

int tunnels_new(struct fleet *f, struct tunnels **ret, struct diag *d); /* loads; blocks */

/* Load balancers before the tunnels' listeners; outlives them. Before the first agent comes. */
struct proxy_trust;
void tunnels_set_trust(struct tunnels *ts, struct proxy_trust *trust);

/* Other hubs: from now on tunnels that they serve are forwarded to them. `peers` outlives the
 * tunnels; the next three are what it tells. */
struct peers;
void tunnels_join(struct tunnels *ts, struct peers *peers);
/* Whether busy streams may go past the other hub; before the first client. */
void tunnels_allow_shortcuts(struct tunnels *ts, bool may);
/* By what tickets are made (the first) and checked; before tunnels_join, and when they change. */
void tunnels_set_ticket_keys(struct tunnels *ts, const uint8_t (*keys)[TICKET_KEY_SIZE], size_t n);
void tunnels_hub_up(struct tunnels *ts, struct fleet_pool *pool);
void tunnels_hub_down(struct tunnels *ts, struct fleet_pool *pool);
void tunnels_may_claim(struct tunnels *ts);
/* Whether agents of this hub, or what they have left here, serve any tunnel. */
bool tunnels_are_held(const struct tunnels *ts);
size_t tunnels_served_by(struct tunnels *ts, const char *hub); /* of those that are active */

/* Stops every exposure; `done` when the last stream is closed. Then tunnels_free. */
void tunnels_stop(struct tunnels *ts, void (*done)(void *arg), void *arg);
void tunnels_free(struct tunnels *ts);

/* No new clients from now on; streams go on. */
void tunnels_drain(struct tunnels *ts);
uint64_t tunnels_streams_open(const struct tunnels *ts);

struct tunnels_stats {
    struct tunnel_traffic traffic;
    uint64_t phases[TUNNEL_PHASE_COUNT];
    uint64_t lease_changes;
    uint64_t moves[TUNNEL_WHY_COUNT];         /* leases that began, by enum tunnel_why */
    uint64_t dial_errors[PROXY_STATUS_COUNT]; /* by proxy_status_index */
    uint64_t turned;                          /* clients that other hubs turned away */
};
void tunnels_stats(const struct tunnels *ts, struct tunnels_stats *ret);

/* The REST rows. */
struct http_server;
void tunnels_serve(struct tunnels *ts, struct http_server *http);

/* The proxy into networks: CONNECT with a network's name and an API token. */
struct identity;
void tunnels_serve_proxy(struct tunnels *ts, struct http_server *http, struct identity *identity);

/* An API token was revoked: the proxy's streams that it opened, and those it waits for, end. */
void tunnels_cut_token(struct tunnels *ts, const char *token);

extern const struct store_schema tunnel_schema;
