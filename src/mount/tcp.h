/*
 * TCP (RFC 9293) as the server of one connection, for a program on this very machine: what a mount
 * answers in the name of a target. No I/O: packets go in by tcp_input, come out by tcp_next, bytes
 * by tcp_read and tcp_write, time by tcp_timeout.
 *
 *     tcp_syn ─► DIALLING ─ tcp_accept ─► SYN_RECEIVED ─ ACK ─► OPEN ─► DEAD
 *                   └─ nothing is said until the target has answered
 *
 * The path is a queue in memory, so there is no congestion control and no TIME_WAIT, and a round
 * trip takes no time, so the time-out is a constant: longer than a kernel delays acknowledgements,
 * doubled up to two seconds. But the queue overflows where a program floods it, and the kernel may
 * drop what it has no memory for:
 *
 *   - what came after a loss is kept (early.h) and told, as ranges (SACK, RFC 2018) or, to a
 * program without it, by an acknowledgement for each segment;
 *   - bytes are kept until acknowledged. The queue keeps the order, so that whatever is missing of
 *     what was sent before something that has arrived is lost, and sent again, one hole at a time
 *     (each takes a round trip). Without ranges three duplicate acknowledgements tell of a loss,
 *     and after a time-out one segment is sent, whose acknowledgement tells how much is missing.
 *
 * The window is what fits in the ring, whose bytes leave by tcp_read: back-pressure reaches the
 * program's socket without a queue in between. A flow that carries nothing owns no memory but this.
 */
#pragma once

#include "mount/early.h"
#include "mount/packet.h"
#include "mount/ring.h"

#define TCP_NEVER        UINT64_MAX
#define TCP_SEGMENTS_MAX (PACKET_MAX - 60) /* payload of one packet that every kernel takes */
#define TCP_LARGE_MAX    RING_LENGTH       /* ... of one that Linux 6.3 takes, over IPv4 */

enum tcp_state { TCP_DIALLING, TCP_SYN_RECEIVED, TCP_OPEN, TCP_DEAD };

struct tcp {
    struct ring in;  /* from the program, until tcp_read */
    struct ring out; /* to the program, until acknowledged */
    struct early early;

    uint32_t rcv_next;            /* next byte of the program */
    uint32_t rcv_edge;            /* end of the window it was told */
    uint32_t isn;                 /* ours */
    uint32_t peer_isn;            /* of its SYN */
    uint32_t snd_una, snd_next;   /* oldest not acknowledged; next to send for the first time */
    uint32_t snd_edge;            /* end of the program's window */
    uint32_t mend_next, mend_end; /* to be sent again; none if equal */
    uint32_t recover;             /* snd_next when the mending began: until there it goes on */

    uint32_t
        acked; /* bytes of tcp_write that were acknowledged; whoever credits them sets it to 0 */
    uint64_t due_ms; /* of tcp_timeout; TCP_NEVER: not armed */
    uint16_t mss;
    uint8_t wscale_in, wscale_out; /* of windows it tells, and of those it is told */
    uint8_t state;
    uint8_t tries, duplicates;
    uint8_t
        holes; /* without SACK: acknowledgements due beside ack_due, one for each early segment */
    bool has_wscale : 1, has_sack : 1;
    bool in_ended : 1;  /* the program's FIN came */
    bool out_ended : 1; /* tcp_finish */
    bool fin_sent : 1, fin_acked : 1;
    bool is_recovering : 1, is_probing : 1;
    bool is_corked : 1; /* by its owner: more is about to come, less than a segment waits for it */
    bool is_quiet : 1;  /* ... an acknowledgement waits, too: what came is about to be read */
    bool ack_due : 1, synack_due : 1, reset_due : 1;
    bool was_reset : 1; /* by the program */
    bool was_late : 1;  /* something was lost, and nothing told of it */
};

/* A SYN starts it (or starts it anew, in DIALLING); `mtu` bounds segments. */
void tcp_syn(struct tcp *t, const struct packet *syn, uint32_t isn, uint16_t mtu);
void tcp_done(struct tcp *t); /* gives its memory back */

/* The target has answered. */
void tcp_accept(struct tcp *t);
/* Ends it with a reset: the target refused (DIALLING), or one side of the path was lost. */
void tcp_abort(struct tcp *t);
void tcp_forget(struct tcp *t); /* ends it in silence */

/* A packet of this connection that is not its first SYN. */
void tcp_input(struct tcp *t, const struct packet *p, uint64_t now_ms);

/* Whether a SYN for these ends begins a connection that replaces this one (RFC 9293 section 3.6.1):
 * the program has closed the old one, which only we still know. */
bool tcp_is_replaced_by(const struct tcp *t, const struct packet *syn);

/* From the program: up to `cap` bytes. *ret_end: there will be no more. */
size_t tcp_read(struct tcp *t, uint8_t *out, size_t cap, bool *ret_end);
static inline bool tcp_is_readable(const struct tcp *t)
{
    return t->in.len || t->in_ended;
}
/* To the program. At most tcp_room bytes are taken. */
size_t tcp_write(struct tcp *t, const uint8_t *data, size_t len);
static inline size_t tcp_room(const struct tcp *t)
{
    return ring_room(&t->out);
}
static inline bool tcp_has_unsent(const struct tcp *t)
{
    return t->out.len > t->snd_next - t->snd_una;
}
void tcp_finish(struct tcp *t); /* FIN once all is sent */

/* What tcp_next wants sent: a header, and payload in pieces. It may be several segments' worth: the
 * device cuts it by `mss` (TSO). */
struct tcp_segment {
    struct packet_tcp header;
    struct iovec pieces[RING_PIECES];
    int n_pieces;
    size_t len;
    uint16_t mss;
};
/* `max`: payload of one call, TCP_LARGE_MAX at most. What is sent again comes in packets of
 * TCP_SEGMENTS_MAX. false: nothing (more) to send now. */
bool tcp_next(struct tcp *t, uint64_t now_ms, size_t max, struct tcp_segment *ret);
/* Something is due, by tcp.due_ms. Call tcp_next after it. */
void tcp_timeout(struct tcp *t, uint64_t now_ms);

/* Both directions ended and everything was acknowledged, or it was reset; nothing is to be sent. */
bool tcp_is_over(const struct tcp *t);
