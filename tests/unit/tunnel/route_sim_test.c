/*
 * Faults in a cluster on virtual time (route_world.h), what must hold checked
 * at each step: hubs die, start anew, freeze, are cut off from the database or from each other, and
 * are drained, while agents come and go.
 */
#include "route_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STEPS 1200
#define SEEDS 200 /* WARREN_SIM_SEEDS: another number; thousands in .ci/run */

/* ---- faults ---- */

static void part(void)
{
    uint32_t a = draw(HUBS), b = draw(HUBS);
    if (a != b)
        w.parted[a][b] = w.parted[b][a] = true;
}

static void disturb(void)
{
    int i = (int)draw(HUBS);
    struct hub *h = &w.hubs[i];
    switch (draw(80)) {
    case 0:
        h->is_alive = false;
        break;
    case 1:
    case 2:
        if (!h->is_alive)
            hub_start(i);
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
        if (!w.hubs[i].is_alive)
            hub_start(i);
    }
}

/* ---- what must hold ---- */

static bool believes_to_hold(int i, int t)
{
    const struct hub *h = &w.hubs[i];
    const struct tunnel_route *r = &h->tunnels[t];
    return h->is_alive && hub_of_route(r) == i && r->hub_epoch == h->epoch;
}

/* Who is cut from the database and from a hub keeps what it has, and that hub takes it over when
 * the lease has run out: of such a pair each serves, under epochs of their own, until they meet
 * again. */
static void note_alone(void)
{
    for (int i = 0; i < HUBS; i++) {
        struct hub *h = &w.hubs[i];
        bool is_parted = h->is_frozen;
        for (int k = 0; k < HUBS; k++)
            is_parted |= w.parted[i][k];
        if (h->is_cut && is_parted)
            h->is_alone = true;
        else if (hub_reaches_db(h) && h->read == w.db.n_feed)
            h->is_alone = false;
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
            holders += world_is_served_by(i, r) && !w.hubs[i].is_alone && !world_has_moved(r);
        }
        assert_in_range(holders, 0, 1);
    }
}

/* Nobody forwards to a dead start of a hub for longer than its lease and what is on its way; but
 * one that has just started is in doubt for a while. */
static void check_no_ghosts(const uint64_t dead_since[HUBS])
{
    for (int t = 0; t < TUNNELS; t++) {
        for (int i = 0; i < HUBS; i++) {
            int to = hub_of_route(&w.hubs[i].tunnels[t]);
            if (to < 0 || to == i || w.hubs[to].is_alive || !hub_reaches_db(&w.hubs[i]) ||
                w.now_ms <= dead_since[to] + HUB_LEASE_LIFE_MS + DELAY_MAX_MS + STEP_MS ||
                w.now_ms <= w.hubs[i].started_ms + HUB_LEASE_DOUBT_MS)
                continue;
            assert_int_not_equal(hub_duty(i, t, false), ROUTE_FORWARD);
        }
    }
}

/* When all is whole again, every tunnel is served, all know where, and every agent is where the
 * database says. */
static void check_all_served(void)
{
    for (int t = 0; t < TUNNELS; t++) {
        const struct tunnel_route *r = &w.db.tunnels[t];
        int hub = hub_of_route(r);
        assert_true(hub >= 0);
        assert_true(world_is_served_by(hub, r));
        for (int i = 0; i < HUBS; i++)
            assert_int_equal(w.hubs[i].tunnels[t].epoch, r->epoch);
    }
    for (int a = 0; a < AGENTS; a++) {
        assert_int_equal(w.db.agents[a].hub, w.agents[a].hub);
        assert_int_equal(w.db.agents[a].epoch, w.agents[a].epoch);
    }
}

static void step(void)
{
    world_step();
    note_alone();
    check_one_holder();
}

static void settle(void)
{
    w.is_calm = true;
    for (int n = 0, quiet = 0; quiet < 200; n++) {
        assert_true(n < 20000);
        step();
        quiet = world_is_quiet() ? quiet + 1 : 0;
    }
}

static uint64_t seed;

static void run(void)
{
    uint64_t dead_since[HUBS] = {0};
    world_start(seed);
    for (int n = 0; n < STEPS; n++) {
        disturb();
        step();
        for (int i = 0; i < HUBS; i++) {
            if (w.hubs[i].is_alive)
                dead_since[i] = w.now_ms;
        }
        check_no_ghosts(dead_since);
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
    uint64_t seeds = text ? strtoull(text, NULL, 10) : SEEDS, refused = 0, doubts = 0, dead = 0;
    for (seed = 1; seed <= seeds; seed++) {
        run();
        refused += w.seen.refused;
        doubts += w.seen.in_doubt;
        dead += w.seen.of_the_dead;
    }
    assert_true(refused && doubts && dead); /* it came to what is to be tested */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_rules_hold_whatever_happens)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed)
        printf("seed %llu\n", (unsigned long long)seed);
    return failed;
}
