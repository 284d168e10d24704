#include "tcp_bench.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

uint8_t bench_byte_at(size_t i)
{
    return (uint8_t)(i * 31 + i / 251);
}

static bool is_lost(const struct bench *b)
{
    return rand() % 100 < b->program.loss_percent;
}

void bench_send_packet(struct bench *b, uint8_t flags, uint32_t seq, size_t len)
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
        payload[i] = bench_byte_at(seq - (g->isn + 1) + i);
    if (flags & PACKET_SYN && b->tcp.state == TCP_DEAD)
        tcp_syn(&b->tcp, &p, ISN, MTU);
    else if (!is_lost(b))
        tcp_input(&b->tcp, &p, b->now_ms);
}

void bench_ack(struct bench *b)
{
    bench_send_packet(b, PACKET_ACK, b->program.next, 0);
}

void bench_send_more(struct bench *b)
{
    struct program *g = &b->program;
    int32_t left = (int32_t)(g->isn + 1 + (uint32_t)g->to_send - g->next);
    while (g->is_open && (int32_t)(g->edge - g->next) > 0 && left > 0) {
        int32_t len = MIN(left, (int32_t)(g->edge - g->next)), some = 1 + rand() % 9000;
        len = MIN(len, some);
        g->next += (uint32_t)len;
        bench_send_packet(b, PACKET_ACK | PACKET_PSH, g->next - (uint32_t)len, (size_t)len);
        left -= len;
    }
    if (g->is_open && g->wants_fin && left == 0) {
        g->next++;
        bench_send_packet(b, PACKET_ACK | PACKET_FIN, g->next - 1, 0);
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
        bench_ack(b);
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
                assert_int_equal(p[k], bench_byte_at(g->received));
                g->received++;
                g->rcv_next++;
            }
        }
        if (h->flags & PACKET_FIN && h->seq + s->len == g->rcv_next) {
            g->fin_received = true;
            g->rcv_next++;
        }
    }
    bench_ack(b);
}

void bench_drain(struct bench *b)
{
    struct tcp_segment s;
    for (int i = 0; i < 10000 && tcp_next(&b->tcp, b->now_ms, 60000, &s); i++) {
        assert_true(s.len <= 60000);
        if (!is_lost(b))
            receive(b, &s);
    }
}

void bench_begin(struct bench *b, int loss_percent)
{
    srand(42);
    *b = (struct bench){.now_ms = 1000};
    b->tcp.state = TCP_DEAD;
    b->program =
        (struct program){.isn = 0xffffff00u, .window = WINDOW, .loss_percent = loss_percent};
    bench_send_packet(b, PACKET_SYN, b->program.isn, 0);
}

void bench_open_both(struct bench *b, int loss_percent)
{
    bench_begin(b, loss_percent);
    tcp_accept(&b->tcp);
    for (int i = 0; i < 100 && b->tcp.state != TCP_OPEN; i++) {
        bench_drain(b);
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
        assert_int_equal(data[i], bench_byte_at(b->read + i));
    b->read += n;
    b->read_end = end;
    n = MIN(to_write - b->written, sizeof(data));
    n = MIN(n, tcp_room(&b->tcp));
    for (size_t i = 0; i < n; i++)
        data[i] = bench_byte_at(b->written + i);
    if (n)
        assert_int_equal(tcp_write(&b->tcp, data, n), n);
    b->written += n;
    if (b->written == to_write && !b->tcp.out_ended)
        tcp_finish(&b->tcp);
}

void bench_pass_time(struct bench *b)
{
    struct program *g = &b->program;
    b->now_ms += 20;
    if (b->now_ms >= b->tcp.due_ms)
        tcp_timeout(&b->tcp, b->now_ms);
    if (b->now_ms - g->progress_ms > 400) { /* its own time-out */
        g->progress_ms = b->now_ms;
        g->next = g->una;
        if ((int32_t)(g->edge - g->una) <= 0) /* a probe of a shut window */
            bench_send_packet(b, PACKET_ACK, g->una - 1, 0);
    }
}

void bench_exchange(struct bench *b, size_t bytes)
{
    b->program.to_send = bytes;
    b->program.wants_fin = true;
    for (int i = 0; i < 200000 && !tcp_is_over(&b->tcp); i++) {
        bench_send_more(b);
        serve(b, bytes);
        bench_drain(b);
        bench_pass_time(b);
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
