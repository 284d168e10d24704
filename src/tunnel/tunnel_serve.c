/*
 * A tunnel serves while three things are there: a lease, a pool of reverse connections of the
 * holder, and, if it has an endpoint, a listening socket. The holder's pool gets an exposure. Here
 * exposures begin and end, and what the fleet tells about agents and their pools is acted on.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "peer/peers.h"
#include "tunnel/tunnel_lane.h"
#include "wire/proxy_status.h"

#include <string.h>
#include <utlist.h>

bool tunnel_is_served(const struct tunnel_object *o)
{
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_is_serving(e))
            return true;
    }
    return false;
}

static bool is_exposed(const struct tunnel_object *o, uint64_t epoch)
{
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_epoch(e) == epoch && exposure_is_serving(e))
            return true;
    }
    return false;
}

/* `agent`: who serves it, by the pool of his or of his hub. */
static void expose(struct tunnel_object *o, struct fleet_pool *pool, const char *agent,
                   uint64_t epoch)
{
    struct tunnels *ts = o->owner;
    char authority[EXPOSURE_AUTHORITY_SIZE];
    bool is_shared = o->t.spec.spread == TUNNEL_SPREAD_CONNECTION;
    struct exposure_index *index =
        is_shared || pool->ops ? NULL : tunnel_lane_index(ts, pool->worker);
    if (o->rebind || ts->is_draining || is_exposed(o, epoch))
        return;
    tunnel_stop_refusing(o);
    tunnel_target_format(&o->t.spec, authority, sizeof(authority));
    const struct exposure_config cfg = {.main = ts->loop,
                                        .pool = pool,
                                        .agent = agent,
                                        .forward = pool->ops ? &ts->forward : NULL,
                                        .listen_fd = is_shared ? -1 : o->listen_fd,
                                        .tunnel = o->t.id,
                                        .lease_epoch = epoch,
                                        .authority = authority,
                                        .target_err = o->target.err,
                                        .proxy = o->t.spec.proxy,
                                        .trust = ts->trust,
                                        .protocol = o->t.spec.protocol,
                                        .flow_idle_ms = o->t.spec.idle_timeout_ms,
                                        .index = index,
                                        .who = &o->t.spec.who,
                                        .meters = {&o->meter, o->tenant_meter},
                                        .ops = &ts->exposure_ops,
                                        .arg = ts,
                                        .owner = o};
    struct exposure *e;
    int rc = exposure_start(&cfg, &e);
    if (rc < 0) {
        LOG_ERROR("cannot serve a tunnel now", LOG_STR("tunnel", o->t.id), LOG_ERR(rc));
        timer_start(&ts->serve_timer, TUNNEL_RETRY_MS);
        return;
    }
    ts->n_exposures++;
    exposure_list_add(&o->exposures, e);
}

/* By way of the hub that holds the lease. */
static void forward(struct tunnel_object *o)
{
    const struct tunnels *ts = o->owner;
    struct fleet_pool *pool =
        ts->cluster && !o->is_deleted && o->t.phase != TUNNEL_FAILED && tunnel_is_forwarded(o)
            ? peers_pool(ts->cluster, o->route.hub, o->t.id)
            : NULL;
    if (pool)
        expose(o, pool, o->route.agent, o->route.epoch);
}

/* A hub that is being drained serves what its agents have left until somebody claims it. */
static bool is_moving(const struct tunnel_object *o)
{
    const struct fleet *f = o->owner->fleet;
    const struct fleet_hub *h = fleet_hub_find(f, o->route.hub);
    return h && h->draining && fleet_hub_is_live(f, h->id, o->route.hub_epoch);
}

void tunnel_settle_exposures(struct tunnel_object *o)
{
    bool is_forwarded = tunnel_is_forwarded(o) || is_moving(o);
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_is_forwarding(e) && (exposure_epoch(e) != o->route.epoch || !is_forwarded))
            exposure_linger(e);
    }
}

void tunnel_serve(struct tunnel_object *o)
{
    struct tunnel_lease *l;
    forward(o);
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_HELD && l->peer && fleet_agent_is_reachable(l->peer->agent) &&
            o->t.phase != TUNNEL_FAILED)
            expose(o, l->peer->agent->pool, l->agent, l->l.epoch);
    }
    if (!tunnel_is_served(o))
        tunnel_hold_clients(o);
    else
        tunnel_share_clients(o);
    tunnel_refresh_phase(o);
    tunnel_await_look(o);
    tunnel_turned_look(o);
}

/* Descriptors may be there again. */
static void on_serve_timer(struct timer *t)
{
    struct tunnels *ts = container_of(t, struct tunnels, serve_timer);
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        if (!tunnel_phase_is_over(o->t.phase))
            tunnel_serve(o);
    }
}

void tunnel_stop_exposures(struct tunnel_object *o, int err)
{
    for (struct exposure *e = o->exposures; e; e = exposure_next(e))
        exposure_stop(e, err);
    tunnel_hold_clients(o);
}

void tunnel_all_stopped(struct tunnel_object *o)
{
    if (o->rebind) {
        o->rebind = false;
        tunnel_stop_listening(o);
        if (o->t.phase == TUNNEL_FAILED)
            tunnel_set_phase(o, TUNNEL_PENDING, "%s", tunnel_pending_reason(o));
        if (!tunnel_phase_is_over(o->t.phase))
            tunnel_start_listening(o);
        tunnel_save_status(o);
    }
    tunnel_serve(o);
}

void tunnels_all_ended(struct tunnels *ts)
{
    tunnel_save_traffic(ts);
    ts->on_stopped(ts->on_stopped_arg);
}

static void on_exposure_stopped(void *arg, struct exposure *e)
{
    struct tunnels *ts = arg;
    struct tunnel_object *o = exposure_owner(e);
    struct tunnel_traffic total = o->past;
    exposure_traffic(e, &total);
    uint64_t epoch = exposure_epoch(e);
    total.streams_open = 0;
    o->past = total;
    exposure_list_remove(&o->exposures, e);
    ts->n_exposures--;
    if (!o->exposures && !o->is_deleted)
        tunnel_all_stopped(o);
    if (!tunnel_free_if_over(o))
        tunnel_lease_exposure_gone(o, epoch);
    if (ts->n_exposures == 0 && ts->on_stopped)
        tunnels_all_ended(ts);
}

static void on_turned(void *arg, struct exposure_turned *t)
{
    tunnel_turned(arg, t);
}

static void on_drained(void *arg, struct exposure *e)
{
    exposure_stop(e, ERR_UNAVAILABLE);
}

static void on_records(void *arg, const struct exposure_record *records, size_t n)
{
    tunnel_save_records(arg, records, n);
    struct tunnels *ts = arg;
    for (size_t i = 0; i < n; i++) {
        struct tunnel_object *o = tunnel_find(ts, records[i].tunnel);
        if (records[i].error < 0)
            ts->dial_errors[proxy_status_index(records[i].error)]++;
        if (o)
            tunnel_demand_used(o);
    }
}

static void on_target(void *arg, const char *tunnel, uint64_t lease_epoch, int err)
{
    struct tunnel_object *o = tunnel_find(arg, tunnel);
    if (!o || !tunnel_target_is_seen(o, lease_epoch))
        return;
    tunnel_target_answered(o, err);
    tunnel_refresh_phase(o);
}

/* ---- what the fleet tells ---- */

static void on_up(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    tunnel_tell_all(ts, a);
    tunnel_peer_up(ts, a);
    if (n && a->network->online == 1) {
        DL_FOREACH (n->objects, o)
            tunnel_refresh_phase(o); /* what pending tunnels wait for is another now */
    }
}

static void on_down(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o;
    tunnel_peer_down(ts, a);
    if (n && a->network->online == 0) {
        DL_FOREACH (n->objects, o)
            tunnel_refresh_phase(o);
    }
}

static void on_pool_up(struct fleet_observer *ob, struct fleet_pool *pool)
{
    struct tunnel_peer *p = tunnel_peer_of(container_of(ob, struct tunnels, observer), pool->agent);
    struct tunnel_lease *l, *next;
    for (l = p ? p->leases : NULL; l; l = next) {
        next = l->peer_next;
        if (l->l.state == LEASE_HELD)
            tunnel_serve(l->object);
        else
            tunnel_lease_proceed(l);
    }
}

static void on_pool_down(struct fleet_observer *ob, struct fleet_pool *pool)
{
    if (pool->left_user) {
        tunnel_peer_left_down(pool->left_user);
        return;
    }
    struct tunnel_peer *p = tunnel_peer_of(container_of(ob, struct tunnels, observer), pool->agent);
    struct tunnel_lease *l;
    for (l = p ? p->leases : NULL; l; l = l->peer_next) {
        struct tunnel_object *o = l->object;
        for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
            if (exposure_pool(e) == pool)
                exposure_stop(e, ERR_UNAVAILABLE);
        }
        if (l->l.state == LEASE_HELD && !tunnel_is_served(o)) {
            tunnel_hold_clients(o);
            tunnel_refresh_phase(o);
        }
    }
}

static bool on_left(struct fleet_observer *ob, struct fleet_agent *a, struct fleet_pool *pool)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    return tunnel_peer_left(ts, a, pool);
}

static void on_drain(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnel_peer *p = tunnel_peer_of(container_of(ob, struct tunnels, observer), a->id);
    if (p)
        tunnel_peer_drain(p);
}

/* Of an agent at another hub, for who waits for the end of its drain: the streams of this hub's
 * clients. */
static void describe_elsewhere(struct tunnels *ts, const struct fleet_agent *a,
                               struct fleet_agent_load *ret)
{
    const struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_traffic traffic = {0};
    const struct tunnel_object *o;
    DL_FOREACH (n ? n->objects : NULL, o) {
        ret->tunnels += strcmp(o->route.agent, a->id) == 0 && tunnel_is_forwarded(o);
        for (const struct exposure *e = o->exposures; e; e = exposure_next(e)) {
            if (!exposure_is_forwarding(e) || strcmp(exposure_agent(e), a->id) != 0)
                continue;
            ret->lingering += !exposure_is_serving(e) && !exposure_is_stopping(e);
            exposure_traffic(e, &traffic);
        }
    }
    ret->streams += traffic.streams_open;
}

static void describe(struct fleet_observer *ob, const struct fleet_agent *a,
                     struct fleet_agent_load *ret)
{
    const struct tunnel_peer *p = tunnel_peer_of(container_of(ob, struct tunnels, observer), a->id);
    if (p)
        tunnel_peer_describe(p, ret);
    else if (a->draining && fleet_agent_is_online(a))
        describe_elsewhere(container_of(ob, struct tunnels, observer), a, ret);
}

static size_t count_in_network(struct fleet_observer *ob, const char *network)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, network);
    return n ? n->count : 0;
}

void tunnel_serve_init(struct tunnels *ts)
{
    ts->exposure_ops = (struct exposure_ops){.on_records = on_records,
                                             .on_target = on_target,
                                             .on_turned = on_turned,
                                             .on_drained = on_drained,
                                             .on_stopped = on_exposure_stopped};
    timer_init(&ts->serve_timer, ts->loop, on_serve_timer);
    ts->observer.on_up = on_up;
    ts->observer.on_down = on_down;
    ts->observer.on_pool_up = on_pool_up;
    ts->observer.on_pool_down = on_pool_down;
    ts->observer.on_left = on_left;
    ts->observer.on_drain = on_drain;
    ts->observer.describe = describe;
    ts->observer.count_in_network = count_in_network;
}
