/*
 * Why a tunnel is where it is, or waits: its phase, its reason, and its leases as JSON.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/time.h"
#include "http/rest.h"
#include "wire/proxy_status.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

/* Text of limited size, to be added to. */
struct text {
    char *at;
    size_t room;
};

static void add(struct text *t, const char *s)
{
    int n = snprintf(t->at, t->room, "%s", s);
    size_t used = (size_t)n < t->room ? (size_t)n : t->room - 1;
    t->at += used;
    t->room -= used;
}

static bool is_draining(struct tunnels *ts, const struct fleet_agent *a)
{
    const struct tunnel_peer *p = a->call ? tunnel_peer_of(ts, a->id) : NULL;
    return p ? tunnel_peer_is_draining(p) : a->draining != 0;
}

/* Whether every agent that is there, at whichever hub, is being drained; then their names. */
static bool add_draining(struct text *t, struct tunnels *ts, const struct fleet_network *n)
{
    const struct fleet_agent *a;
    bool is_first = true;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (fleet_agent_is_online(a) && !is_draining(ts, a))
            return false;
    }
    add(t, "its agents are being drained: ");
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (!fleet_agent_is_online(a))
            continue;
        add(t, is_first ? "" : ", ");
        add(t, a->name);
        is_first = false;
    }
    return true;
}

static void describe_lease(struct text *t, const struct tunnel_lease *l)
{
    const char *name = l->peer ? l->peer->agent->name : l->agent;
    switch (l->l.state) {
    case LEASE_OFFERED:
        add(t, "offered to ");
        add(t, name);
        add(t, ", which has not taken it yet");
        break;
    case LEASE_TAKEN:
        add(t, name);
        add(t, " takes over when the last agent's streams are closed");
        break;
    case LEASE_HELD:
        add(t, name);
        add(t, " holds it and has no reverse connection yet");
        break;
    default:
        add(t, "waiting for an agent of the network to take it");
    }
}

const char *tunnel_pending_reason(struct tunnel_object *o)
{
    struct fleet_network *n = fleet_network_find(o->owner->fleet, o->t.spec.network);
    struct text t = {o->pending, sizeof(o->pending)};
    const struct tunnel_lease *l, *best = NULL;
    DL_FOREACH (o->leases, l) {
        if ((l->l.state == LEASE_HELD || lease_is_coming(&l->l)) &&
            (!best || l->l.state > best->l.state))
            best = l;
    }
    if (!n || !fleet_network_is_online(n))
        add(&t, "no agent of its network is connected");
    else if (tunnel_is_forwarded(o))
        add(&t, "the hub that serves it is not linked to this one");
    else if (best)
        describe_lease(&t, best);
    else if (!add_draining(&t, o->owner, n))
        add(&t, "waiting for an agent of the network to take it");
    return o->pending;
}

/* Whether none of those who hold it reaches the target. */
static bool is_out_of_reach(const struct tunnel_object *o)
{
    const struct tunnel_lease *l;
    bool is_held = false;
    DL_FOREACH (o->leases, l) {
        if (l->l.state != LEASE_HELD)
            continue;
        if (!l->peer || !tunnel_miss_of(o, l->peer))
            return false;
        is_held = true;
    }
    return is_held;
}

/* What agents elsewhere reach, their hub tells. */
static void look_at_reach(struct tunnel_object *o)
{
    char agents[TUNNEL_UNREACHED_SIZE] = "";
    struct text t = {agents, sizeof(agents)};
    const struct tunnel_miss *m;
    if (!tunnel_holder(o))
        return;
    DL_FOREACH (is_out_of_reach(o) ? o->misses : NULL, m) {
        add(&t, m == o->misses ? "" : ", ");
        add(&t, m->peer->agent->name);
        add(&t, ": ");
        add(&t, proxy_status_token(m->err));
    }
    tunnel_target_unreached(o, agents);
}

void tunnel_refresh_phase(struct tunnel_object *o)
{
    char target[EXPOSURE_AUTHORITY_SIZE];
    tunnel_demand_changed(o->owner);
    tunnel_web_changed(o);
    if (tunnel_phase_is_over(o->t.phase) || o->t.phase == TUNNEL_FAILED || o->is_deleted)
        return;
    tunnel_target_format(&o->t.spec, target, sizeof(target));
    look_at_reach(o);
    if (!tunnel_is_served(o))
        tunnel_set_phase(o, TUNNEL_PENDING, "%s", tunnel_pending_reason(o));
    else if (o->target.unreached[0])
        tunnel_set_phase(o, TUNNEL_PENDING, "no agent reaches %.80s: %s", target,
                         o->target.unreached);
    else if (o->target.err)
        tunnel_set_phase(o, TUNNEL_ACTIVE, "%s: %.150s: %s", proxy_status_token(o->target.err),
                         target, error_text(o->target.err));
    else
        tunnel_set_phase(o, TUNNEL_ACTIVE, "%s",
                         tunnel_is_nowhere(o) ? "none of its endpoint's hubs is there" : "");
}

/* ---- as JSON (api/openapi.yaml: tunnel.status.leases) ---- */

int64_t tunnel_lease_expires(const struct tunnel_lease *l)
{
    uint64_t now = loop_now_ms(l->object->owner->loop);
    return l->peer && l->peer->expires_ms > now
               ? time_wall_ms() + (int64_t)(l->peer->expires_ms - now)
               : time_wall_ms();
}

static json_t *lease_json(const struct tunnel_lease *l)
{
    struct tunnel_traffic traffic = {0};
    bool expires = lease_is_live(&l->l) && l->l.state != LEASE_OFFERED;
    tunnel_lease_traffic(l, &traffic);
    return json_pack("{s:s, s:I, s:s, s:s, s:I, s:o, s:o}", "agent", l->agent, "epoch",
                     (json_int_t)l->l.epoch, "phase", lease_state_name(l->l.state), "reason",
                     l->reason, "streams", (json_int_t)traffic.streams_open, "since",
                     rest_time(l->since), "expires",
                     expires ? rest_time(tunnel_lease_expires(l)) : json_null());
}

json_t *tunnel_leases_json(const struct tunnel_object *o)
{
    json_t *list = json_array();
    const struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.epoch)
            json_array_append_new(list, lease_json(l));
    }
    return list;
}
