#include "tunnel/tunnel_spread.h"

#include "base/macro.h"
#include "base/mem.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define AGENTS_MAX  60
#define TUNNELS_MAX 10000

struct world {
    struct spread s;
    bool is_able[AGENTS_MAX];
    uint32_t holder[TUNNELS_MAX];
    bool misses[AGENTS_MAX]; /* odd tunnels' targets */
};

static struct world w;

static bool reaches(void *arg, uint32_t tunnel, uint32_t agent)
{
    return !(w.misses[agent] && tunnel % 2);
}

static void set_up(uint32_t agents, uint32_t tunnels)
{
    memset(&w, 0, sizeof(w));
    w.s = (struct spread){agents, tunnels, w.is_able, w.holder, reaches, NULL};
    memset(w.is_able, 1, agents);
    for (uint32_t t = 0; t < tunnels; t++)
        w.holder[t] = SPREAD_NOBODY;
}

static uint32_t load_of(uint32_t agent)
{
    uint32_t n = 0;
    for (uint32_t t = 0; t < w.s.n_tunnels; t++)
        n += w.holder[t] == agent;
    return n;
}

static void assert_even(void)
{
    uint32_t least = UINT32_MAX, most = 0, all = 0;
    for (uint32_t a = 0; a < w.s.n_agents; a++) {
        uint32_t n = load_of(a);
        all += n;
        if (!w.is_able[a]) {
            assert_int_equal(n, 0);
            continue;
        }
        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    assert_int_equal(all, w.s.n_tunnels);
    assert_true(most - least <= 1);
}

static void tunnels_are_spread_evenly_to_within_one(void **state)
{
    set_up(5, 503);
    assert_int_equal(spread_plan(&w.s), 503);
    assert_even();
}

static void a_plan_fed_back_moves_nothing(void **state)
{
    set_up(7, 1000);
    spread_plan(&w.s);
    assert_int_equal(spread_plan(&w.s), 0);
}

static void an_agent_that_joins_gets_its_share_by_the_fewest_moves(void **state)
{
    set_up(5, 500);
    w.is_able[4] = false;
    spread_plan(&w.s);
    assert_even();
    w.is_able[4] = true;
    assert_int_equal(spread_plan(&w.s), 100);
    assert_even();
}

static void only_the_tunnels_of_an_agent_that_leaves_move(void **state)
{
    uint32_t before[500];
    set_up(5, 500);
    spread_plan(&w.s);
    memcpy(before, w.holder, sizeof(before));
    w.is_able[2] = false;
    assert_int_equal(spread_plan(&w.s), 100);
    assert_even();
    for (uint32_t t = 0; t < 500; t++)
        assert_true(before[t] == 2 || before[t] == w.holder[t]);
}

static void nobody_able_means_nobody_holds(void **state)
{
    set_up(2, 3);
    spread_plan(&w.s);
    memset(w.is_able, 0, sizeof(w.is_able));
    assert_int_equal(spread_plan(&w.s), 3);
    for (uint32_t t = 0; t < 3; t++)
        assert_int_equal(w.holder[t], SPREAD_NOBODY);
    set_up(0, 3);
    assert_int_equal(spread_plan(&w.s), 0);
    set_up(3, 0);
    assert_int_equal(spread_plan(&w.s), 0);
}

static void who_does_not_reach_a_target_loses_its_tunnels_and_takes_others(void **state)
{
    set_up(2, 100);
    spread_plan(&w.s);
    w.misses[0] = true;
    spread_plan(&w.s);
    for (uint32_t t = 0; t < 100; t++)
        assert_true(reaches(NULL, t, w.holder[t]));
    assert_int_equal(load_of(0), 50);
    assert_int_equal(spread_plan(&w.s), 0);
}

static void what_nobody_reaches_stays_where_it_is(void **state)
{
    uint32_t before[100];
    set_up(2, 100);
    spread_plan(&w.s);
    memcpy(before, w.holder, sizeof(before));
    w.misses[0] = w.misses[1] = true;
    assert_int_equal(spread_plan(&w.s), 0);
    assert_memory_equal(before, w.holder, sizeof(before));
    w.is_able[0] = false;
    spread_plan(&w.s);
    assert_even();
}

static void one_agent_that_alone_reaches_half_may_hold_more(void **state)
{
    set_up(3, 300);
    w.misses[1] = w.misses[2] = true;
    spread_plan(&w.s);
    assert_int_equal(load_of(0), 150);
    assert_int_equal(load_of(1), 75);
    assert_int_equal(load_of(2), 75);
}

static void ten_thousand_tunnels_over_fifty_agents_stay_even_through_changes(void **state)
{
    set_up(50, 10000);
    spread_plan(&w.s);
    assert_even();
    for (uint32_t i = 0; i < 50; i++) {
        w.is_able[i * 7 % 50] = i % 3 == 0;
        w.misses[i * 11 % 50] = false;
        spread_plan(&w.s);
        assert_even();
        w.is_able[i * 7 % 50] = true;
    }
    memset(w.misses, 1, sizeof(w.misses) / 2);
    spread_plan(&w.s);
    for (uint32_t t = 0; t < 10000; t++)
        assert_true(reaches(NULL, t, w.holder[t]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tunnels_are_spread_evenly_to_within_one),
        cmocka_unit_test(a_plan_fed_back_moves_nothing),
        cmocka_unit_test(an_agent_that_joins_gets_its_share_by_the_fewest_moves),
        cmocka_unit_test(only_the_tunnels_of_an_agent_that_leaves_move),
        cmocka_unit_test(nobody_able_means_nobody_holds),
        cmocka_unit_test(who_does_not_reach_a_target_loses_its_tunnels_and_takes_others),
        cmocka_unit_test(what_nobody_reaches_stays_where_it_is),
        cmocka_unit_test(one_agent_that_alone_reaches_half_may_hold_more),
        cmocka_unit_test(ten_thousand_tunnels_over_fifty_agents_stay_even_through_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
