#include "wire/client_hello.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* One that asks for `name`, in records of at most `record` bytes. */
static size_t make_hello(const char *name, size_t record, uint8_t out[1024])
{
    uint8_t message[512] = {1};
    size_t n = 4, len = strlen(name), at = 0;
    message[n++] = 3;
    message[n++] = 3;
    n += 32;
    message[n++] = 0;                                   /* session id */
    memcpy(message + n, "\x00\x02\x13\x01\x01\x00", 6); /* cipher suite, compression */
    n += 6;
    size_t extensions = 4 + 4 + 5 + len;
    message[n++] = (uint8_t)(extensions >> 8);
    message[n++] = (uint8_t)extensions;
    memcpy(message + n, "\x00\x17\x00\x00", 4);
    n += 4;
    const uint8_t sni[] = {0, 0, 0, (uint8_t)(len + 5), 0, (uint8_t)(len + 3), 0, 0, (uint8_t)len};
    memcpy(message + n, sni, sizeof(sni));
    memcpy(message + n + sizeof(sni), name, len);
    n += sizeof(sni) + len;
    message[2] = (uint8_t)((n - 4) >> 8);
    message[3] = (uint8_t)(n - 4);
    size_t done = 0;
    while (done < n) {
        size_t part = MIN(record, n - done);
        const uint8_t head[] = {22, 3, 1, (uint8_t)(part >> 8), (uint8_t)part};
        memcpy(out + at, head, sizeof(head));
        memcpy(out + at + sizeof(head), message + done, part);
        at += sizeof(head) + part;
        done += part;
    }
    return at;
}

static void the_name_is_read_once_all_bytes_are_there(void **state)
{
    uint8_t hello[1024];
    char name[HOST_SIZE] = "untouched";
    size_t len = make_hello("Device1.Example.ORG", 512, hello);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(client_hello_name(hello, i, name), CLIENT_HELLO_MORE);
    assert_string_equal(name, "untouched");
    assert_int_equal(client_hello_name(hello, len, name), 0);
    assert_string_equal(name, "device1.example.org");
}

static void a_message_in_many_records_is_read(void **state)
{
    uint8_t hello[1024];
    char name[HOST_SIZE];
    size_t len = make_hello("a.example", 7, hello);
    assert_int_equal(client_hello_name(hello, len - 1, name), CLIENT_HELLO_MORE);
    assert_int_equal(client_hello_name(hello, len, name), 0);
    assert_string_equal(name, "a.example");
}

static void what_is_no_host_name_counts_as_none(void **state)
{
    static const char *const bad[] = {"", "a..b", "-a.b", "a_b.c", "10.0.0.1", "a b", "x.\xc3\xa4"};
    uint8_t hello[1024];
    char name[HOST_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        size_t len = make_hello(bad[i], 512, hello);
        assert_int_equal(client_hello_name(hello, len, name), 0);
        assert_string_equal(name, "");
    }
}

static void what_is_no_hello_is_refused_at_once(void **state)
{
    char name[HOST_SIZE];
    uint8_t large[9] = {22, 3, 1, 0x40, 0, 1, 1, 0, 0};
    assert_int_equal(client_hello_name((const uint8_t *)"GET / HTTP/1.1\r\n", 16, name), ERR_PROTO);
    assert_int_equal(client_hello_name((const uint8_t *)"\x16\x03\x01\x00\x01\x02", 6, name),
                     ERR_PROTO);
    assert_int_equal(client_hello_name((const uint8_t *)"\x16\x03\x01\x00\x00", 5, name),
                     ERR_PROTO);
    assert_int_equal(client_hello_name(large, sizeof(large), name), ERR_TOO_LARGE);
}

static void lengths_that_lie_are_refused(void **state)
{
    uint8_t hello[1024];
    char name[HOST_SIZE];
    size_t len = make_hello("a.example", 512, hello);
    for (size_t i = 9; i < len; i++) {
        uint8_t was = hello[i];
        hello[i] = 0xff;
        int rc = client_hello_name(hello, len, name);
        assert_true(rc == 0 || rc == ERR_PROTO);
        hello[i] = was;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_name_is_read_once_all_bytes_are_there),
        cmocka_unit_test(a_message_in_many_records_is_read),
        cmocka_unit_test(what_is_no_host_name_counts_as_none),
        cmocka_unit_test(what_is_no_hello_is_refused_at_once),
        cmocka_unit_test(lengths_that_lie_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
