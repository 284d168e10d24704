/* What is lost and sent again, with SACK; segments are made by hand. */
#include "tcp_bench.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIRST  (ISN + 1)         /* of the mount's bytes */
#define THEIRS (0xffffff00u + 1) /* of the program's */

static void open_with_sack(struct bench *b)
{
    struct packet syn = {.tcp = {.seq = THEIRS - 1,
                                 .flags = PACKET_SYN,
                                 .window = 60000,
                                 .mss = 1000,
                                 .wscale = 2,
                                 .sack_permitted = true}};
    struct packet ack = {
        .tcp = {.seq = THEIRS, .ack = FIRST, .flags = PACKET_ACK, .window = 60000, .wscale = -1}};
    struct tcp_segment s;
    *b = (struct bench){.now_ms = 1000};
    tcp_syn(&b->tcp, &syn, ISN, MTU);
    tcp_accept(&b->tcp);
    assert_true(tcp_next(&b->tcp, b->now_ms, 60000, &s));
    assert_true(s.header.sack_permitted);
    tcp_input(&b->tcp, &ack, b->now_ms);
    assert_int_equal(b->tcp.state, TCP_OPEN);
}

/* Ten segments of 1000 bytes, none of them acknowledged. */
static void send_ten(struct bench *b)
{
    uint8_t data[10000];
    struct tcp_segment s;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = bench_byte_at(i);
    assert_int_equal(tcp_write(&b->tcp, data, sizeof(data)), sizeof(data));
    for (int i = 0; i < 10; i++)
        assert_true(tcp_next(&b->tcp, b->now_ms, 1000, &s));
    assert_false(tcp_next(&b->tcp, b->now_ms, 1000, &s));
}

/* The program acknowledges up to `ack`, and beyond it what is in `ranges` (pairs, bytes). */
static void acknowledge(struct bench *b, uint32_t ack, int n, const uint32_t *ranges)
{
    struct packet p = {.tcp = {.seq = THEIRS,
                               .ack = FIRST + ack,
                               .flags = PACKET_ACK,
                               .window = 60000,
                               .wscale = -1,
                               .n_sacks = (uint8_t)n}};
    for (int i = 0; i < n; i++)
        p.tcp.sacks[i] = (struct packet_range){FIRST + ranges[2 * i], FIRST + ranges[2 * i + 1]};
    tcp_input(&b->tcp, &p, b->now_ms);
}

static void assert_sends(struct bench *b, uint32_t at, size_t len)
{
    struct tcp_segment s;
    assert_true(tcp_next(&b->tcp, b->now_ms, 60000, &s));
    assert_int_equal(s.header.seq, FIRST + at);
    assert_int_equal(s.len, len);
}

static void assert_sends_nothing(struct bench *b)
{
    struct tcp_segment s;
    assert_false(tcp_next(&b->tcp, b->now_ms, 60000, &s));
}

static void of_what_was_lost_only_the_holes_are_sent_again(void **state)
{
    struct bench b;
    open_with_sack(&b);
    send_ten(&b);
    acknowledge(&b, 1000, 0, NULL);
    acknowledge(&b, 1000, 1, (uint32_t[]){3000, 4000}); /* two are missing, and more, who knows */
    assert_sends(&b, 1000, 2000);
    acknowledge(&b, 1000, 2, (uint32_t[]){6000, 7000, 3000, 5000});
    acknowledge(&b, 1000, 2, (uint32_t[]){6000, 10000, 3000, 5000});
    assert_sends_nothing(&b);
    acknowledge(&b, 5000, 1, (uint32_t[]){6000, 10000});
    assert_sends(&b, 5000, 1000);
    acknowledge(&b, 10000, 0, NULL);
    assert_sends_nothing(&b);
    assert_int_equal(b.tcp.due_ms, TCP_NEVER);
    tcp_done(&b.tcp);
}

static void much_goes_in_one_packet_and_again_in_small_ones(void **state)
{
    static uint8_t data[TCP_LARGE_MAX];
    struct bench b;
    struct tcp_segment s;
    open_with_sack(&b);
    acknowledge(&b, 0, 0, NULL);
    b.tcp.snd_edge = (uint32_t)(FIRST + 2 * TCP_LARGE_MAX); /* it goes round */
    assert_int_equal(tcp_write(&b.tcp, data, sizeof(data)), sizeof(data));
    assert_true(tcp_next(&b.tcp, b.now_ms, TCP_LARGE_MAX, &s));
    assert_int_equal(s.len, sizeof(data));
    b.now_ms = b.tcp.due_ms;
    tcp_timeout(&b.tcp, b.now_ms);
    assert_true(b.tcp.was_late);
    assert_sends(&b, 0, 1000);
    acknowledge(&b, 1000, 0, NULL);
    assert_true(tcp_next(&b.tcp, b.now_ms, TCP_LARGE_MAX, &s));
    assert_int_equal(s.len, TCP_SEGMENTS_MAX);
    tcp_done(&b.tcp);
}

static void ranges_of_what_was_never_sent_are_ignored(void **state)
{
    struct bench b;
    open_with_sack(&b);
    send_ten(&b);
    acknowledge(&b, 0, 1, (uint32_t[]){1000, 10001});
    acknowledge(&b, 0, 1,
                (uint32_t[]){0x40000000, 0x90000000}); /* its end is behind, going round */
    acknowledge(&b, 0, 2, (uint32_t[]){5000, 5000, 0, 1000});
    acknowledge(&b, 1000, 1, (uint32_t[]){500, 2000});
    assert_sends_nothing(&b);
    assert_false(b.tcp.is_recovering);
    tcp_done(&b.tcp);
}

static void what_was_lost_twice_is_sent_a_third_time(void **state)
{
    struct bench b;
    open_with_sack(&b);
    send_ten(&b);
    acknowledge(&b, 0, 1, (uint32_t[]){1000, 10000});
    assert_sends(&b, 0, 1000);
    tcp_write(&b.tcp, (const uint8_t *)"more", 4);
    assert_sends(&b, 10000, 4);
    acknowledge(&b, 0, 1, (uint32_t[]){1000, 10004}); /* overtook what was sent again */
    assert_sends(&b, 0, 1000);
    acknowledge(&b, 10004, 0, NULL);
    assert_sends_nothing(&b);
    tcp_done(&b.tcp);
}

static void a_time_out_sends_one_segment_and_the_rest_if_it_was_needed(void **state)
{
    struct bench b;
    open_with_sack(&b);
    send_ten(&b);
    tcp_timeout(&b.tcp, b.now_ms = b.tcp.due_ms);
    assert_sends(&b, 0, 1000);
    assert_sends_nothing(&b);
    acknowledge(&b, 1000, 0, NULL);
    assert_sends(&b, 1000, 9000);
    acknowledge(&b, 5000, 0, NULL); /* of what is under way again */
    assert_sends_nothing(&b);
    acknowledge(&b, 10000, 0, NULL);
    send_ten(&b);
    tcp_timeout(&b.tcp, b.now_ms = b.tcp.due_ms);
    assert_sends(&b, 10000, 1000);
    acknowledge(&b, 20000, 0, NULL); /* only the acknowledgement was lost */
    assert_sends_nothing(&b);
    tcp_done(&b.tcp);
}

static void an_end_that_was_lost_is_sent_again(void **state)
{
    struct bench b;
    struct tcp_segment s;
    open_with_sack(&b);
    send_ten(&b);
    tcp_finish(&b.tcp);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_true(s.header.flags & PACKET_FIN);
    acknowledge(&b, 10000, 0, NULL);
    tcp_timeout(&b.tcp, b.now_ms = b.tcp.due_ms);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_true(s.header.flags & PACKET_FIN && !s.len);
    assert_int_equal(s.header.seq, FIRST + 10000);
    acknowledge(&b, 10001, 0, NULL);
    assert_true(b.tcp.fin_acked);
    tcp_done(&b.tcp);
}

static void program_sends(struct bench *b, uint32_t at, size_t len, uint8_t flags)
{
    uint8_t data[5000];
    struct packet p = {.tcp = {.seq = THEIRS + at,
                               .ack = FIRST,
                               .flags = PACKET_ACK | flags,
                               .window = 60000,
                               .wscale = -1},
                       .payload = data,
                       .payload_len = len};
    for (size_t i = 0; i < len; i++)
        data[i] = bench_byte_at(at + i);
    tcp_input(&b->tcp, &p, b->now_ms);
}

static void what_comes_after_a_loss_is_kept_and_told(void **state)
{
    struct bench b;
    struct tcp_segment s;
    uint8_t data[10000];
    bool end;
    open_with_sack(&b);
    program_sends(&b, 0, 1000, 0);
    program_sends(&b, 2000, 1000, 0);
    program_sends(&b, 4000, 1000, PACKET_FIN);
    tcp_write(&b.tcp, (const uint8_t *)"data", 4);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s)); /* whose segments keep their size */
    assert_int_equal(s.len, 4);
    assert_int_equal(s.header.n_sacks, 0);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_int_equal(s.header.ack, THEIRS + 1000);
    assert_int_equal(s.header.n_sacks, 2);
    assert_int_equal(s.header.sacks[0].begin, THEIRS + 4000);
    assert_int_equal(s.header.sacks[0].end, THEIRS + 5001);
    assert_int_equal(s.header.sacks[1].begin, THEIRS + 2000);
    assert_int_equal(s.header.sacks[1].end, THEIRS + 3000);
    assert_false(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    program_sends(&b, 1000, 1000, 0);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_int_equal(s.header.ack, THEIRS + 3000);
    assert_int_equal(s.header.n_sacks, 1);
    program_sends(&b, 3000, 1000, 0);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_int_equal(s.header.ack, THEIRS + 5001);
    assert_int_equal(tcp_read(&b.tcp, data, sizeof(data), &end), 5000);
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(data[i], bench_byte_at(i));
    assert_true(end);
    assert_null(b.tcp.early.first);
    tcp_done(&b.tcp);
}

static void what_came_in_a_block_is_kept_in_it(void **state)
{
    enum { LEN = 60000, FIRST_LEN = 3000, AGAIN = 1000 };
    static uint8_t out[LEN];
    struct bench b;
    bool end;
    open_with_sack(&b);
    program_sends(&b, 0, FIRST_LEN, 0);
    b.tcp.rcv_edge = b.tcp.rcv_next + RING_SIZE; /* as if it had been told */
    struct ring_block *block = ring_block_new();
    uint8_t *data = ring_block_data(block) + 62;
    for (size_t i = 0; i < LEN; i++)
        data[i] = bench_byte_at(FIRST_LEN - AGAIN + i);
    struct packet p = {.tcp = {.seq = THEIRS + FIRST_LEN - AGAIN,
                               .ack = FIRST,
                               .flags = PACKET_ACK,
                               .window = 60000,
                               .wscale = -1},
                       .payload = data,
                       .payload_len = LEN,
                       .block = &block};
    tcp_input(&b.tcp, &p, b.now_ms);
    assert_null(block);
    size_t len = FIRST_LEN - AGAIN + LEN;
    for (size_t at = 0, n; at < len; at += n) {
        n = tcp_read(&b.tcp, out, sizeof(out), &end);
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(out[i], bench_byte_at(at + i));
    }
    assert_false(tcp_is_readable(&b.tcp));
    tcp_done(&b.tcp);
    ring_free_spare();
}

static void an_acknowledgement_waits_for_the_reader_and_tells_the_window_with_it(void **state)
{
    struct bench b;
    struct tcp_segment s;
    uint8_t data[5000];
    bool end;
    open_with_sack(&b);
    b.tcp.is_quiet = true;
    program_sends(&b, 0, 5000, 0);
    assert_sends_nothing(&b);
    assert_int_equal(tcp_read(&b.tcp, data, sizeof(data), &end), 5000);
    b.tcp.is_quiet = false;
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s));
    assert_int_equal(s.header.ack, THEIRS + 5000);
    assert_sends_nothing(&b);

    program_sends(&b, 5000, 1000, 0);
    b.tcp.is_quiet = true;
    tcp_write(&b.tcp, (const uint8_t *)"answer", 6);
    assert_true(tcp_next(&b.tcp, b.now_ms, 60000, &s)); /* what is said tells it, too */
    assert_int_equal(s.header.ack, THEIRS + 6000);
    assert_sends_nothing(&b);
    tcp_done(&b.tcp);
}

static void a_shut_window_is_asked_for_every_two_seconds_for_ever(void **state)
{
    struct bench b;
    uint64_t longest_ms = 0;
    open_with_sack(&b);
    struct packet shut = {.tcp = {.seq = THEIRS, .ack = FIRST, .flags = PACKET_ACK, .wscale = -1}};
    tcp_input(&b.tcp, &shut, b.now_ms);
    tcp_write(&b.tcp, (const uint8_t *)"data", 4);
    assert_sends_nothing(&b);
    for (int i = 0; i < 1000; i++) {
        assert_true(b.tcp.due_ms - b.now_ms <= 2000);
        longest_ms = MAX(longest_ms, b.tcp.due_ms - b.now_ms);
        tcp_timeout(&b.tcp, b.now_ms = b.tcp.due_ms);
        assert_sends(&b, 0, 1);
        assert_sends_nothing(&b);
        if (i % 3) /* some answers are lost */
            tcp_input(&b.tcp, &shut, b.now_ms);
    }
    assert_int_equal(longest_ms, 2000);
    acknowledge(&b, 0, 0, NULL);
    assert_sends(&b, 0, 1);
    assert_sends(&b, 1, 3);
    tcp_done(&b.tcp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_what_was_lost_only_the_holes_are_sent_again),
        cmocka_unit_test(much_goes_in_one_packet_and_again_in_small_ones),
        cmocka_unit_test(ranges_of_what_was_never_sent_are_ignored),
        cmocka_unit_test(what_was_lost_twice_is_sent_a_third_time),
        cmocka_unit_test(a_time_out_sends_one_segment_and_the_rest_if_it_was_needed),
        cmocka_unit_test(an_end_that_was_lost_is_sent_again),
        cmocka_unit_test(what_comes_after_a_loss_is_kept_and_told),
        cmocka_unit_test(what_came_in_a_block_is_kept_in_it),
        cmocka_unit_test(an_acknowledgement_waits_for_the_reader_and_tells_the_window_with_it),
        cmocka_unit_test(a_shut_window_is_asked_for_every_two_seconds_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
