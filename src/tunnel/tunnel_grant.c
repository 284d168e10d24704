/*
 * Leases, and what agents are told. An agent sees every tunnel of its network with its holder, asks
 * for those that have none, and renews what it holds; the rules are tunnel_lease.h's, the epoch is
 * the database's.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

/* ---- telling agents ---- */

struct tunnel_text {
    char target[EXPOSURE_AUTHORITY_SIZE];
};

static void fill_message(struct tunnel_object *o, Warren__V1__Tunnel *m, struct tunnel_text *text)
{
    static char none[] = "";
    host_port_format(&o->t.spec.target, text->target, sizeof(text->target));
    warren__v1__tunnel__init(m);
    m->id = o->t.id;
    m->name = o->t.name;
    m->version = o->t.version;
    m->target = text->target;
    m->protocol = (char *)tunnel_protocol_name(o->t.spec.protocol);
    m->holder = o->lease.state == LEASE_FREE ? none : o->lease.agent;
    m->lease_epoch = o->lease.epoch;
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

static void tell_lost(struct tunnel_object *o, struct fleet_agent *a)
{
    Warren__V1__Lease m = WARREN__V1__LEASE__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    m.tunnel = o->t.id;
    m.epoch = o->lease.epoch;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_LEASE_LOST;
    event.lease_lost = &m;
    fleet_send(a, &event);
}

static void on_up(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    if (n) {
        DL_FOREACH (n->objects, o) {
            if (can_be_served(o))
                send_tunnel(a, o);
            if (a->network->online == 1) /* what pending tunnels wait for is another now */
                tunnel_refresh_phase(o);
        }
    }
    Warren__V1__SnapshotEnd end = WARREN__V1__SNAPSHOT_END__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_SNAPSHOT_END;
    event.snapshot_end = &end;
    fleet_send(a, &event);
}

/* ---- losing ---- */

void tunnel_lose(struct tunnel_object *o, int err, const char *why)
{
    struct fleet_agent *a = fleet_agent_find(o->owner->fleet, o->lease.agent);
    timer_stop(&o->lease_timer);
    if (!lease_lose(&o->lease))
        return;
    o->owner->lease_changes++;
    LOG_INFO("lease lost", LOG_STR("tunnel", o->t.id), LOG_STR("agent", o->lease.agent),
             LOG_INT("epoch", o->lease.epoch), LOG_STR("why", why));
    tunnel_stop_exposures(o, err);
    if (a)
        tell_lost(o, a);
    tunnel_refresh_phase(o);
    if (!o->exposures)
        tunnel_lease_cleared(o);
}

void tunnel_lease_cleared(struct tunnel_object *o)
{
    lease_cleared(&o->lease);
    o->target_err = 0;
    tunnel_refresh_phase(o);
    tunnel_tell(o);
}

void tunnel_lease_timer(struct timer *t)
{
    struct tunnel_object *o = container_of(t, struct tunnel_object, lease_timer);
    uint64_t now = loop_now_ms(o->owner->loop);
    struct fleet_agent *a = fleet_agent_find(o->owner->fleet, o->lease.agent);
    if (lease_is_expired(&o->lease, now)) {
        tunnel_lose(o, ERR_UNAVAILABLE, "not renewed in time");
        if (a)
            fleet_cut_links(a); /* a frozen agent reads no resets: its streams end with them */
    } else if (o->lease.state == LEASE_HELD) {
        timer_start(t, o->lease.expires_ms - now);
    }
}

static void on_down(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    if (!n)
        return;
    DL_FOREACH (n->objects, o) {
        if (strcmp(o->lease.agent, a->id) == 0)
            tunnel_lose(o, a->revoked ? ERR_REVOKED : ERR_UNAVAILABLE, "the agent has gone");
        else if (a->network->online == 0)
            tunnel_refresh_phase(o);
    }
}

/* ---- taking ---- */

struct taking {
    struct tunnel_object *object;
    struct rpc_call *call;
    char tunnel[ID_SIZE], tenant[ID_SIZE], agent[ID_SIZE];
    uint64_t epoch;
};

static int write_taking(struct tx *tx, void *arg)
{
    struct taking *t = arg;
    return tunnel_store_take_lease(tx, t->tunnel, t->tenant, t->agent, &t->epoch);
}

static void reply_lease(struct rpc_call *call, struct tunnel_object *o)
{
    Warren__V1__Lease m = WARREN__V1__LEASE__INIT;
    m.tunnel = o->t.id;
    m.epoch = o->lease.epoch;
    m.ttl_ms = LEASE_LIFE_MS;
    rpc_reply(call, &m.base);
}

static void taking_written(void *arg, int err)
{
    CLEANUP(mem_free) struct taking *t = arg;
    struct tunnel_object *o = t->object;
    if (err < 0) {
        lease_take_failed(&o->lease);
        rpc_fail(t->call, err, "the lease cannot be taken: %s", error_text(err));
    } else if (lease_taken(&o->lease, t->epoch, loop_now_ms(o->owner->loop)) == LEASE_WAS_DOOMED) {
        rpc_finish(t->call, RPC_ABORTED, "this session has ended or the tunnel is gone");
    } else {
        o->owner->lease_changes++;
        LOG_INFO("lease taken", LOG_STR("tunnel", o->t.id), LOG_STR("name", o->t.name),
                 LOG_STR("agent", t->agent), LOG_INT("epoch", t->epoch));
        timer_start(&o->lease_timer, LEASE_LIFE_MS);
        reply_lease(t->call, o);
        tunnel_tell(o);
        tunnel_serve(o);
        return;
    }
    if (o->is_deleted && !o->exposures)
        tunnel_free_object(o);
    else
        tunnel_tell(o);
}

/* The object, if it is of the agent's network; otherwise NULL, and the call has been failed. */
static struct tunnel_object *object_for(struct tunnels *ts, struct rpc_call *call,
                                        const struct fleet_agent *a, const char *id)
{
    struct tunnel_object *o = tunnel_find(ts, id);
    if (!o || strcmp(o->t.spec.network, a->network->id) != 0 || !can_be_served(o)) {
        rpc_finish(call, RPC_NOT_FOUND, "the network of this agent has no such tunnel to serve");
        return NULL;
    }
    return o;
}

static void handle_acquire(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__AcquireLeaseRequest *req = (const Warren__V1__AcquireLeaseRequest *)msg;
    struct tunnels *ts = ctx;
    struct fleet_agent *a = fleet_caller(ts->fleet, call, req->session_epoch);
    struct tunnel_object *o = a ? object_for(ts, call, a, req->tunnel) : NULL;
    if (!o)
        return;
    if (ts->is_draining) {
        rpc_finish(call, RPC_UNAVAILABLE, "the hub is draining");
        return;
    }
    if (lease_renew(&o->lease, a->id, loop_now_ms(ts->loop)) == 0) {
        reply_lease(call, o);
        return;
    }
    if (lease_take(&o->lease, a->id) < 0) {
        rpc_finish(call, RPC_FAILED_PRECONDITION, "another agent holds or takes it");
        return;
    }
    struct taking *t = NEW(struct taking);
    t->object = o;
    t->call = call;
    snprintf(t->tunnel, sizeof(t->tunnel), "%s", o->t.id);
    snprintf(t->tenant, sizeof(t->tenant), "%s", o->t.tenant);
    snprintf(t->agent, sizeof(t->agent), "%s", a->id);
    store_run(ts->store, STORE_WRITE, write_taking, taking_written, t);
}

static void handle_renew(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__RenewLeasesRequest *req = (const Warren__V1__RenewLeasesRequest *)msg;
    struct tunnels *ts = ctx;
    struct fleet_agent *a = fleet_caller(ts->fleet, call, req->session_epoch);
    if (!a)
        return;
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    size_t count = n ? n->count : 0, i = 0;
    Warren__V1__RenewLeasesResponse answer = WARREN__V1__RENEW_LEASES_RESPONSE__INIT;
    CLEANUP(mem_free) Warren__V1__Lease *leases = mem_new(count * sizeof(*leases));
    CLEANUP(mem_free) Warren__V1__Lease **list = mem_new(count * sizeof(*list));
    if (n) {
        DL_FOREACH (n->objects, o) {
            if (!lease_is_held_by(&o->lease, a->id))
                continue;
            if (fleet_agent_is_reachable(
                    a)) /* who holds but cannot serve for a lease's life gives way to others */
                lease_renew(&o->lease, a->id, loop_now_ms(ts->loop));
            warren__v1__lease__init(&leases[i]);
            leases[i].tunnel = o->t.id;
            leases[i].epoch = o->lease.epoch;
            leases[i].ttl_ms = LEASE_LIFE_MS;
            list[i] = &leases[i];
            i++;
        }
    }
    answer.n_leases = i;
    answer.leases = list;
    rpc_reply(call, &answer.base);
}

static void handle_release(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReleaseLeaseRequest *req = (const Warren__V1__ReleaseLeaseRequest *)msg;
    struct tunnels *ts = ctx;
    struct fleet_agent *a = fleet_caller(ts->fleet, call, req->session_epoch);
    struct tunnel_object *o = a ? object_for(ts, call, a, req->tunnel) : NULL;
    if (!o)
        return;
    Warren__V1__ReleaseLeaseResponse answer = WARREN__V1__RELEASE_LEASE_RESPONSE__INIT;
    if (lease_is_held_by(&o->lease, a->id))
        tunnel_lose(o, ERR_UNAVAILABLE, "given back by the agent");
    rpc_reply(call, &answer.base);
}

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/AcquireLease", RPC_UNARY,
     &warren__v1__acquire_lease_request__descriptor, handle_acquire},
    {"/warren.v1.AgentService/RenewLeases", RPC_UNARY,
     &warren__v1__renew_leases_request__descriptor, handle_renew},
    {"/warren.v1.AgentService/ReleaseLease", RPC_UNARY,
     &warren__v1__release_lease_request__descriptor, handle_release},
};

void tunnel_grants_init(struct tunnels *ts)
{
    ts->observer.on_up = on_up;
    ts->observer.on_down = on_down;
    rpc_server_add(fleet_rpc(ts->fleet), methods, ARRAY_SIZE(methods), ts);
}
