/* The terminator against a small model of a program's kernel, over a wire that may lose packets. */
#include "mount/tcp.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MTU    1500
#define ISN    0xfffffff0u /* sequence numbers wrap early */
#define BYTES  (3 * RING_SIZE + 12345)
#define WINDOW (64u << 10)

/* The program's side: sends in order, keeps nothing back but what the window says, sends all again
 * when time passes without progress. */
struct program {
    uint32_t isn, una, next, edge, rcv_next;
    uint32_t window; /* of its own */
    size_t to_send;  /* bytes; then FIN */
    size_t received;
    bool is_open, fin_received, was_reset, wants_fin;
    uint64_t progress_ms;
    int loss_percent;
    bool has_sack;
};

struct bench {
    struct tcp tcp;
    struct program program;
    uint64_t now_ms;
    size_t read; /* by the mount */
    bool read_end;
    size_t written;
};

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 + i / 251);
}

static bool is_lost(const struct bench *b)
{
    return rand() % 100 < b->program.loss_percent;
}

static void send_packet(struct bench *b, uint8_t flags, uint32_t seq, size_t len)
{
    static uint8_t payload[16384];
    struct program *g = &b->program;
    struct packet p = {.tcp = {.seq = seq,
                               .ack = g->rcv_next,
                               .flags = flags,
                               .window = (uint16_t)(g->window >> (flags & PACKET_SYN ? 0 : 2)),
                               .mss = flags & PACKET_SYN ? 1400 : 0,
                               .wscale = flags & PACKET_SYN ? 2 : -1,
                               .sack_permitted = flags & PACKET_SYN && g->has_sack},
                       .payload = payload,
                       .payload_len = len};
    for (size_t i = 0; i < len; i++)
        payload[i] = byte_at(seq - (g->isn + 1) + i);
    if (flags & PACKET_SYN && b->tcp.state == TCP_DEAD)
        tcp_syn(&b->tcp, &p, ISN, MTU);
    else if (!is_lost(b))
        tcp_input(&b->tcp, &p, b->now_ms);
}

static void ack(struct bench *b)
{
    send_packet(b, PACKET_ACK, b->program.next, 0);
}

static void send_more(struct bench *b)
{
    struct program *g = &b->program;
    int32_t left = (int32_t)(g->isn + 1 + (uint32_t)g->to_send - g->next);
    while (g->is_open && (int32_t)(g->edge - g->next) > 0 && left > 0) {
        int32_t len = MIN(left, (int32_t)(g->edge - g->next)), some = 1 + rand() % 9000;
        len = MIN(len, some);
        g->next += (uint32_t)len;
        send_packet(b, PACKET_ACK | PACKET_PSH, g->next - (uint32_t)len, (size_t)len);
        left -= len;
    }
    if (g->is_open && g->wants_fin && left == 0) {
        g->next++;
        send_packet(b, PACKET_ACK | PACKET_FIN, g->next - 1, 0);
    }
}

static void receive(struct bench *b, const struct tcp_segment *s)
{
    struct program *g = &b->program;
    const struct packet_tcp *h = &s->header;
    if (h->flags & PACKET_RST) {
        g->was_reset = true;
        return;
    }
    if (h->flags & PACKET_SYN) {
        assert_int_equal(h->ack, g->isn + 1);
        g->rcv_next = h->seq + 1;
        g->una = g->next = g->isn + 1;
        g->edge = h->ack + h->window;
        g->is_open = true;
        g->progress_ms = b->now_ms;
        ack(b);
        return;
    }
    if ((int32_t)(h->ack - g->una) > 0) {
        g->una = h->ack;
        g->progress_ms = b->now_ms;
        if ((int32_t)(g->next - g->una) < 0)
            g->next = g->una;
    }
    g->edge = h->ack + ((uint32_t)h->window << 7);
    if (!s->len && !(h->flags & PACKET_FIN))
        return;
    uint32_t skip = g->rcv_next - h->seq;
    if ((int32_t)skip >= 0 && skip <= s->len && !g->fin_received) {
        size_t at = 0, fits = g->window;
        for (int i = 0; i < s->n_pieces; i++) {
            const uint8_t *p = s->pieces[i].iov_base;
            for (size_t k = 0; k < s->pieces[i].iov_len; k++, at++) {
                if (at < skip || at - skip >= fits)
                    continue;
                assert_int_equal(p[k], byte_at(g->received));
                g->received++;
                g->rcv_next++;
            }
        }
        if (h->flags & PACKET_FIN && h->seq + s->len == g->rcv_next) {
            g->fin_received = true;
            g->rcv_next++;
        }
    }
    ack(b);
}

static void drain(struct bench *b)
{
    struct tcp_segment s;
    for (int i = 0; i < 10000 && tcp_next(&b->tcp, b->now_ms, 60000, &s); i++) {
        assert_true(s.len <= 60000);
        if (!is_lost(b))
            receive(b, &s);
    }
}

static void begin(struct bench *b, int loss_percent)
{
    srand(42);
    *b = (struct bench){.now_ms = 1000};
    b->tcp.state = TCP_DEAD;
    b->program =
        (struct program){.isn = 0xffffff00u, .window = WINDOW, .loss_percent = loss_percent};
    send_packet(b, PACKET_SYN, b->program.isn, 0);
}

static void open_both(struct bench *b, int loss_percent)
{
    begin(b, loss_percent);
    tcp_accept(&b->tcp);
    for (int i = 0; i < 100 && b->tcp.state != TCP_OPEN; i++) {
        drain(b);
        b->now_ms += 100;
        if (b->now_ms >= b->tcp.due_ms)
            tcp_timeout(&b->tcp, b->now_ms);
    }
    assert_int_equal(b->tcp.state, TCP_OPEN);
}

/* The mount's side reads and writes what it can. */
static void serve(struct bench *b, size_t to_write)
{
    uint8_t data[20000];
    bool end;
    size_t n = tcp_read(&b->tcp, data, 1 + (size_t)rand() % sizeof(data), &end);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(data[i], byte_at(b->read + i));
    b->read += n;
    b->read_end = end;
    n = MIN(to_write - b->written, sizeof(data));
    n = MIN(n, tcp_room(&b->tcp));
    for (size_t i = 0; i < n; i++)
        data[i] = byte_at(b->written + i);
    if (n)
        assert_int_equal(tcp_write(&b->tcp, data, n), n);
    b->written += n;
    if (b->written == to_write && !b->tcp.out_ended)
        tcp_finish(&b->tcp);
}

static void pass_time(struct bench *b)
{
    struct program *g = &b->program;
    b->now_ms += 20;
    if (b->now_ms >= b->tcp.due_ms)
        tcp_timeout(&b->tcp, b->now_ms);
    if (b->now_ms - g->progress_ms > 400) { /* its own time-out */
        g->progress_ms = b->now_ms;
        g->next = g->una;
        if ((int32_t)(g->edge - g->una) <= 0) /* a probe of a shut window */
            send_packet(b, PACKET_ACK, g->una - 1, 0);
    }
}

static void exchange(struct bench *b, size_t bytes)
{
    b->program.to_send = bytes;
    b->program.wants_fin = true;
    for (int i = 0; i < 200000 && !tcp_is_over(&b->tcp); i++) {
        send_more(b);
        serve(b, bytes);
        drain(b);
        pass_time(b);
    }
    assert_true(tcp_is_over(&b->tcp));
    assert_false(b->program.was_reset);
    assert_int_equal(b->read, bytes);
    assert_true(b->read_end);
    assert_int_equal(b->program.received, bytes);
    assert_true(b->program.fin_received);
    assert_null(b->tcp.in.last);
    assert_null(b->tcp.out.last);
}

static void bytes_pass_both_ways_and_both_sides_end(void **state)
{
    struct bench b;
    open_both(&b, 0);
    exchange(&b, BYTES);
    tcp_done(&b.tcp);
}

static void nothing_is_lost_over_a_wire_that_loses_packets(void **state)
{
    struct bench b;
    open_both(&b, 8);
    exchange(&b, BYTES);
    tcp_done(&b.tcp);
}

/* ---- with SACK: segments made by hand ---- */

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
        data[i] = byte_at(i);
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
        data[i] = byte_at(at + i);
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
        assert_int_equal(data[i], byte_at(i));
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
        data[i] = byte_at(FIRST_LEN - AGAIN + i);
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
            assert_int_equal(out[i], byte_at(at + i));
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

static void nothing_is_said_before_the_target_answers(void **state)
{
    struct bench b;
    struct tcp_segment s;
    begin(&b, 0);
    assert_false(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    send_packet(&b, PACKET_SYN, b.program.isn, 0);
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
    open_both(&b, 0);
    memset(data, 0, sizeof(data));
    b.program.window = 0;
    ack(&b);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = byte_at(i);
    assert_int_equal(tcp_write(&b.tcp, data, sizeof(data)), sizeof(data));
    drain(&b);
    assert_int_equal(b.program.received, 0);
    for (int i = 0; i < 3000; i++) { /* a minute of probes */
        pass_time(&b);
        drain(&b);
    }
    assert_int_equal(b.tcp.state, TCP_OPEN);
    assert_int_equal(b.program.received, 0);
    b.program.window = WINDOW;
    ack(&b);
    drain(&b);
    assert_int_equal(b.program.received, sizeof(data));
    tcp_done(&b.tcp);
}

static void a_mount_that_does_not_read_shuts_the_window_and_opens_it_again(void **state)
{
    struct bench b;
    uint8_t data[RING_SIZE / 2 + 1];
    bool end;
    open_both(&b, 0);
    b.program.to_send = BYTES;
    for (int i = 0; i < 100; i++) {
        send_more(&b);
        drain(&b);
    }
    assert_true(b.tcp.in.len <= RING_SIZE);
    assert_true(b.tcp.in.len > RING_SIZE / 2);
    assert_int_equal(b.program.edge, b.program.next); /* shut */
    assert_int_equal(tcp_read(&b.tcp, data, sizeof(data), &end), sizeof(data));
    drain(&b);
    assert_true((int32_t)(b.program.edge - b.program.next) > 0); /* told without being asked */
    tcp_done(&b.tcp);
}

static void a_guessed_reset_ends_nothing_and_an_exact_one_does(void **state)
{
    struct bench b;
    struct tcp_segment s;
    open_both(&b, 0);
    send_packet(&b, PACKET_RST, b.tcp.rcv_next + 100, 0);
    assert_int_equal(b.tcp.state, TCP_OPEN);
    assert_true(tcp_next(&b.tcp, b.now_ms, 1000, &s)); /* the challenge of RFC 5961 */
    send_packet(&b, PACKET_RST, b.tcp.rcv_next, 0);
    assert_int_equal(b.tcp.state, TCP_DEAD);
    assert_true(b.tcp.was_reset);
    assert_false(tcp_next(&b.tcp, b.now_ms, 1000, &s));
    tcp_done(&b.tcp);
}

static void a_program_that_vanished_is_given_up(void **state)
{
    struct bench b;
    open_both(&b, 0);
    b.program.loss_percent = 100;
    tcp_write(&b.tcp, (const uint8_t *)"x", 1);
    for (int i = 0; i < 100000 && b.tcp.state != TCP_DEAD; i++) {
        drain(&b);
        pass_time(&b);
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
        open_both(&b, 0);
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
        cmocka_unit_test(nothing_is_said_before_the_target_answers),
        cmocka_unit_test(a_program_that_does_not_read_stops_the_flow_and_starts_it_again),
        cmocka_unit_test(a_mount_that_does_not_read_shuts_the_window_and_opens_it_again),
        cmocka_unit_test(a_guessed_reset_ends_nothing_and_an_exact_one_does),
        cmocka_unit_test(a_program_that_vanished_is_given_up),
        cmocka_unit_test(random_segments_break_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
