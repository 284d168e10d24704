#include "base/error.h"
#include "fleet/lan_beacon.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SELF  "agt_0000000000000000"
#define OTHER "agt_1111111111111111"
#define NOW   INT64_C(1800000000000)

static struct lan_keys keys_of(uint8_t byte)
{
    struct lan_keys k = {.n = 1};
    memset(k.key[0], byte, LAN_KEY_SIZE);
    return k;
}

static struct lan_address at(const char *ip, uint8_t prefix)
{
    struct lan_address a = {.family = strchr(ip, ':') ? AF_INET6 : AF_INET, .prefix = prefix};
    inet_pton(a.family, ip, a.ip);
    return a;
}

static struct lan_beacon beacon(const char *agent)
{
    struct lan_beacon b = {.instance = 7, .epoch = 3, .time_ms = NOW, .from = at("10.0.0.5", 24)};
    strcpy(b.agent, agent);
    return b;
}

static void what_is_sealed_opens_with_any_of_the_keys_and_no_other(void **state)
{
    struct lan_keys old = keys_of(1), new = keys_of(2), stranger = keys_of(9);
    struct lan_beacon in = beacon(OTHER), out;
    uint8_t data[LAN_BEACON_SIZE];
    new.n = 2;
    memset(new.key[1], 1, LAN_KEY_SIZE);
    assert_int_equal(lan_beacon_seal(&old, &in, data), 0);
    assert_int_equal(lan_beacon_open(&new, data, sizeof(data), &out), 0);
    assert_string_equal(out.agent, OTHER);
    assert_int_equal(out.instance, 7);
    assert_int_equal(out.epoch, 3);
    assert_int_equal(out.time_ms, NOW);
    assert_memory_equal(&out.from, &in.from, sizeof(in.from));
    assert_int_equal(lan_beacon_open(&stranger, data, sizeof(data), &out), ERR_DENIED);
    assert_int_equal(lan_beacon_open(&new, data, sizeof(data) - 1, &out), ERR_DENIED);
    struct lan_keys none = {0};
    assert_int_equal(lan_beacon_seal(&none, &in, data), ERR_PRECONDITION);
}

static void a_beacon_with_any_bit_changed_is_refused(void **state)
{
    struct lan_keys keys = keys_of(1);
    struct lan_beacon in = beacon(OTHER), out;
    uint8_t data[LAN_BEACON_SIZE];
    lan_beacon_seal(&keys, &in, data);
    for (size_t i = 0; i < sizeof(data) * 8; i++) {
        data[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(lan_beacon_open(&keys, data, sizeof(data), &out), ERR_DENIED);
        data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    assert_int_equal(lan_beacon_open(&keys, data, sizeof(data), &out), 0);
}

static void two_beacons_of_one_agent_have_nothing_in_common(void **state)
{
    struct lan_keys keys = keys_of(1);
    struct lan_beacon in = beacon(OTHER);
    uint8_t a[LAN_BEACON_SIZE], b[LAN_BEACON_SIZE];
    size_t alike = 0;
    lan_beacon_seal(&keys, &in, a);
    lan_beacon_seal(&keys, &in, b);
    for (size_t i = 0; i < sizeof(a); i++)
        alike += a[i] == b[i];
    assert_true(alike < 8);
}

static enum lan_verdict judge(const struct lan_beacon *b, const char *src, const char *here,
                              uint8_t prefix, int64_t now)
{
    struct lan_address from = at(src, 0), port = at(here, prefix);
    return lan_beacon_judge(b, SELF, 1, &from, &port, now);
}

static void a_beacon_counts_only_where_and_when_it_was_made(void **state)
{
    struct lan_beacon b = beacon(OTHER);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW), LAN_HEARD);
    assert_int_equal(judge(&b, "10.0.0.6", "10.0.0.9", 24, NOW), LAN_ELSEWHERE);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.1.9", 24, NOW), LAN_ELSEWHERE);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 16, NOW), LAN_ELSEWHERE);
    assert_int_equal(judge(&b, "fe80::5", "fe80::9", 64, NOW), LAN_ELSEWHERE);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW + LAN_WINDOW_MS), LAN_HEARD);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW + LAN_WINDOW_MS + 1), LAN_REPLAYED);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW - LAN_WINDOW_MS - 1), LAN_REPLAYED);
}

static void our_own_is_known_and_a_copy_of_us_too(void **state)
{
    struct lan_beacon b = beacon(SELF);
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW), LAN_CLONE);
    b.instance = 1;
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW), LAN_OWN);
    b.instance = 2; /* of a process that is gone: played again later, it shows no copy */
    assert_int_equal(judge(&b, "10.0.0.5", "10.0.0.9", 24, NOW + LAN_WINDOW_MS + 1), LAN_REPLAYED);
}

static void prefixes_are_written_as_people_do(void **state)
{
    char text[LAN_PREFIX_SIZE];
    struct lan_address a = at("10.1.131.7", 17);
    lan_prefix_format(&a, text);
    assert_string_equal(text, "10.1.128.0/17");
    a = at("2001:db8:1:2:3::4", 64);
    lan_prefix_format(&a, text);
    assert_string_equal(text, "2001:db8:1:2::/64");
    a = at("10.0.0.1", 0);
    lan_prefix_format(&a, text);
    assert_string_equal(text, "0.0.0.0/0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sealed_opens_with_any_of_the_keys_and_no_other),
        cmocka_unit_test(a_beacon_with_any_bit_changed_is_refused),
        cmocka_unit_test(two_beacons_of_one_agent_have_nothing_in_common),
        cmocka_unit_test(a_beacon_counts_only_where_and_when_it_was_made),
        cmocka_unit_test(our_own_is_known_and_a_copy_of_us_too),
        cmocka_unit_test(prefixes_are_written_as_people_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
