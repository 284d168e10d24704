/*
 * Clients of the proxy over HTTP/2 (RFC 9113 section 8.5): each CONNECT stream is joined with a
 * relayed socket. A lane is one loop on which such streams live: decisions are the main loop's,
 * bytes move on the lane's.
 *
 * Stock clients come with ALPN "h2", on connections that the HTTP server has (the main loop's
 * lane); Warren's own with TUNNEL_LANE_ALPN, on connections that live on a worker and carry nothing
 * else. There "OPTIONS *" tells (204) whether the credentials are good.
 */
#pragma once

#include "tunnel/tunnel_hub.h"

struct conn;
struct exposure_index;
struct h2_headers;
struct h2_stream;
struct tunnel_lane;

#define TUNNEL_LANE_ALPN "warren-client/1"

/* A request header: "network" asks for a tunnel to the whole network, "10.0.0.0/24,10.1.0.0/16" for
 * one to these addresses of it. It is made on demand and serves every target, where otherwise each
 * target gets a tunnel of its own. */
#define TUNNEL_LANE_SCOPE "warren-scope"

/* Main loop. `l`: where it works. */
struct tunnel_lane *tunnel_lane_new(struct tunnels *ts, struct loop *l);

/* Main loop. Takes a detached connection whose handshake has finished. */
void tunnel_lane_take(struct tunnel_lane *lane, struct conn *c);
/* Main loop. The same for a connection of another hub, whose id its certificate bears. Its streams
 * show a ticket (pki/ticket.h), and go to agents of this hub only; 421: the tunnel is not here. */
void tunnel_lane_take_hubs(struct tunnel_lane *lane, struct conn *c, const char *hub);
/* Main loop. Takes a detached connection over HTTP/1.1 with requests in absolute-form. */
void tunnel_lane_forward(struct tunnel_lane *lane, struct conn *c);
/* Main loop. The least used one of the workers'; the main loop's if there are none. */
struct tunnel_lane *tunnel_lane_pick(struct tunnels *ts);
/* Main loop. That of this worker, modulo how many there are. */
struct tunnel_lane *tunnel_lane_of_worker(struct tunnels *ts, uint32_t number);
/* Main loop. What serves on this worker; NULL: it has no lane. */
struct exposure_index *tunnel_lane_index(struct tunnels *ts, const struct loop *l);
/* The lane's loop. Takes a request to CONNECT, of any HTTP/2 connection of this loop. */
void tunnel_lane_request(struct tunnel_lane *lane, struct h2_stream *s, const struct h2_headers *h);

/* Main loop. No new streams from now on; the open ones go on. */
void tunnel_lane_drain(struct tunnel_lane *lane);
/* Main loop. Ends the connections that the lane took; `done` on the main loop when none is left. */
void tunnel_lane_stop(struct tunnel_lane *lane, void (*done)(void *arg), void *arg);
/* When its loop has no streams any more, and what they posted has run. */
void tunnel_lane_free(struct tunnel_lane *lane);
