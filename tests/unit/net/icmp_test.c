#include "net/icmp.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void an_ipv4_error_quotes_the_datagram(void **state)
{
    static const uint8_t expected[] = {
        3,    3, 0xa6, 0x9d, 0,   0, 0, 0,                         /* port unreachable */
        0x45, 0, 0,    28,   0,   0, 0, 0, 64,   17,   0x7c, 0xcf, /* IPv4, UDP */
        127,  0, 0,    1,    127, 0, 0, 9, 0x9c, 0x40, 0x04, 0x89, 0, 8, 0, 0};
    struct udp_path path = {0};
    uint8_t out[ICMP_ERROR_MAX];
    assert_int_equal(addr_parse("127.0.0.1", 40000, &path.peer), 0);
    memcpy(path.local.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x09", 16);
    assert_int_equal(icmp_error_write(&path, 1161, ERR_REFUSED, out), sizeof(expected));
    uint32_t sum = 0; /* a message whose checksum is right adds up to ones */
    for (size_t i = 0; i < sizeof(expected); i += 2)
        sum += (uint32_t)(out[i] << 8 | out[i + 1]);
    assert_int_equal((sum & 0xffff) + (sum >> 16), 0xffff);
    memcpy(out + 2, expected + 2, 2);
    memcpy(out + 18, expected + 18, 2);
    assert_memory_equal(out, expected, sizeof(expected));
}

static void a_client_of_ipv4_at_an_ipv6_socket_gets_ipv4(void **state)
{
    struct udp_path path = {0}, plain = {0};
    uint8_t out[ICMP_ERROR_MAX], same[ICMP_ERROR_MAX];
    memcpy(path.local.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x09", 16);
    plain = path;
    assert_int_equal(addr_parse("::ffff:127.0.0.1", 40000, &path.peer), 0);
    assert_int_equal(addr_parse("127.0.0.1", 40000, &plain.peer), 0);
    size_t len = icmp_error_write(&path, 1161, ERR_UNREACHABLE, out);
    assert_int_equal(icmp_error_write(&plain, 1161, ERR_UNREACHABLE, same), len);
    assert_memory_equal(out, same, len);
    assert_int_equal(out[1], 1);
}

static void an_ipv6_error_quotes_the_datagram(void **state)
{
    struct udp_path path = {0};
    uint8_t out[ICMP_ERROR_MAX];
    assert_int_equal(addr_parse("2001:db8::1", 40000, &path.peer), 0);
    path.local.ip[15] = 7;
    assert_int_equal(icmp_error_write(&path, 1161, ERR_REFUSED, out), 56);
    assert_int_equal(out[0], 1);
    assert_int_equal(out[1], 4);
    assert_int_equal(out[8], 0x60);
    assert_memory_equal(out + 16, &path.peer.in6.sin6_addr, 16);
    assert_memory_equal(out + 32, path.local.ip, 16);
    assert_memory_equal(out + 48, "\x9c\x40\x04\x89\0\x08\0\0", 8);
    assert_int_equal(icmp_error_write(&path, 1161, ERR_DENIED, out), 56);
    assert_int_equal(out[1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ipv4_error_quotes_the_datagram),
        cmocka_unit_test(a_client_of_ipv4_at_an_ipv6_socket_gets_ipv4),
        cmocka_unit_test(an_ipv6_error_quotes_the_datagram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
