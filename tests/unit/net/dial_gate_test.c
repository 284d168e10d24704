#include "net/dial_gate.h"

#include "base/error.h"
#include "base/macro.h"

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

static void lay(struct table *t, size_t max, size_t per_target, size_t unresolved)
{
    *t = (struct table){0};
    assert_int_equal(loop_new_virtual(&t->loop, 1000), 0);
    t->gate = dial_gate_new(&(struct dial_gate_config){.loop = t->loop,
                                                       .max = max,
                                                       .per_target = per_target,
                                                       .spare_ms = 100,
                                                       .unresolved_max = unresolved,
                                                       .is_attached = is_attached});
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_dial_of_the_fullest_target_gives_way),
        cmocka_unit_test(a_target_has_only_so_many),
        cmocka_unit_test(addresses_that_have_not_answered_take_turns),
        cmocka_unit_test(who_has_answered_is_known_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
