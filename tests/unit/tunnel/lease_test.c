#include "tunnel/tunnel_lease.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct lease held(uint64_t epoch)
{
    struct lease l = {0};
    assert_int_equal(lease_written(&l, epoch), 0);
    assert_int_equal(lease_take(&l), 0);
    lease_start(&l);
    return l;
}

static void a_lease_is_held_once_it_was_written_offered_and_taken(void **state)
{
    struct lease l = {0};
    assert_true(lease_is_coming(&l));
    assert_int_equal(lease_take(&l), ERR_STALE);
    assert_int_equal(lease_written(&l, 7), 0);
    assert_int_equal(l.state, LEASE_OFFERED);
    assert_int_equal(lease_take(&l), 0);
    assert_int_equal(lease_take(&l), ERR_STALE);
    assert_true(lease_is_coming(&l));
    lease_start(&l);
    assert_int_equal(l.state, LEASE_HELD);
    assert_int_equal(l.epoch, 7);
    assert_false(lease_is_coming(&l));
    assert_true(lease_is_live(&l));
}

static void a_held_lease_that_is_lost_has_streams_to_close_first(void **state)
{
    struct lease l = held(1);
    assert_int_equal(lease_lose(&l), LEASE_CLOSES);
    assert_int_equal(l.state, LEASE_CLEARING);
    assert_false(lease_is_live(&l));
    assert_int_equal(lease_lose(&l), 0);
    assert_int_equal(lease_take(&l), ERR_STALE);
}

static void a_lease_that_moves_lingers_and_can_still_be_lost(void **state)
{
    struct lease l = held(1);
    lease_linger(&l);
    assert_true(lease_is_live(&l));
    assert_false(lease_is_coming(&l));
    assert_int_equal(lease_lose(&l), LEASE_CLOSES);
}

static void an_offer_that_is_withdrawn_leaves_nothing_behind(void **state)
{
    struct lease l = {0};
    assert_int_equal(lease_written(&l, 3), 0);
    assert_int_equal(lease_lose(&l), LEASE_OVER);
}

static void what_is_lost_while_it_is_being_written_is_never_offered(void **state)
{
    struct lease l = {0};
    assert_int_equal(lease_lose(&l), 0);
    assert_false(lease_is_coming(&l));
    assert_int_equal(lease_lose(&l), 0);
    assert_int_equal(lease_written(&l, 5), LEASE_OVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lease_is_held_once_it_was_written_offered_and_taken),
        cmocka_unit_test(a_held_lease_that_is_lost_has_streams_to_close_first),
        cmocka_unit_test(a_lease_that_moves_lingers_and_can_still_be_lost),
        cmocka_unit_test(an_offer_that_is_withdrawn_leaves_nothing_behind),
        cmocka_unit_test(what_is_lost_while_it_is_being_written_is_never_offered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
