#include "mount/tcp.h"

#include "base/macro.h"

#include <assert.h>

#define RTO_MS         250
#define BACKOFFS_MAX   3  /* up to 2 s */
#define TRIES_MAX      64 /* in a row, unanswered: some two minutes */
#define SYN_TRIES_MAX  10 /* of a SYN-ACK: a quarter of one */
#define SYN_TRIES_MIN  2  /* ... which it begins with: a second at first, as kernels wait */
#define MSS_DEFAULT    536
#define MSS_MIN        88 /* a program cannot make us send crumbs */
#define WSCALE         7
#define DUPLICATES_MAX 3

#define before packet_seq_before

static uint32_t in_flight(const struct tcp *t)
{
    return t->snd_next - t->snd_una;
}

/* ---- beginning and end ---- */

void tcp_syn(struct tcp *t, const struct packet *syn, uint32_t isn, uint16_t mtu)
{
    size_t headers = syn->is_v6 ? 60 : 40;
    uint16_t mss = syn->tcp.mss ? syn->tcp.mss : MSS_DEFAULT;
    *t = (struct tcp){.state = TCP_DIALLING,
                      .peer_isn = syn->tcp.seq,
                      .rcv_next = syn->tcp.seq + 1,
                      .isn = isn,
                      .snd_una = isn,
                      .snd_next = isn,
                      .due_ms = TCP_NEVER};
    t->rcv_edge = t->rcv_next;
    mss = MIN(mss, (uint16_t)(mtu - headers));
    t->mss = MAX(mss, (uint16_t)MSS_MIN);
    t->has_sack = syn->tcp.sack_permitted;
    t->has_wscale = syn->tcp.wscale >= 0;
    t->wscale_in = t->has_wscale ? (uint8_t)syn->tcp.wscale : 0;
    t->wscale_out = t->has_wscale ? WSCALE : 0;
    t->snd_edge = isn + 1 + syn->tcp.window;
}

void tcp_done(struct tcp *t)
{
    ring_done(&t->in);
    ring_done(&t->out);
    early_done(&t->early);
}

void tcp_forget(struct tcp *t)
{
    tcp_done(t);
    t->state = TCP_DEAD;
    t->due_ms = TCP_NEVER;
    t->ack_due = t->synack_due = false;
}

void tcp_accept(struct tcp *t)
{
    assert(t->state == TCP_DIALLING);
    t->state = TCP_SYN_RECEIVED;
    t->synack_due = true;
}

void tcp_abort(struct tcp *t)
{
    if (t->state == TCP_DEAD)
        return;
    tcp_forget(t);
    t->reset_due = true;
}

bool tcp_is_over(const struct tcp *t)
{
    if (t->state == TCP_DEAD)
        return !t->reset_due;
    return t->in_ended && !t->in.len && t->fin_acked && !t->ack_due;
}

bool tcp_is_replaced_by(const struct tcp *t, const struct packet *syn)
{
    if (t->state == TCP_DEAD)
        return true;
    if (t->state != TCP_OPEN)
        return syn->tcp.seq != t->peer_isn;
    return t->in_ended && before(t->rcv_next, syn->tcp.seq + 1);
}

/* ---- what comes in ---- */

static void start_timer(struct tcp *t, uint64_t now_ms)
{
    t->due_ms = now_ms + ((uint64_t)RTO_MS << MIN(t->tries, BACKOFFS_MAX));
}

/* What was not acknowledged up to `end` is sent again. */
static void start_mending(struct tcp *t, uint32_t end)
{
    t->is_recovering = true;
    t->recover = t->snd_next;
    t->mend_next = t->snd_una;
    t->mend_end = end;
}

static uint32_t end_of_first_segment(const struct tcp *t)
{
    return t->snd_una + MIN(in_flight(t), t->mss);
}

/* What has arrived beyond a hole, as far as this acknowledgement says: its lowest and highest. */
static bool find_hole(const struct tcp *t, const struct packet_tcp *h, struct packet_range *ret)
{
    bool found = false;
    for (size_t i = 0; t->has_sack && i < h->n_sacks; i++) {
        const struct packet_range *r = &h->sacks[i];
        uint32_t begin = r->begin - t->snd_una, end = r->end - t->snd_una; /* not before(): any */
        if (!begin || begin >= end || end > in_flight(t))
            continue; /* of what came twice (RFC 2883), or nonsense */
        if (!found || before(r->begin, ret->begin))
            ret->begin = r->begin;
        if (!found || before(ret->end, r->end))
            ret->end = r->end;
        found = true;
    }
    return found;
}

/* `has_moved`: something new was acknowledged. */
static void look_for_loss(struct tcp *t, const struct packet_tcp *h, bool has_moved)
{
    struct packet_range arrived = {0};
    bool has_hole = find_hole(t, h, &arrived);
    if (has_hole && (!t->is_recovering || before(t->recover, arrived.end)))
        start_mending(t, arrived.begin);
    else if (t->is_recovering && has_moved)
        t->mend_end = has_hole ? arrived.begin : t->has_sack ? t->recover : end_of_first_segment(t);
    if (before(t->mend_end, t->mend_next)) /* it is under way again */
        t->mend_end = t->mend_next;
}

/* An answer that acknowledges nothing new: a third one in a row tells of a loss. */
static void take_duplicate(struct tcp *t, const struct packet *p, bool is_same_window)
{
    if (t->is_probing) { /* the byte beyond the window was not taken, but there is an answer */
        t->tries = MIN(t->tries, BACKOFFS_MAX);
        t->is_probing = !before(t->snd_una, t->snd_edge);
        if (!t->is_probing)
            start_mending(t, end_of_first_segment(t));
    } else if (!t->has_sack && is_same_window && !p->payload_len && in_flight(t) &&
               !t->is_recovering && ++t->duplicates == DUPLICATES_MAX) {
        start_mending(t, end_of_first_segment(t));
    }
}

static void take_new_ack(struct tcp *t, uint32_t ack, uint64_t now_ms)
{
    uint32_t acked = ack - t->snd_una;
    if (acked > t->out.len) {
        t->fin_acked = true;
        acked = t->out.len;
    }
    ring_drop(&t->out, acked);
    t->acked += acked;
    t->snd_una = ack;
    if (before(t->mend_next, ack))
        t->mend_next = ack;
    if (before(t->mend_end, ack))
        t->mend_end = ack;
    if (t->is_recovering && !before(ack, t->recover))
        t->is_recovering = false;
    t->is_probing = false;
    t->tries = t->duplicates = 0;
    t->due_ms = TCP_NEVER;
    if (in_flight(t))
        start_timer(t, now_ms);
}

static void take_ack(struct tcp *t, const struct packet *p, uint64_t now_ms)
{
    uint32_t edge = p->tcp.ack + ((uint32_t)p->tcp.window << t->wscale_in);
    bool is_same_window = edge == t->snd_edge, has_moved = p->tcp.ack != t->snd_una;
    t->snd_edge = edge;
    if (has_moved)
        take_new_ack(t, p->tcp.ack, now_ms);
    else
        take_duplicate(t, p, is_same_window);
    look_for_loss(t, &p->tcp, has_moved);
}

struct piece {
    uint32_t seq;
    bool has_fin;
    const uint8_t *data;
    size_t len;
    struct ring_block **block; /* see struct packet */
};

/* A piece that goes on where we are, or begins before. At most `fits` bytes of it are taken. */
static void take_piece(struct tcp *t, const struct piece *p, size_t fits)
{
    uint32_t skip = t->rcv_next - p->seq; /* sent again */
    if (skip > p->len)
        return;
    size_t fresh = p->len - skip;
    bool is_whole = fresh <= fits;
    fresh = MIN(fresh, fits);
    ring_put_from(&t->in, p->block, p->data + skip, fresh);
    t->rcv_next += (uint32_t)fresh;
    if (p->has_fin && is_whole) {
        t->in_ended = true;
        t->rcv_next++;
    }
}

/* Something before it is missing. */
static void keep_early(struct tcp *t, const struct packet *p, size_t fits)
{
    size_t gap = p->tcp.seq - t->rcv_next;
    if (gap >= fits)
        return;
    fits -= gap;
    early_put(&t->early, p->tcp.seq, p->payload, MIN(p->payload_len, fits),
              p->tcp.flags & PACKET_FIN && p->payload_len <= fits);
}

static void take_payload(struct tcp *t, const struct packet *p)
{
    const struct early_piece *e;
    size_t fits = t->rcv_edge - t->rcv_next; /* there is room */
    bool is_early = before(t->rcv_next, p->tcp.seq);
    if (is_early && !t->has_sack && t->ack_due && t->holes < UINT8_MAX)
        t->holes++;
    t->ack_due = true;
    if (t->in_ended)
        return;
    fits = MIN(fits, ring_hard_room(&t->in));
    if (is_early) {
        keep_early(t, p, fits);
        return;
    }
    take_piece(t,
               &(struct piece){.seq = p->tcp.seq,
                               .has_fin = p->tcp.flags & PACKET_FIN,
                               .data = p->payload,
                               .len = p->payload_len,
                               .block = p->block},
               fits);
    while (!t->in_ended && (e = early_at(&t->early, t->rcv_next))) {
        take_piece(t, &(struct piece){e->seq, e->has_fin, e->data, e->len, NULL}, SIZE_MAX);
        early_drop(&t->early);
    }
    if (t->in_ended)
        early_done(&t->early);
}

static bool is_acceptable(const struct tcp *t, const struct packet *p)
{
    uint32_t len = (uint32_t)p->payload_len + (p->tcp.flags & PACKET_FIN ? 1 : 0);
    uint32_t window = t->rcv_edge - t->rcv_next, at = p->tcp.seq - t->rcv_next;
    if (at < window || at == 0)
        return true;
    return len && at + len - 1 < window; /* it begins before the window, and reaches into it */
}

/* Before the window, from which some of it is missing or nothing new: an answer tells where we are.
 * Also what keepalives and window probes are. */
static void refuse(struct tcp *t, const struct packet *p)
{
    if (!(p->tcp.flags & PACKET_RST))
        t->ack_due = true;
}

static void input_syn_received(struct tcp *t, const struct packet *p)
{
    if (p->tcp.flags & PACKET_SYN) {
        t->synack_due = true; /* sent again */
        return;
    }
    if (!(p->tcp.flags & PACKET_ACK) || p->tcp.ack != t->isn + 1)
        return;
    t->state = TCP_OPEN;
    t->snd_una = t->snd_next = t->mend_next = t->mend_end = t->isn + 1;
    t->snd_edge = p->tcp.ack + ((uint32_t)p->tcp.window << t->wscale_in);
    t->tries = 0;
    t->due_ms = TCP_NEVER;
}

void tcp_input(struct tcp *t, const struct packet *p, uint64_t now_ms)
{
    const struct packet_tcp *h = &p->tcp;
    if (t->state == TCP_DEAD)
        return;
    if (h->flags & PACKET_RST) {
        /* RFC 5961 section 3.2: exactly at the next byte, or it is a guess */
        if (h->seq == t->rcv_next || (t->state == TCP_DIALLING && h->seq == t->peer_isn)) {
            t->was_reset = true;
            tcp_forget(t);
        } else if (is_acceptable(t, p)) {
            t->ack_due = t->state == TCP_OPEN;
        }
        return;
    }
    if (t->state == TCP_DIALLING)
        return; /* the same SYN again: the target has not answered yet */
    if (t->state == TCP_SYN_RECEIVED)
        input_syn_received(t, p);
    if (t->state != TCP_OPEN)
        return;
    if (h->flags & PACKET_SYN || !is_acceptable(t, p)) {
        refuse(t, p);
        return;
    }
    if (!(h->flags & PACKET_ACK))
        return;
    if (before(t->snd_next, h->ack)) {
        t->ack_due = true;
        return;
    }
    if (!before(h->ack, t->snd_una))
        take_ack(t, p, now_ms);
    if (p->payload_len || h->flags & PACKET_FIN)
        take_payload(t, p);
}

/* ---- bytes ---- */

/* The end of the window as it can be told now. It never moves back, and less than a quarter of what
 * an empty ring would be given is told as none (silly window: RFC 9293 section 3.8.6.2.2). */
static uint32_t window_edge(const struct tcp *t)
{
    size_t room = ring_fair_room(&t->in);
    uint32_t edge = t->rcv_next + (room < (room + t->in.len) / 4 ? 0 : (uint32_t)room);
    return before(edge, t->rcv_edge) ? t->rcv_edge : edge;
}

/* Enough to tell without being asked. */
static bool is_window_news(const struct tcp *t)
{
    size_t whole = ring_fair_room(&t->in) + t->in.len;
    return window_edge(t) - t->rcv_edge >= whole / 2;
}

size_t tcp_read(struct tcp *t, uint8_t *out, size_t cap, bool *ret_end)
{
    size_t n = ring_take(&t->in, out, cap);
    *ret_end = t->in_ended && !t->in.len;
    if (t->state == TCP_OPEN && !t->in_ended && is_window_news(t))
        t->ack_due = true;
    return n;
}

size_t tcp_write(struct tcp *t, const uint8_t *data, size_t len)
{
    assert(!t->out_ended);
    if (t->state == TCP_DEAD)
        return len;
    size_t n = MIN(len, ring_room(&t->out));
    ring_put(&t->out, data, n);
    return n;
}

void tcp_finish(struct tcp *t)
{
    t->out_ended = true;
}

/* ---- what goes out ---- */

static void put_header(struct tcp *t, uint8_t flags, uint32_t seq, struct tcp_segment *ret)
{
    bool is_syn = flags & PACKET_SYN;
    t->rcv_edge = window_edge(t);
    uint32_t window = t->rcv_edge - t->rcv_next;
    if (is_syn) {
        window = MIN(window, (uint32_t)UINT16_MAX);
        t->rcv_edge = t->rcv_next + window;
    }
    ret->header = (struct packet_tcp){
        .seq = seq,
        .ack = t->rcv_next,
        .flags = flags,
        .window = (uint16_t)MIN(window >> (is_syn ? 0 : t->wscale_out), (uint32_t)UINT16_MAX),
        .mss = is_syn ? t->mss : 0,
        .wscale = is_syn && t->has_wscale ? WSCALE : -1,
        .sack_permitted = is_syn && t->has_sack};
    if (!is_syn && !t->has_wscale)
        t->rcv_edge = t->rcv_next + ret->header.window;
    ret->mss = t->mss;
    t->ack_due = false;
}

static void put_reset(struct tcp *t, struct tcp_segment *ret)
{
    bool is_refusal = t->snd_next == t->isn; /* nothing was ever said: RFC 9293 section 3.5.2 */
    ret->header = (struct packet_tcp){.seq = is_refusal ? 0 : t->snd_next,
                                      .ack = t->rcv_next,
                                      .flags = PACKET_RST | PACKET_ACK,
                                      .wscale = -1};
    t->reset_due = false;
}

/* How much of the ring may be sent now, from snd_next. */
static size_t sendable(const struct tcp *t)
{
    uint32_t flying = in_flight(t), window = t->snd_edge - t->snd_una;
    if (before(t->snd_edge, t->snd_una) || flying >= window || flying >= t->out.len)
        return 0;
    return MIN(window, t->out.len) - flying;
}

static bool fin_is_due(const struct tcp *t, size_t at)
{
    return t->out_ended && !t->fin_sent && !t->fin_acked && at == t->out.len;
}

/* Bytes of the ring from `at` on. Ranges go by themselves, in an acknowledgement behind it: options
 * would make the segments that the device cuts larger than they may be. */
static void put_data(struct tcp *t, size_t at, size_t len, bool has_fin, uint64_t now_ms,
                     struct tcp_segment *ret)
{
    bool is_last = at + len == t->out.len, tells_ranges = t->ack_due && t->early.first;
    put_header(
        t, (uint8_t)(PACKET_ACK | (is_last && len ? PACKET_PSH : 0) | (has_fin ? PACKET_FIN : 0)),
        t->snd_una + (uint32_t)at, ret);
    t->ack_due = tells_ranges;
    ret->len = len;
    ret->n_pieces = ring_pieces(&t->out, at, len, ret->pieces);
    if (t->due_ms == TCP_NEVER)
        start_timer(t, now_ms);
}

static void put_new(struct tcp *t, size_t len, uint64_t now_ms, struct tcp_segment *ret)
{
    size_t at = in_flight(t);
    bool has_fin = fin_is_due(t, at + len);
    put_data(t, at, len, has_fin, now_ms, ret);
    t->snd_next += (uint32_t)len + has_fin;
    t->fin_sent |= has_fin;
}

/* The next of what is sent again. Of a window that is shut, one byte: the probe. */
static bool put_mended(struct tcp *t, uint64_t now_ms, size_t max, struct tcp_segment *ret)
{
    size_t at = t->mend_next - t->snd_una, end = t->mend_end - t->snd_una;
    size_t window = before(t->snd_una, t->snd_edge) ? t->snd_edge - t->snd_una : 1;
    bool has_fin = end > t->out.len; /* it was sent, and is the last thing of all */
    if (at >= end)
        return false;
    window = MAX(window, at);
    end = MIN(end, (size_t)t->out.len);
    end = MIN(end, window);
    size_t len = MIN(max, (size_t)TCP_SEGMENTS_MAX);
    len = MIN(len, end - at);
    has_fin = has_fin && at + len == t->out.len;
    if (!len && !has_fin)
        return false;
    put_data(t, at, len, has_fin, now_ms, ret);
    t->mend_next += (uint32_t)len + has_fin;
    return true;
}

/* Whole segments, unless the rest is all there is: then the device cuts no crumbs in between. */
static size_t chunk(const struct tcp *t, size_t max)
{
    size_t len = sendable(t), whole = MIN(len, max);
    bool is_rest = whole && whole == t->out.len - in_flight(t);
    if (whole > t->mss && !is_rest)
        whole -= whole % t->mss;
    size_t crumb = MIN(max, (size_t)TCP_SEGMENTS_MAX) / 2;
    return is_rest && t->is_corked && !t->out_ended && whole < crumb ? 0 : whole;
}

bool tcp_next(struct tcp *t, uint64_t now_ms, size_t max, struct tcp_segment *ret)
{
    *ret = (struct tcp_segment){0};
    if (t->reset_due) {
        put_reset(t, ret);
        return true;
    }
    if (t->state == TCP_SYN_RECEIVED && t->synack_due) {
        put_header(t, PACKET_SYN | PACKET_ACK, t->isn, ret);
        t->synack_due = false;
        t->snd_next = t->isn + 1;
        t->tries = MAX(t->tries, SYN_TRIES_MIN);
        start_timer(t, now_ms);
        return true;
    }
    if (t->state != TCP_OPEN)
        return false;
    if (t->mend_next != t->mend_end && put_mended(t, now_ms, max, ret))
        return true;
    size_t len = chunk(t, max);
    if (len || fin_is_due(t, in_flight(t))) {
        put_new(t, len, now_ms, ret);
        return true;
    }
    if (t->due_ms == TCP_NEVER && t->out.len)
        start_timer(t, now_ms); /* the window is shut: it will be probed */
    if (!t->ack_due || t->is_quiet)
        return false;
    put_header(t, PACKET_ACK, t->snd_next, ret);
    if (t->has_sack)
        ret->header.n_sacks = early_ranges(&t->early, ret->header.sacks);
    t->ack_due = t->holes > 0;
    t->holes -= t->ack_due;
    return true;
}

void tcp_timeout(struct tcp *t, uint64_t now_ms)
{
    t->due_ms = TCP_NEVER;
    if (t->state == TCP_DEAD)
        return;
    if (++t->tries > (t->state == TCP_OPEN ? TRIES_MAX : SYN_TRIES_MAX)) {
        tcp_abort(t);
        return;
    }
    if (t->state == TCP_SYN_RECEIVED)
        t->synack_due = true;
    if (t->state != TCP_OPEN)
        return;
    /* One byte beyond a shut window makes the program tell it again (RFC 9293 section 3.8.6.1). */
    t->is_probing = !before(t->snd_una, t->snd_edge) && t->out.len;
    t->was_late |= in_flight(t) && !t->is_probing;
    if (in_flight(t))
        start_mending(t, end_of_first_segment(t));
    else if (t->is_probing)
        t->snd_edge = t->snd_una + 1;
}
