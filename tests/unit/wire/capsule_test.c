#include "base/error.h"
#include "base/macro.h"
#include "wire/capsule_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static uint8_t pattern[CAPSULE_PAYLOAD_MAX + 1];

static int fill_pattern(void **state)
{
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)(i * 7 + (i >> 8));
    return 0;
}

/* Puts a datagram's capsule at `out`. */
static size_t put(uint8_t *out, const void *payload, size_t len)
{
    size_t n = capsule_datagram_head(out, len, NULL);
    memcpy(out + n, payload, len);
    return n + len;
}

struct got {
    size_t datagrams, bytes, last_len, errors;
    int error;
    struct icmp_cause cause;
    uint64_t lost;
    struct capsule_mark mark;
};

/* Feeds `step` bytes at a time. */
static int feed(struct capsule_reader *r, const uint8_t *data, size_t len, size_t step,
                struct got *got)
{
    struct capsule c;
    int rc = 0;
    for (size_t at = 0; at < len && rc >= 0; at += step) {
        const uint8_t *p = data + at;
        size_t n = MIN(step, len - at);
        while ((rc = capsule_next(r, &p, &n, &c)) > 0) {
            if (c.kind == CAPSULE_ERROR) {
                got->errors++;
                got->error = c.error;
                got->cause = c.cause;
            } else if (c.kind == CAPSULE_LOSS) {
                got->lost = c.lost;
            } else {
                assert_memory_equal(c.data, pattern, c.len);
                got->datagrams++;
                got->bytes += c.len;
                got->last_len = c.len;
                got->mark = c.mark;
            }
        }
    }
    return rc;
}

static int read_once(const void *data, size_t len, struct got *got)
{
    struct capsule_reader r = {0};
    int rc = feed(&r, data, len, len, got);
    assert_int_equal(rc < 0, r.reason != NULL);
    capsule_reader_done(&r);
    return rc;
}

static void datagrams_come_out_however_the_bytes_are_cut(void **state)
{
    static uint8_t stream[300000];
    static const size_t sizes[] = {0, 1, 62, 63, 64, 1200, 16382, 16383, CAPSULE_PAYLOAD_MAX, 5};
    static const size_t steps[] = {1, 2, 3, 7, 1000, 16384, sizeof(stream)};
    size_t len = 0, bytes = 0;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        len += put(stream + len, pattern, sizes[i]);
        bytes += sizes[i];
    }
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        struct capsule_reader r = {0};
        struct got got = {0};
        assert_int_equal(feed(&r, stream, len, steps[i], &got), 0);
        assert_int_equal(got.datagrams, ARRAY_SIZE(sizes));
        assert_int_equal(got.bytes, bytes);
        assert_true(capsule_is_between(&r));
        capsule_reader_done(&r);
    }
}

static void a_whole_datagram_is_not_copied(void **state)
{
    uint8_t stream[64];
    const uint8_t *p = stream;
    struct capsule_reader r = {0};
    struct capsule c;
    size_t len = put(stream, pattern, 20);
    assert_int_equal(capsule_next(&r, &p, &len, &c), 1);
    assert_ptr_equal(c.data, stream + 3);
    assert_false(c.is_kept);
    assert_int_equal(len, 0);
    capsule_reader_done(&r);
}

static void what_is_unknown_is_skipped(void **state)
{
    uint8_t stream[200] = {0x21, 0x40, 30}; /* type 33, 30 bytes, as a long varint */
    uint8_t other_context[] = {0x00, 0x05, 0x04, 1, 2, 3, 4};
    size_t len = 33;
    struct got got = {0};
    memcpy(stream + len, other_context, sizeof(other_context));
    len += sizeof(other_context);
    len += put(stream + len, pattern, 9);
    for (size_t step = 1; step < 60; step++) {
        struct capsule_reader r = {0};
        got = (struct got){0};
        assert_int_equal(feed(&r, stream, len, step, &got), 0);
        assert_int_equal(got.datagrams, 1);
        assert_int_equal(got.last_len, 9);
        assert_true(capsule_is_between(&r));
        capsule_reader_done(&r);
    }
}

static void a_malformed_capsule_is_refused_with_a_reason(void **state)
{
    struct got got = {0};
    uint8_t no_context[] = {0x00, 0x00};
    uint8_t cut_context[] = {0x00, 0x01, 0x40};
    uint8_t too_long[] = {0x00, 0x80, 0x00, 0xff, 0xf9, 0x00}; /* 65529: one too many */
    uint8_t empty_error[] = {0xa7, 0x77, 0x72, 0x6e, 0x00};
    uint8_t long_loss[] = {0xa7, 0x77, 0x72, 0x6f, 0x02, 0x01, 0x01};
    assert_int_equal(read_once(no_context, sizeof(no_context), &got), ERR_PROTO);
    assert_int_equal(read_once(cut_context, sizeof(cut_context), &got), ERR_PROTO);
    assert_int_equal(read_once(too_long, sizeof(too_long), &got), ERR_TOO_LARGE);
    assert_int_equal(read_once(empty_error, sizeof(empty_error), &got), ERR_PROTO);
    assert_int_equal(read_once(long_loss, sizeof(long_loss), &got), ERR_PROTO);
    too_long[4]--;
    assert_int_equal(read_once(too_long, sizeof(too_long), &got), 0);
    assert_int_equal(got.datagrams, 0);
}

static void nothing_is_read_after_a_refusal(void **state)
{
    struct capsule_reader r = {0};
    struct got got = {0};
    uint8_t bad[] = {0x00, 0x00}, good[CAPSULE_HEAD_MAX + 1];
    size_t len = put(good, pattern, 1);
    assert_int_equal(feed(&r, bad, sizeof(bad), 2, &got), ERR_PROTO);
    assert_int_equal(feed(&r, good, len, len, &got), ERR_PROTO);
    assert_int_equal(got.datagrams, 0);
    capsule_reader_done(&r);
}

static void a_stream_that_ends_inside_a_capsule_is_seen(void **state)
{
    uint8_t stream[32];
    size_t len = put(stream, pattern, 20);
    for (size_t cut = 1; cut < len; cut++) {
        struct capsule_reader r = {0};
        struct got got = {0};
        assert_int_equal(feed(&r, stream, cut, cut, &got), 0);
        assert_false(capsule_is_between(&r));
        capsule_reader_done(&r);
    }
}

static void errors_and_losses_travel(void **state)
{
    uint8_t stream[2 * CAPSULE_NOTE_MAX];
    struct capsule_reader r = {0};
    struct got got = {0};
    const struct icmp_cause cause = {6, 1, 4, {0xfd, 0x57, [15] = 9}};
    size_t len = capsule_error(stream, ERR_REFUSED, &cause);
    assert_int_equal(capsule_size(stream), len);
    len += capsule_loss(stream + len, 123456);
    assert_int_equal(feed(&r, stream, len, 5, &got), 0);
    assert_int_equal(got.error, ERR_REFUSED);
    assert_memory_equal(&got.cause, &cause, sizeof(cause));
    assert_int_equal(got.lost, 123456);
    assert_true(capsule_is_between(&r));
    capsule_reader_done(&r);
}

static void a_mark_travels_with_its_datagram_alone(void **state)
{
    static const size_t steps[] = {1, 2, 3, 1000};
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        uint8_t stream[200];
        struct capsule_reader r = {0};
        struct got got = {0};
        const struct capsule_mark mark = {3, 0xb8};
        size_t len = capsule_datagram_head(stream, 40, &mark);
        memcpy(stream + len, pattern, 40);
        len += 40;
        assert_int_equal(capsule_size(stream), len);
        assert_int_equal(feed(&r, stream, len, steps[i], &got), 0);
        assert_int_equal(got.datagrams, 1);
        assert_int_equal(got.last_len, 40);
        assert_memory_equal(&got.mark, &mark, sizeof(mark));
        len = put(stream, pattern, 5);
        assert_int_equal(feed(&r, stream, len, steps[i], &got), 0);
        assert_int_equal(got.mark.ttl | got.mark.tos, 0);
        capsule_reader_done(&r);
    }
}

static void a_mark_that_is_cut_off_is_refused(void **state)
{
    struct got got = {0};
    const uint8_t none[] = {0, 4, 0xa7, 0x77, 0x72, 0x6c},
                  half[] = {0, 5, 0xa7, 0x77, 0x72, 0x6c, 64},
                  empty[] = {0, 6, 0xa7, 0x77, 0x72, 0x6c, 64, 0};
    assert_int_equal(read_once(none, sizeof(none), &got), ERR_PROTO);
    assert_int_equal(read_once(half, sizeof(half), &got), ERR_PROTO);
    assert_int_equal(read_once(empty, sizeof(empty), &got), 0);
    assert_int_equal(got.datagrams, 1);
    assert_int_equal(got.last_len, 0);
}

/* Takes `cap` bytes at a time until the queue is empty. */
static void drain(struct capsule_queue *q, size_t cap, struct got *got)
{
    static uint8_t out[70000];
    struct capsule_reader r = {0};
    size_t n;
    while ((n = capsule_queue_take(q, out, cap)) > 0) {
        assert_true(n <= cap);
        assert_true(feed(&r, out, n, n, got) >= 0);
    }
    assert_true(capsule_is_between(&r));
    assert_int_equal(capsule_queue_bytes(q), 0);
    capsule_reader_done(&r);
}

static void a_queue_gives_back_what_it_got(void **state)
{
    static const size_t caps[] = {1, 10, 100, 5000, 70000};
    for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
        struct capsule_queue q = {.limit = 200000};
        struct got got = {0};
        for (int round = 0; round < 5; round++) {
            capsule_queue_put(&q, pattern, 0, NULL);
            capsule_queue_put(&q, pattern, 1200, NULL);
            capsule_queue_put(&q, pattern, 65507, NULL);
            drain(&q, caps[i], &got);
        }
        assert_int_equal(got.datagrams, 15);
        assert_int_equal(got.last_len, 65507);
        assert_int_equal(q.dropped, 0);
        capsule_queue_done(&q);
    }
}

static void a_full_queue_drops_the_oldest_and_counts(void **state)
{
    struct capsule_queue q = {.limit = CAPSULE_QUEUE_MIN};
    struct got got = {0};
    for (size_t i = 0; i < 1000; i++)
        capsule_queue_put(&q, pattern, i, NULL);
    assert_true(q.dropped > 900 && q.dropped < 1000);
    drain(&q, 3000, &got);
    assert_int_equal(got.datagrams, 1000 - q.dropped);
    assert_int_equal(got.last_len, 999);
    capsule_queue_put(&q, pattern, CAPSULE_PAYLOAD_MAX, NULL);
    capsule_queue_put(&q, pattern, CAPSULE_PAYLOAD_MAX, NULL);
    got = (struct got){0};
    drain(&q, 70000, &got);
    assert_int_equal(got.datagrams, 1);
    capsule_queue_done(&q);
}

static void a_datagram_under_way_is_never_dropped(void **state)
{
    struct capsule_queue q = {.limit = CAPSULE_QUEUE_MIN};
    struct capsule_reader r = {0};
    struct got got = {0};
    uint8_t part[100];
    capsule_queue_put(&q, pattern, 60000, NULL);
    size_t n = capsule_queue_take(&q, part, sizeof(part));
    assert_int_equal(n, sizeof(part));
    assert_false(capsule_queue_is_between(&q));
    for (int i = 0; i < 100; i++)
        capsule_queue_put(&q, pattern, 1400, NULL);
    assert_int_equal(feed(&r, part, n, n, &got), 0);
    while ((n = capsule_queue_take(&q, part, sizeof(part))) > 0)
        assert_int_equal(feed(&r, part, n, n, &got), 0);
    assert_int_equal(got.datagrams, 101 - q.dropped);
    assert_true(got.bytes >= 60000);
    capsule_reader_done(&r);
    capsule_queue_done(&q);
}

static void only_a_capsule_that_is_first_is_cut(void **state)
{
    struct capsule_queue q = {.limit = CAPSULE_QUEUE_MIN};
    uint8_t out[4000];
    capsule_queue_put(&q, pattern, 1000, NULL);
    capsule_queue_put(&q, pattern, 1000, NULL);
    assert_int_equal(capsule_queue_take(&q, out, 1500), 1004);
    assert_true(capsule_queue_is_between(&q));
    assert_int_equal(capsule_queue_take(&q, out, 300), 300);
    assert_int_equal(capsule_queue_take(&q, out, 4000), 704);
    assert_int_equal(capsule_queue_take(&q, out, 4000), 0);
    capsule_queue_done(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(datagrams_come_out_however_the_bytes_are_cut),
        cmocka_unit_test(a_whole_datagram_is_not_copied),
        cmocka_unit_test(what_is_unknown_is_skipped),
        cmocka_unit_test(a_malformed_capsule_is_refused_with_a_reason),
        cmocka_unit_test(nothing_is_read_after_a_refusal),
        cmocka_unit_test(a_stream_that_ends_inside_a_capsule_is_seen),
        cmocka_unit_test(errors_and_losses_travel),
        cmocka_unit_test(a_mark_travels_with_its_datagram_alone),
        cmocka_unit_test(a_mark_that_is_cut_off_is_refused),
        cmocka_unit_test(a_queue_gives_back_what_it_got),
        cmocka_unit_test(a_full_queue_drops_the_oldest_and_counts),
        cmocka_unit_test(a_datagram_under_way_is_never_dropped),
        cmocka_unit_test(only_a_capsule_that_is_first_is_cut),
    };
    return cmocka_run_group_tests(tests, fill_pattern, NULL);
}
