#include "wire/echo.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void records_of_each_kind_and_version_survive_the_trip(void **state)
{
    static const struct echo_record records[] = {
        {.kind = ECHO_REQUEST,
         .version = 4,
         .ttl = 3,
         .tos = 0xb8,
         .cookie = 0x12345678,
         .address = {[10] = 0xff, 0xff, 10, 0, 0, 17},
         .len = 5},
        {.kind = ECHO_REPLY,
         .version = 6,
         .ttl = 61,
         .cookie = UINT32_MAX,
         .address = {0xfd, [15] = 17},
         .len = 5},
        {.kind = ECHO_ERROR,
         .version = 4,
         .type = 11,
         .cookie = 1,
         .address = {[10] = 0xff, 0xff, 10, 0, 0, 1}},
        {.kind = ECHO_ERROR, .version = 4, .type = 3, .code = 1},
        {.kind = ECHO_ERROR, .version = 6, .type = 1, .code = 3},
    };
    for (size_t i = 0; i < ARRAY_SIZE(records); i++) {
        uint8_t out[ECHO_HEAD_MAX + 5];
        struct echo_record got;
        size_t n = echo_record_head(out, &records[i]);
        memcpy(out + n, "hello", 5);
        assert_int_equal(echo_record_parse(out, n + records[i].len, &got), 0);
        assert_int_equal(got.kind, records[i].kind);
        assert_int_equal(got.version, records[i].version);
        assert_int_equal(got.ttl, records[i].ttl);
        assert_int_equal(got.tos, records[i].tos);
        assert_int_equal(got.type, records[i].type);
        assert_int_equal(got.code, records[i].code);
        assert_int_equal(got.cookie, records[i].cookie);
        assert_memory_equal(got.address, records[i].address, 16);
        assert_int_equal(got.len, records[i].len);
        assert_memory_equal(got.data, "hello", got.len);
    }
}

static void malformed_records_are_refused(void **state)
{
    static const struct {
        uint8_t data[24];
        size_t len;
    } rows[] = {
        {{0x04, 64}, 11},       /* cut off */
        {{0x06, 64}, 23},       /* the same */
        {{0x05, 64}, 12},       /* no such version */
        {{0x34, 64}, 12},       /* no such kind */
        {{0x24, 0, 3, 4}, 12},  /* an error that is none: too big */
        {{0x24, 0, 0, 0}, 12},  /* the same: an answer */
        {{0x24, 0, 3, 1}, 13},  /* an error with data */
        {{0x26, 0, 11, 0}, 24}, /* an error of the other version */
        {{0}, 0},
    };
    struct echo_record got;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(echo_record_parse(rows[i].data, rows[i].len, &got), ERR_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_of_each_kind_and_version_survive_the_trip),
        cmocka_unit_test(malformed_records_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
