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
    const struct route_view v = {.hub = fleet_hub(ts->fleet)->id,
                                 .may_claim = !ts->cluster || peers_may_claim(ts->cluster),
                                 .has_agent = true, /* the plan looks for one */
                                 .is_hub_live = fleet_hub_is_live(ts->fleet, r->hub, r->hub_epoch),
                                 .is_session_live = is_session_live(o)};
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

/* What follows when the route is another one, or when another one counts. */
static void settle_route(struct tunnel_object *o)
{
    struct tunnel_lease *l;
    if (tunnel_phase_is_over(o->t.phase))
        return;
    o->is_forwarding = tunnel_is_forwarded(o);
    while (o->is_forwarding && (l = first_not_lingering(o)))
        yield(l);
    tunnel_settle_exposures(o);
    tunnel_serve(o);
    tunnel_plan(tunnel_network_of(o->owner, o->t.spec.network));
}

void tunnel_take_route(struct tunnel_object *o, const struct tunnel_route *r)
{
    if (!route_is_news(&o->route, r))
        return;
    o->route = *r;
    settle_route(o);
}

/* ---- giving up ---- */

struct release {
    struct tunnels *tunnels;
    char tunnel[ID_SIZE], tenant[ID_SIZE];
    struct tunnel_route route;
};

static int write_release(struct tx *tx, void *arg)
{
    const struct release *r = arg;
    return tunnel_store_release(tx, r->tunnel, r->tenant, &r->route);
}

static int write_restored(struct tx *tx, void *arg)
{
    const struct release *r = arg;
    return tunnel_store_restore(tx, r->tunnel, r->tenant, &r->route);
}

static void restored(void *arg, int err)
{
    CLEANUP(mem_free) struct release *r = arg;
    if (err < 0)
        LOG_WARN("a tunnel's route could not be written again", LOG_STR("tunnel", r->tunnel),
                 LOG_ERR(err));
}

static void released(void *arg, int err)
{
    CLEANUP(mem_free) struct release *r = arg;
    struct tunnel_object *o = tunnel_find(r->tunnels, r->tunnel);
    if (!o)
        return;
    o->is_releasing = false;
    if (err < 0)
        LOG_WARN("a tunnel could not be given up", LOG_STR("tunnel", r->tunnel), LOG_ERR(err));
    else if (o->route.epoch == r->route.epoch)
        o->route.hub[0] = '\0';
}

static struct release *release_new(struct tunnel_object *o)
{
    struct release *r = NEW(struct release);
    r->tunnels = o->owner;
    snprintf(r->tunnel, sizeof(r->tunnel), "%s", o->t.id);
    snprintf(r->tenant, sizeof(r->tenant), "%s", o->t.tenant);
    r->route = o->route;
    return r;
}

/* Nobody here holds it or will, and nobody's streams are being cut. */
static bool is_idle(const struct tunnel_object *o)
{
    const struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        if (l->l.state != LEASE_LINGERING)
            return false;
    }
    return !o->want;
}

void tunnel_release_if_idle(struct tunnel_object *o)
{
    struct tunnels *ts = o->owner;
    if (!fleet_hubs(ts->fleet) || o->is_releasing || !is_idle(o) || duty_of(o) != ROUTE_SERVE)
        return;
    o->is_releasing = true;
    store_run(ts->store, STORE_WRITE, write_release, released, release_new(o));
}

/* The database has lost the claim of this hub's lease, which agents and other hubs know. */
static void restore_if_held(struct tunnel_object *o)
{
    if (duty_of(o) == ROUTE_SERVE && !is_idle(o))
        store_run(o->owner->store, STORE_WRITE, write_restored, restored, release_new(o));
}

/* ---- rows ---- */

struct reread {
    struct tunnels *tunnels;
    char id[ID_SIZE];
    bool is_undone; /* a fail-over of the database has lost what was known of it */
    struct tunnel_stored row;
    struct exposure_turned *turned; /* who waits for the answer; NULL: nobody */
};

static int read_row(struct tx *tx, void *arg)
{
    struct reread *r = arg;
    return tunnel_store_read(tx, r->id, &r->row);
}

static struct tunnel_object *add_from(struct tunnels *ts, const struct tunnel_stored *row)
{
    struct tunnel_object *o = tunnel_add(ts, &row->t, row->ends, &row->past);
    o->route = row->route;
    o->is_followed = true;
    tunnel_begin(o);
    settle_route(o);
    return o;
}

/* The port that the hub chose at which the tunnel was made or changed; this one, if that has not.
 */
static void take_port(struct tunnel_object *o, const struct tunnel_stored *row)
{
    if (!tunnel_listens_here(o)) {
        snprintf(o->t.endpoint, sizeof(o->t.endpoint), "%s", row->t.endpoint);
        return;
    }
    bool chooses = !tunnel_follows_port(o) && o->listen_fd < 0 && o->t.spec.has_endpoint &&
                   o->t.phase != TUNNEL_FAILED && !tunnel_phase_is_over(o->t.phase);
    if (!chooses && (!tunnel_awaits_port(o) || !row->t.endpoint[0]))
        return;
    snprintf(o->t.endpoint, sizeof(o->t.endpoint), "%s", row->t.endpoint);
    if (!o->rebind) /* else it will listen there when what stops has stopped */
        tunnel_listen_late(o);
}

static void take_row(struct tunnels *ts, const struct tunnel_stored *row)
{
    struct tunnel_object *o = tunnel_find(ts, row->t.id);
    if (o && strcmp(o->t.spec.network, row->t.spec.network) != 0) {
        tunnel_remove(o);
        o = NULL;
    }
    if (!o) {
        add_from(ts, row);
        return;
    }
    if (row->t.version > o->t.version) {
        o->is_followed = true; /* its endpoint may be the old one still */
        tunnel_change(o, &row->t, row->ends);
    } else {
        take_port(o, row);
    }
    tunnel_take_route(o, &row->route);
}

static void follow_row(struct reread *r, int err)
{
    struct tunnel_object *o = tunnel_find(r->tunnels, r->id);
    if (r->tunnels->is_draining)
        return;
    if (err == 0 && r->is_undone && o && o->t.version > r->row.t.version)
        tunnel_remove(o); /* what follows from commits that were lost must not outlive them */
    else if (err == 0 && r->is_undone && o && o->route.epoch > r->row.route.epoch)
        restore_if_held(o); /* but who serves is no matter of the database's memory */
    if (err == 0)
        take_row(r->tunnels, &r->row);
    else if (err == ERR_NOT_FOUND && o)
        tunnel_remove(o);
    else if (err != ERR_NOT_FOUND)
        LOG_ERROR("cannot follow the feed", LOG_STR("id", r->id), LOG_ERR(err));
}

static void row_read(void *arg, int err)
{
    CLEANUP(mem_free) struct reread *r = arg;
    follow_row(r, err);
    if (r->turned)
        tunnel_turned_decide(r->tunnels, r->turned);
}

static struct reread *reread_new(struct tunnels *ts, const char *id)
{
    struct reread *r = NEW(struct reread);
    r->tunnels = ts;
    snprintf(r->id, sizeof(r->id), "%s", id);
    return r;
}

void tunnel_reread(struct tunnels *ts, const char *id)
{
    store_reread(ts->store, read_row, row_read, reread_new(ts, id));
}

void tunnel_reread_for(struct tunnels *ts, struct exposure_turned *t)
{
    struct reread *r = reread_new(ts, t->tunnel);
    r->turned = t;
    store_run(ts->store, STORE_READ, read_row, row_read, r);
}

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    struct tunnels *ts = container_of(sub, struct tunnels, feed);
    if (!change->is_elsewhere || strcmp(change->kind, "tunnel") != 0 || change->op == STORE_STATE)
        return;
    struct reread *r = reread_new(ts, change->id);
    r->is_undone = change->is_undone;
    store_reread(ts->store, read_row, row_read, r);
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
            settle_route(o);
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
            settle_route(o);
        else if (o->t.spec.n_hubs)
            tunnel_refresh_phase(o);
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

void tunnel_follow_init(struct tunnels *ts)
{
    ts->observer.on_elsewhere = on_elsewhere;
    ts->observer.on_hubs = on_hubs;
    ts->feed.fn = on_change;
    store_subscribe(ts->store, &ts->feed);
}

void tunnel_follow_free(struct tunnels *ts)
{
    free_ticket_keys(ts);
    if (ts->feed.store)
        store_unsubscribe(&ts->feed);
}
