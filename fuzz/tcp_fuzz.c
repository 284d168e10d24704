/*
 * The TCP terminator against a program that sends whatever it likes: any flags, any sequence
 * numbers, any windows, in any order, while the mount reads, writes and ends as it may.
 *
 * The byte at a place of a stream follows from that place alone, so that whatever comes out must be
 * right, however it went in. After each step the state is sound; in the end, if nobody reset, a
 * program that begins to behave still gets all that was written, and both sides end.
 */
#include "base/macro.h"
#include "mount/tcp.h"

#include <stdlib.h>
#include <string.h>

#define MTU      1500
#define LEN_MAX  65495 /* of a segment with TSO */
#define FINS_MAX 1000
#define PATIENCE 400

struct model {
    struct tcp tcp;
    uint64_t now_ms;
    uint32_t program_isn;
    uint32_t read, written; /* bytes of the mount's side */
    uint32_t edge;          /* of the window that the program was told */
    uint32_t fins[FINS_MAX];
    size_t n_fins;
    bool was_accepted, read_end;
};

struct input {
    const uint8_t *at;
    size_t left;
};

#define REQUIRE(condition) \
    do {                   \
        if (!(condition))  \
            abort();       \
    } while (0)

static uint8_t take8(struct input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->at++;
}

static uint16_t take16(struct input *in)
{
    return (uint16_t)(take8(in) << 8 | take8(in));
}

static uint8_t byte_at(uint32_t place)
{
    return (uint8_t)(place * 31 + (place >> 8) * 7);
}

/* ---- what must hold ---- */

static void check_state(struct model *m)
{
    const struct tcp *t = &m->tcp;
    REQUIRE(t->in.len <= RING_SIZE && t->out.len <= RING_MAX);
    REQUIRE(!t->in.len == !t->in.last && !t->out.len == !t->out.last);
    if (t->state == TCP_DEAD) {
        REQUIRE(!t->in.len && !t->out.len && !t->early.first);
        return;
    }
    if (t->state != TCP_OPEN)
        return;
    REQUIRE(t->rcv_edge - t->rcv_next <= RING_SIZE - t->in.len || t->in_ended);
    REQUIRE((int32_t)(t->rcv_edge - m->edge) >= 0 || t->in_ended); /* no window shrinks */
    REQUIRE(t->snd_next - t->snd_una <= t->out.len + 1);
    REQUIRE(t->mend_next - t->snd_una <= t->mend_end - t->snd_una);
    REQUIRE(t->mend_end - t->snd_una <= t->snd_next - t->snd_una);
    REQUIRE(!t->early.first == !t->early.n && t->early.n <= EARLY_PIECES_MAX);
    REQUIRE(!t->early.first || (int32_t)(t->early.first->seq - t->rcv_next) > 0);
    m->edge = t->rcv_edge;
}

static void check_segment(struct model *m, const struct tcp_segment *s)
{
    const struct tcp *t = &m->tcp;
    uint32_t place = s->header.seq - (t->isn + 1);
    REQUIRE(s->len <= RING_MAX);
    if (s->header.flags & (PACKET_RST | PACKET_SYN)) {
        REQUIRE(!s->len);
        return;
    }
    REQUIRE(!s->len || place + s->len <= m->written);
    for (int i = 0; i < s->n_pieces; i++) {
        const uint8_t *p = s->pieces[i].iov_base;
        for (size_t k = 0; k < s->pieces[i].iov_len; k++, place++)
            REQUIRE(p[k] == byte_at(place));
    }
    for (uint8_t i = 0; i < s->header.n_sacks;
         i++) { /* all of them beyond a hole, within the window */
        const struct packet_range *r = &s->header.sacks[i];
        REQUIRE(t->has_sack && (int32_t)(r->begin - t->rcv_next) > 0 &&
                (int32_t)(r->end - r->begin) > 0 && (int32_t)(t->rcv_edge + 1 - r->end) >= 0);
    }
    if (s->header.flags & PACKET_FIN)
        REQUIRE(t->out_ended && place == m->written);
}

static void drain(struct model *m, size_t max)
{
    struct tcp_segment s;
    size_t left = RING_MAX / MIN(max, (size_t)MTU / 20) + 10;
    while (tcp_next(&m->tcp, m->now_ms, max, &s)) {
        REQUIRE(left-- > 0);
        check_segment(m, &s);
        check_state(m);
    }
}

static bool has_fin_at(const struct model *m, uint32_t place)
{
    for (size_t i = 0; i < m->n_fins; i++) {
        if (m->fins[i] == place)
            return true;
    }
    return false;
}

/* ---- the mount's side ---- */

static void read_some(struct model *m, size_t cap)
{
    static uint8_t data[1 << 16];
    bool end = false;
    if (m->tcp.state == TCP_DEAD)
        return;
    size_t n = tcp_read(&m->tcp, data, MIN(cap, sizeof(data)), &end);
    REQUIRE(!n || !m->read_end);
    for (size_t i = 0; i < n; i++, m->read++)
        REQUIRE(data[i] == byte_at(m->read));
    m->read_end |= end;
    if (end)
        REQUIRE(has_fin_at(m, m->read));
}

static void write_some(struct model *m, size_t len)
{
    static uint8_t data[1 << 16];
    if (m->tcp.out_ended || m->tcp.state == TCP_DEAD)
        return;
    len = MIN(len, sizeof(data));
    len = MIN(len, tcp_room(&m->tcp));
    for (size_t i = 0; i < len; i++)
        data[i] = byte_at(m->written + (uint32_t)i);
    REQUIRE(tcp_write(&m->tcp, data, len) == len);
    m->written += (uint32_t)len;
}

static void decide(struct model *m, uint8_t what)
{
    struct tcp *t = &m->tcp;
    if (t->state == TCP_DIALLING && what < 240) {
        tcp_accept(t);
        m->was_accepted = true;
    } else if (what < 8) {
        tcp_abort(t);
    } else if (what < 100 && t->state != TCP_DEAD) {
        tcp_finish(t);
    }
}

/* ---- the program's side ---- */

static void send_segment(struct model *m, const struct packet_tcp *h, size_t len)
{
    static uint8_t payload[LEN_MAX];
    struct packet p = {.tcp = *h, .payload = payload, .payload_len = len};
    uint32_t place = h->seq - (m->program_isn + 1);
    for (size_t i = 0; i < len; i++)
        payload[i] = byte_at(place + (uint32_t)i);
    if (h->flags & PACKET_FIN)
        m->fins[m->n_fins++] = place + (uint32_t)len;
    tcp_input(&m->tcp, &p, m->now_ms);
}

static uint32_t near(struct input *in, uint32_t place)
{
    static const uint32_t scales[] = {0, 1, 1460, 40000};
    uint8_t how = take8(in);
    if (how == 255)
        return (uint32_t)take16(in) << 16 | take16(in);
    return place + (uint32_t)((int)(how >> 2) - 16) * scales[how & 3];
}

static void send_any(struct model *m, struct input *in)
{
    const struct tcp *t = &m->tcp;
    struct packet_tcp h = {.flags = take8(in) & 0x1f, .wscale = -1};
    if (take8(in) & 7)
        h.flags = (uint8_t)((h.flags & ~(PACKET_RST | PACKET_SYN)) | PACKET_ACK);
    h.seq = near(in, t->rcv_next);
    h.ack = near(in, take8(in) & 1 ? t->snd_una : t->snd_next);
    h.window = take16(in);
    h.n_sacks = take8(in) % (PACKET_SACKS_MAX + 1);
    for (int i = 0; i < h.n_sacks; i++) {
        h.sacks[i].begin = near(in, take8(in) & 1 ? t->snd_una : t->snd_next);
        h.sacks[i].end = near(in, h.sacks[i].begin);
    }
    if (m->n_fins + PATIENCE >= FINS_MAX)
        h.flags &= (uint8_t)~PACKET_FIN;
    send_segment(m, &h, take16(in) % LEN_MAX);
}

static void pass_time(struct model *m, uint32_t ms)
{
    m->now_ms += ms;
    if (m->now_ms >= m->tcp.due_ms)
        tcp_timeout(&m->tcp, m->now_ms);
}

/* From now on the program acknowledges all it was sent, reads it, and ends. */
static void behave(struct model *m)
{
    struct tcp *t = &m->tcp;
    t->is_quiet = false;
    for (int i = 0; i < PATIENCE && !tcp_is_over(t); i++) {
        struct packet_tcp h = {.flags = PACKET_ACK, .window = UINT16_MAX, .wscale = -1};
        if (t->state == TCP_DIALLING)
            tcp_accept(t);
        if (!t->out_ended)
            tcp_finish(t);
        read_some(m, RING_SIZE);
        drain(m, 60000);
        h.seq = t->rcv_next;
        h.ack = t->state == TCP_OPEN ? t->snd_next : t->isn + 1;
        if (i % 2 && !t->in_ended)
            h.flags |= PACKET_FIN;
        send_segment(m, &h, 0);
        drain(m, 60000);
        check_state(m);
        pass_time(m, 400);
    }
    REQUIRE(tcp_is_over(t));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct model m = {.now_ms = 1000};
    struct packet syn = {.tcp = {.flags = PACKET_SYN}};
    m.program_isn = (uint32_t)take16(&in) << 16 | take16(&in);
    syn.tcp.seq = m.program_isn;
    syn.tcp.window = take16(&in);
    syn.tcp.mss = take16(&in);
    uint8_t options = take8(&in);
    syn.tcp.wscale = (int8_t)(options % 16 - 1);
    syn.tcp.sack_permitted = options & 16;
    tcp_syn(&m.tcp, &syn, (uint32_t)take16(&in) << 16 | take16(&in), MTU);
    m.edge = m.tcp.rcv_edge;
    while (in.left) {
        switch (take8(&in) % 8) {
        case 0:
            decide(&m, take8(&in));
            break;
        case 1:
            read_some(&m, take16(&in));
            break;
        case 2:
            write_some(&m, take16(&in));
            break;
        case 3:
            pass_time(&m, take16(&in) % 1000);
            break;
        case 4:
            m.tcp.is_quiet = in.left % 4 == 1;
            drain(&m, 1 + take16(&in) * 4u);
            break;
        default:
            send_any(&m, &in);
        }
        check_state(&m);
    }
    behave(&m);
    tcp_done(&m.tcp);
    ring_free_spare();
    return 0;
}
