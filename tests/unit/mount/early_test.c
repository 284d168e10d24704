#include "mount/early.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ISN 0xfffffff0u /* sequence numbers wrap early */

static uint8_t byte_at(uint32_t seq)
{
    return (uint8_t)((seq - ISN) * 31 + (seq - ISN) / 251);
}

static void put(struct early *e, uint32_t at, uint32_t len, bool has_fin)
{
    uint8_t data[3000];
    assert_true(len <= sizeof(data));
    for (uint32_t i = 0; i < len; i++)
        data[i] = byte_at(ISN + at + i);
    early_put(e, ISN + at, data, len, has_fin);
}

static void assert_ranges(const struct early *e, int n, const uint32_t *edges)
{
    struct packet_range r[PACKET_SACKS_MAX];
    assert_int_equal(early_ranges(e, r), n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(r[i].begin, ISN + edges[2 * i]);
        assert_int_equal(r[i].end, ISN + edges[2 * i + 1]);
    }
}

static void what_came_last_is_told_first(void **state)
{
    struct early e = {0};
    assert_ranges(&e, 0, NULL);
    put(&e, 10, 10, false);
    put(&e, 50, 10, false);
    assert_ranges(&e, 2, (uint32_t[]){50, 60, 10, 20});
    put(&e, 20, 5, false);
    assert_ranges(&e, 2, (uint32_t[]){10, 25, 50, 60});
    put(&e, 30, 2, false);
    put(&e, 40, 2, false);
    put(&e, 100, 2, false);
    assert_ranges(&e, 4, (uint32_t[]){100, 102, 10, 25, 30, 32, 40, 42});
    put(&e, 22, 30, false); /* fills the gaps */
    assert_ranges(&e, 2, (uint32_t[]){10, 60, 100, 102});
    early_done(&e);
    assert_int_equal(e.n, 0);
}

static void an_end_is_a_number_of_its_own(void **state)
{
    struct early e = {0};
    put(&e, 10, 10, true);
    put(&e, 30, 0, true);
    assert_ranges(&e, 2, (uint32_t[]){30, 31, 10, 21});
    const struct early_piece *p = early_at(&e, ISN + 10);
    assert_int_equal(p->len, 10);
    assert_true(p->has_fin);
    assert_null(early_at(&e, ISN + 21));
    assert_ranges(&e, 1, (uint32_t[]){30, 31});
    early_done(&e);
}

/* Segments of any size at any place, taken out in order: every byte that comes out is the right
 * one. */
static void segments_in_any_order_come_out_in_order(void **state)
{
    srand(5);
    for (int round = 0; round < 200; round++) {
        struct early e = {0};
        const struct early_piece *p;
        uint32_t next = ISN + 1;
        for (int i = 0; i < 100; i++)
            put(&e, 2 + (uint32_t)rand() % 20000, (uint32_t)rand() % 3000, false);
        while (e.first) {
            p = early_at(&e, next);
            if (!p) {
                next += e.first ? 1 : 0;
                continue;
            }
            for (uint32_t k = next - p->seq; k < p->len; k++)
                assert_int_equal(p->data[k], byte_at(p->seq + k));
            assert_true((int32_t)(next - p->seq) >= 0);
            next = p->seq + p->len;
            early_drop(&e);
        }
        assert_int_equal(e.n, 0);
    }
}

static void whoever_sends_crumbs_gets_so_many_and_the_budget_is_everybodys(void **state)
{
    static struct early flows[EARLY_BUDGET / 100000];
    static uint8_t data[64 << 10];
    size_t held = 0, i;
    for (uint32_t k = 0; k < 2 * EARLY_PIECES_MAX; k++)
        put(&flows[0], 2 * k, 1, false);
    assert_int_equal(flows[0].n, EARLY_PIECES_MAX);
    put(&flows[0], 0, 1000, false); /* what was told as received stays so */
    assert_int_equal(flows[0].n, EARLY_PIECES_MAX);
    for (i = 1; i < ARRAY_SIZE(flows); i++) {
        for (uint32_t k = 0; k < 8; k++)
            early_put(&flows[i], ISN + k * 100000, data, sizeof(data), false);
        held += flows[i].n * sizeof(data);
    }
    assert_in_range(held, EARLY_BUDGET / 2, EARLY_BUDGET);
    for (i = 0; i < ARRAY_SIZE(flows); i++)
        early_done(&flows[i]);
    early_put(&flows[0], ISN, data, sizeof(data), false); /* given back */
    assert_int_equal(flows[0].n, 1);
    early_done(&flows[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_came_last_is_told_first),
        cmocka_unit_test(an_end_is_a_number_of_its_own),
        cmocka_unit_test(segments_in_any_order_come_out_in_order),
        cmocka_unit_test(whoever_sends_crumbs_gets_so_many_and_the_budget_is_everybodys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
