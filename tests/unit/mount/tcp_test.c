/* The terminator and a program: bytes, windows, ends. */
#include "tcp_bench.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void bytes_pass_both_ways_and_both_sides_end(void **state)
{
    struct bench b;
    bench_open_both(&b, 0);
    bench_exchange(&b, BYTES);
    tcp_done(&b.tcp);
}

static void nothing_is_lost_over_a_wire_that_loses_packets(void **state)
{
    struct bench b;
    bench_open_both(&b, 8);
    bench_exchange(&b, BYTES);
    tcp_done(&b.tcp);
}

static void nothing_is_said_before_the_target_answers(void **state)
{
    struct bench b;
    struct tcp_segment s;
    bench_begin(&b, 0);
    assert_false(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    bench_send_packet(&b, PACKET_SYN, b.program.isn, 0);
    assert_false(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    tcp_abort(&b.tcp);
    assert_true(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    assert_int_equal(s.header.flags, PACKET_RST | PACKET_ACK);
    assert_int_equal(s.header.seq, 0);
    assert_int_equal(s.header.ack, b.program.isn + 1);
    assert_true(tcp_is_over(&b.tcp));
}

static void a_program_that_does_not_read_stops_the_flow_and_starts_it_again(void **state)
{
    struct bench b;
    uint8_t data[1000];
    bench_open_both(&b, 0);
    memset(data, 0, sizeof(data));
    b.program.window = 0;
    bench_ack(&b);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = bench_byte_at(i);
    assert_int_equal(tcp_write(&b.tcp, data, sizeof(data)), sizeof(data));
    bench_drain(&b);
    assert_int_equal(b.program.received, 0);
    for (int i = 0; i < 3000; i++) { /* a minute of probes */
        bench_pass_time(&b);
        bench_drain(&b);
    }
    assert_int_equal(b.tcp.state, TCP_OPEN);
    assert_int_equal(b.program.received, 0);
    b.program.window = WINDOW;
    bench_ack(&b);
    bench_drain(&b);
    assert_int_equal(b.program.received, sizeof(data));
    tcp_done(&b.tcp);
}

static void a_mount_that_does_not_read_shuts_the_window_and_opens_it_again(void **state)
{
    struct bench b;
    uint8_t data[RING_SIZE / 2 + 1];
    bool end;
    bench_open_both(&b, 0);
    b.program.to_send = BYTES;
    for (int i = 0; i < 100; i++) {
        bench_send_more(&b);
        bench_drain(&b);
    }
    assert_true(b.tcp.in.len <= RING_SIZE);
    assert_true(b.tcp.in.len > RING_SIZE / 2);
    assert_int_equal(b.program.edge, b.program.next); /* shut */
    assert_int_equal(tcp_read(&b.tcp, data, sizeof(data), &end), sizeof(data));
    bench_drain(&b);
    assert_true((int32_t)(b.program.edge - b.program.next) > 0); /* told without being asked */
    tcp_done(&b.tcp);
}

static void a_guessed_reset_ends_nothing_and_an_exact_one_does(void **state)
{
    struct bench b;
    struct tcp_segment s;
    bench_open_both(&b, 0);
    bench_send_packet(&b, PACKET_RST, b.tcp.rcv_next + 100, 0);
    assert_int_equal(b.tcp.state, TCP_OPEN);
    assert_true(tcp_next(&b.tcp, b.now_ms, 1000, &s)); /* the challenge of RFC 5961 */
    bench_send_packet(&b, PACKET_RST, b.tcp.rcv_next, 0);
    assert_int_equal(b.tcp.state, TCP_DEAD);
    assert_true(b.tcp.was_reset);
    assert_false(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    tcp_done(&b.tcp);
}

static void a_program_that_vanished_is_given_up(void **state)
{
    struct bench b;
    bench_open_both(&b, 0);
    b.program.loss_percent = 100;
    tcp_write(&b.tcp, (const uint8_t *)"x", 1);
    for (int i = 0; i < 100000 && b.tcp.state != TCP_DEAD; i++) {
        bench_drain(&b);
        bench_pass_time(&b);
    }
    assert_int_equal(b.tcp.state, TCP_DEAD);
    assert_in_range(b.now_ms, 60000, 300000);
    tcp_done(&b.tcp);
}

/* Any segment at any time: the state stays sound, and what was received in order is never wrong. */
static void random_segments_break_nothing(void **state)
{
    srand(3);
    for (int round = 0; round < 300; round++) {
        struct bench b;
        uint8_t data[3000] = {0};
        struct tcp_segment s;
        bool end;
        bench_open_both(&b, 0);
        srand((unsigned)round);
        for (int i = 0; i < 300 && !tcp_is_over(&b.tcp); i++) {
            struct packet p = {.tcp = {.seq = b.tcp.rcv_next + (uint32_t)(rand() % 5000 - 2500),
                                       .ack = b.tcp.snd_una + (uint32_t)(rand() % 5000 - 2500),
                                       .flags = (uint8_t)(rand() % 32),
                                       .window = (uint16_t)rand(),
                                       .wscale = -1},
                               .payload = data,
                               .payload_len = (size_t)rand() % sizeof(data)};
            if (rand() % 3)
                p.tcp.flags &= (uint8_t) ~(PACKET_RST | PACKET_FIN);
            tcp_input(&b.tcp, &p, b.now_ms);
            if (rand() % 2 && !b.tcp.out_ended)
                tcp_write(&b.tcp, data, MIN(sizeof(data), tcp_room(&b.tcp)));
            if (rand() % 2)
                tcp_read(&b.tcp, data, sizeof(data), &end);
            if (rand() % 100 == 0)
                tcp_finish(&b.tcp);
            for (int k = 0; k < 50 && tcp_next(&b.tcp, b.now_ms, 1 + (size_t)rand() % 65000, &s);
                 k++)
                assert_true(s.len <= RING_SIZE);
            b.now_ms += (uint64_t)rand() % 200;
            if (b.now_ms >= b.tcp.due_ms)
                tcp_timeout(&b.tcp, b.now_ms);
        }
        tcp_done(&b.tcp);
    }
    ring_free_spare();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_pass_both_ways_and_both_sides_end),
        cmocka_unit_test(nothing_is_lost_over_a_wire_that_loses_packets),
        cmocka_unit_test(nothing_is_said_before_the_target_answers),
        cmocka_unit_test(a_program_that_does_not_read_stops_the_flow_and_starts_it_again),
        cmocka_unit_test(a_mount_that_does_not_read_shuts_the_window_and_opens_it_again),
        cmocka_unit_test(a_guessed_reset_ends_nothing_and_an_exact_one_does),
        cmocka_unit_test(a_program_that_vanished_is_given_up),
        cmocka_unit_test(random_segments_break_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
