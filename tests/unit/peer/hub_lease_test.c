#include "peer/hub_lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define HELD_MS (HUB_LEASE_LIFE_MS - HUB_LEASE_MARGIN_MS)

static void a_hub_claims_nothing_before_its_first_renewal(void **state)
{
    struct hub_lease l = {0};
    assert_int_equal(hub_lease_state(&l, 0), HUB_LEASE_NONE);
    hub_lease_renewed(&l, 0);
    assert_int_equal(hub_lease_state(&l, 0), HUB_LEASE_HELD);
}

static void a_lease_is_late_before_it_ends_and_held_again_when_renewed(void **state)
{
    struct hub_lease l = {0};
    hub_lease_renewed(&l, 1000);
    assert_int_equal(hub_lease_left_ms(&l, 1000), HELD_MS);
    assert_int_equal(hub_lease_state(&l, 1000 + HELD_MS - 1), HUB_LEASE_HELD);
    assert_int_equal(hub_lease_state(&l, 1000 + HELD_MS), HUB_LEASE_LATE);
    hub_lease_renewed(&l, 1000 + HELD_MS);
    assert_int_equal(hub_lease_state(&l, 1000 + HELD_MS), HUB_LEASE_HELD);
}

static void an_answer_that_comes_late_does_not_shorten_a_newer_one(void **state)
{
    struct hub_lease l = {0};
    hub_lease_renewed(&l, 5000);
    hub_lease_renewed(&l, 2000);
    assert_int_equal(hub_lease_left_ms(&l, 5000), HELD_MS);
}

static void a_superseded_lease_does_not_come_back(void **state)
{
    struct hub_lease l = {0};
    hub_lease_renewed(&l, 0);
    hub_lease_superseded(&l);
    assert_int_equal(hub_lease_state(&l, 0), HUB_LEASE_LOST);
    hub_lease_renewed(&l, 10);
    assert_int_equal(hub_lease_state(&l, 10), HUB_LEASE_LOST);
    assert_int_equal(hub_lease_left_ms(&l, 10), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hub_claims_nothing_before_its_first_renewal),
        cmocka_unit_test(a_lease_is_late_before_it_ends_and_held_again_when_renewed),
        cmocka_unit_test(an_answer_that_comes_late_does_not_shorten_a_newer_one),
        cmocka_unit_test(a_superseded_lease_does_not_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
