#include "base/backoff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void delays_double_within_their_half_and_stop_at_the_ceiling(void **state)
{
    struct backoff b = {.first_ms = 100, .max_ms = 5000};
    uint32_t whole = 100;
    for (int i = 0; i < 20; i++) {
        assert_in_range(backoff_next(&b), whole / 2, whole);
        whole = whole * 2 < 5000 ? whole * 2 : 5000;
    }
}

static void a_success_begins_anew(void **state)
{
    struct backoff b = {.first_ms = 100, .max_ms = 5000};
    for (int i = 0; i < 10; i++)
        backoff_next(&b);
    backoff_reset(&b);
    assert_in_range(backoff_next(&b), 50, 100);
}

static void those_who_failed_together_do_not_come_back_together(void **state)
{
    uint32_t least = UINT32_MAX, most = 0;
    for (int i = 0; i < 200; i++) {
        struct backoff b = {.first_ms = 1000, .max_ms = 30000};
        uint32_t delay = backoff_next(&b);
        least = delay < least ? delay : least;
        most = delay > most ? delay : most;
    }
    assert_true(most - least > 300);
}

static void attempts_without_end_overflow_nothing(void **state)
{
    struct backoff b = {.first_ms = UINT32_MAX / 2, .max_ms = UINT32_MAX, .attempts = UINT32_MAX};
    assert_in_range(backoff_next(&b), UINT32_MAX / 2, UINT32_MAX);
    assert_int_equal(b.attempts, UINT32_MAX);
    struct backoff odd = {.first_ms = 1, .max_ms = 1};
    for (int i = 0; i < 10; i++)
        assert_in_range(backoff_next(&odd), 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_double_within_their_half_and_stop_at_the_ceiling),
        cmocka_unit_test(a_success_begins_anew),
        cmocka_unit_test(those_who_failed_together_do_not_come_back_together),
        cmocka_unit_test(attempts_without_end_overflow_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
