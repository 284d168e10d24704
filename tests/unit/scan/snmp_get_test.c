#include "scan/snmp_get.h"

#include "base/error.h"
#include "wire/snmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void the_question_is_a_whole_message(void **state)
{
    uint8_t out[SNMP_GET_MAX];
    char longest[65];
    struct snmp m;
    (void)state;
    memset(longest, 'c', 64);
    longest[64] = '\0';
    assert_int_equal(snmp_read(out, snmp_get_write("public", out), &m), 0);
    assert_int_equal(m.version, SNMP_V2);
    assert_int_equal(m.pdu, SNMP_GET);
    assert_int_equal(m.n_bindings, 2);
    assert_memory_equal(m.community.data, "public", 6);
    assert_int_equal(snmp_read(out, snmp_get_write(longest, out), &m), 0);
    assert_int_equal(m.community.len, 64);
}

/* The question as its own answer, with two texts in it. */
static size_t answer(uint8_t *out)
{
    static const uint8_t message[] = {
        0x30, 0x3e, 0x02, 1,    1,   0x04, 1,    'p',  0xa2, 0x36, 0x02, 1,   1,
        0x02, 1,    0,    0x02, 1,   0,    0x30, 0x2b, 0x30, 19,   0x06, 8,   0x2b,
        6,    1,    2,    1,    1,   1,    0,    0x04, 7,    'L',  'i',  'n', 'u',
        'x',  0xfc, '\n', 0x30, 20,  0x06, 8,    0x2b, 6,    1,    2,    1,   1,
        5,    0,    0x04, 8,    'p', 'r',  'i',  'n',  't',  'e',  'r',  '1'};
    memcpy(out, message, sizeof(message));
    return sizeof(message);
}

static void an_answer_gives_two_texts_that_can_be_shown(void **state)
{
    uint8_t data[128];
    char descr[32], name[32], little[6], tiny[4];
    (void)state;
    size_t len = answer(data);
    assert_int_equal(snmp_get_read(data, len, descr, name, sizeof(descr)), 0);
    assert_string_equal(descr, "Linux? ");
    assert_string_equal(name, "printer1");
    assert_int_equal(snmp_get_read(data, len, little, tiny, 4), 0);
    assert_string_equal(tiny, "pri");
    data[9 + 3] = 2; /* another request's */
    assert_int_equal(snmp_get_read(data, len, descr, name, sizeof(descr)), ERR_PROTO);
    assert_int_equal(snmp_get_read(data, len - 1, descr, name, sizeof(descr)), ERR_PROTO);
    assert_int_equal(snmp_get_read(data, 0, descr, name, sizeof(descr)), ERR_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_question_is_a_whole_message),
        cmocka_unit_test(an_answer_gives_two_texts_that_can_be_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
