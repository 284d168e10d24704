/*
 * Deciding: gathers who is able and who holds what, asks tunnel_spread.h, and makes leases follow.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "tunnel/tunnel_spread.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PLAN_MS    20  /* between two plans of a network: a plan looks at all its tunnels */
#define BALANCE_MS 300 /* agents that start together are one change */

static const char *const why_names[] = {"free", "lost", "check", "drain", "balance", "spread"};
static_assert(ARRAY_SIZE(why_names) == TUNNEL_WHY_COUNT, "a name for each reason");

const char *tunnel_why_name(enum tunnel_why why)
{
    return why_names[why];
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

/* The tunnel has one agent at a time: `o->want`. */
static void settle_one(struct tunnel_object *o)
{
    struct tunnel_lease *held = tunnel_holder(o), *l, *next;
    bool is_there = false;
    char reason[96];
    for (l = o->leases; l; l = next) {
        next = l->next;
        if (l->l.state == LEASE_HELD && l != held)
            tunnel_lease_linger(l); /* it was spread by connection before */
        else if (lease_is_coming(&l->l) && (l->peer != o->want || (held && held->peer == o->want)))
            tunnel_lease_lose(l, ERR_UNAVAILABLE, "withdrawn");
        else if (lease_is_coming(&l->l))
            is_there = true;
    }
    if (!o->want && held)
        tunnel_lease_linger(held);
    if (!o->want || is_there || (held && held->peer == o->want))
        return;
    enum tunnel_why why = why_it_moves(o, held, reason);
    tunnel_grant(o, o->want, why, reason, held && !tunnel_miss_of(o, o->want));
}

/* All able agents that reach the target hold the tunnel; if none does, all able ones. */
static void settle_all(struct tunnel_object *o, struct tunnel_peer *const *peers,
                       const bool *is_able, uint32_t n)
{
    bool is_bound = false, is_served = tunnel_holder(o) != NULL;
    struct tunnel_lease *l, *next;
    for (uint32_t i = 0; i < n; i++)
        is_bound |= is_able[i] && !tunnel_miss_of(o, peers[i]);
    o->want = NULL;
    for (l = o->leases; l; l = next) {
        next = l->next;
        if (l->l.state != LEASE_HELD && !lease_is_coming(&l->l))
            continue;
        if (!l->peer || !is_able[l->peer->index] || (is_bound && tunnel_miss_of(o, l->peer)))
            give_up(l);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct tunnel_miss *m = tunnel_miss_of(o, peers[i]);
        if (is_able[i] && !(is_bound && m) && !tunnel_lease_with(o, peers[i]))
            tunnel_grant(o, peers[i], TUNNEL_WHY_SPREAD, "spread by connection", is_served && !m);
    }
}

/* ---- a network ---- */

struct plan {
    struct tunnel_peer **peers;
    bool *is_able;
    uint32_t n_peers;
    struct tunnel_object **objects; /* those with one agent at a time */
    uint32_t *holders;
    uint32_t n_objects;
};

static void plan_done(struct plan *p)
{
    mem_free(p->peers);
    mem_free(p->is_able);
    mem_free(p->objects);
    mem_free(p->holders);
}

static void gather_peers(struct plan *p, struct tunnels *ts, const char *network)
{
    struct fleet_network *n = fleet_network_find(ts->fleet, network);
    size_t room = n ? n->online : 0;
    bool has_able = false;
    struct fleet_agent *a;
    p->peers = mem_new((room + 1) * sizeof(struct tunnel_peer *));
    p->is_able = mem_new((room + 1) * sizeof(bool));
    if (!n)
        return;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        struct tunnel_peer *peer = a->call ? tunnel_peer_of(ts, a->id) : NULL;
        if (!peer || p->n_peers == room)
            continue;
        peer->index = p->n_peers;
        p->is_able[p->n_peers] = !tunnel_peer_is_draining(peer) && !tunnel_peer_is_silent(peer);
        has_able |= p->is_able[p->n_peers];
        p->peers[p->n_peers++] = peer;
    }
    for (uint32_t i = 0; !has_able && i < p->n_peers; i++)
        p->is_able[i] = !tunnel_peer_is_draining(p->peers[i]);
}

static void gather_objects(struct plan *p, const struct tunnel_network *n)
{
    struct tunnel_object *o;
    p->objects = mem_new((n->count + 1) * sizeof(struct tunnel_object *));
    p->holders = mem_new((n->count + 1) * sizeof(uint32_t));
    DL_FOREACH (n->objects, o) {
        if (tunnel_phase_is_over(o->t.phase) || o->t.spec.spread == TUNNEL_SPREAD_CONNECTION)
            continue;
        const struct tunnel_lease *held = tunnel_holder(o);
        const struct tunnel_peer *now = o->want ? o->want : held ? held->peer : NULL;
        p->objects[p->n_objects] = o;
        p->holders[p->n_objects++] = now ? now->index : SPREAD_NOBODY;
    }
}

static bool reaches(void *arg, uint32_t tunnel, uint32_t agent)
{
    const struct plan *p = arg;
    const struct tunnel_object *o = p->objects[tunnel];
    return !o->misses || !tunnel_miss_of(o, p->peers[agent]);
}

static void make_plan(struct tunnel_network *n)
{
    struct plan p = {0};
    struct tunnel_object *o, *next;
    gather_peers(&p, n->owner, n->id);
    gather_objects(&p, n);
    const struct spread s = {p.n_peers, p.n_objects, p.is_able, p.holders, reaches, &p};
    spread_plan(&s);
    for (uint32_t i = 0; i < p.n_objects; i++) {
        p.objects[i]->want = p.holders[i] == SPREAD_NOBODY ? NULL : p.peers[p.holders[i]];
        settle_one(p.objects[i]);
    }
    DL_FOREACH_SAFE (n->objects, o, next) {
        if (!tunnel_phase_is_over(o->t.phase) && o->t.spec.spread == TUNNEL_SPREAD_CONNECTION)
            settle_all(o, p.peers, p.is_able, p.n_peers);
    }
    plan_done(&p);
}

void tunnel_plan_timer(struct timer *t)
{
    struct tunnel_network *n = container_of(t, struct tunnel_network, plan_timer);
    n->planned_ms = loop_now_ms(n->owner->loop);
    if (!n->owner->is_draining)
        make_plan(n);
}

static void plan_at(struct tunnel_network *n, uint64_t at_ms)
{
    uint64_t now = loop_now_ms(n->owner->loop);
    if (timer_is_running(&n->plan_timer) && n->plan_timer.due_ms <= at_ms)
        return;
    timer_start(&n->plan_timer, at_ms > now ? at_ms - now : 0);
}

void tunnel_plan(struct tunnel_network *n)
{
    if (n)
        plan_at(n, n->planned_ms + PLAN_MS);
}

void tunnel_plan_later(struct tunnel_network *n)
{
    if (n)
        plan_at(n, loop_now_ms(n->owner->loop) + BALANCE_MS);
}
