/* A small model of a program's kernel at the other end of a terminator (mount/tcp.h), over a wire
 * that may lose packets. */
#pragma once

#include "mount/tcp.h"

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

uint8_t bench_byte_at(size_t i);
void bench_send_packet(struct bench *b, uint8_t flags, uint32_t seq, size_t len);
void bench_ack(struct bench *b);
void bench_send_more(struct bench *b);
void bench_drain(struct bench *b);
void bench_begin(struct bench *b, int loss_percent);
void bench_open_both(struct bench *b, int loss_percent);
void bench_pass_time(struct bench *b);
void bench_exchange(struct bench *b, size_t bytes);
