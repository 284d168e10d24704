/* The listener's side of SOCKS, byte by byte. */
#include "wire/socks.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define BYTES(s) ((const uint8_t *)(s)), (sizeof(s) - 1)

static void a_greeting_tells_what_the_client_can_do(void **state)
{
    struct socks_greeting g;
    assert_int_equal(socks_greeting_parse(BYTES("\5\1\0rest"), &g), 3);
    assert_true(g.offers_none && !g.offers_password);
    assert_int_equal(socks_greeting_parse(BYTES("\5\2\1\2"), &g), 4);
    assert_true(!g.offers_none && g.offers_password);
    assert_int_equal(socks_greeting_parse(BYTES("\5\2\1"), &g), 0);
    assert_int_equal(socks_greeting_parse(BYTES("\5"), &g), 0);
    assert_int_equal(socks_greeting_parse(BYTES("G"), &g), ERR_PROTO);
}

static void a_login_has_a_user_and_a_password(void **state)
{
    struct socks_login l;
    assert_int_equal(socks_login_parse(BYTES("\1\2me\6secret!"), &l), 11);
    assert_string_equal(l.user, "me");
    assert_string_equal(l.password, "secret");
    assert_int_equal(socks_login_parse(BYTES("\1\0\0"), &l), 3);
    assert_int_equal(socks_login_parse(BYTES("\1\2me\6secre"), &l), 0);
    assert_int_equal(socks_login_parse(BYTES("\1\2m\0\1x"), &l), ERR_PROTO);
    assert_int_equal(socks_login_parse(BYTES("\5\2me\1x"), &l), ERR_PROTO);
}

static void a_request_names_its_target_in_three_ways(void **state)
{
    struct socks_request r;
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\1\12\0\0\5\x15\x38more"), &r), 10);
    assert_int_equal(r.command, SOCKS_CONNECT);
    assert_string_equal(r.target.host, "10.0.0.5");
    assert_int_equal(r.target.port, 5432);
    assert_int_equal(socks_request_parse(BYTES("\5\3\0\3\11web.local\0\x50"), &r), 16);
    assert_int_equal(r.command, SOCKS_ASSOCIATE);
    assert_string_equal(r.target.host, "web.local");
    assert_int_equal(
        socks_request_parse(BYTES("\5\1\0\4\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\1\xbb"), &r), 22);
    assert_string_equal(r.target.host, "fd00::1");
    assert_int_equal(r.target.port, 443);
}

static void what_is_no_address_is_refused_as_such(void **state)
{
    struct socks_request r;
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\2\12\0\0\5\0\x50"), &r), ERR_INVALID);
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\3\0\0\x50"), &r), ERR_INVALID);
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\3\3a\0b\0\x50"), &r), ERR_INVALID);
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\3\3a/b\0\x50"), &r), ERR_INVALID);
    assert_int_equal(socks_request_parse(BYTES("\5\1\0\3\3a\r\n\0\x50"), &r), ERR_INVALID);
    assert_int_equal(socks_request_parse(BYTES("\4\1\0\3"), &r), ERR_PROTO);
}

static void version_4_has_addresses_and_4a_names(void **state)
{
    struct socks_request r;
    assert_int_equal(socks4_request_parse(BYTES("\4\1\0\x50\12\0\0\5me\0rest"), &r), 11);
    assert_string_equal(r.target.host, "10.0.0.5");
    assert_int_equal(r.target.port, 80);
    assert_int_equal(socks4_request_parse(BYTES("\4\1\0\x50\0\0\0\1\0web.local\0"), &r), 19);
    assert_string_equal(r.target.host, "web.local");
    assert_int_equal(socks4_request_parse(BYTES("\4\1\0\x50\0\0\0\1\0web.local"), &r), 0);
    assert_int_equal(socks4_request_parse(BYTES("\4\1\0\x50\0\0\0\1\0a b\0"), &r), ERR_INVALID);
}

static void a_text_that_never_ends_is_refused(void **state)
{
    uint8_t data[SOCKS_MESSAGE_MAX] = "\4\1\0\x50\0\0\0\1";
    struct socks_request r;
    memset(data + 8, 'a', sizeof(data) - 8);
    assert_int_equal(socks4_request_parse(data, sizeof(data), &r), ERR_PROTO);
    data[20] = 0;
    assert_int_equal(socks4_request_parse(data, sizeof(data), &r), ERR_PROTO);
}

static void a_reply_tells_why(void **state)
{
    uint8_t out[SOCKS_REPLY_MAX];
    struct addr a;
    assert_int_equal(socks_reply(0, NULL, out), 10);
    assert_memory_equal(out, "\5\0\0\1\0\0\0\0\0\0", 10);
    assert_int_equal(socks_reply(ERR_REFUSED, NULL, out), 10);
    assert_int_equal(out[1], 5);
    assert_int_equal(addr_parse("::1", 53, &a), 0);
    assert_int_equal(socks_reply(0, &a, out), 22);
    assert_memory_equal(out + 3, "\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\x35", 19);
    assert_int_equal(socks4_reply(0, out), 8);
    assert_int_equal(out[1], 90);
    assert_int_equal(socks4_reply(ERR_DNS, out), 8);
    assert_int_equal(out[1], 91);
}

static void a_datagram_carries_its_address(void **state)
{
    uint8_t out[SOCKS_DATAGRAM_HEAD_MAX];
    struct host_port hp;
    assert_int_equal(socks_datagram_parse(BYTES("\0\0\0\1\12\0\0\5\0\x35query"), &hp), 10);
    assert_string_equal(hp.host, "10.0.0.5");
    assert_int_equal(hp.port, 53);
    assert_int_equal(socks_datagram_head(&hp, out), 10);
    assert_memory_equal(out, "\0\0\0\1\12\0\0\5\0\x35", 10);
    assert_int_equal(socks_datagram_parse(BYTES("\0\0\0\3\3dns\0\x35"), &hp), 10);
    assert_int_equal(socks_datagram_head(&hp, out), 10);
    assert_memory_equal(out, "\0\0\0\3\3dns\0\x35", 10);
    assert_int_equal(socks_datagram_parse(BYTES("\0\0\1\1\12\0\0\5\0\x35"), &hp), ERR_UNSUPPORTED);
    assert_int_equal(socks_datagram_parse(BYTES("\0\0\0\1\12\0\0\5\0"), &hp), ERR_PROTO);
    assert_int_equal(socks_datagram_parse(BYTES("\1\0\0\1\12\0\0\5\0\x35"), &hp), ERR_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_greeting_tells_what_the_client_can_do),
        cmocka_unit_test(a_login_has_a_user_and_a_password),
        cmocka_unit_test(a_request_names_its_target_in_three_ways),
        cmocka_unit_test(what_is_no_address_is_refused_as_such),
        cmocka_unit_test(version_4_has_addresses_and_4a_names),
        cmocka_unit_test(a_text_that_never_ends_is_refused),
        cmocka_unit_test(a_reply_tells_why),
        cmocka_unit_test(a_datagram_carries_its_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
