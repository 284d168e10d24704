#include "tunnel/tunnel_lease.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void a_held_lease_is_renewed_by_its_holder_only(void **state)
{
    struct lease l = {0};
    assert_int_equal(lease_take(&l, "agt_a"), 0);
    assert_int_equal(lease_take(&l, "agt_b"), ERR_UNAVAILABLE);
    assert_int_equal(lease_taken(&l, 1, 1000), 0);
    assert_int_equal(lease_take(&l, "agt_b"), ERR_CONFLICT);
    assert_int_equal(lease_renew(&l, "agt_b", 2000), ERR_STALE);
    assert_int_equal(lease_renew(&l, "agt_a", 2000), 0);
    assert_false(lease_is_expired(&l, 2000 + LEASE_LIFE_MS - 1));
    assert_true(lease_is_expired(&l, 2000 + LEASE_LIFE_MS));
}

static void nobody_takes_a_lost_lease_before_the_old_streams_are_closed(void **state)
{
    struct lease l = {0};
    assert_int_equal(lease_take(&l, "agt_a"), 0);
    assert_int_equal(lease_taken(&l, 1, 0), 0);
    assert_true(lease_lose(&l));
    assert_false(lease_lose(&l));
    assert_int_equal(lease_renew(&l, "agt_a", 1), ERR_STALE);
    assert_int_equal(lease_take(&l, "agt_b"), ERR_UNAVAILABLE);
    lease_cleared(&l);
    assert_int_equal(lease_take(&l, "agt_b"), 0);
    assert_int_equal(lease_taken(&l, 2, 0), 0);
    assert_true(lease_is_held_by(&l, "agt_b"));
}

static void a_taker_that_goes_away_before_the_commit_never_holds(void **state)
{
    struct lease l = {0};
    assert_int_equal(lease_take(&l, "agt_a"), 0);
    assert_false(lease_lose(&l));
    assert_int_equal(lease_taken(&l, 5, 0), LEASE_WAS_DOOMED);
    assert_false(lease_is_held_by(&l, "agt_a"));
    assert_int_equal(lease_take(&l, "agt_b"), 0);
    lease_take_failed(&l);
    assert_int_equal(l.state, LEASE_FREE);
    assert_int_equal(l.epoch, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_held_lease_is_renewed_by_its_holder_only),
        cmocka_unit_test(nobody_takes_a_lost_lease_before_the_old_streams_are_closed),
        cmocka_unit_test(a_taker_that_goes_away_before_the_commit_never_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
