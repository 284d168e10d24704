/*
 * The life of leases: written, offered, taken, held, and the two ways out (tunnel_lease.h).
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define OFFER_MS       3000  /* for an agent to take what it is offered */
#define SILENT_MS      30000 /* one that does not comes after all others for so long */
#define WRITE_BATCH    512
#define WRITE_RETRY_MS 1000

/* ---- finding ---- */

struct tunnel_lease *tunnel_lease_find(const struct tunnel_object *o, uint64_t epoch)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.epoch == epoch && epoch)
            return l;
    }
    return NULL;
}

struct tunnel_lease *tunnel_holder(const struct tunnel_object *o)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_HELD)
            return l;
    }
    return NULL;
}

struct tunnel_lease *tunnel_lease_with(const struct tunnel_object *o, const struct tunnel_peer *p)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->peer == p && (l->l.state == LEASE_HELD || lease_is_coming(&l->l)))
            return l;
    }
    return NULL;
}

static bool has_exposures(const struct tunnel_object *o, uint64_t epoch)
{
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_epoch(e) == epoch)
            return true;
    }
    return false;
}

static void enter(struct tunnel_lease *l)
{
    l->since = time_wall_ms();
    timer_stop(&l->timer);
    if (l->peer && tunnel_peer_is_draining(l->peer))
        fleet_agent_touch(l->peer->agent);
}

/* ---- the end ---- */

static void proceed_others(struct tunnel_object *o)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_TAKEN) {
            tunnel_lease_proceed(l);
            return;
        }
    }
}

/* Forgets the lease. */
static void end(struct tunnel_lease *l)
{
    struct tunnel_object *o = l->object;
    struct tunnel_peer *p = l->peer;
    timer_stop(&l->timer);
    DL_DELETE(o->leases, l);
    if (p)
        DL_DELETE2(p->leases, l, peer_prev, peer_next);
    if (p && tunnel_peer_is_draining(p))
        fleet_agent_touch(p->agent);
    mem_free(l);
    if (p && o->want == p && !tunnel_lease_with(o, p))
        tunnel_set_want(o, NULL);
    if (p)
        tunnel_peer_left_idle(p);
    tunnel_await_look(o);
    if (tunnel_free_if_over(o))
        return;
    proceed_others(o);
    tunnel_refresh_phase(o);
    tunnel_plan(tunnel_network_of(o->owner, o->t.spec.network));
}

static void note_loss(struct tunnel_object *o, const struct tunnel_lease *l, const char *why)
{
    const struct fleet_agent *a = fleet_agent_find(o->owner->fleet, l->agent);
    snprintf(o->lost, sizeof(o->lost), "%s lost it: %s", a ? a->name : l->agent, why);
}

static void stop_exposures(struct tunnel_object *o, uint64_t epoch, int err)
{
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_epoch(e) == epoch)
            exposure_stop(e, err);
    }
}

void tunnel_lease_lose(struct tunnel_lease *l, int err, const char *why)
{
    struct tunnel_object *o = l->object;
    int rc = lease_lose(&l->l);
    if (rc == 0)
        return;
    enter(l);
    LOG_INFO(rc == LEASE_CLOSES ? "lease lost" : "lease withdrawn", LOG_STR("tunnel", o->t.id),
             LOG_STR("agent", l->agent), LOG_INT("epoch", l->l.epoch), LOG_STR("why", why));
    if (l->peer)
        tunnel_tell_lost(l);
    if (rc == LEASE_OVER) {
        end(l);
        return;
    }
    o->owner->lease_changes++;
    note_loss(o, l, why);
    stop_exposures(o, l->l.epoch, err);
    if (!tunnel_is_served(o))
        tunnel_hold_clients(o);
    tunnel_refresh_phase(o);
    if (!has_exposures(o, l->l.epoch))
        end(l);
}

static struct tunnel_lease *first_to_lose(const struct tunnel_object *o)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state != LEASE_CLEARING && !l->l.is_doomed)
            return l;
    }
    return NULL;
}

void tunnel_lose_all(struct tunnel_object *o, int err, const char *why)
{
    struct tunnel_lease *l;
    size_t left = 0;
    DL_COUNT(o->leases, l, left);
    while (left-- && (l = first_to_lose(o)))
        tunnel_lease_lose(l, err, why);
}

void tunnel_lease_linger(struct tunnel_lease *l)
{
    struct tunnel_object *o = l->object;
    lease_linger(&l->l);
    enter(l);
    o->owner->lease_changes++;
    LOG_INFO("lease lingers", LOG_STR("tunnel", o->t.id), LOG_STR("agent", l->agent),
             LOG_INT("epoch", l->l.epoch));
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        if (exposure_epoch(e) == l->l.epoch)
            exposure_linger(e);
    }
    tunnel_lease_limit(l);
    if (!tunnel_is_served(o))
        tunnel_hold_clients(o);
    if (!has_exposures(o, l->l.epoch))
        tunnel_lease_exposure_gone(o, l->l.epoch);
    else
        tunnel_refresh_phase(o);
}

void tunnel_lease_exposure_gone(struct tunnel_object *o, uint64_t epoch)
{
    struct tunnel_lease *l = tunnel_lease_find(o, epoch);
    if (!l || has_exposures(o, epoch))
        return;
    if (l->l.state == LEASE_CLEARING) {
        end(l);
    } else if (l->l.state == LEASE_LINGERING) {
        LOG_INFO("lease ended", LOG_STR("tunnel", o->t.id), LOG_STR("agent", l->agent),
                 LOG_INT("epoch", epoch));
        if (l->peer)
            tunnel_tell_lost(l);
        end(l);
    }
}

void tunnel_lease_limit(struct tunnel_lease *l)
{
    const struct fleet_agent *a = l->peer ? l->peer->agent : NULL;
    timer_stop(&l->timer);
    if (a && a->draining && a->drain_grace_ms)
        timer_start(&l->timer, (uint64_t)a->drain_grace_ms);
}

void tunnel_lease_traffic(const struct tunnel_lease *l, struct tunnel_traffic *sum)
{
    for (const struct exposure *e = l->object->exposures; e; e = exposure_next(e)) {
        if (exposure_epoch(e) == l->l.epoch)
            exposure_traffic(e, sum);
    }
}

/* ---- the beginning ---- */

static void on_lease_timer(struct timer *t)
{
    struct tunnel_lease *l = container_of(t, struct tunnel_lease, timer);
    struct tunnels *ts = l->object->owner;
    if (l->l.state == LEASE_LINGERING) {
        tunnel_lease_lose(l, ERR_UNAVAILABLE, "the drain's grace has run out");
    } else if (l->l.state == LEASE_OFFERED && l->peer) {
        LOG_WARN("an agent does not take what it is offered", LOG_STR("tunnel", l->object->t.id),
                 LOG_STR("agent", l->agent));
        l->peer->silent_until_ms = loop_now_ms(ts->loop) + SILENT_MS;
        timer_start(t, OFFER_MS); /* it stands, until somebody else is there for it */
        tunnel_plan(tunnel_network_of(ts, l->object->t.spec.network));
    }
}

void tunnel_grant(struct tunnel_object *o, struct tunnel_peer *to, enum tunnel_why why,
                  const char *reason, bool check_first)
{
    struct tunnels *ts = o->owner;
    struct tunnel_lease *l = NEW(struct tunnel_lease);
    l->object = o;
    l->peer = to;
    l->why = why;
    l->check_first = check_first && o->t.spec.check.type != TUNNEL_CHECK_NONE;
    snprintf(l->agent, sizeof(l->agent), "%s", to->id);
    snprintf(l->reason, sizeof(l->reason), "%s", reason);
    timer_init(&l->timer, ts->loop, on_lease_timer);
    enter(l);
    DL_APPEND(o->leases, l);
    DL_APPEND2(to->leases, l, peer_prev, peer_next);
    LL_PREPEND2(ts->grants, l, queue_next);
    loop_defer(ts->loop, &ts->write_grants);
}

struct granting {
    struct tunnels *tunnels;
    size_t n;
    struct tunnel_lease *leases[WRITE_BATCH];
    struct tunnel_claim claims[WRITE_BATCH]; /* of the same place */
};

static int write_grants(struct tx *tx, void *arg)
{
    struct granting *g = arg;
    return tunnel_store_claim(tx, g->claims, g->n);
}

static void offer(struct tunnel_lease *l)
{
    enter(l);
    if (!l->peer)
        return;
    tunnel_tell_offer(l);
    timer_start(&l->timer, OFFER_MS);
    tunnel_refresh_phase(l->object);
    tunnel_await_look(l->object); /* its epoch is known now */
}

static void not_granted(struct tunnels *ts, struct tunnel_lease *l)
{
    struct tunnel_network *n = tunnel_network_of(ts, l->object->t.spec.network);
    if (n)
        n->planned_ms = loop_now_ms(ts->loop) + WRITE_RETRY_MS;
    tunnel_reread(ts, l->object->t.id);
    end(l);
}

static void granted(struct tunnel_lease *l, const struct tunnel_route *route)
{
    if (route_is_news(&l->object->route, route))
        l->object->route = *route;
    if (lease_written(&l->l, route->epoch) == LEASE_OVER || !l->peer)
        end(l);
    else
        offer(l);
}

static void grants_written(void *arg, int err)
{
    CLEANUP(mem_free) struct granting *g = arg;
    struct tunnels *ts = g->tunnels;
    if (err < 0)
        LOG_ERROR("leases cannot be given: the database does not take them", LOG_ERR(err));
    for (size_t i = 0; i < g->n; i++) {
        if (err < 0 || !g->claims[i].route.epoch)
            not_granted(ts, g->leases[i]);
        else
            granted(g->leases[i], &g->claims[i].route);
    }
}

static void fill_route(const struct tunnel_lease *l, struct tunnel_route *ret)
{
    const struct store_hub *hub = fleet_hub(l->object->owner->fleet);
    bool is_shared = l->object->t.spec.spread == TUNNEL_SPREAD_CONNECTION;
    *ret = (struct tunnel_route){.hub_epoch = (uint64_t)hub->epoch,
                                 .session = is_shared || !l->peer ? 0 : l->peer->agent->epoch};
    snprintf(ret->hub, sizeof(ret->hub), "%s", hub->id);
    snprintf(ret->agent, sizeof(ret->agent), "%s", l->agent);
}

static void fill_claim(const struct tunnel_lease *l, struct tunnel_claim *ret)
{
    const struct tunnel_object *o = l->object;
    snprintf(ret->tunnel, sizeof(ret->tunnel), "%s", o->t.id);
    snprintf(ret->tenant, sizeof(ret->tenant), "%s", o->t.tenant);
    ret->seen = o->route.epoch;
    fill_route(l, &ret->route);
}

void tunnel_grants_write(struct defer *d)
{
    struct tunnels *ts = container_of(d, struct tunnels, write_grants);
    while (ts->grants) {
        struct granting *g = NEW(struct granting);
        g->tunnels = ts;
        while (ts->grants && g->n < WRITE_BATCH) {
            struct tunnel_lease *l = ts->grants;
            ts->grants = l->queue_next;
            fill_claim(l, &g->claims[g->n]);
            g->leases[g->n++] = l;
        }
        store_run(ts->store, STORE_WRITE, write_grants, grants_written, g);
    }
}

void tunnel_lease_taken(struct tunnel_lease *l)
{
    if (lease_take(&l->l) < 0)
        return;
    enter(l);
    tunnel_peer_renew(l->peer);
    tunnel_lease_proceed(l);
}

static bool is_clearing(const struct tunnel_object *o)
{
    const struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_CLEARING)
            return true;
    }
    return false;
}

/* Whether the lease may be held: nobody else has streams that are being cut, and whoever serves
 * until now has let go. */
static bool has_its_turn(struct tunnel_lease *l)
{
    struct tunnel_object *o = l->object;
    struct tunnel_lease *held = tunnel_holder(o);
    if (o->t.spec.spread == TUNNEL_SPREAD_CONNECTION)
        return true;
    if (is_clearing(o))
        return false;
    if (!held)
        return true;
    if (!fleet_agent_is_reachable(l->peer->agent))
        return false;
    if (held->peer && tunnel_miss_of(o, held->peer))
        tunnel_lease_lose(held, ERR_UNAVAILABLE, "the agent does not reach the target");
    else
        tunnel_lease_linger(held);
    return l->l.state == LEASE_TAKEN && !is_clearing(o);
}

void tunnel_lease_proceed(struct tunnel_lease *l)
{
    struct tunnel_object *o = l->object;
    if (l->l.state != LEASE_TAKEN || !l->peer || o->is_deleted || !has_its_turn(l))
        return;
    lease_start(&l->l);
    enter(l);
    o->lost[0] = '\0';
    tunnel_target_forget(o);
    o->owner->lease_changes++;
    o->owner->moves[l->why]++;
    LOG_INFO("lease held", LOG_STR("tunnel", o->t.id), LOG_STR("name", o->t.name),
             LOG_STR("agent", l->agent), LOG_INT("epoch", l->l.epoch), LOG_STR("why", l->reason));
    tunnel_settle_exposures(o);
    tunnel_serve(o);
    tunnel_save_status(o); /* watchers see who holds it */
}
