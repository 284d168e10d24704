#include "net/meter.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void no_limit_lets_everything_pass(void **state)
{
    struct bucket b = {0};
    assert_int_equal(bucket_take(&b, 1000000, 1, 5), 1000000);
    bucket_give_back(&b, 7);
    assert_int_equal(bucket_take(&b, 1, 1, 5), 1);
}

static void a_bucket_gives_its_rate_and_no_more(void **state)
{
    struct bucket b = {.rate = 1000000};
    uint64_t sum = 0;
    bucket_take(&b, SIZE_MAX / 2, 1, 1000); /* what it starts with */
    for (uint64_t now = 1000; now <= 11000; now += 3)
        sum += bucket_take(&b, 1 << 20, 1, now);
    assert_in_range(sum, 9900000, 10100000);
}

static void a_low_rate_loses_nothing_to_rounding(void **state)
{
    struct bucket b = {.rate = 1024};
    uint64_t sum = 0;
    bucket_take(&b, SIZE_MAX / 2, 1, 1000);
    for (uint64_t now = 1000; now <= 61000; now++)
        sum += bucket_take(&b, 4096, 1, now);
    assert_in_range(sum, 60 * 1024 - 600, 60 * 1024 + 600);
}

static void idleness_is_saved_up_for_a_moment_only(void **state)
{
    struct bucket b = {.rate = 1000000};
    bucket_take(&b, SIZE_MAX / 2, 1, 1000);
    assert_int_equal(bucket_take(&b, 1 << 30, 1, 3600000), 1000000 * METER_BURST_MS / 1000);
}

static void less_than_the_least_is_not_given(void **state)
{
    struct bucket b = {.rate = 100000};
    bucket_take(&b, SIZE_MAX / 2, 1, 1000);
    assert_int_equal(bucket_take(&b, 5000, 1000, 1005), 0);
    assert_int_equal(bucket_take(&b, 5000, 1000, 1010), 1000);
    assert_int_equal(bucket_take(&b, 10, 1000, 1011), 10); /* all that is wanted is enough */
    bucket_give_back(&b, 500);
    assert_int_equal(bucket_take(&b, 500, 500, 1011), 500);
}

static struct addr at(unsigned n)
{
    char ip[32];
    struct addr a;
    snprintf(ip, sizeof(ip), "10.%u.%u.%u", n >> 16 & 255, n >> 8 & 255, n & 255);
    assert_int_equal(addr_parse(ip, 1, &a), 0);
    return a;
}

static void streams_are_counted_and_the_next_one_is_refused(void **state)
{
    struct meter m;
    struct addr a = at(1);
    meter_init(&m);
    meter_set(&m, &(struct meter_limits){.streams = 2});
    assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    assert_int_equal(meter_enter(&m, &a, 0), METER_STREAMS);
    assert_int_equal(m.refused[METER_STREAMS], 1);
    meter_leave(&m);
    assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    meter_set(&m, &(struct meter_limits){0});
    assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    assert_int_equal(m.open, 3);
    meter_done(&m);
}

static void each_source_has_a_rate_of_its_own(void **state)
{
    struct meter m;
    struct addr a = at(1), b = at(2);
    meter_init(&m);
    meter_set(&m, &(struct meter_limits){.streams_per_second = 3});
    for (int i = 0; i < 3; i++)
        assert_int_equal(meter_enter(&m, &a, 1000), METER_OK);
    assert_int_equal(meter_enter(&m, &a, 1000), METER_SOURCE);
    assert_int_equal(meter_enter(&m, &b, 1000), METER_OK);
    assert_int_equal(meter_enter(&m, &a, 1333), METER_SOURCE);
    assert_int_equal(meter_enter(&m, &a, 1334), METER_OK);
    assert_int_equal(meter_enter(&m, &a, 9000), METER_OK);
    assert_int_equal(m.refused[METER_SOURCE], 2);
    assert_int_equal(meter_refusal_error(METER_SOURCE), ERR_RATE);
    meter_done(&m);
}

static void an_ipv6_network_is_one_source(void **state)
{
    struct meter m;
    struct addr a, b;
    addr_parse("2001:db8::1", 1, &a);
    addr_parse("2001:db8::ffff:2", 1, &b);
    meter_init(&m);
    meter_set(&m, &(struct meter_limits){.streams_per_second = 1});
    assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    assert_int_equal(meter_enter(&m, &b, 0), METER_SOURCE);
    meter_done(&m);
}

static void a_flood_of_addresses_is_remembered_only_so_far(void **state)
{
    struct meter m;
    struct addr first = at(1);
    meter_init(&m);
    meter_set(&m, &(struct meter_limits){.streams_per_second = 1});
    assert_int_equal(meter_enter(&m, &first, 0), METER_OK);
    assert_int_equal(meter_enter(&m, &first, 0), METER_SOURCE);
    for (unsigned i = 2; i < METER_SOURCES + 2; i++) {
        struct addr a = at(i);
        assert_int_equal(meter_enter(&m, &a, 0), METER_OK);
    }
    assert_int_equal(meter_enter(&m, &first, 0), METER_OK); /* forgotten */
    meter_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_limit_lets_everything_pass),
        cmocka_unit_test(a_bucket_gives_its_rate_and_no_more),
        cmocka_unit_test(a_low_rate_loses_nothing_to_rounding),
        cmocka_unit_test(idleness_is_saved_up_for_a_moment_only),
        cmocka_unit_test(less_than_the_least_is_not_given),
        cmocka_unit_test(streams_are_counted_and_the_next_one_is_refused),
        cmocka_unit_test(each_source_has_a_rate_of_its_own),
        cmocka_unit_test(an_ipv6_network_is_one_source),
        cmocka_unit_test(a_flood_of_addresses_is_remembered_only_so_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
