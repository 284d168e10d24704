#include "mount/reassembly.h"

#include "base/error.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LEN 4000

static uint8_t payload[LEN];

static struct packet fragment(uint32_t id, size_t at, size_t len, bool is_v6)
{
    static const uint8_t v4[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1}, v6[16] = {0xfd, [15] = 1};
    struct packet p = {.is_v6 = is_v6,
                       .protocol = IPPROTO_UDP,
                       .ttl = 63,
                       .is_fragment = true,
                       .fragment_id = id,
                       .fragment_at = (uint16_t)at,
                       .more_fragments = at + len < LEN,
                       .payload = payload + at,
                       .payload_len = len};
    memcpy(p.ends.near, is_v6 ? v6 : v4, 16);
    memcpy(p.ends.far, is_v6 ? v6 : v4, 16);
    return p;
}

static int add(struct reassembly *r, struct packet p, uint64_t now, const uint8_t **data,
               size_t *len)
{
    return reassembly_add(r, &p, now, data, len);
}

static void pieces_in_any_order_make_the_packet(void **state)
{
    for (int is_v6 = 0; is_v6 < 2; is_v6++) {
        struct reassembly r = {0};
        const uint8_t *data = NULL;
        size_t len = 0;
        for (size_t i = 0; i < LEN; i++)
            payload[i] = (uint8_t)(i * 7);
        assert_int_equal(add(&r, fragment(1, 2960, LEN - 2960, is_v6), 0, &data, &len), 0);
        assert_int_equal(add(&r, fragment(1, 0, 1480, is_v6), 0, &data, &len), 0);
        assert_int_equal(add(&r, fragment(1, 1480, 1480, is_v6), 0, &data, &len), 1);
        struct packet p = {0};
        (void)packet_parse(data, len, true, &p);
        assert_false(p.is_fragment);
        assert_int_equal(p.ttl, 63);
        assert_int_equal(len, LEN + (is_v6 ? 40 : 20));
        assert_memory_equal(data + (is_v6 ? 40 : 20), payload, LEN);
        assert_int_equal(r.count, 0);
        reassembly_done(&r);
    }
}

static void packets_of_different_ids_do_not_mix(void **state)
{
    struct reassembly r = {0};
    const uint8_t *data;
    size_t len;
    assert_int_equal(add(&r, fragment(1, 0, 2000, false), 0, &data, &len), 0);
    assert_int_equal(add(&r, fragment(2, 2000, 2000, false), 0, &data, &len), 0);
    assert_int_equal(add(&r, fragment(1, 2000, 2000, false), 0, &data, &len), 1);
    assert_int_equal(r.count, 1);
    reassembly_done(&r);
}

static void overlaps_and_odd_pieces_void_the_packet(void **state)
{
    struct reassembly r = {0};
    const uint8_t *data;
    size_t len;
    assert_int_equal(add(&r, fragment(1, 0, 1480, false), 0, &data, &len), 0);
    assert_int_equal(add(&r, fragment(1, 1472, 1480, false), 0, &data, &len), ERR_PROTO);
    assert_int_equal(r.count, 0);
    assert_int_equal(add(&r, fragment(1, 0, 1481, false), 0, &data, &len), ERR_PROTO);
    struct packet p = fragment(1, 0, 1480, false);
    p.fragment_at = 65528;
    assert_int_equal(add(&r, p, 0, &data, &len), ERR_PROTO);
    p.payload_len = 0;
    assert_int_equal(add(&r, p, 0, &data, &len), ERR_PROTO);
    reassembly_done(&r);
}

static void what_is_never_completed_is_forgotten(void **state)
{
    struct reassembly r = {0};
    const uint8_t *data;
    size_t len;
    for (uint32_t i = 0; i < 10 * REASSEMBLY_SETS; i++)
        assert_int_equal(add(&r, fragment(i, 0, 1480, false), i, &data, &len), 0);
    assert_int_equal(r.count, REASSEMBLY_SETS);
    assert_int_equal(add(&r, fragment(9999, 0, 8, false), 100000, &data, &len), 0);
    assert_int_equal(r.count, 1);
    reassembly_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_in_any_order_make_the_packet),
        cmocka_unit_test(packets_of_different_ids_do_not_mix),
        cmocka_unit_test(overlaps_and_odd_pieces_void_the_packet),
        cmocka_unit_test(what_is_never_completed_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
