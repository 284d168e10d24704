/*
 * Five hubs, fifty agents and twenty tunnels on virtual time: the rules of routes (tunnel_route.h)
 * and of hubs' leases (peer/hub_lease.h) under faults, thousands of seeds, checked at each step.
 *
 * The database is a struct here, and what it decides is written as in its SQL (tunnel_store_claim,
 * peers.c, fleet_session.c). Hubs see its feed late, each in its own time but in order; messages to
 * the database arrive late, or after their hub has died; a hub freezes, is cut off, dies, returns.
 */
#include "base/macro.h"
#include "peer/hub_lease.h"
#include "tunnel/tunnel_route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HUBS     5
#define AGENTS   50
#define NETWORKS 10 /* agent a is of network a % NETWORKS, tunnel t of t % NETWORKS */
#define TUNNELS  20
#define STEP_MS  50
#define STEPS    1200
#define FEED_MAX 16384
#define SEEDS    200 /* WARREN_SIM_SEEDS: another number */

struct session {
    uint64_t epoch;
    int hub; /* -1: disconnected */
    uint64_t hub_epoch;
};

/* What is committed. A change of the feed is the row as it was then, of a tunnel or an agent. */
struct change {
    bool is_agent;
    int id;
    struct tunnel_route route;
    struct session session;
};

struct db {
    struct {
        uint64_t epoch, expires_ms;
    } hubs[HUBS];
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    struct change feed[FEED_MAX];
    size_t n_feed;
};

/* One hub: what it believes. */
struct hub {
    bool is_alive, is_frozen, is_cut; /* cut: from the database */
    uint64_t epoch;
    struct hub_lease lease;
    uint64_t renew_at_ms, started_ms;
    size_t read; /* of the feed */
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    struct {
        uint64_t epoch, ends_ms;
    } others[HUBS];
};

struct agent {
    int hub; /* -1: none */
    uint64_t epoch;
    uint64_t dial_at_ms;
};

static struct sim {
    uint64_t now_ms;
    struct db db;
    struct hub hubs[HUBS];
    struct agent agents[AGENTS];
    uint64_t highest[TUNNELS]; /* epoch ever given */
    int served[TUNNELS];       /* steps in which a tunnel had a live route */
    uint64_t random;
} sim;

static uint32_t draw(uint32_t n)
{
    sim.random = sim.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(sim.random >> 33) % n;
}

static void name_of(int hub, char out[ID_SIZE])
{
    snprintf(out, ID_SIZE, "hub_%d", hub);
}

static int number_of(const char *name)
{
    return name[0] ? atoi(strchr(name, '_') + 1) : -1;
}

static bool reaches_db(const struct hub *h)
{
    return h->is_alive && !h->is_frozen && !h->is_cut;
}

/* Two hubs' links answer while both run; the wires between them are whole in this simulation. */
static bool is_linked(int a, int b)
{
    return sim.hubs[a].is_alive && sim.hubs[b].is_alive && !sim.hubs[a].is_frozen &&
           !sim.hubs[b].is_frozen;
}

/* ---- the database ---- */

static void publish(bool is_agent, int id)
{
    assert_true(sim.db.n_feed < FEED_MAX);
    struct change *c = &sim.db.feed[sim.db.n_feed++];
    *c = (struct change){.is_agent = is_agent, .id = id};
    if (is_agent)
        c->session = sim.db.agents[id];
    else
        c->route = sim.db.tunnels[id];
}

/* ROUTE_IS_FREE of tunnel_store.c. */
static bool is_free(const struct tunnel_route *r, const char *self)
{
    int hub = number_of(r->hub);
    if (hub < 0 || strcmp(r->hub, self) == 0)
        return true;
    if (sim.db.hubs[hub].epoch != r->hub_epoch || sim.db.hubs[hub].expires_ms <= sim.now_ms)
        return true;
    const struct session *s = &sim.db.agents[number_of(r->agent)];
    return r->session && (s->epoch != r->session || s->hub < 0);
}

static void db_claim(int tunnel, uint64_t seen, const struct tunnel_route *want)
{
    struct tunnel_route *r = &sim.db.tunnels[tunnel];
    struct hub *by = &sim.hubs[number_of(want->hub)];
    if (strcmp(r->hub, want->hub) != 0 && (r->epoch != seen || !is_free(r, want->hub))) {
        by->tunnels[tunnel] = *r; /* it reads the row */
        return;
    }
    uint64_t epoch = r->epoch + 1;
    *r = *want;
    r->epoch = epoch;
    assert_true(epoch > sim.highest[tunnel]);
    sim.highest[tunnel] = epoch;
    publish(false, tunnel);
    by->tunnels[tunnel] = *r; /* it is told at once of what it did itself */
}

static void db_login(int agent, int hub)
{
    struct session *s = &sim.db.agents[agent];
    *s = (struct session){s->epoch + 1, hub, sim.hubs[hub].epoch};
    sim.agents[agent].hub = hub;
    sim.agents[agent].epoch = s->epoch;
    sim.hubs[hub].agents[agent] = *s;
    publish(true, agent);
}

static void db_logout(int agent, uint64_t epoch)
{
    if (sim.db.agents[agent].epoch != epoch)
        return;
    sim.db.agents[agent].hub = -1;
    publish(true, agent);
}

/* ---- a hub ---- */

/* The rows of the others (peers.c). */
static void read_leases(struct hub *h, bool is_first)
{
    for (int k = 0; k < HUBS; k++) {
        uint64_t ends = sim.db.hubs[k].expires_ms, doubt = sim.now_ms + HUB_LEASE_DOUBT_MS;
        h->others[k].epoch = sim.db.hubs[k].epoch;
        if (is_first)
            ends = MAX(ends, doubt);
        if (ends > sim.now_ms)
            h->others[k].ends_ms = ends;
    }
}

static void start_hub(int i)
{
    struct hub *h = &sim.hubs[i];
    *h = (struct hub){.is_alive = true, .epoch = ++sim.db.hubs[i].epoch, .started_ms = sim.now_ms};
    sim.db.hubs[i].expires_ms = sim.now_ms + HUB_LEASE_LIFE_MS;
    hub_lease_renewed(&h->lease, sim.now_ms);
    h->renew_at_ms = sim.now_ms + HUB_LEASE_RENEW_MS;
    memcpy(h->agents, sim.db.agents, sizeof(h->agents));
    memcpy(h->tunnels, sim.db.tunnels, sizeof(h->tunnels));
    h->read = sim.db.n_feed;
    read_leases(h, true);
}

static void renew(int i)
{
    struct hub *h = &sim.hubs[i];
    if (sim.now_ms < h->renew_at_ms || !reaches_db(h))
        return;
    h->renew_at_ms = sim.now_ms + HUB_LEASE_RENEW_MS;
    sim.db.hubs[i].expires_ms = sim.now_ms + HUB_LEASE_LIFE_MS;
    hub_lease_renewed(&h->lease, sim.now_ms);
    read_leases(h, false);
}

/* Some of what is new in the feed, or nothing; in order, without a gap. */
static void follow(int i)
{
    struct hub *h = &sim.hubs[i];
    if (!reaches_db(h) || draw(3) == 0)
        return;
    for (size_t n = draw(8); n && h->read < sim.db.n_feed; n--) {
        const struct change *c = &sim.db.feed[h->read++];
        if (c->is_agent && c->session.epoch >= h->agents[c->id].epoch)
            h->agents[c->id] = c->session;
        else if (!c->is_agent && route_is_news(&h->tunnels[c->id], &c->route))
            h->tunnels[c->id] = c->route;
    }
}

static enum route_duty duty_of(int i, int tunnel, int own_agent)
{
    const struct hub *h = &sim.hubs[i];
    const struct tunnel_route *r = &h->tunnels[tunnel];
    char self[ID_SIZE];
    int hub = number_of(r->hub);
    name_of(i, self);
    struct route_view v = {.hub = self,
                           .may_claim = hub_lease_state(&h->lease, sim.now_ms) == HUB_LEASE_HELD,
                           .has_agent = own_agent >= 0};
    if (hub >= 0 && hub != i)
        v.is_hub_live = h->others[hub].epoch == r->hub_epoch &&
                        (h->others[hub].ends_ms > sim.now_ms || is_linked(i, hub));
    if (hub >= 0) {
        const struct session *s = &h->agents[number_of(r->agent)];
        v.is_session_live = s->epoch < r->session || (s->epoch == r->session && s->hub >= 0);
    }
    return route_duty(r, &v);
}

/* An agent of the tunnel's network whose connection ends here; -1: none. */
static int own_agent(int i, int tunnel)
{
    for (int a = tunnel % NETWORKS; a < AGENTS; a += NETWORKS) {
        if (sim.agents[a].hub == i)
            return a;
    }
    return -1;
}

static void claim(int i, int tunnel)
{
    int agent = own_agent(i, tunnel);
    const struct tunnel_route *r = &sim.hubs[i].tunnels[tunnel];
    enum route_duty duty = duty_of(i, tunnel, agent);
    bool is_own_gone = duty == ROUTE_SERVE && agent >= 0 &&
                       (sim.agents[number_of(r->agent)].hub != i ||
                        sim.agents[number_of(r->agent)].epoch != r->session);
    if ((duty != ROUTE_CLAIM && !is_own_gone) || !reaches_db(&sim.hubs[i]))
        return;
    struct tunnel_route want = {.hub_epoch = sim.hubs[i].epoch, .session = sim.agents[agent].epoch};
    name_of(i, want.hub);
    snprintf(want.agent, sizeof(want.agent), "agt_%d", agent);
    db_claim(tunnel, r->epoch, &want);
}

/* ---- agents ---- */

static void move_agent(int a)
{
    struct agent *g = &sim.agents[a];
    if (g->hub >= 0 && (!sim.hubs[g->hub].is_alive || sim.hubs[g->hub].is_frozen)) {
        g->hub = -1; /* the connection is lost */
        g->dial_at_ms = sim.now_ms + draw(2000);
    } else if (g->hub >= 0 && draw(2000) == 0) {
        if (reaches_db(&sim.hubs[g->hub]))
            db_logout(a, g->epoch);
        g->hub = -1;
        g->dial_at_ms = sim.now_ms + draw(5000);
    }
    if (g->hub >= 0 || sim.now_ms < g->dial_at_ms)
        return;
    int to = (int)draw(HUBS);
    if (reaches_db(&sim.hubs[to]) &&
        hub_lease_state(&sim.hubs[to].lease, sim.now_ms) == HUB_LEASE_HELD)
        db_login(a, to);
}

/* ---- faults ---- */

static void disturb(void)
{
    struct hub *h = &sim.hubs[draw(HUBS)];
    int i = (int)(h - sim.hubs);
    switch (draw(60)) {
    case 0:
        h->is_alive = false;
        break;
    case 1:
    case 2:
        if (!h->is_alive)
            start_hub(i);
        break;
    case 3:
        h->is_frozen = true;
        break;
    case 4:
        h->is_frozen = false;
        break;
    case 5:
        h->is_cut = true;
        break;
    case 6:
        h->is_cut = false;
        break;
    default:
        break;
    }
}

static void heal(void)
{
    for (int i = 0; i < HUBS; i++) {
        sim.hubs[i].is_frozen = sim.hubs[i].is_cut = false;
        if (!sim.hubs[i].is_alive)
            start_hub(i);
    }
}

/* ---- what must hold ---- */

/* Whether an agent takes streams under this route: the connection is there, and of that session. */
static bool is_served_by(int hub, const struct tunnel_route *r)
{
    const struct agent *g = &sim.agents[number_of(r->agent)];
    return sim.hubs[hub].is_alive && !sim.hubs[hub].is_frozen && g->hub == hub &&
           g->epoch == r->session;
}

/* One holder at a time: of all hubs that believe to serve a tunnel, whatever they have heard, at
 * most one has the agent's live session for it. */
static void check_one_holder(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        int holders = 0;
        for (int i = 0; i < HUBS; i++) {
            const struct tunnel_route *r = &sim.hubs[i].tunnels[t];
            bool is_here =
                sim.hubs[i].is_alive && number_of(r->hub) == i && r->hub_epoch == sim.hubs[i].epoch;
            holders += is_here && is_served_by(i, r);
        }
        assert_in_range(holders, 0, 1);
    }
}

/* Nobody forwards to a dead start of a hub for longer than its lease and what is on its way; but
 * one that has just started is in doubt for a while. */
static void check_no_ghosts(uint64_t dead_since[HUBS])
{
    for (int t = 0; t < TUNNELS; t++) {
        for (int i = 0; i < HUBS; i++) {
            int to = number_of(sim.hubs[i].tunnels[t].hub);
            if (to < 0 || to == i || sim.hubs[to].is_alive || !reaches_db(&sim.hubs[i]) ||
                sim.now_ms < dead_since[to] + HUB_LEASE_LIFE_MS + HUB_LEASE_RENEW_MS ||
                sim.now_ms <= sim.hubs[i].started_ms + HUB_LEASE_DOUBT_MS)
                continue;
            assert_int_not_equal(duty_of(i, t, -1), ROUTE_FORWARD);
        }
    }
}

/* When all is whole again, every tunnel whose network has an agent is served, and all know where.
 */
static void check_all_served(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        const struct tunnel_route *r = &sim.db.tunnels[t];
        int hub = number_of(r->hub);
        assert_true(hub >= 0);
        assert_true(is_served_by(hub, r));
        for (int i = 0; i < HUBS; i++)
            assert_int_equal(sim.hubs[i].tunnels[t].epoch, r->epoch);
    }
}

static void step(void)
{
    sim.now_ms += STEP_MS;
    int first = (int)draw(HUBS);
    for (int k = 0; k < HUBS; k++) {
        int i = (first + k) % HUBS;
        if (!sim.hubs[i].is_alive || sim.hubs[i].is_frozen)
            continue;
        renew(i);
        follow(i);
        for (int t = 0; t < TUNNELS; t++)
            claim(i, t);
    }
    for (int a = 0; a < AGENTS; a++)
        move_agent(a);
    check_one_holder();
}

static bool has_read_all(void)
{
    for (int i = 0; i < HUBS; i++) {
        if (sim.hubs[i].read < sim.db.n_feed)
            return false;
    }
    return true;
}

/* Agents stay where they are, and what is on its way arrives. */
static void settle(void)
{
    for (int a = 0; a < AGENTS; a++) {
        if (sim.agents[a].hub < 0)
            db_login(a, (int)draw(HUBS));
    }
    for (int n = 0, quiet = 0; quiet < 100; n++) {
        assert_true(n < 20000);
        sim.now_ms += STEP_MS;
        for (int i = 0; i < HUBS; i++) {
            renew(i);
            follow(i);
            for (int t = 0; t < TUNNELS; t++)
                claim(i, t);
        }
        quiet = has_read_all() ? quiet + 1 : 0;
    }
}

static void run(uint64_t seed)
{
    uint64_t dead_since[HUBS] = {0};
    memset(&sim, 0, sizeof(sim));
    sim.random = seed;
    for (int i = 0; i < HUBS; i++)
        start_hub(i);
    for (int a = 0; a < AGENTS; a++)
        sim.agents[a].hub = -1;
    for (int n = 0; n < STEPS; n++) {
        disturb();
        step();
        for (int i = 0; i < HUBS; i++) {
            if (sim.hubs[i].is_alive)
                dead_since[i] = sim.now_ms;
        }
        check_no_ghosts(dead_since);
    }
    heal();
    for (int n = 0; n < STEPS; n++)
        step();
    settle();
    check_all_served();
}

static void the_rules_hold_whatever_happens(void **state)
{
    const char *text = getenv("WARREN_SIM_SEEDS");
    uint64_t seeds = text ? strtoull(text, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        run(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_rules_hold_whatever_happens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
