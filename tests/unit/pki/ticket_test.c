#include "pki/ticket.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t key[TICKET_KEY_SIZE] = {1, 2, 3}, other_key[TICKET_KEY_SIZE] = {1, 2, 4};
static const struct ticket good = {"hub_0123456789abcdef", 7, "tun_0123456789abcdef", 42, 30000};

static void what_was_signed_is_read_until_it_ends(void **state)
{
    char text[TICKET_TEXT_SIZE];
    struct ticket t;
    ticket_format(&good, key, text);
    assert_int_equal(ticket_check(text, key, 29999, &t), 0);
    assert_string_equal(t.hub, good.hub);
    assert_string_equal(t.tunnel, good.tunnel);
    assert_int_equal(t.hub_epoch, 7);
    assert_int_equal(t.lease_epoch, 42);
    assert_int_equal(t.ends_ms, 30000);
    assert_int_equal(ticket_check(text, key, 30000, &t), ERR_EXPIRED);
}

static void another_key_or_a_changed_byte_is_refused(void **state)
{
    char text[TICKET_TEXT_SIZE];
    struct ticket t;
    ticket_format(&good, key, text);
    assert_int_equal(ticket_check(text, other_key, 0, &t), ERR_DENIED);
    for (size_t i = 0; text[i]; i++) {
        text[i] ^= 1;
        if (ticket_check(text, key, 0, &t) == 0)
            fail_msg("byte %zu may be changed", i);
        text[i] ^= 1;
    }
}

static void what_is_no_ticket_is_refused(void **state)
{
    char longest[4 * TICKET_TEXT_SIZE];
    struct ticket t;
    memset(longest, '.', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    const char *const bad[] = {"", ".", "hub", "a.b.c.d.e.f", longest};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_true(ticket_check(bad[i], key, 0, &t) < 0);
}

static void any_of_several_keys_will_do(void **state)
{
    struct ticket_keys keys = {.n = 2};
    char text[TICKET_TEXT_SIZE];
    struct ticket t;
    memcpy(keys.keys[0], other_key, TICKET_KEY_SIZE);
    memcpy(keys.keys[1], key, TICKET_KEY_SIZE);
    ticket_format(&good, key, text);
    assert_int_equal(ticket_check_any(text, &keys, 0, &t), 0);
    assert_int_equal(ticket_check_any(text, &keys, 30000, &t), ERR_EXPIRED);
    keys.n = 1;
    assert_int_equal(ticket_check_any(text, &keys, 0, &t), ERR_DENIED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_signed_is_read_until_it_ends),
        cmocka_unit_test(another_key_or_a_changed_byte_is_refused),
        cmocka_unit_test(what_is_no_ticket_is_refused),
        cmocka_unit_test(any_of_several_keys_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
