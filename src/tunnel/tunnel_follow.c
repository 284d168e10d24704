/*
 * What other hubs do: tunnels that they make, change and delete, and routes that they claim and
 * give up. Main loop.
 *
 * What this hub does itself is in its objects when its transaction has committed. A change of
 * another hub is only a hint that a row is another one now: the row is read and the object follows;
 * the same row twice changes nothing.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "peer/peers.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

/* ---- routes ---- */

static bool is_session_live(const struct tunnel_object *o)
{
    const struct tunnel_route *r = &o->route;
    const struct fleet_agent *a = fleet_agent_find(o->owner->fleet, r->agent);
    if (!a || a->epoch < r->session)
        return true; /* what is known of the agent is older than the route */
    return a->epoch == r->session && !a->disconnected && !a->revoked;
}

static enum route_duty duty_of(const struct tunnel_object *o)
{
    const struct tunnels *ts = o->owner;
    const struct tunnel_route *r = &o->route;
    struct route_view v = {.hub = fleet_hub(ts->fleet)->id,
                           .may_claim = !ts->cluster || peers_may_claim(ts->cluster),
                           .has_agent = true}; /* the plan looks for one */
    if (strcmp(r->hub, v.hub) != 0) {
        v.is_hub_live = fleet_hub_is_live(ts->fleet, r->hub, r->hub_epoch);
        v.is_session_live = is_session_live(o);
    }
    return route_duty(r, &v);
}

bool tunnel_is_forwarded(const struct tunnel_object *o)
{
    return duty_of(o) == ROUTE_FORWARD;
}

bool tunnel_may_hold(const struct tunnel_object *o)
{
    enum route_duty duty = duty_of(o);
    return !tunnel_phase_is_over(o->t.phase) && (duty == ROUTE_SERVE || duty == ROUTE_CLAIM);
}

bool tunnel_is_ours_to_tell(const struct tunnel_object *o)
{
    const struct fleet *f = o->owner->fleet;
    enum route_duty duty = duty_of(o);
    if (duty == ROUTE_SERVE || duty == ROUTE_FORWARD)
        return tunnel_tells_for_serving(o, o->route.hub);
    return fleet_hub_is_first(f);
}

/* Streams of a lease that lingers go on: its agent still has them, wherever the next ones go. */
static struct tunnel_lease *first_not_lingering(const struct tunnel_object *o)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_HELD || lease_is_coming(&l->l))
            return l;
    }
    return NULL;
}

/* Of free will, as the agent has moved there; or because it had to. */
static void yield(struct tunnel_lease *l)
{
    if (l->l.state == LEASE_HELD && l->peer && l->peer->left)
        tunnel_lease_linger(l);
    else
        tunnel_lease_lose(l, ERR_UNAVAILABLE, "another hub serves the tunnel");
}

void tunnel_settle_route(struct tunnel_object *o)
{
    struct tunnel_lease *l;
    if (tunnel_phase_is_over(o->t.phase))
        return;
    o->is_forwarding = tunnel_is_forwarded(o);
    while (o->is_forwarding && (l = first_not_lingering(o)))
        yield(l);
    tunnel_settle_exposures(o);
    tunnel_serve(o);
    if (o->want || o->leases)
        tunnel_plan(tunnel_network_of(o->owner, o->t.spec.network));
    else
        tunnel_place(o);
}

void tunnel_take_route(struct tunnel_object *o, const struct tunnel_route *r)
{
    if (!route_is_news(&o->route, r))
        return;
    if (r->epoch != o->route.epoch && strcmp(r->hub, fleet_hub(o->owner->fleet)->id) != 0)
        tunnel_target_forget(o);
    o->route = *r;
    tunnel_settle_route(o);
}

/* ---- giving up ---- */

#define RELEASES_AT_ONCE 512

struct tunnel_releases {
    struct tunnels *tunnels;
    size_t n;
    struct tunnel_claim claims[RELEASES_AT_ONCE];
};

static int write_released(struct tx *tx, void *arg)
{
    struct tunnel_releases *r = arg;
    return tunnel_store_release(tx, r->claims, r->n);
}

static void released(void *arg, int err)
{
    CLEANUP(mem_free) struct tunnel_releases *r = arg;
    if (err < 0)
        LOG_WARN("tunnels could not be given up", LOG_INT("tunnels", r->n), LOG_ERR(err));
    for (size_t i = 0; i < r->n; i++) {
        struct tunnel_object *o = tunnel_find(r->tunnels, r->claims[i].tunnel);
        if (!o)
            continue;
        o->is_releasing = false;
        if (err >= 0 && o->route.epoch == r->claims[i].route.epoch)
            o->route.hub[0] = '\0';
    }
}

void tunnel_write_releases(struct defer *d)
{
    struct tunnels *ts = container_of(d, struct tunnels, write_releases);
    if (ts->releases)
        store_run_patient(ts->store, write_released, released, TAKE(ts->releases));
}

static void fill_claim(const struct tunnel_object *o, struct tunnel_claim *ret)
{
    snprintf(ret->tunnel, sizeof(ret->tunnel), "%s", o->t.id);
    snprintf(ret->tenant, sizeof(ret->tenant), "%s", o->t.tenant);
    ret->route = o->route;
}

/* No session's end voids the route of a tunnel that several agents hold: who has moved to another
 * hub serves it on, but does not keep it here. */
static bool keeps(const struct tunnel_object *o, const struct tunnel_lease *l)
{
    bool has_left = l->l.state == LEASE_HELD && l->peer && l->peer->left &&
                    o->t.spec.spread == TUNNEL_SPREAD_CONNECTION;
    return l->l.state != LEASE_LINGERING && !has_left;
}

/* Nobody here holds it or will, and nobody's streams are being cut. */
static bool is_idle(const struct tunnel_object *o)
{
    const struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (keeps(o, l))
            return false;
    }
    return !o->want;
}

void tunnel_release_if_idle(struct tunnel_object *o)
{
    struct tunnels *ts = o->owner;
    if (!fleet_hubs(ts->fleet) || o->is_releasing || !is_idle(o) || duty_of(o) != ROUTE_SERVE)
        return;
    if (!ts->releases)
        ts->releases = NEW(struct tunnel_releases);
    ts->releases->tunnels = ts;
    o->is_releasing = true;
    fill_claim(o, &ts->releases->claims[ts->releases->n++]);
    if (ts->releases->n == RELEASES_AT_ONCE)
        tunnel_write_releases(&ts->write_releases);
    else
        loop_defer(ts->loop, &ts->write_releases);
}

static int write_restored(struct tx *tx, void *arg)
{
    return tunnel_store_restore(tx, arg);
}

static void restored(void *arg, int err)
{
    CLEANUP(mem_free) struct tunnel_claim *c = arg;
    if (err < 0)
        LOG_WARN("a tunnel's route could not be written again", LOG_STR("tunnel", c->tunnel),
                 LOG_ERR(err));
}

void tunnel_restore_if_held(struct tunnel_object *o)
{
    bool is_own = duty_of(o) == ROUTE_SERVE;
    if (!is_own && o->route.hub[0])
        return;
    struct tunnel_claim *c = NEW(struct tunnel_claim);
    fill_claim(o, c);
    if (is_own && is_idle(o)) /* it is being given up; others may know the claim only */
        c->route.hub[0] = '\0';
    store_run_patient(o->owner->store, write_restored, restored, c);
}

void tunnel_unrelease(struct tunnel_object *o, const struct tunnel_route *r)
{
    if (o->route.hub[0] || !r->hub[0])
        return;
    o->route = *r;
    tunnel_settle_route(o);
}

/* ---- agents and hubs elsewhere ---- */

/* Of a session elsewhere depend the routes over that agent, and what the others wait for. */
static void on_elsewhere(struct fleet_observer *ob, struct fleet_agent *a)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_object *o, *next;
    DL_FOREACH_SAFE (n ? n->objects : NULL, o, next) {
        if (strcmp(o->route.agent, a->id) == 0)
            tunnel_settle_route(o);
        else if (o->t.phase == TUNNEL_PENDING)
            tunnel_refresh_phase(o);
    }
}

static void on_hubs(struct fleet_observer *ob)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_object *o, *next;
    for (o = ts->objects; o; o = next) {
        next = o->hh.next;
        if (o->route.hub[0] && o->is_forwarding != tunnel_is_forwarded(o))
            tunnel_settle_route(o);
        else if (o->t.spec.n_hubs)
            tunnel_refresh_phase(o);
        tunnel_target_tell_again(o);
    }
}

void tunnels_hub_up(struct tunnels *ts, struct fleet_pool *pool)
{
    struct tunnel_object *o, *next;
    for (o = ts->objects; o; o = next) {
        next = o->hh.next;
        if (strcmp(o->route.hub, pool->agent) == 0 && !tunnel_phase_is_over(o->t.phase))
            tunnel_serve(o);
    }
}

void tunnels_hub_down(struct tunnels *ts, struct fleet_pool *pool)
{
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        bool was_served = tunnel_is_served(o);
        for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
            if (exposure_pool(e) == pool)
                exposure_stop(e, ERR_UNAVAILABLE);
        }
        if (was_served && !tunnel_is_served(o)) {
            tunnel_hold_clients(o);
            tunnel_refresh_phase(o);
        }
    }
}

void tunnels_may_claim(struct tunnels *ts)
{
    struct tunnel_network *n, *next;
    HASH_ITER (hh, ts->networks, n, next)
        tunnel_plan(n);
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next)
        tunnel_turned_look(o);
}

bool tunnels_are_held(const struct tunnels *ts)
{
    for (const struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        if (tunnel_holder(o))
            return true;
    }
    return false;
}

size_t tunnels_served_by(struct tunnels *ts, const char *hub)
{
    size_t n = 0;
    for (const struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        const char *by = tunnel_is_forwarded(o) ? o->route.hub : fleet_hub(ts->fleet)->id;
        n += o->t.phase == TUNNEL_ACTIVE && strcmp(by, hub) == 0;
    }
    return n;
}

static bool has_key(const struct ticket_keys *list, const uint8_t key[TICKET_KEY_SIZE])
{
    for (size_t i = 0; i < list->n; i++) {
        if (memcmp(list->keys[i], key, TICKET_KEY_SIZE) == 0)
            return true;
    }
    return false;
}

void tunnels_set_ticket_keys(struct tunnels *ts, const uint8_t (*keys)[TICKET_KEY_SIZE], size_t n)
{
    struct ticket_keys *next = NEW(struct ticket_keys);
    next->older = ts->forward.keys;
    for (; next->n < n && next->n < TICKET_KEYS_MAX; next->n++)
        memcpy(next->keys[next->n], keys[next->n], TICKET_KEY_SIZE);
    /* Hubs that have not seen the change yet go on with it for a moment. */
    if (next->older && !has_key(next, next->older->keys[0]) && next->n < TICKET_KEYS_MAX)
        memcpy(next->keys[next->n++], next->older->keys[0], TICKET_KEY_SIZE);
    ts->forward.keys = next;
}

static void free_ticket_keys(struct tunnels *ts)
{
    for (struct ticket_keys *k = ts->forward.keys, *older; k; k = older) {
        older = k->older;
        explicit_bzero(k, sizeof(*k));
        mem_free(k);
    }
    ts->forward.keys = NULL;
}

void tunnels_join(struct tunnels *ts, struct peers *peers)
{
    const struct store_hub *hub = fleet_hub(ts->fleet);
    ts->cluster = peers;
    ts->forward.clock = peers_clock(peers);
    ts->forward.hub_epoch = (uint64_t)hub->epoch;
    snprintf(ts->forward.hub, sizeof(ts->forward.hub), "%s", hub->id);
}

void tunnels_allow_shortcuts(struct tunnels *ts, bool may)
{
    ts->forward.has_shortcuts = may;
}

void tunnel_follow_init(struct tunnels *ts)
{
    ts->observer.on_elsewhere = on_elsewhere;
    ts->observer.on_hubs = on_hubs;
    ts->write_releases.fn = tunnel_write_releases;
    tunnel_rows_init(ts);
}

void tunnel_follow_free(struct tunnels *ts)
{
    free_ticket_keys(ts);
    tunnel_rows_free(ts);
    loop_defer_cancel(&ts->write_releases);
    mem_free(TAKE(ts->releases));
}
