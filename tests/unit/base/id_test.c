#include "base/id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void ids_have_their_prefix_and_differ(void **state)
{
    char a[ID_SIZE], b[ID_SIZE];
    id_new(a, "tun");
    id_new(b, "tun");
    assert_true(id_is(a, "tun"));
    assert_false(id_is(a, "tu"));
    assert_false(id_is(a, "net"));
    assert_string_not_equal(a, b);
}

static void ids_of_a_log_are_ordered_by_time(void **state)
{
    static const int64_t times[] = {0, 1, 31, 32, 1795252800000, 1795252800001, (1LL << 45) - 1};
    char last[ID_SIZE] = "con_", now[ID_SIZE];
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        id_new_at(now, "con", times[i]);
        assert_true(id_is(now, "con"));
        assert_true(strncmp(last, now, strlen("con_") + 9) < 0);
        memcpy(last, now, sizeof(last));
    }
}

static void two_of_one_millisecond_differ(void **state)
{
    char a[ID_SIZE], b[ID_SIZE];
    id_new_at(a, "con", 1795252800000);
    id_new_at(b, "con", 1795252800000);
    assert_memory_equal(a, b, strlen("con_") + 9);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_have_their_prefix_and_differ),
        cmocka_unit_test(ids_of_a_log_are_ordered_by_time),
        cmocka_unit_test(two_of_one_millisecond_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
