#include "fleet/comeback.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define TRIES 2000

static void a_session_that_ended_comes_back_within_the_time_that_its_hub_gave(void **state)
{
    struct comeback c;
    uint32_t early = 0, late = 0;
    comeback_init(&c);
    c.return_ms = 10000;
    for (int i = 0; i < TRIES; i++) {
        comeback_reset(&c);
        uint32_t ms = comeback_after_session(&c);
        assert_in_range(ms, 50, 10100);
        early += ms < 3000;
        late += ms > 7000;
    }
    assert_true(early > TRIES / 10 && late > TRIES / 10);
}

static void without_such_a_time_it_comes_at_once(void **state)
{
    struct comeback c;
    comeback_init(&c);
    assert_in_range(comeback_after_session(&c), 50, 100);
}

static void who_was_refused_waits_longer_each_time(void **state)
{
    struct comeback c;
    comeback_init(&c);
    c.return_ms = 10000; /* has nothing to do with it */
    assert_in_range(comeback_after_dial(&c, COMEBACK_REFUSED, true), 50, 100);
    assert_in_range(comeback_after_login(&c), 100, 200);
    for (int i = 0; i < 20; i++)
        assert_in_range(comeback_after_dial(&c, COMEBACK_REFUSED, false), 200, 30000);
    comeback_reset(&c);
    assert_in_range(comeback_after_login(&c), 50, 100);
}

static void where_nobody_answers_one_may_ask_again_soon(void **state)
{
    struct comeback c;
    comeback_init(&c);
    for (int i = 0; i < 20; i++)
        assert_in_range(comeback_after_dial(&c, COMEBACK_UNANSWERED, false), 1, 1000);
}

static void who_found_all_hubs_busy_stays_away_for_longer(void **state)
{
    struct comeback c;
    comeback_init(&c);
    assert_in_range(comeback_after_dial(&c, COMEBACK_BUSY, true), 50, 100);
    assert_in_range(comeback_after_dial(&c, COMEBACK_BUSY, false), 500, 1000);
    c.return_ms = 60000;
    for (int i = 0; i < 20; i++)
        assert_in_range(comeback_after_dial(&c, COMEBACK_BUSY, false), 1000, 180000);
}

static void a_dial_that_was_in_vain_is_followed_by_one_that_may_take_longer(void **state)
{
    struct comeback c;
    comeback_init(&c);
    assert_int_equal(comeback_dial_ms(&c), 3000);
    comeback_after_session(&c);
    assert_int_equal(comeback_dial_ms(&c), 3000);
    comeback_after_dial(&c, COMEBACK_REFUSED, true);
    assert_int_equal(comeback_dial_ms(&c), 6000);
    for (int i = 0; i < 20; i++)
        comeback_after_dial(&c, COMEBACK_REFUSED, true);
    assert_int_equal(comeback_dial_ms(&c), 10000);
    comeback_reset(&c);
    assert_int_equal(comeback_dial_ms(&c), 3000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_that_ended_comes_back_within_the_time_that_its_hub_gave),
        cmocka_unit_test(without_such_a_time_it_comes_at_once),
        cmocka_unit_test(who_was_refused_waits_longer_each_time),
        cmocka_unit_test(where_nobody_answers_one_may_ask_again_soon),
        cmocka_unit_test(a_dial_that_was_in_vain_is_followed_by_one_that_may_take_longer),
        cmocka_unit_test(who_found_all_hubs_busy_stays_away_for_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
