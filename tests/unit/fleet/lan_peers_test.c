#include "fleet/lan_peers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SELF "agt_0000000000000000"

static struct lan_beacon beacon(unsigned int n, int64_t time_ms, int family)
{
    struct lan_beacon b = {.instance = n, .time_ms = time_ms, .from = {.family = family}};
    snprintf(b.agent, sizeof(b.agent), "agt_%016u", n);
    return b;
}

static enum lan_verdict hear(struct lan_peers *p, unsigned int link, struct lan_beacon b,
                             uint64_t now)
{
    bool is_new;
    return lan_peers_hear(p, SELF, link, &b, now, &is_new);
}

static void each_beacon_is_heard_once(void **state)
{
    struct lan_peers p = {0};
    assert_int_equal(hear(&p, 1, beacon(1, 100, AF_INET), 0), LAN_HEARD);
    assert_int_equal(hear(&p, 1, beacon(1, 100, AF_INET), 1), LAN_REPLAYED);
    assert_int_equal(hear(&p, 1, beacon(1, 99, AF_INET), 2), LAN_REPLAYED);
    /* The other family's is on its way by another road. */
    assert_int_equal(hear(&p, 1, beacon(1, 98, AF_INET6), 3), LAN_HEARD);
    assert_int_equal(hear(&p, 1, beacon(1, 101, AF_INET), 4), LAN_HEARD);
    assert_int_equal(p.n, 1);
    assert_int_equal(hear(&p, 2, beacon(1, 90, AF_INET), 5), LAN_HEARD);
    assert_int_equal(p.n, 2);
    lan_peers_done(&p);
}

static void who_falls_silent_is_forgotten_and_who_is_on_a_link_goes_with_it(void **state)
{
    struct lan_peers p = {0};
    hear(&p, 1, beacon(1, 1, AF_INET), 0);
    hear(&p, 1, beacon(2, 1, AF_INET), 50000);
    hear(&p, 2, beacon(3, 1, AF_INET), 50000);
    p.has_changed = false;
    lan_peers_expire(&p, LAN_PEER_MS - 1);
    assert_false(p.has_changed);
    lan_peers_expire(&p, LAN_PEER_MS);
    assert_true(p.has_changed);
    assert_int_equal(p.n, 2);
    lan_peers_drop_link(&p, 2);
    assert_int_equal(p.n, 1);
    assert_int_equal(p.list[0].instance, 2);
    lan_peers_done(&p);
}

/* Of N agents that all hear each other, whose table is too small: who keeps whom is mutual. */
static void on_a_crowded_lan_both_ends_keep_the_same_pairs(void **state)
{
    enum { N = 200 };
    static struct lan_peers all[N];
    size_t kept = 0, mutual = 0;
    for (unsigned int round = 0; round < 2; round++) {
        for (unsigned int a = 0; a < N; a++) {
            for (unsigned int b = 0; b < N; b++) {
                struct lan_beacon self = beacon(a, 0, AF_INET);
                struct lan_beacon other = beacon(b, round + 1, AF_INET);
                bool is_new;
                if (a != b)
                    lan_peers_hear(&all[a], self.agent, 1, &other, 0, &is_new);
            }
            assert_int_equal(all[a].n, LAN_PEERS_MAX);
        }
    }
    for (unsigned int a = 0; a < N; a++) {
        struct lan_beacon self = beacon(a, 0, AF_INET);
        for (size_t i = 0; i < all[a].n; i++) {
            const struct lan_peers *back = &all[all[a].list[i].instance];
            kept++;
            for (size_t k = 0; k < back->n; k++)
                mutual += strcmp(back->list[k].agent, self.agent) == 0;
        }
    }
    printf("of %zu kept, %zu are mutual\n", kept, mutual);
    assert_true(mutual * 10 > kept * 8);
    for (unsigned int a = 0; a < N; a++)
        lan_peers_done(&all[a]);
}

static void beacons_come_in_a_burst_and_then_seldom(void **state)
{
    struct lan_pace p;
    uint64_t now = 1000, sent[8];
    lan_pace_start(&p, now, 12345);
    assert_in_range(p.due_ms, now + 20, now + 250);
    for (size_t i = 0; i < 8; i++) {
        now = sent[i] = p.due_ms;
        lan_pace_sent(&p, now, 777);
    }
    assert_in_range(sent[3] - sent[0], 7000, 7750);
    for (size_t i = 4; i < 8; i++)
        assert_in_range(sent[i] - sent[i - 1], LAN_STEADY_MS * 4 / 5, LAN_STEADY_MS * 6 / 5);
}

static void no_hurry_makes_two_in_one_second(void **state)
{
    struct lan_pace p;
    lan_pace_start(&p, 0, 0);
    lan_pace_sent(&p, 100, 0);
    for (uint64_t now = 100; now < 1000; now += 10) {
        lan_pace_hurry(&p, now, (uint32_t)now);
        assert_true(p.due_ms >= 1100);
    }
    for (int i = 0; i < 8; i++)
        lan_pace_sent(&p, p.due_ms, 5);
    uint64_t now = p.sent_ms + 5000;
    lan_pace_hurry(&p, now, 0);
    assert_in_range(p.due_ms, now + 20, now + 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_beacon_is_heard_once),
        cmocka_unit_test(who_falls_silent_is_forgotten_and_who_is_on_a_link_goes_with_it),
        cmocka_unit_test(on_a_crowded_lan_both_ends_keep_the_same_pairs),
        cmocka_unit_test(beacons_come_in_a_burst_and_then_seldom),
        cmocka_unit_test(no_hurry_makes_two_in_one_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
