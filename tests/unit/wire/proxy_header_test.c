#include "wire/proxy_header.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static struct addr at(const char *ip, uint16_t port)
{
    struct addr a;
    assert_int_equal(addr_parse(ip, port, &a), 0);
    return a;
}

static void assert_writes(enum proxy_version v, bool is_datagram, const char *from, const char *to,
                          const void *expected, size_t len)
{
    uint8_t out[PROXY_HEADER_OUT_MAX];
    struct addr s = at(from, 56324), d = {0};
    if (to)
        d = at(to, 443);
    assert_int_equal(proxy_header_write(v, is_datagram, &s, &d, out), len);
    assert_memory_equal(out, expected, len);
}
#define WRITES(v, dgram, from, to, literal) \
    assert_writes(v, dgram, from, to, literal, sizeof(literal) - 1)

static void version_1_is_the_line_of_the_specification(void **state)
{
    WRITES(PROXY_V1, false, "192.0.2.1", "198.51.100.7",
           "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
    WRITES(PROXY_V1, false, "2001:db8::1", "2001:db8::2",
           "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n");
    WRITES(PROXY_V1, false, "::ffff:192.0.2.1", "::ffff:198.51.100.7",
           "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
    WRITES(PROXY_V1, false, "192.0.2.1", NULL, "PROXY TCP4 192.0.2.1 0.0.0.0 56324 0\r\n");
    WRITES(PROXY_V1, false, "192.0.2.1", "2001:db8::2",
           "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 56324 443\r\n");
}

static void version_2_is_the_block_of_the_specification(void **state)
{
    WRITES(PROXY_V2, false, "192.0.2.1", "198.51.100.7",
           SIGNATURE "\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb");
    WRITES(PROXY_V2, true, "192.0.2.1", "198.51.100.7",
           SIGNATURE "\x21\x12\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb");
    WRITES(PROXY_V2, false, "2001:db8::1", NULL,
           SIGNATURE "\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
                     "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xdc\x04\0\0");
}

static void assert_parses(const void *data, size_t len, size_t size, const char *source)
{
    struct proxy_header h;
    struct diag d = {0};
    char text[ADDR_TEXT_SIZE] = "none";
    assert_int_equal(proxy_header_parse(data, len, &h, &d), size);
    if (h.has_addresses)
        addr_format(&h.source, text, sizeof(text));
    assert_string_equal(text, source);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(proxy_header_parse(data, n, &h, &d), 0);
}
#define PARSES(literal, rest, source) \
    assert_parses(literal rest, sizeof(literal rest) - 1, sizeof(literal) - 1, source)

static void both_versions_are_read_and_nothing_beyond(void **state)
{
    PARSES("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "GET / HTTP/1.0\r\n",
           "192.0.2.1:56324");
    PARSES("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "\n", "[2001:db8::1]:1");
    PARSES(SIGNATURE "\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb", "\x16\x03",
           "192.0.2.1:56324");
}

static void a_connection_may_speak_for_itself(void **state)
{
    PARSES("PROXY UNKNOWN\r\n", "x", "none");
    PARSES("PROXY UNKNOWN ffff::1 whatever this is\r\n", "x", "none");
    PARSES(SIGNATURE "\x20\0\0\0", "x", "none");
    PARSES(SIGNATURE "\x20\x11\0\x03zzz", "x", "none");
    PARSES(SIGNATURE "\x21\0\0\0", "x", "none");
}

static void tlvs_are_skipped_and_must_fit(void **state)
{
    struct proxy_header h;
    PARSES(SIGNATURE "\x21\x11\0\x14\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb"
                     "\x04\0\x02zz\x05\0\0",
           "x", "192.0.2.1:56324");
    static const uint8_t bad[] =
        SIGNATURE "\x21\x11\0\x10\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb\x04\0\x09z";
    assert_int_equal(proxy_header_parse(bad, sizeof(bad) - 1, &h, NULL), ERR_PROTO);
}

static void assert_refuses(const void *data, size_t len, int code)
{
    struct proxy_header h;
    struct diag d = {0};
    assert_int_equal(proxy_header_parse(data, len, &h, &d), code);
    assert_true(d.text[0]);
}
#define REFUSES(literal, code) assert_refuses(literal, sizeof(literal) - 1, code)

static void what_is_malformed_is_refused_as_early_as_it_is_certain(void **state)
{
    REFUSES("G", ERR_PROTO);
    REFUSES("PROXT", ERR_PROTO);
    REFUSES("\r\n\r\nQ", ERR_PROTO);
    REFUSES("\x16\x03\x01", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 ::1 ::1 1 2\r\n", ERR_PROTO);
    REFUSES("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", ERR_PROTO);
    REFUSES("PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", ERR_PROTO);
    REFUSES("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", ERR_PROTO);
    REFUSES("PROXY UNKNOWNS\r\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", ERR_PROTO);
    REFUSES("PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n", ERR_PROTO);
    REFUSES(SIGNATURE "\x11", ERR_PROTO);
    REFUSES(SIGNATURE "\x22\x11\0\x0c", ERR_PROTO);
    REFUSES(SIGNATURE "\x21\x41\0\0", ERR_PROTO);
    REFUSES(SIGNATURE "\x21\x13\0\0", ERR_PROTO);
    REFUSES(SIGNATURE "\x21\x21\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb", ERR_PROTO);
    REFUSES(SIGNATURE "\x21\x11\xff\xff", ERR_TOO_LARGE);
}

static void a_line_has_107_bytes_at_most(void **state)
{
    uint8_t line[PROXY_HEADER_V1_MAX];
    struct proxy_header h;
    memset(line, 'x', sizeof(line));
    memcpy(line, "PROXY UNKNOWN ", 14);
    assert_int_equal(proxy_header_parse(line, sizeof(line) - 1, &h, NULL), 0);
    assert_int_equal(proxy_header_parse(line, sizeof(line), &h, NULL), ERR_TOO_LARGE);
    memcpy(line + sizeof(line) - 2, "\r\n", 2);
    assert_int_equal(proxy_header_parse(line, sizeof(line), &h, NULL), sizeof(line));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1_is_the_line_of_the_specification),
        cmocka_unit_test(version_2_is_the_block_of_the_specification),
        cmocka_unit_test(both_versions_are_read_and_nothing_beyond),
        cmocka_unit_test(a_connection_may_speak_for_itself),
        cmocka_unit_test(tlvs_are_skipped_and_must_fit),
        cmocka_unit_test(what_is_malformed_is_refused_as_early_as_it_is_certain),
        cmocka_unit_test(a_line_has_107_bytes_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
