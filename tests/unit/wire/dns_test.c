#include "wire/dns.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEADER "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"

static const uint8_t query_a[] = HEADER "\x02"
                                        "A1\x05"
                                        "agent\x00\x00\x01\x00\x01";
static const uint8_t addresses[][16] = {{[10] = 0xff, 0xff, 10, 0, 0, 17}, {0xfd, [15] = 17}};

static void a_question_is_read_in_small_letters(void **state)
{
    struct dns_question q;
    assert_int_equal(dns_question_parse(query_a, sizeof(query_a) - 1, &q), 0);
    assert_string_equal(q.name, "a1.agent");
    assert_int_equal(q.type, DNS_A);
    assert_int_equal(q.len, sizeof(query_a) - 1);
}

static void what_is_no_plain_question_is_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } rows[] = {
#define ROW(text) {text, sizeof(text) - 1}
        ROW(""),
        ROW("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00"),
        ROW("\x12\x34\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01"), /* answer
                                                                                           */
        ROW("\x12\x34\x29\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01"), /* update
                                                                                           */
        ROW("\x12\x34\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01"),
        ROW(HEADER "\x01x\x00\x00\x01\x00\x03"), /* class CHAOS */
        ROW(HEADER "\x01x\x00\x00\x01\x00"),     /* cut */
        ROW(HEADER "\x05x\x00\x00\x01\x00\x01"), /* label too long for the message */
        ROW(HEADER "\xc0\x0c\x00\x01\x00\x01"),  /* a pointer */
        ROW(HEADER "\x03"
                   "a b\x00\x00\x01\x00\x01"),
    };
    struct dns_question q;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(dns_question_parse((const uint8_t *)rows[i].bytes, rows[i].len, &q),
                         ERR_PROTO);
}

static void the_longest_name_and_its_answer_fit(void **state)
{
    uint8_t data[300] = HEADER, out[DNS_ANSWER_MAX];
    uint8_t many[40][16];
    size_t at = 12;
    struct dns_question q;
    for (int i = 0; i < 4; i++) {
        uint8_t label = i < 3 ? 63 : 61;
        data[at++] = label;
        memset(data + at, 'x', label);
        at += label;
    }
    memcpy(data + at, "\x00\x00\x1c\x00\x01", 5);
    assert_int_equal(dns_question_parse(data, at + 5, &q), 0);
    assert_int_equal(strlen(q.name), 253);
    memset(many, 0xfd, sizeof(many));
    size_t n = dns_answer(out, data, &q, DNS_OK, many, ARRAY_SIZE(many), 30);
    assert_in_range(n, 400, DNS_ANSWER_MAX);
    data[at - 62] = 62; /* one more */
    data[at] = 'x';
    memcpy(data + at + 1, "\x00\x00\x1c\x00\x01", 5);
    assert_int_equal(dns_question_parse(data, at + 6, &q), ERR_PROTO);
}

static void an_answer_has_the_addresses_of_the_asked_family(void **state)
{
    uint8_t out[DNS_ANSWER_MAX];
    struct dns_question q;
    dns_question_parse(query_a, sizeof(query_a) - 1, &q);
    size_t n = dns_answer(out, query_a, &q, DNS_OK, addresses, 2, 30);
    assert_int_equal(n, q.len + 16);
    assert_memory_equal(out, "\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00", 12);
    assert_memory_equal(out + q.len,
                        "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x11", 16);
    q.type = DNS_AAAA;
    assert_int_equal(dns_answer(out, query_a, &q, DNS_OK, addresses, 2, 30), q.len + 28);
    q.type = DNS_ANY;
    assert_int_equal(dns_answer(out, query_a, &q, DNS_OK, addresses, 2, 30), q.len + 44);
}

static void a_name_that_is_not_there_is_told_without_records(void **state)
{
    uint8_t out[DNS_ANSWER_MAX];
    struct dns_question q;
    dns_question_parse(query_a, sizeof(query_a) - 1, &q);
    assert_int_equal(dns_answer(out, query_a, &q, DNS_NO_SUCH_NAME, NULL, 0, 0), q.len);
    assert_int_equal(out[3] & 15, DNS_NO_SUCH_NAME);
    assert_int_equal(out[7], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_question_is_read_in_small_letters),
        cmocka_unit_test(what_is_no_plain_question_is_refused),
        cmocka_unit_test(the_longest_name_and_its_answer_fit),
        cmocka_unit_test(an_answer_has_the_addresses_of_the_asked_family),
        cmocka_unit_test(a_name_that_is_not_there_is_told_without_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
