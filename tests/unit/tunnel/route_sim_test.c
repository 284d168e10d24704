/*
 * Faults in a cluster on virtual time (route_world.h), what must hold checked at each step: hubs
 * die, start anew, are replaced while they sleep, freeze, are cut off from the database or from
 * each other, and are drained; the database goes away, and fails over to a replica that lacks
 * commits and has another clock, while agents come and go.
 */
#include "route_world.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STEPS        1200
#define SETTLE_STEPS 600 /* after half as many as STEPS in which messages still fail */
#define SEEDS        200 /* WARREN_SIM_SEEDS: another number; thousands in .ci/run */

/* ---- faults ---- */

static void part(void)
{
    uint32_t a = draw(HUBS), b = draw(HUBS);
    if (a != b)
        w.parted[a][b] = w.parted[b][a] = true;
}

static void fail_over(void)
{
    static const int64_t clocks_ms[] = {0, 0, 60000, -60000};
    db_fail_over(draw(4) ? draw(LOST_MAX_MS) : 0, clocks_ms[draw(4)]);
}

static void cut_all(bool is_cut)
{
    for (int i = 0; i < HUBS; i++)
        w.hubs[i].is_cut = is_cut;
}

static void disturb(void)
{
    int i = (int)draw(HUBS);
    struct hub *h = &w.hubs[i];
    if (draw(400) == 0)
        fail_over();
    switch (draw(80)) {
    case 0:
        hub_die(i);
        break;
    case 1:
    case 2:
        if (!h->is_alive)
            hub_start(i);
        break;
    case 13:
        if (h->is_frozen) { /* whoever started it anew did not wait for its end */
            hub_die(i);
            hub_start(i);
        }
        break;
    case 14:
        if (draw(4) == 0)
            cut_all(true);
        break;
    case 15:
        cut_all(false);
        break;
    case 3:
        h->is_frozen = true;
        h->frozen_ms = w.now_ms;
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
    case 7:
        part();
        break;
    case 8:
    case 9:
        memset(w.parted, 0, sizeof(w.parted));
        break;
    case 10:
        h->is_draining = true;
        break;
    case 11:
    case 12:
        h->is_draining = false;
        break;
    default:
        break;
    }
}

static void heal(void)
{
    memset(w.parted, 0, sizeof(w.parted));
    for (int i = 0; i < HUBS; i++) {
        w.hubs[i].is_frozen = w.hubs[i].is_cut = w.hubs[i].is_draining = false;
        if (!w.hubs[i].is_alive && (i == 0 || draw(2))) /* some never come back */
            hub_start(i);
    }
}

/* ---- what must hold ---- */

static bool believes_to_hold(int i, int t)
{
    const struct hub *h = &w.hubs[i];
    const struct tunnel_route *r = &h->tunnels[t];
    return h->is_alive && hub_of_route(r) == i && r->hub_epoch == h->epoch && !h->is_releasing[t];
}

static bool is_marked(const struct hub *h)
{
    for (int t = 0; t < TUNNELS; t++) {
        if (h->is_undone[t])
            return true;
    }
    return false;
}

/* Who is cut from the database and from a hub keeps what it has, and that hub takes it over when
 * the lease has run out: of such a pair each serves, under epochs of their own, until they meet
 * again. And what a fail-over has lost of a claim another may have instead, until its holder hears
 * of it. */
static void note_alone(void)
{
    for (int i = 0; i < HUBS; i++) {
        struct hub *h = &w.hubs[i];
        bool is_parted = h->is_frozen;
        for (int k = 0; k < HUBS; k++)
            is_parted |= k != i && w.hubs[k].is_alive && !world_is_linked(i, k);
        bool has_heard_all =
            hub_reaches_db(h) && h->read == w.db.n_feed && !h->n_asked && !is_marked(h);
        if (h->is_cut && is_parted)
            h->is_alone = true;
        else if (has_heard_all)
            h->is_alone = false;
        if (has_heard_all && h->is_renewed)
            h->is_behind = false;
    }
}

/* One holder at a time (and no epoch twice: world.highest): of all hubs that believe to serve a
 * tunnel, whatever they have heard, at most one has the agent's live session for it. An agent that
 * moves while its session here goes on, as from a hub that is drained, is left until this hub hears
 * of it. */
static void check_one_holder(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        int holders = 0;
        for (int i = 0; i < HUBS; i++) {
            if (!believes_to_hold(i, t))
                continue;
            const struct tunnel_route *r = &w.hubs[i].tunnels[t];
            assert_in_range(r->epoch, 1, w.highest[t]);
            holders += world_is_served_by(i, t, r) && !w.hubs[i].is_alone && !w.hubs[i].is_behind &&
                       !world_has_moved(r);
        }
        assert_in_range(holders, 0, 1);
    }
}

/* An epoch has one holder, whoever is asked. */
static void check_one_holder_of_each_epoch(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        const struct tunnel_route *row = &w.db.tunnels[t];
        for (int i = 0; i < HUBS; i++) {
            const struct tunnel_route *r = &w.hubs[i].tunnels[t];
            if (r->epoch != row->epoch || !r->hub[0] || !row->hub[0])
                continue;
            assert_string_equal(r->hub, row->hub);
            assert_string_equal(r->agent, row->agent);
            assert_int_equal(r->session, row->session);
        }
    }
}

/* When a start of a hub must be dead for all that hub `i` knows: after its lease and what is on its
 * way. A later start answers in its place ("not here") until hub `i` reads of it. A fail-over may
 * have lost that there is one, and may have turned the clock: then it is when the lease was not
 * renewed for so long as hub `i` looks, which it does in its own time. */
static uint64_t forgotten_ms(int i, int to, uint64_t epoch)
{
    const struct hub *other = &w.hubs[to];
    bool is_last = other->epoch == epoch;
    if (is_last && other->is_alive)
        return UINT64_MAX;
    uint64_t ms = is_last ? other->died_ms : other->died_before_ms;
    ms = MAX(ms, w.failed_over_ms);
    if (w.failed_over_ms || !is_last)
        ms = MAX(ms, w.hubs[i].whole_ms) + HUB_LEASE_RENEW_MS + 2 * RETRY_MS + 4 * DELAY_MAX_MS;
    ms += HUB_LEASE_LIFE_MS + DELAY_MAX_MS + STEP_MS;
    return MAX(ms, w.hubs[i].started_ms + HUB_LEASE_DOUBT_MS);
}

/* Nobody forwards to a dead start of a hub for longer than its lease; but one that has just started
 * is in doubt for a while. */
static void check_no_ghosts(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        for (int i = 0; i < HUBS; i++) {
            const struct tunnel_route *r = &w.hubs[i].tunnels[t];
            int to = hub_of_route(r);
            if (to < 0 || to == i || !hub_reaches_db(&w.hubs[i]) ||
                w.now_ms <= forgotten_ms(i, to, r->hub_epoch))
                continue;
            assert_int_not_equal(hub_duty(i, t, false), ROUTE_FORWARD);
        }
    }
}

/* What the feed has told of is known, unless it is just being read. */
static void check_no_gap(void)
{
    for (int i = 0; i < HUBS; i++) {
        const struct hub *h = &w.hubs[i];
        assert_in_range(h->read, 0, w.db.n_feed);
        for (int t = 0; t < TUNNELS; t++) {
            if (!h->reading[t] && !h->is_undone[t])
                assert_true(h->tunnels[t].epoch >= h->heard[t]);
        }
        for (int a = 0; a < AGENTS; a++) {
            if (!h->reading_agent[a] && !h->is_agent_undone[a])
                assert_true(h->agents[a].epoch >= h->heard_agent[a]);
        }
    }
}

static bool is_start_live(int hub, uint64_t epoch)
{
    return hub >= 0 && w.hubs[hub].is_alive && w.hubs[hub].epoch == epoch;
}

static bool has_agent(int tunnel)
{
    for (int i = 0; i < HUBS; i++) {
        if (world_own_agent(i, tunnel) >= 0)
            return true;
    }
    return false;
}

static void check_served(int t)
{
    const struct tunnel_route *r = &w.db.tunnels[t];
    int hub = hub_of_route(r);
    if (!has_agent(t)) {
        assert_false(is_start_live(hub, r->hub_epoch));
        return;
    }
    assert_true(is_start_live(hub, r->hub_epoch));
    assert_true(world_is_served_by(hub, t, r));
    for (int i = 0; i < HUBS; i++) {
        if (!w.hubs[i].is_alive)
            continue;
        assert_int_equal(w.hubs[i].tunnels[t].epoch, r->epoch);
        assert_string_equal(w.hubs[i].tunnels[t].hub, r->hub);
    }
}

/* When all is whole again, every tunnel that can be is served, all know where, and every agent is
 * where the database says. */
static void check_all_served(void)
{
    for (int t = 0; t < TUNNELS; t++)
        check_served(t);
    for (int a = 0; a < AGENTS; a++) {
        const struct session *s = &w.db.agents[a];
        const struct agent *g = &w.agents[a];
        if (g->hub < 0) {
            assert_false(is_start_live(s->hub, s->hub_epoch));
            continue;
        }
        assert_int_equal(s->hub, g->hub);
        assert_int_equal(s->epoch, g->epoch);
    }
}

static void step(void)
{
    world_step();
    note_alone();
    check_one_holder();
    check_one_holder_of_each_epoch();
    check_no_ghosts();
    check_no_gap();
}

static void settle(void)
{
    w.is_calm = true;
    for (int n = 0, quiet = 0; quiet < 200; n++) {
        assert_true(n < SETTLE_STEPS);
        step();
        quiet = world_is_quiet() ? quiet + 1 : 0;
    }
}

static uint64_t seed;

static void run(void)
{
    world_start(seed);
    for (int n = 0; n < STEPS; n++) {
        disturb();
        step();
    }
    heal();
    for (int n = 0; n < STEPS / 2; n++)
        step();
    settle();
    check_all_served();
}

static void the_rules_hold_whatever_happens(void **state)
{
    const char *text = getenv("WARREN_SIM_SEEDS");
    uint64_t seeds = text ? strtoull(text, NULL, 10) : SEEDS, seen[SEEN_COUNT] = {0};
    for (seed = 1; seed <= seeds; seed++) {
        run();
        for (int i = 0; i < SEEN_COUNT; i++)
            seen[i] += w.seen[i];
    }
    for (int i = 0; i < SEEN_COUNT; i++) {
        printf("%s %llu, ", world_seen_name(i), (unsigned long long)seen[i]);
        assert_true(seen[i]); /* it came to what is to be tested */
    }
    printf("in %llu runs\n", (unsigned long long)seeds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_rules_hold_whatever_happens)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed)
        printf("seed %llu\n", (unsigned long long)seed);
    return failed;
}
