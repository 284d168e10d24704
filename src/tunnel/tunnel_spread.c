#include "tunnel/tunnel_spread.h"

#include "base/macro.h"
#include "base/mem.h"

#include <string.h>

#define ROUNDS_MAX 4 /* of moving: more are needed only where few agents reach few targets */

/* Tunnels of each agent in lists by index, newest arrival first. */
struct plan {
    const struct spread *s;
    uint32_t *load, *first; /* of each agent */
    uint32_t *next;         /* of each tunnel, in its agent's list */
    bool *is_bound;         /* of each tunnel: some able agent reaches its target */
    bool *is_done;          /* of each agent: nothing of it can be moved in this round */
};

static bool reaches(const struct spread *s, uint32_t tunnel, uint32_t agent)
{
    return !s->reaches || s->reaches(s->arg, tunnel, agent);
}

static bool may_hold(const struct plan *p, uint32_t tunnel, uint32_t agent)
{
    return p->s->is_able[agent] && (!p->is_bound[tunnel] || reaches(p->s, tunnel, agent));
}

static void put(struct plan *p, uint32_t tunnel, uint32_t agent)
{
    p->s->holder[tunnel] = agent;
    p->next[tunnel] = p->first[agent];
    p->first[agent] = tunnel;
    p->load[agent]++;
}

static bool is_bound(const struct spread *s, uint32_t tunnel)
{
    for (uint32_t a = 0; a < s->n_agents; a++) {
        if (s->is_able[a] && reaches(s, tunnel, a))
            return true;
    }
    return false;
}

static void keep_what_can_stay(struct plan *p)
{
    const struct spread *s = p->s;
    for (uint32_t t = 0; t < s->n_tunnels; t++) {
        uint32_t a = s->holder[t];
        p->is_bound[t] = is_bound(s, t);
        if (a != SPREAD_NOBODY && may_hold(p, t, a))
            put(p, t, a);
        else
            s->holder[t] = SPREAD_NOBODY;
    }
}

static void place_what_is_free(struct plan *p)
{
    const struct spread *s = p->s;
    for (uint32_t t = 0; t < s->n_tunnels; t++) {
        uint32_t best = SPREAD_NOBODY;
        for (uint32_t a = 0; s->holder[t] == SPREAD_NOBODY && a < s->n_agents; a++) {
            if (may_hold(p, t, a) && (best == SPREAD_NOBODY || p->load[a] < p->load[best]))
                best = a;
        }
        if (best != SPREAD_NOBODY)
            put(p, t, best);
    }
}

/* Moves a tunnel of `from` that `to` may hold. */
static bool move_one(struct plan *p, uint32_t from, uint32_t to)
{
    for (uint32_t *link = &p->first[from]; *link != SPREAD_NOBODY; link = &p->next[*link]) {
        uint32_t t = *link;
        if (!may_hold(p, t, to))
            continue;
        *link = p->next[t];
        p->load[from]--;
        put(p, t, to);
        return true;
    }
    return false;
}

/* The able agent that holds most and has not been given up in this round. */
static uint32_t pick_giver(const struct plan *p)
{
    uint32_t best = SPREAD_NOBODY;
    for (uint32_t a = 0; a < p->s->n_agents; a++) {
        if (p->s->is_able[a] && !p->is_done[a] &&
            (best == SPREAD_NOBODY || p->load[a] > p->load[best]))
            best = a;
    }
    return best;
}

/* The able agent that holds least of those with at least `least`, after agent `after` among equals;
 * what a giver walks through in rising order. */
static uint32_t pick_taker(const struct plan *p, uint32_t least, uint32_t after)
{
    uint32_t best = SPREAD_NOBODY;
    for (uint32_t a = 0; a < p->s->n_agents; a++) {
        bool is_ahead =
            p->load[a] > least || (p->load[a] == least && (after == SPREAD_NOBODY || a > after));
        if (p->s->is_able[a] && is_ahead && (best == SPREAD_NOBODY || p->load[a] < p->load[best]))
            best = a;
    }
    return best;
}

static bool give(struct plan *p, uint32_t from)
{
    uint32_t to = pick_taker(p, 0, SPREAD_NOBODY);
    while (to != SPREAD_NOBODY && p->load[from] >= p->load[to] + 2) {
        if (move_one(p, from, to))
            return true;
        to = pick_taker(p, p->load[to], to);
    }
    return false;
}

/* Whether something moved although some agent could not give: then it may be able to now. */
static bool even_out(struct plan *p)
{
    bool has_moved = false, has_stuck = false;
    uint32_t from;
    memset(p->is_done, 0, p->s->n_agents * sizeof(*p->is_done));
    while ((from = pick_giver(p)) != SPREAD_NOBODY) {
        if (give(p, from)) {
            has_moved = true;
            continue;
        }
        uint32_t least = pick_taker(p, 0, SPREAD_NOBODY);
        if (p->load[from] < p->load[least] + 2)
            break; /* even */
        p->is_done[from] = has_stuck = true;
    }
    return has_moved && has_stuck;
}

uint32_t spread_plan(const struct spread *s)
{
    size_t agents = s->n_agents + 1, tunnels = s->n_tunnels + 1;
    CLEANUP(mem_free) uint32_t *load = mem_new(agents * sizeof(*load));
    CLEANUP(mem_free) uint32_t *first = mem_new(agents * sizeof(*first));
    CLEANUP(mem_free) uint32_t *next = mem_new(tunnels * sizeof(*next));
    CLEANUP(mem_free) bool *bound = mem_new(tunnels * sizeof(*bound));
    CLEANUP(mem_free) bool *done = mem_new(agents * sizeof(*done));
    CLEANUP(mem_free) uint32_t *was = mem_dup(s->holder, s->n_tunnels * sizeof(*was));
    struct plan p = {s, load, first, next, bound, done};
    uint32_t n = 0;
    for (uint32_t a = 0; a < s->n_agents; a++)
        first[a] = SPREAD_NOBODY;
    keep_what_can_stay(&p);
    place_what_is_free(&p);
    for (int round = 0; round < ROUNDS_MAX && even_out(&p); round++)
        ;
    for (uint32_t t = 0; t < s->n_tunnels; t++)
        n += s->holder[t] != was[t];
    return n;
}
