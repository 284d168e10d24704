/*
 * The agent's side of tunnels: follows the tunnels of its network, takes the leases that the hub
 * offers, renews them, checks whether their targets are reached, and relays the streams that the
 * hub opens under them. One loop.
 */
#pragma once

#include "base/addr.h"
#include "fleet/session.h"
#include "tunnel/tunnel_ranges.h"

#include <jansson.h>

struct tunnel_agent;

struct tunnel_agent_config {
    struct loop *loop;
    const struct addr_rule *allow; /* the owner's ceiling; none: everything. Copied */
    size_t n_allow;
    bool no_read_ahead; /* of SNMP walks in mounts (net/flow_ahead.h) */
};

struct tunnel_agent *tunnel_agent_new(const struct tunnel_agent_config *cfg);
/* After the session, whose end has taken all tunnels away. Relays end in the turns that follow. */
void tunnel_agent_free(struct tunnel_agent *ta);

/* A new ceiling: open streams to addresses outside it are cut. */
void tunnel_agent_set_allow(struct tunnel_agent *ta, const struct addr_rule *allow, size_t n);

size_t tunnel_agent_streams(const struct tunnel_agent *ta); /* open now */
size_t tunnel_agent_leases(const struct tunnel_agent *ta);
/* [{tunnel, epoch, phase, streams}]: what it holds or is about to. */
json_t *tunnel_agent_json(const struct tunnel_agent *ta);
/* {asked, answered, kept}: of SNMP devices, for mounts (net/flow_ahead.h). */
json_t *tunnel_agent_read_ahead_json(const struct tunnel_agent *ta);
/* What is under way to targets, and what waits for its turn (struct dial_gate_stats). */
json_t *tunnel_agent_dials_json(const struct tunnel_agent *ta);

/* The agent stops: the hub is told, nothing more is taken, and what is held moves to others. When
 * no lease is left, no stream is either. */
void tunnel_agent_leave(struct tunnel_agent *ta, uint32_t grace_ms);

/* The session's callbacks; `session` is set first. */
void tunnel_agent_attach(struct tunnel_agent *ta, struct session *session);
void tunnel_agent_on_up(struct tunnel_agent *ta, const Warren__V1__Welcome *w);
void tunnel_agent_on_event(struct tunnel_agent *ta, const Warren__V1__HubEvent *e);
void tunnel_agent_on_down(struct tunnel_agent *ta);
/* The session is at another hub: leases of the one before serve until on_left_over. */
void tunnel_agent_on_moved(struct tunnel_agent *ta, const Warren__V1__Welcome *w);
void tunnel_agent_on_left_over(struct tunnel_agent *ta);
void tunnel_agent_on_request(struct tunnel_agent *ta, struct h2_stream *s,
                             const struct h2_headers *h);
/* A request on a connection to another hub: a stream of its clients goes on there. */
void tunnel_agent_on_shortcut(struct tunnel_agent *ta, struct h2_stream *s,
                              const struct h2_headers *h);
