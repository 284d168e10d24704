/*
 * What agents are told, and what they ask. An agent sees every tunnel of its network, is offered
 * leases, takes them, and renews what it holds; who gets which is decided in tunnel_place.c.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"
#include "wire/proxy_status.h"

#include <string.h>
#include <utlist.h>

/* ---- telling agents ---- */

struct tunnel_text {
    char target[EXPOSURE_AUTHORITY_SIZE];
    Warren__V1__Check check;
};

static void fill_message(struct tunnel_object *o, Warren__V1__Tunnel *m, struct tunnel_text *text)
{
    struct tunnel_check *c = &o->t.spec.check;
    tunnel_target_format(&o->t.spec, text->target, sizeof(text->target));
    warren__v1__tunnel__init(m);
    m->id = o->t.id;
    m->name = o->t.name;
    m->version = o->t.version;
    m->target = text->target;
    m->protocol = (char *)tunnel_protocol_name(o->t.spec.protocol);
    if (c->type == TUNNEL_CHECK_NONE)
        return;
    warren__v1__check__init(&text->check);
    text->check.type = (char *)tunnel_check_name(c->type);
    text->check.path = c->path;
    text->check.interval_ms = (uint32_t)c->interval_ms;
    text->check.rise = c->rise;
    text->check.fall = c->fall;
    m->check = &text->check;
}

static void send_tunnel(struct fleet_agent *a, struct tunnel_object *o)
{
    Warren__V1__Tunnel m;
    struct tunnel_text text;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    fill_message(o, &m, &text);
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_TUNNEL;
    event.tunnel = &m;
    fleet_send(a, &event);
}

static bool can_be_served(const struct tunnel_object *o)
{
    return !tunnel_phase_is_over(o->t.phase) && !o->is_deleted;
}

void tunnel_tell_one(struct tunnel_object *o, struct fleet_agent *a)
{
    if (can_be_served(o))
        send_tunnel(a, o);
}

void tunnel_tell(struct tunnel_object *o)
{
    struct fleet_network *n = fleet_network_find(o->owner->fleet, o->t.spec.network);
    struct fleet_agent *a;
    if (!n || !can_be_served(o))
        return;
    DL_FOREACH2 (n->agents, a, next_in_network)
        send_tunnel(a, o);
}

void tunnel_tell_removed(struct tunnel_object *o)
{
    struct fleet_network *n = fleet_network_find(o->owner->fleet, o->t.spec.network);
    struct fleet_agent *a;
    Warren__V1__TunnelRemoved m = WARREN__V1__TUNNEL_REMOVED__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    m.id = o->t.id;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_TUNNEL_REMOVED;
    event.tunnel_removed = &m;
    if (n) {
        DL_FOREACH2 (n->agents, a, next_in_network)
            fleet_send(a, &event);
    }
}

static void send_lost(struct fleet_agent *a, char *tunnel, uint64_t epoch)
{
    Warren__V1__Lease m = WARREN__V1__LEASE__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    m.tunnel = tunnel;
    m.epoch = epoch;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_LEASE_LOST;
    event.lease_lost = &m;
    fleet_send(a, &event);
}

void tunnel_tell_lost(struct tunnel_lease *l)
{
    send_lost(l->peer->agent, l->object->t.id, l->l.epoch);
}

void tunnel_tell_offer(struct tunnel_lease *l)
{
    Warren__V1__LeaseOffer m = WARREN__V1__LEASE_OFFER__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    m.tunnel = l->object->t.id;
    m.epoch = l->l.epoch;
    m.check_first = l->check_first;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_LEASE_OFFERED;
    event.lease_offered = &m;
    fleet_send(l->peer->agent, &event);
}

void tunnel_tell_all(struct tunnels *ts, struct fleet_agent *a)
{
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    if (n) {
        DL_FOREACH (n->objects, o) {
            if (can_be_served(o))
                send_tunnel(a, o);
        }
    }
    Warren__V1__SnapshotEnd end = WARREN__V1__SNAPSHOT_END__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_SNAPSHOT_END;
    event.snapshot_end = &end;
    fleet_send(a, &event);
}

/* ---- calls ---- */

/* The caller; NULL: the call has been failed. */
static struct tunnel_peer *caller(struct tunnels *ts, struct rpc_call *call, uint64_t session_epoch)
{
    struct fleet_agent *a = fleet_caller(ts->fleet, call, session_epoch);
    struct tunnel_peer *p = a ? tunnel_peer_of(ts, a->id) : NULL;
    if (a && !p)
        rpc_finish(call, RPC_UNAVAILABLE, "the hub stops");
    return p;
}

/* The object, if it is of the agent's network and can be served. */
static struct tunnel_object *object_for(const struct tunnel_peer *p, const char *id)
{
    struct tunnel_object *o = tunnel_find(p->owner, id);
    return o && strcmp(o->t.spec.network, p->agent->network->id) == 0 && can_be_served(o) ? o
                                                                                          : NULL;
}

static void handle_take(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__TakeLeasesRequest *req = (const Warren__V1__TakeLeasesRequest *)msg;
    struct tunnel_peer *p = caller(ctx, call, req->session_epoch);
    Warren__V1__TakeLeasesResponse answer = WARREN__V1__TAKE_LEASES_RESPONSE__INIT;
    if (!p)
        return;
    for (size_t i = 0; i < req->n_leases; i++) {
        const Warren__V1__Lease *m = req->leases[i];
        struct tunnel_object *o = object_for(p, m->tunnel);
        struct tunnel_lease *l = o ? tunnel_lease_find(o, m->epoch) : NULL;
        if (l && l->peer == p)
            tunnel_lease_taken(l);
        else
            send_lost(p->agent, m->tunnel, m->epoch);
    }
    rpc_reply(call, &answer.base);
}

static size_t fill_renewed(struct tunnel_peer *p, Warren__V1__Lease *leases,
                           Warren__V1__Lease **list)
{
    size_t n = 0;
    for (const struct tunnel_lease *l = p->leases; l; l = l->peer_next) {
        if (!lease_is_live(&l->l))
            continue;
        warren__v1__lease__init(&leases[n]);
        leases[n].tunnel = l->object->t.id;
        leases[n].epoch = l->l.epoch;
        leases[n].ttl_ms = LEASE_LIFE_MS;
        list[n] = &leases[n];
        n++;
    }
    return n;
}

/* Who holds leases but cannot be reached for a lease's life gives way to others. */
static void handle_renew(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__RenewLeasesRequest *req = (const Warren__V1__RenewLeasesRequest *)msg;
    struct tunnel_peer *p = caller(ctx, call, req->session_epoch);
    Warren__V1__RenewLeasesResponse answer = WARREN__V1__RENEW_LEASES_RESPONSE__INIT;
    size_t count = 0;
    if (!p)
        return;
    for (const struct tunnel_lease *l = p->leases; l; l = l->peer_next)
        count++;
    CLEANUP(mem_free) Warren__V1__Lease *leases = mem_new(count * sizeof(*leases) + 1);
    CLEANUP(mem_free) Warren__V1__Lease **list = mem_new(count * sizeof(*list) + 1);
    if (fleet_agent_is_reachable(p->agent))
        tunnel_peer_renew(p);
    answer.n_leases = fill_renewed(p, leases, list);
    answer.leases = list;
    rpc_reply(call, &answer.base);
}

static void handle_release(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReleaseLeaseRequest *req = (const Warren__V1__ReleaseLeaseRequest *)msg;
    struct tunnel_peer *p = caller(ctx, call, req->session_epoch);
    Warren__V1__ReleaseLeaseResponse answer = WARREN__V1__RELEASE_LEASE_RESPONSE__INIT;
    if (!p)
        return;
    struct tunnel_object *o = object_for(p, req->tunnel);
    struct tunnel_lease *l = o ? tunnel_lease_with(o, p) : NULL;
    if (!o) {
        rpc_finish(call, RPC_NOT_FOUND, "the network of this agent has no such tunnel to serve");
        return;
    }
    tunnel_peer_report(p, o, ERR_UNAVAILABLE); /* others first */
    if (l && tunnel_lease_with(o, p) == l)
        tunnel_lease_lose(l, ERR_UNAVAILABLE, "given back by the agent");
    rpc_reply(call, &answer.base);
}

static void handle_report(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReportTargetsRequest *req = (const Warren__V1__ReportTargetsRequest *)msg;
    struct tunnel_peer *p = caller(ctx, call, req->session_epoch);
    Warren__V1__ReportTargetsResponse answer = WARREN__V1__REPORT_TARGETS_RESPONSE__INIT;
    if (!p)
        return;
    for (size_t i = 0; i < req->n_targets; i++) {
        const Warren__V1__TargetState *m = req->targets[i];
        struct tunnel_object *o = object_for(p, m->tunnel);
        if (o)
            tunnel_peer_report(p, o, m->error[0] ? proxy_status_error(m->error) : 0);
    }
    rpc_reply(call, &answer.base);
}

static void handle_leave(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__LeaveRequest *req = (const Warren__V1__LeaveRequest *)msg;
    struct tunnels *ts = ctx;
    struct tunnel_peer *p = caller(ts, call, req->session_epoch);
    Warren__V1__LeaveResponse answer = WARREN__V1__LEAVE_RESPONSE__INIT;
    if (!p)
        return;
    LOG_INFO("agent is leaving", LOG_STR("agent", p->id), LOG_INT("grace_ms", req->grace_ms));
    p->is_leaving = true;
    fleet_agent_touch(p->agent);
    tunnel_plan(tunnel_network_of(ts, p->agent->network->id));
    rpc_reply(call, &answer.base);
}

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/TakeLeases", RPC_UNARY, &warren__v1__take_leases_request__descriptor,
     handle_take},
    {"/warren.v1.AgentService/RenewLeases", RPC_UNARY,
     &warren__v1__renew_leases_request__descriptor, handle_renew},
    {"/warren.v1.AgentService/ReleaseLease", RPC_UNARY,
     &warren__v1__release_lease_request__descriptor, handle_release},
    {"/warren.v1.AgentService/ReportTargets", RPC_UNARY,
     &warren__v1__report_targets_request__descriptor, handle_report},
    {"/warren.v1.AgentService/Leave", RPC_UNARY, &warren__v1__leave_request__descriptor,
     handle_leave},
};

void tunnel_grants_init(struct tunnels *ts)
{
    rpc_server_add(fleet_rpc(ts->fleet), methods, ARRAY_SIZE(methods), ts);
}
