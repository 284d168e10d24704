/*
 * Deciding: gathers who is able and who holds what, asks tunnel_spread.h, and makes leases follow.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "peer/peers.h"
#include "tunnel/tunnel_spread.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PLAN_MS     20  /* between two plans of a network, */
#define PLAN_PER_MS 100 /* and 1 more for each so many tunnels, since a plan looks at all */
#define BALANCE_MS  300 /* agents that start together are one change */

/* Who could hold tunnels of a network. */
struct crew {
    struct tunnel_peer **peers;
    bool *is_able;
    uint32_t n;
    uint64_t until_ms; /* loop time at which an agent's silence ends; UINT64_MAX: nobody's */
};

/* SPREAD_NOBODY: nobody, or an agent that has left the network. */
static uint32_t index_of(const struct crew *c, const struct tunnel_peer *p)
{
    return p && p->index < c->n && c->peers[p->index] == p ? p->index : SPREAD_NOBODY;
}

void tunnel_set_want(struct tunnel_object *o, struct tunnel_peer *want)
{
    if (o->want)
        o->want->load--;
    if (want)
        want->load++;
    o->want = want;
}

/* ---- one tunnel ---- */

/* Why `o` goes to another agent than `from` now (NULL: nobody serves it). */
static enum tunnel_why why_it_moves(const struct tunnel_object *o, const struct tunnel_lease *from,
                                    char reason[96])
{
    if (!from && o->lost[0]) {
        snprintf(reason, 96, "%s", o->lost);
        return TUNNEL_WHY_LOST;
    }
    if (!from || !from->peer) {
        snprintf(reason, 96, "no agent held it");
        return TUNNEL_WHY_FREE;
    }
    const char *name = from->peer->agent->name;
    if (tunnel_peer_is_draining(from->peer)) {
        snprintf(reason, 96, "%s is being drained", name);
        return TUNNEL_WHY_DRAIN;
    }
    if (tunnel_miss_of(o, from->peer)) {
        snprintf(reason, 96, "%s does not reach the target", name);
        return TUNNEL_WHY_CHECK;
    }
    snprintf(reason, 96, "spread evenly: %s held more", name);
    return TUNNEL_WHY_BALANCE;
}

/* A lease that its agent shall not have any more, while another may. */
static void give_up(struct tunnel_lease *l)
{
    if (l->l.state != LEASE_HELD)
        tunnel_lease_lose(l, ERR_UNAVAILABLE, "withdrawn");
    else if (l->peer && tunnel_miss_of(l->object, l->peer))
        tunnel_lease_lose(l, ERR_UNAVAILABLE, "the agent does not reach the target");
    else
        tunnel_lease_linger(l);
}

/* The one to be kept: that of `o->want`, if it is held already. */
static struct tunnel_lease *held_lease(const struct tunnel_object *o)
{
    struct tunnel_lease *l = o->want ? tunnel_lease_with(o, o->want) : NULL;
    return l && l->l.state == LEASE_HELD ? l : tunnel_holder(o);
}

/* Each that goes may make others proceed or end, so that the list is looked at anew. */
static struct tunnel_lease *unwanted_of_one(const struct tunnel_object *o)
{
    const struct tunnel_lease *held = held_lease(o);
    struct tunnel_lease *l;
    bool is_done = held && held->peer && held->peer == o->want;
    DL_FOREACH (o->leases, l) {
        if (l->l.state == LEASE_HELD ? l != held || !o->want
                                     : lease_is_coming(&l->l) && (is_done || l->peer != o->want))
            return l;
    }
    return NULL;
}

/* The tunnel has one agent at a time: `o->want`. */
static void settle_one(struct tunnel_object *o)
{
    struct tunnel_lease *l;
    char reason[96];
    while ((l = unwanted_of_one(o))) {
        if (l->l.state == LEASE_HELD)
            tunnel_lease_linger(l);
        else
            tunnel_lease_lose(l, ERR_UNAVAILABLE, "withdrawn");
    }
    if (!o->want || tunnel_lease_with(o, o->want))
        return;
    const struct tunnel_lease *held = tunnel_holder(o);
    enum tunnel_why why = why_it_moves(o, held, reason);
    tunnel_grant(o, o->want, why, reason, held && !tunnel_miss_of(o, o->want));
}

static struct tunnel_lease *unwanted_of_all(const struct tunnel_object *o, const struct crew *c,
                                            bool is_bound)
{
    struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        uint32_t i = index_of(c, l->peer);
        if (l->l.state != LEASE_HELD && !lease_is_coming(&l->l))
            continue;
        if (i == SPREAD_NOBODY || !c->is_able[i] || (is_bound && tunnel_miss_of(o, l->peer)))
            return l;
    }
    return NULL;
}

/* All able agents that reach the target hold the tunnel; if none does, all able ones. */
static void settle_all(struct tunnel_object *o, const struct crew *c)
{
    bool is_bound = false, is_served = tunnel_holder(o) != NULL;
    struct tunnel_lease *l;
    for (uint32_t i = 0; i < c->n; i++)
        is_bound |= c->is_able[i] && !tunnel_miss_of(o, c->peers[i]);
    tunnel_set_want(o, NULL);
    while ((l = unwanted_of_all(o, c, is_bound)))
        give_up(l);
    for (uint32_t i = 0; i < c->n; i++) {
        const struct tunnel_miss *m = tunnel_miss_of(o, c->peers[i]);
        if (c->is_able[i] && !(is_bound && m) && !tunnel_lease_with(o, c->peers[i]))
            tunnel_grant(o, c->peers[i], TUNNEL_WHY_SPREAD, "spread by connection",
                         is_served && !m);
    }
}

/* ---- a network ---- */

struct plan {
    struct crew crew;
    struct tunnel_object **objects; /* those with one agent at a time */
    uint32_t *holders;
    uint32_t n_objects;
};

static void crew_done(struct crew *c)
{
    mem_free(c->peers);
    mem_free(c->is_able);
}

static void plan_done(struct plan *p)
{
    crew_done(&p->crew);
    mem_free(p->objects);
    mem_free(p->holders);
}

static void gather_crew(struct crew *c, struct tunnels *ts, const char *network)
{
    struct fleet_network *n = fleet_network_find(ts->fleet, network);
    size_t room = n ? n->online : 0;
    bool has_able = false;
    struct fleet_agent *a;
    c->peers = mem_new((room + 1) * sizeof(struct tunnel_peer *));
    c->is_able = mem_new((room + 1) * sizeof(bool));
    c->until_ms = UINT64_MAX;
    if (!n)
        return;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        struct tunnel_peer *p = a->call ? tunnel_peer_of(ts, a->id) : NULL;
        if (!p || c->n == room)
            continue;
        p->index = c->n;
        c->is_able[c->n] = !tunnel_peer_is_draining(p) && !tunnel_peer_is_silent(p);
        has_able |= c->is_able[c->n];
        if (tunnel_peer_is_silent(p) && p->silent_until_ms < c->until_ms)
            c->until_ms = p->silent_until_ms;
        c->peers[c->n++] = p;
    }
    for (uint32_t i = 0; !has_able && i < c->n; i++)
        c->is_able[i] = !tunnel_peer_is_draining(c->peers[i]);
}

static void gather_objects(struct plan *p, const struct tunnel_network *n)
{
    struct tunnel_object *o;
    p->objects = mem_new((n->count + 1) * sizeof(struct tunnel_object *));
    p->holders = mem_new((n->count + 1) * sizeof(uint32_t));
    DL_FOREACH (n->objects, o) {
        if (o->t.spec.spread == TUNNEL_SPREAD_CONNECTION || !tunnel_may_hold(o))
            continue;
        const struct tunnel_lease *held = tunnel_holder(o);
        const struct tunnel_peer *now = o->want ? o->want : held ? held->peer : NULL;
        p->objects[p->n_objects] = o;
        p->holders[p->n_objects++] = index_of(&p->crew, now);
    }
}

static bool reaches(void *arg, uint32_t tunnel, uint32_t agent)
{
    const struct plan *p = arg;
    const struct tunnel_object *o = p->objects[tunnel];
    return !o->misses || !tunnel_miss_of(o, p->crew.peers[agent]);
}

static void plan_at(struct tunnel_network *n, uint64_t at_ms)
{
    uint64_t now = loop_now_ms(n->owner->loop);
    if (timer_is_running(&n->plan_timer) && n->plan_timer.due_ms <= at_ms)
        return;
    timer_start(&n->plan_timer, at_ms > now ? at_ms - now : 0);
}

static void make_plan(struct tunnel_network *n)
{
    struct plan p = {0};
    struct tunnel_object *o, *next;
    gather_crew(&p.crew, n->owner, n->id);
    gather_objects(&p, n);
    const struct spread s = {p.crew.n, p.n_objects, p.crew.is_able, p.holders, reaches, &p};
    spread_plan(&s);
    for (uint32_t i = 0; i < p.n_objects; i++) {
        uint32_t holder = p.holders[i];
        tunnel_set_want(p.objects[i], holder == SPREAD_NOBODY ? NULL : p.crew.peers[holder]);
        settle_one(p.objects[i]);
    }
    DL_FOREACH_SAFE (n->objects, o, next) {
        if (o->t.spec.spread == TUNNEL_SPREAD_CONNECTION && tunnel_may_hold(o))
            settle_all(o, &p.crew);
        tunnel_release_if_idle(o);
    }
    if (p.crew.until_ms != UINT64_MAX)
        plan_at(n, p.crew.until_ms);
    plan_done(&p);
}

static bool may_plan(const struct tunnels *ts)
{
    return !ts->is_draining && (!ts->cluster || peers_may_claim(ts->cluster));
}

/* What a hub that is being drained has no agents for any more is others' to claim. */
static void release_idle(struct tunnel_network *n)
{
    struct tunnel_object *o;
    DL_FOREACH (n->objects, o)
        tunnel_release_if_idle(o);
}

void tunnel_plan_timer(struct timer *t)
{
    struct tunnel_network *n = container_of(t, struct tunnel_network, plan_timer);
    n->planned_ms = loop_now_ms(n->owner->loop);
    if (may_plan(n->owner))
        make_plan(n);
    else if (!n->owner->is_draining)
        release_idle(n);
}

void tunnel_plan(struct tunnel_network *n)
{
    if (n)
        plan_at(n, n->planned_ms + PLAN_MS + n->count / PLAN_PER_MS);
}

void tunnel_plan_later(struct tunnel_network *n)
{
    if (n)
        plan_at(n, loop_now_ms(n->owner->loop) + BALANCE_MS);
}

/* ---- one more ---- */

/* As tunnel_spread.h places what has no holder. */
static struct tunnel_peer *pick_holder(const struct tunnel_object *o, const struct crew *c)
{
    struct tunnel_peer *best = NULL;
    bool is_reached = false;
    for (uint32_t i = 0; i < c->n; i++) {
        struct tunnel_peer *p = c->peers[i];
        bool reaches = !tunnel_miss_of(o, p);
        if (!c->is_able[i] || (best && is_reached && !reaches))
            continue;
        if (!best || reaches > is_reached || p->load < best->load) {
            best = p;
            is_reached = reaches;
        }
    }
    return best;
}

static void place_one(struct tunnel_object *o, const struct crew *c)
{
    bool may_hold = tunnel_may_hold(o);
    if (may_hold && o->t.spec.spread == TUNNEL_SPREAD_CONNECTION) {
        settle_all(o, c);
    } else if (may_hold && !o->want && !o->leases) {
        tunnel_set_want(o, pick_holder(o, c));
        settle_one(o);
    }
    tunnel_release_if_idle(o);
}

/* Those at the head of the list that are of one network. */
static void place_some(struct tunnels *ts)
{
    struct tunnel_network *n = tunnel_network_of(ts, ts->placing->t.spec.network);
    struct crew crew = {0};
    gather_crew(&crew, ts, n->id);
    while (ts->placing && tunnel_network_of(ts, ts->placing->t.spec.network) == n) {
        struct tunnel_object *o = ts->placing;
        tunnel_place_cancel(o);
        place_one(o, &crew);
    }
    if (crew.until_ms != UINT64_MAX)
        plan_at(n, crew.until_ms);
    crew_done(&crew);
}

void tunnel_place_all(struct defer *d)
{
    struct tunnels *ts = container_of(d, struct tunnels, place);
    bool may = may_plan(ts);
    while (ts->placing) {
        if (may)
            place_some(ts);
        else
            tunnel_place_cancel(ts->placing); /* tunnels_may_claim plans for all */
    }
}

void tunnel_place(struct tunnel_object *o)
{
    struct tunnels *ts = o->owner;
    if (o->is_placing || o->is_deleted)
        return;
    o->is_placing = true;
    DL_APPEND2(ts->placing, o, place_prev, place_next);
    loop_defer(ts->loop, &ts->place);
}

void tunnel_place_cancel(struct tunnel_object *o)
{
    if (o->is_placing)
        DL_DELETE2(o->owner->placing, o, place_prev, place_next);
    o->is_placing = false;
}
