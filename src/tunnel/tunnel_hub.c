/*
 * The objects: found, loaded, begun, changed, ended. Their listening sockets are in
 * tunnel_listen.c, what serves them in tunnel_serve.c. A socket lives as long as its object and
 * stays the same through fail-overs: while nobody serves, clients wait in its queue, and after
 * TUNNEL_HOLD_MS they are reset.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define SAVE_INTERVAL_MS 10000

/* ---- finding ---- */

struct tunnel_object *tunnel_find(struct tunnels *ts, const char *id)
{
    struct tunnel_object *o;
    HASH_FIND_STR(ts->objects, id, o);
    return o;
}

static void format_key(char key[ID_SIZE + TUNNEL_NAME_SIZE], const char *tenant, const char *name)
{
    snprintf(key, ID_SIZE + TUNNEL_NAME_SIZE, "%s %.63s", tenant, name);
}

struct tunnel_object *tunnel_lookup(struct tunnels *ts, const char *tenant, const char *ref)
{
    struct tunnel_object *o = tunnel_find(ts, ref);
    if (o)
        return strcmp(o->t.tenant, tenant) == 0 ? o : NULL;
    char key[sizeof(o->key)];
    format_key(key, tenant, ref);
    HASH_FIND(hh_key, ts->by_name, key, strlen(key), o);
    return o;
}

static void set_name(struct tunnel_object *o, const char *name)
{
    struct tunnels *ts = o->owner;
    if (o->key[0])
        HASH_DELETE(hh_key, ts->by_name, o);
    snprintf(o->t.name, sizeof(o->t.name), "%s", name);
    format_key(o->key, o->t.tenant, name);
    HASH_ADD(hh_key, ts->by_name, key, strlen(o->key), o);
}

struct tunnel_network *tunnel_network_of(struct tunnels *ts, const char *network)
{
    struct tunnel_network *n;
    HASH_FIND_STR(ts->networks, network, n);
    return n;
}

/* ---- phase ---- */

void tunnel_set_phase(struct tunnel_object *o, enum tunnel_phase phase, const char *format, ...)
{
    char reason[TUNNEL_REASON_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    if (o->t.phase == phase && strcmp(o->t.reason, reason) == 0)
        return;
    if (o->t.phase != phase)
        LOG_INFO("tunnel", LOG_STR("tunnel", o->t.id), LOG_STR("name", o->t.name),
                 LOG_STR("phase", tunnel_phase_name(phase)), LOG_STR("reason", reason));
    o->t.phase = phase;
    snprintf(o->t.reason, sizeof(o->t.reason), "%s", reason);
    if (phase == TUNNEL_ACTIVE && !o->t.started)
        o->t.started = time_wall_ms();
    if (tunnel_phase_is_over(phase) && !o->t.closed)
        o->t.closed = time_wall_ms();
    tunnel_save_status(o);
}

/* ---- the life of an object ---- */

static void expire(struct timer *t)
{
    struct tunnel_object *o = container_of(t, struct tunnel_object, end_timer);
    char ttl[32];
    text_from_duration_ms(o->t.spec.ttl_ms, ttl, sizeof(ttl));
    tunnel_set_phase(o, TUNNEL_EXPIRED, "its ttl of %s ran out", ttl);
    tunnel_stop_listening(o);
    o->t.endpoint[0] = '\0';
    tunnel_lose_all(o, ERR_EXPIRED, "expired");
    tunnel_tell_removed(o);
    tunnel_save_status(o);
    tunnel_demand_changed(o->owner);
}

static void arm_end(struct tunnel_object *o)
{
    timer_stop(&o->end_timer);
    if (!o->ends || tunnel_phase_is_over(o->t.phase))
        return;
    int64_t left = o->ends - time_wall_ms();
    timer_start(&o->end_timer, left > 0 ? (uint64_t)left : 0);
}

/* Puts it among those that the proxy may use, or takes it out. */
static void enlist_internal(struct tunnel_network *n, struct tunnel_object *o, bool is_internal)
{
    if (is_internal == (o->internal_prev != NULL))
        return;
    if (is_internal) {
        DL_APPEND2(n->internal, o, internal_prev, internal_next);
    } else {
        DL_DELETE2(n->internal, o, internal_prev, internal_next);
        o->internal_prev = NULL;
    }
}

static void enlist(struct tunnel_object *o)
{
    struct tunnel_network *n = tunnel_network_of(o->owner, o->t.spec.network);
    if (!n) {
        n = NEW(struct tunnel_network);
        n->owner = o->owner;
        timer_init(&n->plan_timer, o->owner->loop, tunnel_plan_timer);
        snprintf(n->id, sizeof(n->id), "%s", o->t.spec.network);
        HASH_ADD_STR(o->owner->networks, id, n);
    }
    DL_APPEND(n->objects, o);
    enlist_internal(n, o, o->t.spec.internal);
    n->count++;
}

struct tunnel_object *tunnel_add(struct tunnels *ts, const struct tunnel *t, int64_t ends,
                                 const struct tunnel_traffic *past)
{
    struct tunnel_object *o = NEW(struct tunnel_object);
    o->owner = ts;
    o->t = *t;
    o->ends = ends;
    o->past = o->saved = *past;
    timer_init(&o->end_timer, ts->loop, expire);
    tunnel_limits_begin(o);
    tunnel_listen_init(o);
    HASH_ADD(hh, ts->objects, t.id, strlen(o->t.id), o);
    set_name(o, t->name);
    enlist(o);
    return o;
}

void tunnel_begin(struct tunnel_object *o)
{
    if (tunnel_phase_is_over(o->t.phase))
        return;
    o->t.phase = TUNNEL_PENDING;
    snprintf(o->t.reason, sizeof(o->t.reason), "%s", tunnel_pending_reason(o));
    tunnel_start_listening(o);
    tunnel_hold_clients(o);
    arm_end(o);
    tunnel_demand_watch_idle(o);
    tunnel_save_status(o);
    tunnel_tell(o);
    tunnel_place(o);
}

void tunnel_change(struct tunnel_object *o, const struct tunnel *to, int64_t ends)
{
    const struct tunnel_spec was = o->t.spec, *is = &to->spec;
    set_name(o, to->name);
    o->t.spec = *is;
    snprintf(o->t.spec.network, sizeof(o->t.spec.network), "%s", was.network); /* stays */
    enlist_internal(tunnel_network_of(o->owner, was.network), o, is->internal);
    meter_set(&o->meter, &is->limits);
    o->t.version = to->version;
    o->ends = ends;
    arm_end(o);
    if (!host_port_equal(&was.target, &is->target) || was.proxy != is->proxy) {
        char authority[EXPOSURE_AUTHORITY_SIZE];
        host_port_format(&is->target, authority, sizeof(authority));
        tunnel_target_forget(o);
        tunnel_forget_misses(o);
        for (struct exposure *e = o->exposures; e; e = exposure_next(e))
            exposure_retarget(e, authority, is->proxy);
    } else {
        tunnel_target_tell_again(o);
    }
    for (struct exposure *e = o->exposures; e; e = exposure_next(e))
        exposure_set_sources(e, &is->who);
    if (tunnel_spec_moves(&was, is) || o->t.phase == TUNNEL_FAILED) {
        o->t.endpoint[0] = '\0';
        o->rebind = true;
        tunnel_stop_exposures(o, ERR_CANCELED);
        if (!o->exposures)
            tunnel_all_stopped(o);
    } else if (was.spread != is->spread) {
        for (struct exposure *e = o->exposures; e; e = exposure_next(e))
            exposure_linger(e); /* others accept, or nobody but the main loop */
        tunnel_serve(o);
    } else {
        tunnel_refresh_phase(o);
    }
    tunnel_tell(o);
    tunnel_plan(tunnel_network_of(o->owner, is->network));
}

void tunnel_free_object(struct tunnel_object *o)
{
    tunnel_stop_listening(o);
    mem_free(o->web_key);
    tunnel_forget_status(o);
    tunnel_target_forget(o);
    timer_stop(&o->end_timer);
    timer_stop(&o->idle_timer);
    tunnel_forget_misses(o);
    meter_done(&o->meter);
    mem_free(o);
}

bool tunnel_free_if_over(struct tunnel_object *o)
{
    bool is_over = o->is_deleted && !o->exposures && !o->leases;
    if (is_over)
        tunnel_free_object(o);
    return is_over;
}

void tunnel_network_free(struct tunnel_network *n)
{
    timer_stop(&n->plan_timer);
    HASH_DEL(n->owner->networks, n);
    mem_free(n);
}

void tunnel_remove(struct tunnel_object *o)
{
    struct tunnels *ts = o->owner;
    struct tunnel_network *n = tunnel_network_of(ts, o->t.spec.network);
    LOG_INFO("tunnel deleted", LOG_STR("tunnel", o->t.id), LOG_STR("name", o->t.name));
    tunnel_tell_removed(o);
    HASH_DEL(ts->objects, o);
    HASH_DELETE(hh_key, ts->by_name, o);
    DL_DELETE(n->objects, o);
    enlist_internal(n, o, false);
    n->count--;
    if (!n->objects)
        tunnel_network_free(n);
    else
        tunnel_plan_later(n);
    tunnel_forget_status(o);
    tunnel_target_forget(o);
    tunnel_place_cancel(o);
    o->is_deleted = true;
    tunnel_turned_look(o);
    tunnel_await_look(o);
    tunnel_demand_changed(ts);
    timer_stop(&o->end_timer);
    timer_stop(&o->idle_timer);
    tunnel_stop_listening(o);
    tunnel_forget_misses(o);
    for (struct exposure *e = o->exposures; e; e = exposure_next(e))
        exposure_stop(e, ERR_CANCELED);
    if (!tunnel_free_if_over(o))
        tunnel_lose_all(o, ERR_CANCELED, "the tunnel is deleted"); /* may free it */
}

void tunnel_traffic(const struct tunnel_object *o, struct tunnel_traffic *ret)
{
    *ret = o->past;
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e))
        exposure_traffic(e, ret);
    ret->datagrams.dropped += atomic_load_explicit(&o->sunk.dropped, memory_order_relaxed);
    tunnel_limits_count(o, ret);
}

static void fill_holders(const struct tunnel_object *o, struct tunnel *shown)
{
    const struct store_hub *hub = fleet_hub(o->owner->fleet);
    const struct tunnel_lease *l = tunnel_holder(o);
    int64_t now = time_wall_ms();
    bool is_elsewhere = tunnel_is_forwarded(o);
    struct tunnel_holder *server = &shown->server, *agent = &shown->agent;
    *agent = (struct tunnel_holder){0};
    *server =
        (struct tunnel_holder){.epoch = is_elsewhere ? o->route.hub_epoch : (uint64_t)hub->epoch,
                               .expires = now - now % LEASE_RENEW_MS + LEASE_LIFE_MS};
    snprintf(server->id, sizeof(server->id), "%s", is_elsewhere ? o->route.hub : hub->id);
    if (is_elsewhere) {
        *agent = (struct tunnel_holder){.epoch = o->route.epoch, .expires = server->expires};
        snprintf(agent->id, sizeof(agent->id), "%s", o->route.agent);
    } else if (l && l->peer) {
        *agent = (struct tunnel_holder){.epoch = l->l.epoch, .expires = tunnel_lease_expires(l)};
        snprintf(agent->id, sizeof(agent->id), "%s", l->agent);
    }
}

json_t *tunnel_object_json(struct tunnel_object *o)
{
    struct tunnel_traffic traffic;
    struct tunnel shown = o->t;
    tunnel_traffic(o, &traffic);
    shown.agent = (struct tunnel_holder){0};
    shown.server = (struct tunnel_holder){0};
    if (!tunnel_phase_is_over(o->t.phase))
        fill_holders(o, &shown);
    if (o->listen_fd < 0 && tunnel_listens_here(o))
        shown.endpoint[0] = '\0';
    json_t *json = tunnel_json(&shown, &traffic);
    json_object_set_new(json_object_get(json, "status"), "leases", tunnel_leases_json(o));
    return json;
}

/* ---- all of them ---- */

static void on_save_timer(struct timer *t)
{
    struct tunnels *ts = container_of(t, struct tunnels, save_timer);
    tunnel_save_traffic(ts);
    timer_start(t, SAVE_INTERVAL_MS);
}

static void load_one(void *arg, const struct tunnel_stored *s)
{
    struct tunnel_object *o = tunnel_add(arg, &s->t, s->ends, &s->past);
    o->route = s->route;
    tunnel_target_take(o, s);
}

static int load_all(struct tx *tx, void *arg)
{
    return tunnel_store_each(tx, load_one, arg);
}

int tunnels_new(struct fleet *f, struct tunnels **ret, struct diag *d)
{
    struct tunnels *ts = NEW(struct tunnels);
    ts->fleet = f;
    ts->store = fleet_store(f);
    ts->loop = fleet_loop(f);
    tunnel_demands_init(ts);
    ts->names = tunnel_names_new();
    timer_init(&ts->save_timer, ts->loop, on_save_timer);
    timer_init(&ts->status_timer, ts->loop, tunnel_status_timer);
    timer_init(&ts->await_timer, ts->loop, tunnel_await_timer);
    tunnel_turned_init(ts);
    tunnel_targets_init(ts);
    tunnel_serve_init(ts);
    ts->write_grants.fn = tunnel_grants_write;
    ts->place.fn = tunnel_place_all;
    int rc = store_run_wait(ts->store, STORE_READ, load_all, ts);
    if (rc == 0)
        rc = tunnel_limits_init(ts);
    if (rc < 0) {
        tunnels_free(ts);
        return diag_set(d, rc, "cannot read the tunnels: %s", error_text(rc));
    }
    tunnel_network_init(ts);
    tunnel_follow_init(ts);
    tunnel_grants_init(ts);
    fleet_observe(f, &ts->observer);
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next)
        tunnel_begin(o);
    timer_start(&ts->save_timer, SAVE_INTERVAL_MS);
    *ret = ts;
    return 0;
}

void tunnels_set_trust(struct tunnels *ts, struct proxy_trust *trust)
{
    ts->trust = trust;
}

void tunnels_drain(struct tunnels *ts)
{
    ts->is_draining = true;
    tunnel_turned_end(ts);
    tunnel_demand_changed(ts);
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        tunnel_stop_listening(o);
        for (struct exposure *e = o->exposures; e; e = exposure_next(e))
            exposure_stop_accepting(e);
    }
}

void tunnels_stop(struct tunnels *ts, void (*done)(void *arg), void *arg)
{
    tunnels_drain(ts);
    ts->on_stopped = done;
    ts->on_stopped_arg = arg;
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next)
        tunnel_stop_exposures(o, ERR_UNAVAILABLE);
    if (ts->n_exposures == 0)
        tunnels_all_ended(ts);
}

void tunnels_free(struct tunnels *ts)
{
    struct tunnel_object *o, *next;
    struct tunnel_network *n, *next_n;
    if (!ts)
        return;
    timer_stop(&ts->save_timer);
    timer_stop(&ts->status_timer);
    timer_stop(&ts->target_timer);
    timer_stop(&ts->await_timer);
    timer_stop(&ts->serve_timer);
    timer_stop(&ts->turned_timer);
    loop_defer_cancel(&ts->write_grants);
    loop_defer_cancel(&ts->place);
    tunnel_follow_free(ts);
    tunnel_demands_free(ts);
    tunnel_proxy_free(ts);
    tunnel_web_free(ts);
    HASH_ITER (hh, ts->objects, o, next) {
        HASH_DEL(ts->objects, o);
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is in this table */
        HASH_DELETE(hh_key, ts->by_name, o);
        tunnel_free_object(o);
    }
    HASH_ITER (hh, ts->networks, n, next_n)
        tunnel_network_free(n);
    tunnel_names_free(ts->names);
    tunnel_limits_free(ts);
    mem_free(ts);
}

void tunnels_cut_token(struct tunnels *ts, const char *token)
{
    tunnel_demand_revoke(ts, token);
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        for (struct exposure *e = o->exposures; e; e = exposure_next(e))
            exposure_cut_token(e, token);
    }
}

uint64_t tunnels_streams_open(const struct tunnels *ts)
{
    struct tunnels_stats stats;
    tunnels_stats(ts, &stats);
    return stats.traffic.streams_open;
}

void tunnels_stats(const struct tunnels *ts, struct tunnels_stats *ret)
{
    *ret = (struct tunnels_stats){.lease_changes = ts->lease_changes, .turned = ts->turned};
    memcpy(ret->moves, ts->moves, sizeof(ret->moves));
    memcpy(ret->dial_errors, ts->dial_errors, sizeof(ret->dial_errors));
    for (const struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        struct tunnel_traffic t;
        tunnel_traffic(o, &t);
        ret->phases[o->t.phase]++;
        ret->traffic.streams_open += t.streams_open;
        ret->traffic.streams_total += t.streams_total;
        ret->traffic.bytes_in += t.bytes_in;
        ret->traffic.bytes_out += t.bytes_out;
        ret->traffic.datagrams.in += t.datagrams.in;
        ret->traffic.datagrams.out += t.datagrams.out;
        ret->traffic.datagrams.dropped += t.datagrams.dropped;
        ret->traffic.bytes_delayed += t.bytes_delayed;
        ret->traffic.streams_refused += t.streams_refused;
    }
}
