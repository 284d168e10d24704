#include "base/error.h"
#include "base/text.h"
#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void durations_go_both_ways(void **state)
{
    int64_t ms = 0;
    char out[32];
    assert_int_equal(text_to_duration_ms("30m", &ms), 0);
    assert_int_equal(ms, 1800000);
    text_from_duration_ms(ms, out, sizeof(out));
    assert_string_equal(out, "30m");
    text_from_duration_ms(0, out, sizeof(out));
    assert_string_equal(out, "0s");
    assert_int_equal(text_to_duration_ms("30", &ms), ERR_INVALID);
    assert_int_equal(text_to_duration_ms("-1s", &ms), ERR_INVALID);
    assert_int_equal(text_to_duration_ms("99999999999999999d", &ms), ERR_INVALID);
    assert_int_equal(ms, 1800000);
}

static void base64_round_trips_and_refuses_second_spellings(void **state)
{
    for (size_t n = 0; n < 40; n++) {
        uint8_t in[40], back[40];
        char text[BASE64_SIZE(40)];
        for (size_t i = 0; i < n; i++)
            in[i] = (uint8_t)(i * 37 + n);
        size_t len = sizeof(back);
        text_base64(in, n, text, sizeof(text));
        assert_int_equal(text_unbase64(text, strlen(text), back, &len), 0);
        assert_int_equal(len, n);
        assert_memory_equal(in, back, n);
        len = sizeof(back);
        text_base64url(in, n, text, sizeof(text));
        assert_int_equal(text_unbase64url(text, strlen(text), back, &len), 0);
        assert_int_equal(len, n);
        assert_memory_equal(in, back, n);
    }
    uint8_t out[8];
    size_t len = sizeof(out);
    assert_int_equal(text_unbase64("QR==", 4, out, &len), ERR_INVALID);
    len = sizeof(out);
    assert_int_equal(text_unbase64("Q Q=", 4, out, &len), ERR_INVALID);
    len = 2;
    assert_int_equal(text_unbase64("QUFB", 4, out, &len), ERR_INVALID);
}

static void times_go_both_ways(void **state)
{
    int64_t ms = 0;
    char out[TIME_TEXT_SIZE];
    time_format(1795228418123, out);
    assert_int_equal(time_parse(out, &ms), 0);
    assert_int_equal(ms, 1795228418123);
    assert_int_equal(time_parse("2026-11-21T02:33:38Z", &ms), 0);
    assert_int_equal(time_parse("2026-11-21 02:33:38Z", &ms), ERR_INVALID);
    assert_int_equal(time_parse("2026-11-21T02:33:38", &ms), ERR_INVALID);
}

static void names_follow_rfc_1123(void **state)
{
    assert_true(text_is_name("web-1"));
    assert_false(text_is_name(""));
    assert_false(text_is_name("-web"));
    assert_false(text_is_name("Web"));
    assert_false(text_is_name("0123456789012345678901234567890123456789012345678901234567890123"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_go_both_ways),
        cmocka_unit_test(base64_round_trips_and_refuses_second_spellings),
        cmocka_unit_test(times_go_both_ways),
        cmocka_unit_test(names_follow_rfc_1123),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
