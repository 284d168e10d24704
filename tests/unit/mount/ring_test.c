#include "mount/ring.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void put(struct ring *r, size_t *at, size_t len)
{
    uint8_t data[5000];
    for (; len; len -= MIN(len, sizeof(data))) {
        size_t n = MIN(len, sizeof(data));
        for (size_t i = 0; i < n; i++, ++*at)
            data[i] = (uint8_t)(*at * 7 + *at / 256);
        ring_put(r, data, n);
    }
}

static void take(struct ring *r, size_t *at, size_t len)
{
    uint8_t data[4001];
    while (len) {
        size_t n = ring_take(r, data, MIN(len, sizeof(data)));
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++, ++*at)
            assert_int_equal(data[i], (uint8_t)(*at * 7 + *at / 256));
        len -= n;
    }
}

static void bytes_come_out_in_order_however_it_grows(void **state)
{
    struct ring r = {0};
    size_t in = 0, out = 0;
    srand(1);
    for (int i = 0; i < 300; i++) {
        put(&r, &in, MIN((size_t)rand() % 100000, ring_room(&r)));
        take(&r, &out, MIN((size_t)rand() % (i < 150 ? 60000 : 150000), (size_t)r.len));
    }
    put(&r, &in, ring_room(&r));
    assert_int_equal(r.len, RING_MAX);
    take(&r, &out, r.len);
    assert_null(r.last);
    assert_int_equal(in, out);
    ring_free_spare();
}

static void fill(struct ring_block *b, size_t begin, size_t len, size_t *at)
{
    for (size_t i = 0; i < len; i++, ++*at)
        ring_block_data(b)[begin + i] = (uint8_t)(*at * 7 + *at / 256);
}

static void a_block_that_is_nearly_full_is_kept_and_another_one_copied(void **state)
{
    struct ring r = {0};
    struct ring_block *b = NULL;
    size_t in = 0, out = 0;
    put(&r, &in, 100);
    for (size_t len = RING_SPACE - 62; len > 9999; len -= 9999) {
        b = b ? b : ring_block_new();
        fill(b, 62, len, &in);
        ring_put_from(&r, &b, ring_block_data(b) + 62, len);
        assert_int_equal(b == NULL, len >= RING_ADOPT);
        put(&r, &in, 50);
    }
    ring_block_free(b);
    assert_int_equal(r.len, in);
    for (size_t at = 0; at + 1000 <= r.len; at += 999) {
        struct iovec pieces[RING_PIECES];
        size_t len = 0;
        int n = ring_pieces(&r, at, 1000, pieces);
        for (int i = 0; i < n; i++)
            for (size_t k = 0; k < pieces[i].iov_len; k++, len++)
                assert_int_equal(((uint8_t *)pieces[i].iov_base)[k],
                                 (uint8_t)((at + len) * 7 + (at + len) / 256));
        assert_int_equal(len, 1000);
    }
    ring_drop(&r, 70000);
    out = 70000;
    take(&r, &out, r.len);
    assert_null(r.last);
    assert_int_equal(ring_fair_room(&r), RING_SIZE);
    ring_free_spare();
}

static void rings_share_a_budget_and_an_empty_one_always_gets_something(void **state)
{
    static struct ring rings[200];
    static uint8_t data[RING_SIZE];
    size_t n = 0, held = 0;
    assert_int_equal(ring_fair_room(&rings[0]), RING_SIZE);
    for (; n < ARRAY_SIZE(rings) && ring_hard_room(&rings[n]) == RING_SIZE; n++) {
        held += ring_fair_room(&rings[n]);
        ring_put(&rings[n], data, ring_fair_room(&rings[n]));
        assert_true(ring_fair_room(&rings[n]) < RING_SIZE);
    }
    assert_true(held <= RING_BUDGET + RING_SIZE);
    assert_true(n > 64);
    for (size_t i = n; i < ARRAY_SIZE(rings); i++)
        assert_true(ring_fair_room(&rings[i]) >= RING_FLOOR);
    for (size_t i = 0; i < n; i++)
        ring_done(&rings[i]);
    assert_int_equal(ring_fair_room(&rings[0]), RING_SIZE);
    ring_free_spare();
}

static void a_length_lies_in_few_pieces_wherever_it_begins(void **state)
{
    static uint8_t out[RING_LENGTH];
    struct ring r = {0};
    size_t in = 0;
    put(&r, &in, 2 * RING_LENGTH);
    for (size_t at = 0; at <= RING_LENGTH; at += RING_BLOCK - 1) {
        struct iovec pieces[RING_PIECES];
        size_t len = 0;
        int n = ring_pieces(&r, at, RING_LENGTH, pieces);
        for (int i = 0; i < n; i++) {
            memcpy(out + len, pieces[i].iov_base, pieces[i].iov_len);
            len += pieces[i].iov_len;
        }
        assert_int_equal(len, RING_LENGTH);
        for (size_t i = 0; i < len; i++)
            assert_int_equal(out[i], (uint8_t)((at + i) * 7 + (at + i) / 256));
    }
    assert_int_equal(ring_pieces(&r, 0, 0, NULL), 0);
    ring_done(&r);
    ring_free_spare();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_out_in_order_however_it_grows),
        cmocka_unit_test(a_block_that_is_nearly_full_is_kept_and_another_one_copied),
        cmocka_unit_test(rings_share_a_budget_and_an_empty_one_always_gets_something),
        cmocka_unit_test(a_length_lies_in_few_pieces_wherever_it_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
