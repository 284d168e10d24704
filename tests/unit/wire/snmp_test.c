#include "wire/snmp.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* As net-snmp sends them: snmpgetnext -v2c -c public, sysDescr; snmpbulkget of ifTable. */
static const uint8_t get_next[] = {0x30, 0x26, 0x02, 0x01, 0x01, 0x04, 0x06, 'p',  'u',  'b',
                                   'l',  'i',  'c',  0xa1, 0x19, 0x02, 0x04, 0x11, 0x22, 0x33,
                                   0x44, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x30,
                                   0x09, 0x06, 0x05, 0x2b, 0x06, 0x01, 0x02, 0x01, 0x05, 0x00};
static const uint8_t get_bulk[] = {0x30, 0x28, 0x02, 0x01, 0x01, 0x04, 0x06, 'p',  'u',  'b',  'l',
                                   'i',  'c',  0xa5, 0x1b, 0x02, 0x04, 0x11, 0x22, 0x33, 0x44, 0x02,
                                   0x01, 0x00, 0x02, 0x01, 0x0a, 0x30, 0x0d, 0x30, 0x0b, 0x06, 0x07,
                                   0x2b, 0x06, 0x01, 0x02, 0x01, 0x02, 0x02, 0x05, 0x00};

static struct snmp read_good(const uint8_t *data, size_t len)
{
    struct snmp m;
    assert_int_equal(snmp_read(data, len, &m), 0);
    return m;
}

static struct snmp_bytes oid(const char *bytes, size_t len)
{
    return (struct snmp_bytes){(const uint8_t *)bytes, len};
}
#define OID(text) oid(text, sizeof(text) - 1)

/* A message like `like` with these names and NULLs, by way of snmp_request. */
static struct snmp request(uint8_t *out, const struct snmp *like, int32_t id,
                           const struct snmp_bytes *names, size_t n)
{
    int len = snmp_request(like, id, names, n, out, 2048);
    assert_true(len > 0);
    return read_good(out, (size_t)len);
}

static void a_request_is_read_to_the_last_field(void **state)
{
    struct snmp m = read_good(get_next, sizeof(get_next));
    struct snmp_bytes rest = m.bindings;
    struct snmp_binding b;
    assert_int_equal(m.version, SNMP_V2);
    assert_int_equal(m.pdu, SNMP_GET_NEXT);
    assert_int_equal(m.id, 0x11223344);
    assert_int_equal(m.community.len, 6);
    assert_int_equal(m.n_bindings, 1);
    assert_true(snmp_next_binding(&rest, &b));
    assert_int_equal(b.type, SNMP_NULL);
    assert_memory_equal(b.name.data, "\x2b\x06\x01\x02\x01", 5);
    assert_false(snmp_next_binding(&rest, &b));
    m = read_good(get_bulk, sizeof(get_bulk));
    assert_int_equal(m.first, 0);
    assert_int_equal(m.second, 10);
    assert_true(snmp_is_step(&m));
}

static void what_is_cut_off_or_followed_by_more_is_refused(void **state)
{
    uint8_t longer[sizeof(get_next) + 1] = {0};
    struct snmp m;
    memcpy(longer, get_next, sizeof(get_next));
    for (size_t n = 0; n < sizeof(get_next); n++)
        assert_int_equal(snmp_read(get_next, n, &m), ERR_PROTO);
    assert_int_equal(snmp_read(longer, sizeof(longer), &m), ERR_PROTO);
}

static void other_versions_and_operations_are_refused(void **state)
{
    uint8_t data[sizeof(get_bulk)];
    struct snmp m;
    memcpy(data, get_bulk, sizeof(data));
    data[4] = 3; /* SNMPv3 */
    assert_int_equal(snmp_read(data, sizeof(data), &m), ERR_PROTO);
    data[4] = 0; /* version 1 has no GetBulk */
    assert_int_equal(snmp_read(data, sizeof(data), &m), ERR_PROTO);
    data[4] = 1;
    data[13] = 0xa7; /* a trap */
    assert_int_equal(snmp_read(data, sizeof(data), &m), ERR_PROTO);
    data[13] = SNMP_SET;
    assert_int_equal(snmp_read(data, sizeof(data), &m), 0);
    assert_false(snmp_is_step(&m));
}

static void requests_are_the_same_whatever_their_id(void **state)
{
    struct snmp a = read_good(get_next, sizeof(get_next));
    uint8_t data[64];
    for (int32_t id = 1; id > 0 && id < INT32_MAX / 3; id *= 3) {
        int len = snmp_with_id(&a, id, data, sizeof(data));
        assert_true(len > 0);
        struct snmp b = read_good(data, (size_t)len);
        assert_int_equal(b.id, id);
        assert_true(snmp_is_same(&a, &b));
        assert_true(snmp_hash(&a) == snmp_hash(&b));
    }
    assert_int_equal(snmp_with_id(&a, -1, data, sizeof(data)), sizeof(get_next) - 3);
    assert_int_equal(read_good(data, sizeof(get_next) - 3).id, -1);
    assert_int_equal(snmp_with_id(&a, INT32_MIN, data, sizeof(data)), sizeof(get_next));
    assert_int_equal(read_good(data, sizeof(get_next)).id, INT32_MIN);
    assert_int_equal(snmp_with_id(&a, 5, data, 20), ERR_TOO_LARGE);
}

static void requests_that_differ_in_anything_else_are_not_the_same(void **state)
{
    struct snmp a = read_good(get_bulk, sizeof(get_bulk));
    for (size_t i = 0; i < sizeof(get_bulk); i++) {
        uint8_t data[sizeof(get_bulk)];
        struct snmp b;
        memcpy(data, get_bulk, sizeof(data));
        data[i] ^= 1;
        bool is_id = i >= 17 && i <= 20;
        if (snmp_read(data, sizeof(data), &b) == 0)
            assert_true(snmp_is_same(&a, &b) == is_id);
    }
}

static void a_written_request_is_what_net_snmp_writes(void **state)
{
    struct snmp m = read_good(get_next, sizeof(get_next));
    const struct snmp_bytes name = OID("\x2b\x06\x01\x02\x01");
    uint8_t out[sizeof(get_next)];
    assert_int_equal(snmp_request(&m, m.id, &name, 1, out, sizeof(out)), sizeof(get_next));
    assert_memory_equal(out, get_next, sizeof(get_next));
    assert_int_equal(snmp_request(&m, m.id, &name, 1, out, sizeof(out) - 1), ERR_TOO_LARGE);
}

static void long_messages_have_long_lengths(void **state)
{
    static char long_name[200] = "\x2b\x06";
    struct snmp like = read_good(get_next, sizeof(get_next));
    const struct snmp_bytes names[] = {
        {(const uint8_t *)long_name, sizeof(long_name)},
        {(const uint8_t *)long_name, sizeof(long_name)},
    };
    uint8_t out[2048], other[2048];
    struct snmp m = request(out, &like, 7, names, 2);
    assert_int_equal(m.n_bindings, 2);
    assert_int_equal(out[1], 0x82);
    int len = snmp_with_id(&m, 0x01000000, other, sizeof(other));
    struct snmp moved = read_good(other, (size_t)len);
    assert_true(snmp_is_same(&m, &moved));
}

static void names_are_in_the_order_of_a_walk(void **state)
{
    const struct snmp_bytes sorted[] = {
        OID(""),         OID("\x2b"),         OID("\x2b\x06"),         OID("\x2b\x06\x01"),
        OID("\x2b\x07"), OID("\x2b\x81\x00"), OID("\x2b\x81\x00\x01"), OID("\x2b\x81\x01"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(sorted); i++) {
        for (size_t k = 0; k < ARRAY_SIZE(sorted); k++) {
            int expected = i < k ? -1 : i > k;
            assert_int_equal(snmp_compare(sorted[i], sorted[k]), expected);
        }
    }
    assert_true(snmp_is_below(OID("\x2b\x06"), OID("\x2b\x06\x01")));
    assert_false(snmp_is_below(OID("\x2b\x06\x01"), OID("\x2b\x06")));
    assert_true(snmp_is_below(OID("\x28"), OID("\x2b\x06"))); /* ".1" */
}

/* An answer to `asked` with these names; `type` of the last value. */
static struct snmp answer(uint8_t *out, const struct snmp *asked, const struct snmp_bytes *names,
                          size_t n, uint8_t type)
{
    struct snmp m = request(out, asked, asked->id, names, n);
    out[m.pdu_at] = SNMP_RESPONSE;
    m = read_good(out, m.whole.len);
    out[m.whole.len - 2] = type;
    m = read_good(out, m.whole.len);
    m.first = 0;
    return m;
}

static void a_walk_goes_on_from_the_last_row(void **state)
{
    uint8_t asked_bytes[2048], answer_bytes[2048], next[2048];
    struct snmp like = read_good(get_bulk, sizeof(get_bulk));
    const struct snmp_bytes columns[] = {OID("\x2b\x01"), OID("\x2b\x02")};
    const struct snmp_bytes rows[] = {OID("\x2b\x01\x01"), OID("\x2b\x02\x01"), OID("\x2b\x01\x02"),
                                      OID("\x2b\x02\x02")};
    struct snmp asked = request(asked_bytes, &like, 1, columns, 2);
    struct snmp a = answer(answer_bytes, &asked, rows, 4, SNMP_NULL);
    int n = snmp_follow(&asked, &a, next, sizeof(next));
    assert_true(n > 0);
    struct snmp m = read_good(next, (size_t)n);
    struct snmp_bytes rest = m.bindings;
    struct snmp_binding b;
    assert_int_equal(m.n_bindings, 2);
    assert_int_equal(m.second, 10);
    assert_true(snmp_next_binding(&rest, &b) && snmp_compare(b.name, rows[2]) == 0);
    assert_true(snmp_next_binding(&rest, &b) && snmp_compare(b.name, rows[3]) == 0);
    assert_true(snmp_is_within(&asked, &m));
    assert_false(snmp_is_within(&m, &asked));
}

static void a_walk_ends_where_there_is_no_next(void **state)
{
    uint8_t asked_bytes[2048], answer_bytes[2048], next[2048];
    struct snmp like = read_good(get_next, sizeof(get_next));
    const struct snmp_bytes here = OID("\x2b\x05"), after = OID("\x2b\x05\x01"),
                            before = OID("\x2b\x04");
    const struct snmp_bytes two[] = {after, after};
    struct snmp asked = request(asked_bytes, &like, 1, &here, 1);
    struct snmp a = answer(answer_bytes, &asked, &after, 1, SNMP_END_OF_MIB);
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
    a = answer(answer_bytes, &asked, &after, 1, SNMP_NULL);
    assert_true(snmp_follow(&asked, &a, next, sizeof(next)) > 0);
    a.first = 2; /* noSuchName */
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
    a = answer(answer_bytes, &asked, &here, 1, SNMP_NULL);
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
    a = answer(answer_bytes, &asked, &before, 1, SNMP_NULL);
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
    a = answer(answer_bytes, &asked, two, 2, SNMP_NULL); /* more than was asked for */
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
    a.n_bindings = 0;
    assert_int_equal(snmp_follow(&asked, &a, next, sizeof(next)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_read_to_the_last_field),
        cmocka_unit_test(what_is_cut_off_or_followed_by_more_is_refused),
        cmocka_unit_test(other_versions_and_operations_are_refused),
        cmocka_unit_test(requests_are_the_same_whatever_their_id),
        cmocka_unit_test(requests_that_differ_in_anything_else_are_not_the_same),
        cmocka_unit_test(a_written_request_is_what_net_snmp_writes),
        cmocka_unit_test(long_messages_have_long_lengths),
        cmocka_unit_test(names_are_in_the_order_of_a_walk),
        cmocka_unit_test(a_walk_goes_on_from_the_last_row),
        cmocka_unit_test(a_walk_ends_where_there_is_no_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
