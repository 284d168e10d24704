#include "net/dial_gate.h"

#include "base/error.h"
#include "base/macro.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#define DIALS 64

enum state { IDLE, WAITS, DIALS_NOW, GAVE_WAY };

struct dialler {
    struct dial_ticket ticket;
    enum state state;
};

struct table {
    struct loop *loop;
    struct dial_gate *gate;
    struct dialler d[DIALS];
};

static void on_turn(struct dial_ticket *t)
{
    container_of(t, struct dialler, ticket)->state = DIALS_NOW;
}

static void give_way(struct dial_ticket *t)
{
    container_of(t, struct dialler, ticket)->state = GAVE_WAY;
}

/* 10.0.0.0/8 is attached, the rest is behind routers. */
static bool is_attached(const uint8_t ip[16])
{
    return ip[12] == 10;
}

/* What others leave of the kernel's table, and whose the rest is. */
static size_t n_room;
static struct dial_gate *asking;

static void room(struct neighbour_room *ret)
{
    struct dial_gate_stats stats;
    dial_gate_get_stats(asking, &stats);
    *ret = (struct neighbour_room){n_room - MIN(n_room, stats.unresolved), stats.unresolved};
}

static void lay(struct table *t, size_t max, size_t per_target, size_t unresolved)
{
    n_room = 1024;
    *t = (struct table){0};
    assert_int_equal(loop_new_virtual(&t->loop, 1000), 0);
    t->gate = dial_gate_new(&(struct dial_gate_config){.loop = t->loop,
                                                       .max = max,
                                                       .per_target = per_target,
                                                       .spare_ms = 100,
                                                       .unresolved_max = unresolved,
                                                       .room = room,
                                                       .is_attached = is_attached});
    asking = t->gate;
    for (int i = 0; i < DIALS; i++)
        t->d[i].ticket = (struct dial_ticket){.on_turn = on_turn, .give_way = give_way};
}

static void clear(struct table *t)
{
    for (int i = 0; i < DIALS; i++)
        dial_gate_leave(&t->d[i].ticket, ERR_CANCELED);
    assert_int_equal(dial_gate_pending(t->gate), 0);
    dial_gate_free(t->gate);
    loop_settle(t->loop);
    loop_free(t->loop);
}

static int enter(struct table *t, int i, const char *ip)
{
    struct addr a;
    assert_int_equal(addr_parse(ip, 80, &a), 0);
    int rc = dial_gate_enter(t->gate, &t->d[i].ticket, &a);
    t->d[i].state = rc == 0 ? DIALS_NOW : rc == DIAL_GATE_WAIT ? WAITS : IDLE;
    return rc;
}

static void leave(struct table *t, int i, int err)
{
    dial_gate_leave(&t->d[i].ticket, err);
    t->d[i].state = IDLE;
}

static void the_oldest_dial_of_the_fullest_target_gives_way(void **state)
{
    struct table t;
    (void)state;
    lay(&t, 4, 4, 0);
    assert_int_equal(enter(&t, 0, "192.0.2.1"), 0);
    for (int i = 1; i < 4; i++)
        assert_int_equal(enter(&t, i, "192.0.2.2"), 0);
    assert_int_equal(enter(&t, 4, "192.0.2.3"), DIAL_GATE_WAIT); /* all of them are fresh */
    loop_settle(t.loop);
    assert_int_equal(t.d[4].state, WAITS);
    loop_advance(t.loop, 110);
    assert_int_equal(t.d[4].state, DIALS_NOW);
    assert_int_equal(t.d[1].state, GAVE_WAY);
    loop_advance(t.loop, 100);
    assert_int_equal(t.d[0].state, DIALS_NOW);
    assert_int_equal(enter(&t, 5, "192.0.2.4"), 0);
    assert_int_equal(t.d[2].state, GAVE_WAY);
    assert_int_equal(enter(&t, 6, "192.0.2.4"), 0); /* one each: the oldest of all */
    assert_int_equal(t.d[0].state, GAVE_WAY);
    assert_int_equal(dial_gate_pending(t.gate), 4);
    clear(&t);
}

static void a_target_has_only_so_many(void **state)
{
    struct table t;
    (void)state;
    lay(&t, 10, 2, 0);
    assert_int_equal(enter(&t, 0, "192.0.2.1"), 0);
    assert_int_equal(enter(&t, 1, "192.0.2.1"), 0);
    assert_int_equal(enter(&t, 2, "192.0.2.1"), DIAL_GATE_WAIT);
    assert_int_equal(enter(&t, 3, "192.0.2.2"),
                     DIAL_GATE_WAIT); /* who came before is asked first */
    loop_settle(t.loop);
    assert_int_equal(t.d[2].state, WAITS);
    assert_int_equal(t.d[3].state, DIALS_NOW);
    leave(&t, 1, ERR_REFUSED);
    loop_settle(t.loop);
    assert_int_equal(t.d[2].state, DIALS_NOW);
    loop_advance(t.loop, 200);
    assert_int_equal(enter(&t, 4, "::ffff:192.0.2.1"), 0);
    assert_int_equal(t.d[0].state, GAVE_WAY);
    assert_int_equal(t.d[3].state, DIALS_NOW);
    clear(&t);
    lay(&t, 1, 1, 0); /* the one that gives way is the target's last */
    assert_int_equal(enter(&t, 0, "192.0.2.1"), 0);
    loop_advance(t.loop, 200);
    assert_int_equal(enter(&t, 1, "192.0.2.1"), 0);
    assert_int_equal(t.d[0].state, GAVE_WAY);
    clear(&t);
}

static void addresses_that_have_not_answered_take_turns(void **state)
{
    struct table t;
    char ip[32];
    (void)state;
    lay(&t, DIALS, DIALS, 4);
    for (int i = 0; i < 10; i++) {
        snprintf(ip, sizeof(ip), "10.0.0.%d", i + 1);
        assert_int_equal(enter(&t, i, ip), i < 4 ? 0 : DIAL_GATE_WAIT);
    }
    assert_int_equal(enter(&t, 10, "10.0.0.1"), 0);  /* its entry is there already */
    assert_int_equal(enter(&t, 11, "192.0.2.1"), 0); /* needs none of its own */
    leave(&t, 0, ERR_TIMEOUT);                       /* tells nothing */
    loop_settle(t.loop);
    assert_int_equal(t.d[4].state, WAITS);
    leave(&t, 1, 0);
    loop_settle(t.loop);
    assert_int_equal(t.d[4].state, DIALS_NOW);
    assert_int_equal(t.d[5].state, WAITS);
    assert_int_equal(enter(&t, 12, "10.0.0.2"), 0); /* known to answer */
    leave(&t, 2, ERR_UNREACHABLE);
    leave(&t, 6, ERR_CANCELED); /* while it waits */
    loop_settle(t.loop);
    assert_int_equal(t.d[5].state, DIALS_NOW);
    assert_int_equal(t.d[7].state, WAITS);
    loop_advance(t.loop, 3100); /* all entries are over */
    assert_int_equal(t.d[7].state, DIALS_NOW);
    assert_int_equal(t.d[9].state, DIALS_NOW);
    clear(&t);
}

static void who_has_answered_is_known_for_a_while(void **state)
{
    struct table t;
    (void)state;
    lay(&t, DIALS, DIALS, 1);
    assert_int_equal(enter(&t, 0, "10.0.0.1"), 0);
    leave(&t, 0, ERR_REFUSED);
    assert_int_equal(enter(&t, 1, "10.0.0.2"), 0);
    assert_int_equal(enter(&t, 2, "10.0.0.3"), DIAL_GATE_WAIT);
    assert_int_equal(enter(&t, 0, "10.0.0.1"), 0);
    leave(&t, 0, ERR_TIMEOUT);
    loop_advance(t.loop, 61000);
    assert_int_equal(t.d[2].state, DIALS_NOW);
    assert_int_equal(enter(&t, 3, "10.0.0.4"), 0);
    assert_int_equal(enter(&t, 0, "10.0.0.1"), DIAL_GATE_WAIT);
    clear(&t);
}

static int enter_number(struct table *t, int i)
{
    char ip[32];
    snprintf(ip, sizeof(ip), "10.0.1.%d", i + 1);
    return enter(t, i, ip);
}

static void others_use_the_kernels_table_too(void **state)
{
    struct table t;
    (void)state;
    lay(&t, DIALS, DIALS, 100);
    n_room = 32; /* three quarters of it */
    for (int i = 0; i < 30; i++)
        assert_int_equal(enter_number(&t, i), i < 24 ? 0 : DIAL_GATE_WAIT);
    clear(&t);
    lay(&t, DIALS, DIALS, 100);
    n_room = 0; /* a few may try nevertheless: most of what is there can be thrown out */
    for (int i = 0; i < 20; i++)
        assert_int_equal(enter_number(&t, i), i < 16 ? 0 : DIAL_GATE_WAIT);
    clear(&t);
}

static void a_table_that_others_filled_is_looked_at_again(void **state)
{
    struct table t;
    (void)state;
    lay(&t, DIALS, DIALS, 100);
    n_room = 0;
    for (int i = 0; i < 40; i++)
        assert_int_equal(enter_number(&t, i), i < 16 ? 0 : DIAL_GATE_WAIT);
    loop_advance(t.loop, 300);
    n_room = 1000;
    assert_int_equal(t.d[16].state, WAITS);
    loop_advance(t.loop, 300); /* none of those that are asked has been given up */
    assert_int_equal(t.d[39].state, DIALS_NOW);
    n_room = 0;
    loop_advance(t.loop, 600); /* three quarters of 40 are 30 */
    assert_int_equal(enter_number(&t, 40), DIAL_GATE_WAIT);
    clear(&t);
}

#define SHARED 256

static struct dial_gate *sharing[3];

static size_t shared_use(void)
{
    struct dial_gate_stats stats;
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_SIZE(sharing); i++) {
        dial_gate_get_stats(sharing[i], &stats);
        used += stats.unresolved;
    }
    assert_in_range(used, 0, SHARED);
    return used;
}

static void shared_room(struct neighbour_room *ret)
{
    *ret = (struct neighbour_room){SHARED - shared_use(), SHARED}; /* never more than their own */
}

static void several_that_begin_at_once_do_not_fill_the_table(void **state)
{
    static struct dialler diallers[ARRAY_SIZE(sharing)][SHARED];
    struct loop *l;
    struct dial_gate_stats stats;
    struct addr a;
    (void)state;
    assert_int_equal(loop_new_virtual(&l, 1000), 0);
    for (size_t i = 0; i < ARRAY_SIZE(sharing); i++)
        sharing[i] = dial_gate_new(&(struct dial_gate_config){.loop = l,
                                                              .max = SHARED,
                                                              .per_target = 1,
                                                              .unresolved_max = SHARED,
                                                              .room = shared_room,
                                                              .is_attached = is_attached});
    assert_int_equal(addr_parse("10.0.0.0", 80, &a), 0);
    for (size_t n = 0; n < SHARED; n++) {
        for (size_t i = 0; i < ARRAY_SIZE(sharing); i++) {
            struct dial_ticket *k = &diallers[i][n].ticket;
            a.in4.sin_addr.s_addr = htonl(0x0a000000U + (uint32_t)(n * ARRAY_SIZE(sharing) + i));
            *k = (struct dial_ticket){.on_turn = on_turn, .give_way = give_way};
            assert_in_range(dial_gate_enter(sharing[i], k, &a), 0, DIAL_GATE_WAIT);
        }
    }
    assert_in_range(shared_use(), SHARED / 4 * 3, SHARED - 1);
    for (size_t i = 0; i < ARRAY_SIZE(sharing); i++) {
        dial_gate_get_stats(sharing[i], &stats);
        assert_in_range(stats.unresolved, SHARED / 6, SHARED / 2);
    }
    for (size_t i = 0; i < ARRAY_SIZE(sharing); i++) {
        for (size_t n = 0; n < SHARED; n++)
            dial_gate_leave(&diallers[i][n].ticket, ERR_CANCELED);
        dial_gate_free(sharing[i]);
    }
    loop_settle(l);
    loop_free(l);
}

static void a_sweep_leaves_room_and_goes_last(void **state)
{
    struct table t;
    struct dial_gate_stats stats;
    (void)state;
    lay(&t, DIALS, DIALS, 16);
    for (int i = 0; i < 20; i++) {
        t.d[i].ticket.is_patient = true;
        assert_int_equal(enter_number(&t, i), i < 14 ? 0 : DIAL_GATE_WAIT);
    }
    for (int i = 20; i < 24; i++)
        assert_int_equal(enter_number(&t, i), i < 22 ? 0 : DIAL_GATE_WAIT);
    dial_gate_get_stats(t.gate, &stats);
    assert_int_equal(stats.waiting_address, 8);
    assert_int_equal(stats.unresolved, 16);
    assert_int_equal(stats.unresolved_max, 16);
    for (int i = 0; i < 3; i++)
        leave(&t, i, 0);
    loop_settle(t.loop);
    assert_int_equal(t.d[22].state, DIALS_NOW);
    assert_int_equal(t.d[23].state, DIALS_NOW);
    assert_int_equal(t.d[14].state, WAITS);
    clear(&t);
}

static void a_packet_that_is_no_dial_takes_no_place(void **state)
{
    struct table t;
    struct addr a;
    (void)state;
    lay(&t, 2, 1, 2);
    for (int i = 0; i < 4; i++)
        t.d[i].ticket.is_passing = true;
    for (int i = 0; i < 3; i++)
        assert_int_equal(enter_number(&t, i), i < 2 ? 0 : DIAL_GATE_WAIT);
    assert_int_equal(enter_number(&t, 3), ERR_LIMIT);
    assert_int_equal(addr_parse("10.0.1.1", 0, &a), 0);
    dial_gate_answered(t.gate, &a);
    loop_settle(t.loop);
    assert_int_equal(t.d[2].state, DIALS_NOW);
    assert_null(t.d[2].ticket.target);
    assert_int_equal(dial_gate_pending(t.gate), 0);
    assert_int_equal(enter_number(&t, 0), 0); /* known */
    clear(&t);
}

static void dials_and_datagrams_take_turns(void **state)
{
    struct table t;
    (void)state;
    lay(&t, DIALS, DIALS, 2);
    for (int i = 0; i < 22; i++) {
        t.d[i].ticket.is_passing = i < 20;
        assert_int_equal(enter_number(&t, i), i < 2 ? 0 : DIAL_GATE_WAIT);
    }
    loop_advance(t.loop, 3100);
    assert_int_equal(t.d[2].state, DIALS_NOW);
    assert_int_equal(t.d[20].state, DIALS_NOW);
    assert_int_equal(t.d[3].state, WAITS);
    clear(&t);
}

static void a_known_target_that_waits_is_not_forgotten(void **state)
{
    struct table t;
    (void)state;
    lay(&t, 1, 1, 1);
    assert_int_equal(enter(&t, 0, "10.0.0.1"), 0);
    leave(&t, 0, 0);
    assert_int_equal(enter(&t, 1, "192.0.2.1"), 0);
    assert_int_equal(enter(&t, 0, "10.0.0.1"), DIAL_GATE_WAIT); /* for the place */
    for (int i = 0; i < 61000 / 50; i++) {
        t.d[1].ticket.since_ms = loop_now_ms(t.loop); /* which it keeps */
        loop_advance(t.loop, 50);
    }
    assert_int_equal(t.d[0].state, WAITS);
    leave(&t, 1, 0);
    loop_settle(t.loop);
    assert_int_equal(t.d[0].state, DIALS_NOW);
    clear(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_dial_of_the_fullest_target_gives_way),
        cmocka_unit_test(a_target_has_only_so_many),
        cmocka_unit_test(addresses_that_have_not_answered_take_turns),
        cmocka_unit_test(who_has_answered_is_known_for_a_while),
        cmocka_unit_test(others_use_the_kernels_table_too),
        cmocka_unit_test(a_table_that_others_filled_is_looked_at_again),
        cmocka_unit_test(several_that_begin_at_once_do_not_fill_the_table),
        cmocka_unit_test(a_sweep_leaves_room_and_goes_last),
        cmocka_unit_test(a_packet_that_is_no_dial_takes_no_place),
        cmocka_unit_test(dials_and_datagrams_take_turns),
        cmocka_unit_test(a_known_target_that_waits_is_not_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
