#include "wire/grpc.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static int gather(void *arg, const uint8_t *msg, size_t len)
{
    struct buf *out = arg;
    buf_append(out, msg, len);
    return buf_puts(out, "|");
}

static int read_in_steps(const char *data, size_t len, size_t step, size_t max, struct buf *out)
{
    struct grpc_reader r = {.max = max};
    int rc = 0;
    for (size_t at = 0; at < len && rc == 0; at += step)
        rc = grpc_read(&r, data + at, MIN(step, len - at), gather, out);
    if (rc == 0 && !grpc_reader_is_between(&r))
        rc = ERR_CLOSED;
    grpc_reader_done(&r);
    return rc;
}

static void messages_are_the_same_in_any_cut(void **state)
{
    static const char stream[] = "\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\2de";
    for (size_t step = 1; step < sizeof(stream); step++) {
        struct buf out = {0};
        assert_int_equal(read_in_steps(stream, sizeof(stream) - 1, step, 100, &out), 0);
        assert_string_equal(buf_text(&out), "abc||de|");
        buf_done(&out);
    }
}

static void long_compressed_and_broken_messages_are_refused(void **state)
{
    struct buf out = {0};
    assert_int_equal(read_in_steps("\0\0\0\0\4abcd", 9, 3, 3, &out), ERR_TOO_LARGE);
    assert_int_equal(read_in_steps("\0\xff\xff\xff\xff", 5, 5, 1 << 20, &out), ERR_TOO_LARGE);
    assert_int_equal(read_in_steps("\1\0\0\0\0", 5, 5, 100, &out), ERR_UNSUPPORTED);
    assert_int_equal(read_in_steps("\2\0\0\0\0", 5, 5, 100, &out), ERR_PROTO);
    assert_int_equal(read_in_steps("\0\0\0\0\4ab", 7, 3, 100, &out), ERR_CLOSED);
    assert_int_equal(out.len, 0);
    buf_done(&out);
}

static int stop(void *arg, const uint8_t *msg, size_t len)
{
    ++*(int *)arg;
    return ERR_CANCELED;
}

static void a_refusing_receiver_gets_nothing_more(void **state)
{
    struct grpc_reader r = {.max = 100};
    int n = 0;
    assert_int_equal(grpc_read(&r, "\0\0\0\0\1a\0\0\0\0\1b", 12, stop, &n), ERR_CANCELED);
    assert_int_equal(n, 1);
    grpc_reader_done(&r);
}

static void a_prefix_reads_back(void **state)
{
    uint8_t p[GRPC_PREFIX_SIZE];
    grpc_prefix(0x01020304, p);
    assert_memory_equal(p, "\0\1\2\3\4", 5);
}

static void timeouts_have_one_unit_and_at_most_eight_digits(void **state)
{
    uint64_t ms = 0;
    assert_int_equal(grpc_timeout_parse("1H", &ms), 0);
    assert_int_equal(ms, 3600000);
    assert_int_equal(grpc_timeout_parse("2M", &ms), 0);
    assert_int_equal(ms, 120000);
    assert_int_equal(grpc_timeout_parse("99999999S", &ms), 0);
    assert_int_equal(grpc_timeout_parse("250m", &ms), 0);
    assert_int_equal(ms, 250);
    assert_int_equal(grpc_timeout_parse("1u", &ms), 0);
    assert_int_equal(ms, 1);
    assert_int_equal(grpc_timeout_parse("1000001n", &ms), 0);
    assert_int_equal(ms, 2);
    static const char *const bad[] = {"", "m", "1", "1x", "123456789m", "-1S", "1 S", "1SS"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(grpc_timeout_parse(bad[i], &ms), ERR_INVALID);

    char text[16];
    grpc_timeout_format(1500, text);
    assert_string_equal(text, "1500m");
    grpc_timeout_format(200000000, text);
    assert_string_equal(text, "200000S");
}

static void messages_survive_escaping(void **state)
{
    char escaped[128], back[128];
    static const char text[] = "100% of \xc3\xa9t\xc3\xa9\n";
    grpc_message_escape(text, escaped, sizeof(escaped));
    assert_string_equal(escaped, "100%25 of %C3%A9t%C3%A9%0A");
    grpc_message_unescape(escaped, back, sizeof(back));
    assert_string_equal(back, text);
    grpc_message_unescape("50% %zz %4", back, sizeof(back));
    assert_string_equal(back, "50% %zz %4");
    grpc_message_escape("\n\n\n", escaped, 8); /* never half an escape */
    assert_string_equal(escaped, "%0A%0A");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_the_same_in_any_cut),
        cmocka_unit_test(long_compressed_and_broken_messages_are_refused),
        cmocka_unit_test(a_refusing_receiver_gets_nothing_more),
        cmocka_unit_test(a_prefix_reads_back),
        cmocka_unit_test(timeouts_have_one_unit_and_at_most_eight_digits),
        cmocka_unit_test(messages_survive_escaping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
