/*
 * Agents' sessions as holders of leases: when they end, and what their agents reach.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet/pool.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

/* How long an agent that did not answer comes after all others. */
#define SILENT_MS 30000

/* An agent whose sessions ended so soon so many times in a row gets no tunnels for a while when it
 * comes back, as long as there are others: each visit would move them twice. */
#define SHORT_SESSION_MS 30000
#define RESTLESS_COUNT   3
#define RESTLESS_MS      15000

struct tunnel_peer *tunnel_peer_of(struct tunnels *ts, const char *agent)
{
    struct tunnel_peer *p;
    HASH_FIND_STR(ts->peers, agent, p);
    return p;
}

static struct tunnel_network *network_of(const struct tunnel_peer *p)
{
    return tunnel_network_of(p->owner, p->agent->network->id);
}

bool tunnel_peer_is_draining(const struct tunnel_peer *p)
{
    return p->is_leaving || p->agent->draining;
}

bool tunnel_peer_is_silent(const struct tunnel_peer *p)
{
    return loop_now_ms(p->owner->loop) < p->silent_until_ms;
}

/* ---- leases that are not renewed ---- */

static void lose_leases(struct tunnel_peer *p, int err, const char *why)
{
    struct tunnel_lease *l, *next;
    for (l = p->leases; l; l = next) {
        next = l->peer_next;
        tunnel_lease_lose(l, err, why);
    }
}

static bool has_live_leases(const struct tunnel_peer *p)
{
    for (const struct tunnel_lease *l = p->leases; l; l = l->peer_next) {
        if (lease_is_live(&l->l) && l->l.state != LEASE_OFFERED)
            return true;
    }
    return false;
}

static void on_timer(struct timer *t)
{
    struct tunnel_peer *p = container_of(t, struct tunnel_peer, timer);
    uint64_t now = loop_now_ms(p->owner->loop);
    if (now < p->expires_ms) {
        timer_start(t, p->expires_ms - now);
    } else if (has_live_leases(p)) {
        p->silent_until_ms = now + SILENT_MS;
        lose_leases(p, ERR_UNAVAILABLE, "not renewed in time");
        fleet_cut_links(p->agent); /* a frozen agent reads no resets: its streams end with them */
    }
}

void tunnel_peer_renew(struct tunnel_peer *p)
{
    p->expires_ms = loop_now_ms(p->owner->loop) + LEASE_LIFE_MS;
    if (p->agent->short_sessions < RESTLESS_COUNT && tunnel_peer_is_silent(p)) {
        tunnel_plan_later(network_of(p));
        p->silent_until_ms = 0;
    }
    if (!timer_is_running(&p->timer))
        timer_start(&p->timer, LEASE_LIFE_MS);
}

/* ---- coming and going ---- */

void tunnel_peer_up(struct tunnels *ts, struct fleet_agent *a)
{
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    struct tunnel_peer *p = NEW(struct tunnel_peer);
    p->owner = ts;
    p->agent = a;
    p->began_ms = loop_now_ms(ts->loop);
    snprintf(p->id, sizeof(p->id), "%s", a->id);
    if (a->short_sessions >= RESTLESS_COUNT) {
        LOG_WARN("an agent comes and goes: others hold its tunnels for now",
                 LOG_STR("agent", a->id), LOG_INT("short_sessions", a->short_sessions),
                 LOG_INT("for_ms", RESTLESS_MS));
        p->silent_until_ms = p->began_ms + RESTLESS_MS;
    }
    timer_init(&p->timer, ts->loop, on_timer);
    HASH_ADD_STR(ts->peers, id, p);
    if (n && a->network->online > 1)
        tunnel_plan_later(n);
    else if (n)
        tunnel_plan(n);
}

static void forget(struct tunnel_miss *m)
{
    DL_DELETE(m->object->misses, m);
    DL_DELETE2(m->peer->misses, m, peer_prev, peer_next);
    mem_free(m);
}

/* Those that are still being written or cleared live on without it. */
static void release_leases(struct tunnel_peer *p)
{
    while (p->leases) {
        struct tunnel_lease *l = p->leases;
        l->peer = NULL;
        if (l->object->want == p)
            tunnel_set_want(l->object, NULL);
        DL_DELETE2(p->leases, l, peer_prev, peer_next);
    }
}

static void forget_session(struct tunnel_peer *p)
{
    while (p->misses)
        forget(p->misses);
    timer_stop(&p->timer);
    HASH_DEL(p->owner->peers, p);
}

void tunnel_peer_down(struct tunnels *ts, struct fleet_agent *a)
{
    struct tunnel_peer *p = tunnel_peer_of(ts, a->id);
    struct tunnel_network *n = tunnel_network_of(ts, a->network->id);
    if (!p)
        return;
    bool is_short = loop_now_ms(ts->loop) - p->began_ms < SHORT_SESSION_MS;
    a->short_sessions = is_short ? a->short_sessions + 1 : 0;
    lose_leases(p, a->revoked ? ERR_REVOKED : ERR_UNAVAILABLE, "the agent has gone");
    release_leases(p);
    forget_session(p);
    tunnel_plan(n);
    mem_free(p);
}

/* ---- moved to another hub ---- */

static void lose_coming(struct tunnel_peer *p)
{
    struct tunnel_lease *l, *next;
    for (l = p->leases; l; l = next) {
        next = l->peer_next;
        if (l->object->want == p)
            tunnel_set_want(l->object, NULL);
        if (lease_is_coming(&l->l))
            tunnel_lease_lose(l, ERR_UNAVAILABLE, "withdrawn: the agent has moved to another hub");
    }
}

bool tunnel_peer_left(struct tunnels *ts, struct fleet_agent *a, struct fleet_pool *pool)
{
    struct tunnel_peer *p = tunnel_peer_of(ts, a->id);
    if (!p)
        return false;
    if (!pool) {
        tunnel_peer_down(ts, a);
        return false;
    }
    lose_coming(p);
    forget_session(p);
    p->left = pool;
    pool->left_user = p;
    tunnel_plan(tunnel_network_of(ts, a->network->id));
    if (p->leases)
        return true;
    pool->left_user = NULL;
    mem_free(p);
    return false;
}

void tunnel_peer_left_down(struct tunnel_peer *p)
{
    p->left->left_user = NULL;
    p->left = NULL;
    lose_leases(p, ERR_UNAVAILABLE, "the agent has moved to another hub");
    release_leases(p);
    mem_free(p);
}

void tunnel_peer_left_idle(struct tunnel_peer *p)
{
    struct fleet_pool *pool = p->left;
    if (!pool || p->leases)
        return;
    pool->left_user = NULL;
    mem_free(p);
    fleet_left_over(pool);
}

void tunnel_peer_drain(struct tunnel_peer *p)
{
    struct tunnel_lease *l;
    for (l = p->leases; l; l = l->peer_next) {
        if (l->l.state == LEASE_LINGERING)
            tunnel_lease_limit(l);
    }
    tunnel_plan(network_of(p));
}

void tunnel_peer_describe(const struct tunnel_peer *p, struct fleet_agent_load *ret)
{
    struct tunnel_traffic traffic = {0};
    for (const struct tunnel_lease *l = p->leases; l; l = l->peer_next) {
        ret->tunnels += l->l.state == LEASE_HELD;
        ret->lingering += l->l.state == LEASE_LINGERING;
        tunnel_lease_traffic(l, &traffic);
    }
    ret->streams += traffic.streams_open;
    ret->is_leaving |= p->is_leaving;
}

/* ---- what is reached ---- */

const struct tunnel_miss *tunnel_miss_of(const struct tunnel_object *o, const struct tunnel_peer *p)
{
    const struct tunnel_miss *m;
    DL_FOREACH (o->misses, m) {
        if (m->peer == p)
            return m;
    }
    return NULL;
}

void tunnel_forget_misses(struct tunnel_object *o)
{
    while (o->misses)
        forget(o->misses);
}

static void add_miss(struct tunnel_peer *p, struct tunnel_object *o, int err)
{
    struct tunnel_miss *m = NEW(struct tunnel_miss);
    *m = (struct tunnel_miss){.object = o, .peer = p, .err = err};
    DL_APPEND(o->misses, m);
    DL_APPEND2(p->misses, m, peer_prev, peer_next);
}

void tunnel_peer_report(struct tunnel_peer *p, struct tunnel_object *o, int err)
{
    struct tunnel_miss *m = (struct tunnel_miss *)tunnel_miss_of(o, p);
    struct tunnel_lease *l = tunnel_lease_with(o, p);
    bool was_known = m != NULL;
    LOG_DEBUG("target", LOG_STR("tunnel", o->t.id), LOG_STR("agent", p->id), LOG_ERR(err));
    if (err == 0 && m)
        forget(m);
    else if (err < 0 && m)
        m->err = err;
    else if (err < 0)
        add_miss(p, o, err);
    if (err < 0 && l && l->l.state == LEASE_OFFERED && l->check_first)
        tunnel_lease_lose(l, err, "declined: the agent does not reach the target");
    if (was_known != (err < 0)) {
        if (err < 0)
            tunnel_plan(network_of(p));
        else
            tunnel_plan_later(network_of(p));
    }
    tunnel_refresh_phase(o);
}
