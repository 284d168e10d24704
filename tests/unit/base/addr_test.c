#include "base/addr.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void host_and_port_are_split(void **state)
{
    struct host_port hp;
    char text[300];
    assert_int_equal(host_port_parse("10.0.0.17:80", false, &hp, NULL), 0);
    assert_string_equal(hp.host, "10.0.0.17");
    assert_int_equal(hp.port, 80);
    assert_int_equal(host_port_parse("[fd00::1]:443", false, &hp, NULL), 0);
    assert_string_equal(hp.host, "fd00::1");
    host_port_format(&hp, text, sizeof(text));
    assert_string_equal(text, "[fd00::1]:443");
    assert_int_equal(host_port_parse("0.0.0.0:0", true, &hp, NULL), 0);
}

static void bad_host_and_port_are_refused_with_a_text(void **state)
{
    static const char *const bad[] = {"",        "host",   ":80",     "host:",  "host:0",
                                      "h:70000", "::1:80", "[::1:80", "a b:80", "u@h:80",
                                      "[[]:7",   "[h]:80", "h\":80"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct host_port hp;
        struct diag d = {0};
        assert_int_equal(host_port_parse(bad[i], false, &hp, &d), ERR_INVALID);
        assert_true(d.text[0]);
    }
}

static void check_rule(const char *rule, const char *host, uint16_t port, bool want)
{
    struct addr_rule r;
    struct addr a;
    assert_int_equal(addr_rule_parse(rule, &r, NULL), 0);
    assert_int_equal(addr_parse(host, port, &a), 0);
    if (addr_rule_match(&r, &a) != want)
        fail_msg("%s against %s:%u should be %d", rule, host, port, want);
}

static void rules_match_prefix_and_ports(void **state)
{
    check_rule("10.0.0.0/8", "10.255.0.1", 1, true);
    check_rule("10.0.0.0/8", "11.0.0.1", 1, false);
    check_rule("10.0.0.0/9", "10.128.0.1", 1, false);
    check_rule("10.0.0.17", "10.0.0.17", 65535, true);
    check_rule("10.0.0.17/32:80,8000-8100", "10.0.0.17", 8050, true);
    check_rule("10.0.0.17/32:80,8000-8100", "10.0.0.17", 81, false);
    check_rule("10.0.0.17:80", "10.0.0.17", 80, true);
    check_rule("10.0.0.17:80", "10.0.0.18", 80, false);
    check_rule("0.0.0.0/0", "::1", 80, false);
    check_rule("0.0.0.0/0", "::ffff:1.2.3.4", 80, true);
    check_rule("::/0", "fd00::1", 80, true);
    check_rule("fd00::/8", "fd12::1", 80, true);
    check_rule("[fd00::]/8:22", "fd12::1", 80, false);
    check_rule("[fd00::]/8:22", "fd12::1", 22, true);
}

static void bad_rules_are_refused(void **state)
{
    static const char *const bad[] = {
        "",    "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8:", "10.0.0.0:1-", "10.0.0.0:9-8",
        "x/8", "[::1",        "::1/129",   "10.0.0.1:80,"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct addr_rule r;
        if (addr_rule_parse(bad[i], &r, NULL) != ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
    }
}

static bool share_an_origin(const char *x, const char *y)
{
    struct addr a, b;
    assert_int_equal(addr_parse(x, 1, &a), 0);
    assert_int_equal(addr_parse(y, 2, &b), 0);
    return addr_same_origin(&a, &b);
}

static void limits_count_ipv4_addresses_and_ipv6_networks(void **state)
{
    assert_true(share_an_origin("10.0.0.1", "10.0.0.1"));
    assert_false(share_an_origin("10.0.0.1", "10.0.0.2"));
    assert_true(share_an_origin("10.0.0.1", "::ffff:10.0.0.1"));
    assert_false(share_an_origin("::ffff:10.0.0.1", "::ffff:10.0.0.2"));
    assert_true(share_an_origin("fd00::1", "fd00::ffff:1:2"));
    assert_false(share_an_origin("fd00::1", "fd00:0:0:1::1"));
    assert_false(share_an_origin("::1", "::ffff:0.0.0.1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_and_port_are_split),
        cmocka_unit_test(bad_host_and_port_are_refused_with_a_text),
        cmocka_unit_test(rules_match_prefix_and_ports),
        cmocka_unit_test(bad_rules_are_refused),
        cmocka_unit_test(limits_count_ipv4_addresses_and_ipv6_networks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
