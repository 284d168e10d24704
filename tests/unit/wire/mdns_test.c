#include "base/error.h"
#include "base/macro.h"
#include "wire/mdns.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct mdns_instance instance(const uint8_t *blob, size_t len)
{
    return (struct mdns_instance){.label = "0123456789abcdef0123456789abcdef",
                                  .family = AF_INET,
                                  .address = {10, 0, 0, 7},
                                  .ttl_s = 120,
                                  .with_types = true,
                                  .blob = blob,
                                  .blob_len = len};
}

static void an_instance_carries_its_beacon(void **state)
{
    uint8_t blob[124], packet[MDNS_PACKET_MAX];
    struct mdns_message m;
    for (size_t i = 0; i < sizeof(blob); i++)
        blob[i] = (uint8_t)(i * 7);
    for (int family = 0; family < 2; family++) {
        struct mdns_instance i = instance(blob, sizeof(blob));
        i.family = family ? AF_INET6 : AF_INET;
        size_t len = mdns_write_instance(&i, packet);
        assert_in_range(len, 200, 500);
        assert_int_equal(mdns_read(packet, len, &m), 0);
        assert_int_equal(m.n_blobs, 1);
        assert_int_equal(m.blobs[0].len, sizeof(blob));
        assert_memory_equal(m.blobs[0].data, blob, sizeof(blob));
        assert_false(m.asks_service);
    }
}

static void a_question_for_the_service_is_heard(void **state)
{
    static const uint8_t types[] = "\0\0\0\0\0\1\0\0\0\0\0\0\x09_services\x07_dns-sd\x04_udp\x05"
                                   "local\0\0\x0c\0\x01";
    uint8_t packet[MDNS_PACKET_MAX];
    struct mdns_message m;
    size_t len = mdns_write_query(packet);
    assert_int_equal(mdns_read(packet, len, &m), 0);
    assert_true(m.asks_service && !m.asks_types && m.n_blobs == 0);
    assert_int_equal(mdns_read(types, sizeof(types) - 1, &m), 0);
    assert_true(m.asks_types && !m.asks_service);
}

static void what_is_about_others_is_passed_over(void **state)
{
    static const uint8_t other[] =
        "\0\0\x84\0\0\0\0\1\0\0\0\0\x04_ipp\x04_tcp\x05local\0\0\x10\0\x01"
        "\0\0\0\x78\0\x06\x05"
        "b=abc";
    struct mdns_message m;
    assert_int_equal(mdns_read(other, sizeof(other) - 1, &m), 0);
    assert_true(m.n_blobs == 0 && !m.asks_service);
    assert_int_equal(mdns_read(other, 5, &m), ERR_PROTO);
    uint8_t large[MDNS_PACKET_MAX + 1] = {0};
    assert_int_equal(mdns_read(large, sizeof(large), &m), ERR_PROTO);
}

/* Cut anywhere, with any byte changed: no more than fewer or other beacons. */
static void a_damaged_message_does_no_harm(void **state)
{
    uint8_t blob[124] = {1}, packet[MDNS_PACKET_MAX], copy[MDNS_PACKET_MAX];
    struct mdns_instance i = instance(blob, sizeof(blob));
    struct mdns_message m;
    size_t len = mdns_write_instance(&i, packet);
    for (size_t n = 0; n < len; n++)
        mdns_read(packet, n, &m);
    for (size_t n = 0; n < len; n++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, packet, len);
            copy[n] ^= (uint8_t)(1 << bit);
            mdns_read(copy, len, &m);
            assert_true(m.n_blobs <= MDNS_BLOBS_MAX);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_instance_carries_its_beacon),
        cmocka_unit_test(a_question_for_the_service_is_heard),
        cmocka_unit_test(what_is_about_others_is_passed_over),
        cmocka_unit_test(a_damaged_message_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
