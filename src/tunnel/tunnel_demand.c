/*
 * Uses of a target in a network by somebody who has no tunnel for it: the hub as a proxy. Main
 * loop.
 *
 *   tunnel_demand_start ─► waiting ─► a tunnel to the target serves: on_ready
 *                             │ no tunnel object for this target: one is made (audited), and
 *                             └ ends once it was not used for IDLE_MS
 *
 * A demand waits in the list `waiting` and is looked at once it is new, and again whenever some
 * tunnel changes; what it waits for is worked out anew each time, so nothing in it can go stale. It
 * never waits longer than WAIT_MS, and not at all while the network has no agent.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "wire/proxy_status.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#define WAIT_MS        10000
#define IDLE_MS        60000
#define PER_TENANT_MAX 256 /* tunnels made on demand, at once */
#define WAITING_MAX    16384

struct tunnel_demands {
    struct tunnels *tunnels;
    struct tunnel_demand *waiting;
    size_t n_waiting;
    struct making *making;
    struct defer look;
    bool has_changed; /* all are to be looked at, not the new ones only */
};

/* A tunnel on its way into the database. */
struct making {
    struct tunnel_demands *demands;
    struct identity_caller by;
    struct tunnel t;
    struct making *prev, *next;
};

static bool same_target(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcasecmp(a->host, b->host) == 0;
}

static bool wants(const struct tunnel_demand *d, const struct tunnel_spec *spec)
{
    if (spec->protocol == TUNNEL_ANY && (d->wants_all || !spec->allow.n))
        return !d->wants_own && tunnel_ranges_equal(&d->allow, &spec->allow);
    return !d->wants_all && d->protocol == spec->protocol && same_target(&d->target, &spec->target);
}

static void leave(struct tunnel_demand *d)
{
    timer_stop(&d->deadline);
    DL_DELETE(d->demands->waiting, d);
    d->demands->n_waiting--;
    d->demands = NULL;
}

static void fail(struct tunnel_demand *d, int err, const char *text)
{
    char target[EXPOSURE_AUTHORITY_SIZE];
    host_port_format(&d->target, target, sizeof(target));
    LOG_INFO("proxy request failed", LOG_STR("network", d->network), LOG_STR("target", target),
             LOG_STR("client", d->by.address), LOG_STR("error", proxy_status_token(err)),
             LOG_STR("why", text));
    leave(d);
    d->ops->on_fail(d, err, text);
}

/* ---- tunnels made on demand ---- */

static size_t count_on_demand(const struct tunnel_demands *demands, const char *tenant)
{
    size_t n = 0;
    for (const struct tunnel_object *o = demands->tunnels->objects; o; o = o->hh.next)
        n += o->t.idle_ms && strcmp(o->t.tenant, tenant) == 0;
    for (const struct making *m = demands->making; m; m = m->next)
        n += strcmp(m->t.tenant, tenant) == 0;
    return n;
}

static int write_made(struct tx *tx, void *arg)
{
    struct making *m = arg;
    int64_t there;
    TRY(tx_query_int(tx, &there, "SELECT COUNT(*) FROM network WHERE id = $1 AND tenant = $2",
                     STORE_TEXT(m->t.spec.network), STORE_TEXT(m->t.tenant)));
    if (!there)
        return ERR_NOT_FOUND;
    TRY(tunnel_store_insert(tx, &m->t, 0));
    return identity_audit_act(tx, &m->by, "tunnel.create", m->t.id, m->t.name);
}

static void fail_all(struct tunnel_demands *demands, const struct tunnel *t, int err)
{
    struct tunnel_demand *d, *next;
    char text[128];
    snprintf(text, sizeof(text), "no tunnel to the target could be made: %s",
             err == ERR_LIMIT ? "the tenant has as many tunnels as it may have" : error_text(err));
    DL_FOREACH_SAFE (demands->waiting, d, next) {
        if (strcmp(d->network, t->spec.network) == 0 && wants(d, &t->spec))
            fail(d, err, text);
    }
}

static void made(void *arg, int err)
{
    static const struct tunnel_traffic none;
    CLEANUP(mem_free) struct making *m = arg;
    struct tunnel_demands *demands = m->demands;
    DL_DELETE(demands->making, m);
    if (err < 0)
        fail_all(demands, &m->t, err == ERR_NOT_FOUND || err == ERR_LIMIT ? err : ERR_IO);
    else
        tunnel_begin(tunnel_add(demands->tunnels, &m->t, 0, &none));
    tunnel_demand_changed(demands->tunnels);
}

static void make(const struct tunnel_demand *d)
{
    struct tunnel_demands *demands = d->demands;
    struct making *m = NEW(struct making);
    struct tunnel *t = &m->t;
    m->demands = demands;
    m->by = d->by;
    id_new(t->id, "tun");
    snprintf(t->name, sizeof(t->name), "on-demand-%s", t->id + strlen("tun_"));
    snprintf(t->tenant, sizeof(t->tenant), "%s", d->by.tenant);
    snprintf(t->spec.network, sizeof(t->spec.network), "%s", d->network);
    t->version = 1;
    t->spec.protocol = d->wants_all ? TUNNEL_ANY : d->protocol;
    if (d->wants_all)
        t->spec.allow = d->allow;
    else
        t->spec.target = d->target;
    t->spec.internal = true;
    t->created = time_wall_ms();
    t->idle_ms = IDLE_MS;
    DL_APPEND(demands->making, m);
    store_run(demands->tunnels->store, STORE_WRITE, write_made, made, m);
}

static bool is_being_made(const struct tunnel_demand *d)
{
    for (const struct making *m = d->demands->making; m; m = m->next) {
        if (strcmp(m->t.spec.network, d->network) == 0 && wants(d, &m->t.spec))
            return true;
    }
    return false;
}

/* ---- the end of those that nobody uses ---- */

struct ending {
    struct tunnels *tunnels;
    struct tunnel t;
};

static int write_ended(struct tx *tx, void *arg)
{
    const struct ending *e = arg;
    char detail[96];
    snprintf(detail, sizeof(detail), "%s, not used any more", e->t.name);
    const struct audit_entry entry = {.tenant = e->t.tenant,
                                      .actor = "hub",
                                      .action = "tunnel.delete",
                                      .object = e->t.id,
                                      .outcome = AUDIT_OK,
                                      .detail = detail};
    TRY(tunnel_store_delete(tx, &e->t, 0));
    return identity_audit(tx, time_wall_ms(), &entry);
}

static void ended(void *arg, int err)
{
    CLEANUP(mem_free) struct ending *e = arg;
    struct tunnel_object *o = tunnel_find(e->tunnels, e->t.id);
    if (!o) /* somebody else was faster */
        return;
    if (err < 0) {
        LOG_ERROR("an unused tunnel was not deleted", LOG_STR("tunnel", o->t.id), LOG_ERR(err));
        o->is_ending = false;
        tunnel_demand_used(o);
        timer_start(&o->idle_timer, (uint64_t)o->t.idle_ms);
    } else {
        tunnel_remove(o);
    }
}

static void on_idle_timer(struct timer *timer)
{
    struct tunnel_object *o = container_of(timer, struct tunnel_object, idle_timer);
    struct tunnel_traffic traffic;
    uint64_t now = loop_now_ms(o->owner->loop), idle = (uint64_t)o->t.idle_ms;
    tunnel_traffic(o, &traffic);
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e))
        o->used_ms = MAX(o->used_ms, exposure_passed_ms(e));
    if (traffic.streams_open || !tunnel_is_ours_to_tell(o))
        o->used_ms = now;
    if (o->used_ms + idle > now) {
        timer_start(timer, o->used_ms + idle - now);
        return;
    }
    struct ending *e = NEW(struct ending);
    e->tunnels = o->owner;
    e->t = o->t;
    o->is_ending = true;
    store_run(o->owner->store, STORE_WRITE, write_ended, ended, e);
}

void tunnel_demand_used(struct tunnel_object *o)
{
    o->used_ms = loop_now_ms(o->owner->loop);
}

void tunnel_demand_watch_idle(struct tunnel_object *o)
{
    if (!o->t.idle_ms)
        return;
    tunnel_demand_used(o);
    timer_init(&o->idle_timer, o->owner->loop, on_idle_timer);
    timer_start(&o->idle_timer, (uint64_t)o->t.idle_ms);
}

/* ---- waiting ---- */

static bool fits(const struct tunnel_object *o, const struct tunnel_demand *d)
{
    return !o->is_ending && (o->t.phase == TUNNEL_PENDING || o->t.phase == TUNNEL_ACTIVE) &&
           wants(d, &o->t.spec);
}

/* One that serves, else any. */
static struct tunnel_object *find_tunnel(const struct tunnel_demand *d)
{
    struct tunnel_network *n = tunnel_network_of(d->demands->tunnels, d->network);
    struct tunnel_object *o, *found = NULL;
    if (!n)
        return NULL;
    DL_FOREACH2 (n->internal, o, internal_next) {
        if (!fits(o, d))
            continue;
        if (tunnel_pick_exposure(o))
            return o;
        found = found ? found : o;
    }
    return found;
}

static void serve(struct tunnel_demand *d, struct tunnel_object *o)
{
    tunnel_demand_used(o);
    leave(d);
    d->ops->on_ready(d, o);
}

static void advance(struct tunnel_demand *d)
{
    struct tunnel_demands *demands = d->demands;
    struct tunnels *ts = demands->tunnels;
    struct fleet_network *n = fleet_network_find(ts->fleet, d->network);
    struct tunnel_object *o = find_tunnel(d);
    if (ts->is_draining)
        fail(d, ERR_UNAVAILABLE, "the hub is about to stop");
    else if (TAKE(d->is_new) && demands->n_waiting > WAITING_MAX)
        fail(d, ERR_LIMIT, "too many requests wait for an agent; try again");
    else if (o && tunnel_pick_exposure(o))
        serve(d, o);
    else if (!n)
        fail(d, ERR_NOT_FOUND, "the network is gone");
    else if (!fleet_network_is_online(n))
        fail(d, ERR_UNAVAILABLE, "no agent of the network is connected");
    else if (!o && !is_being_made(d)) {
        if (count_on_demand(demands, d->by.tenant) >= PER_TENANT_MAX)
            fail(
                d, ERR_LIMIT,
                "the tenant uses as many targets by the proxy as it may; one not used for a minute "
                "makes room");
        else
            make(d);
    }
}

static void on_look(struct defer *defer)
{
    struct tunnel_demands *demands = container_of(defer, struct tunnel_demands, look);
    struct tunnel_demand *d, *next;
    bool all = TAKE(demands->has_changed);
    DL_FOREACH_SAFE (demands->waiting, d, next) {
        if (all || d->is_new)
            advance(d);
    }
}

void tunnel_demand_changed(struct tunnels *ts)
{
    if (!ts->demands || !ts->demands->waiting)
        return;
    ts->demands->has_changed = true;
    loop_defer(ts->loop, &ts->demands->look);
}

static void on_deadline(struct timer *t)
{
    fail(container_of(t, struct tunnel_demand, deadline), ERR_UNAVAILABLE,
         "no agent took the tunnel in time");
}

void tunnel_demand_start(struct tunnels *ts, struct tunnel_demand *d)
{
    d->demands = ts->demands;
    timer_init(&d->deadline, ts->loop, on_deadline);
    timer_start(&d->deadline, WAIT_MS);
    d->is_new = true;
    DL_APPEND(ts->demands->waiting, d);
    ts->demands->n_waiting++;
    loop_defer(ts->loop, &ts->demands->look);
}

void tunnel_demand_cancel(struct tunnel_demand *d)
{
    if (d->demands)
        leave(d);
}

void tunnel_demand_goal(const struct tunnel_demand *d, struct exposure_goal *ret)
{
    *ret = (struct exposure_goal){.target = d->target, .is_udp = d->protocol == TUNNEL_UDP};
    snprintf(ret->token, sizeof(ret->token), "%s", d->by.token);
    if (strcmp(d->target.host, TUNNEL_ECHO) == 0)
        ret->allow = d->allow;
}

void tunnel_demand_revoke(struct tunnels *ts, const char *token)
{
    struct tunnel_demand *d, *next;
    DL_FOREACH_SAFE (ts->demands->waiting, d, next) {
        if (strcmp(d->by.token, token) == 0)
            fail(d, ERR_UNAUTHENTICATED, "the API token was revoked");
    }
}

void tunnel_demands_init(struct tunnels *ts)
{
    ts->demands = NEW(struct tunnel_demands);
    ts->demands->tunnels = ts;
    ts->demands->look.fn = on_look;
}

void tunnel_demands_free(struct tunnels *ts)
{
    struct tunnel_demands *demands = TAKE(ts->demands);
    struct tunnel_demand *d, *next;
    loop_defer_cancel(&demands->look);
    DL_FOREACH_SAFE (demands->waiting, d, next)
        fail(d, ERR_UNAVAILABLE, "the hub stops");
    mem_free(demands);
}
