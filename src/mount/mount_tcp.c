/*
 * TCP flows. A SYN opens a stream; the stream's answer decides what the program hears:
 *
 *     200                        SYN-ACK
 *     connection_refused         RST, or the ICMP error if it was refused by one
 *     unroutable, prohibited     the ICMP error
 *     anything else              silence: its kernel sends the SYN again, and a new dial begins
 *
 * A flow is half-open until the program has acknowledged our SYN-ACK, which takes it no time, but a
 * flood may hold that up. Where they or all flows are too many the oldest of them gives way once it
 * had a second, so that invented SYNs keep nobody out. Dialling waits for that, and for its turn:
 * first comes what is to be read from the device.
 *
 * A dial is given up when the program seems to have done so: 5 s after its last SYN and twice the
 * time it has been trying, which is longer than any kernel's next interval.
 */
#include "mount/internal.h"

#include "base/error.h"
#include "base/id.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/relay.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define GIVE_UP_MS 5000
#define BULK_BYTES (16 * 1024) /* after so many at once more are likely to follow */
#define CORK_TURNS 4           /* of the loop, which others' bytes may take */
#define SMALL_TTL  32          /* one that is meant, as traceroute does; nmap's are above */
#define HALF_OPEN_MAX \
    4096                  /* an agent's kernel takes long to find a port for 14,000 to one target */
#define HALF_OPEN_MS 1000 /* not longer than a SYN-ACK's first time-out, which looks again */
#define SYNS_A_TURN  32   /* that are dialled */
#define SYNS_MANY    256  /* so many wait, and there is more to read: a flood, of which ... */
#define FLOOD_TURNS  4    /* ... one is dialled in so many turns */
#define STRAYS_A_MS  4    /* that are answered */

/* ---- the table ---- */

static struct mount_tcp *find(struct mount *m, const struct packet_ends *ends)
{
    struct mount_tcp *f;
    HASH_FIND(hh, m->tcp, ends, sizeof(*ends), f);
    return f;
}

static void mark_dirty(struct mount_tcp *f)
{
    struct mount *m = f->mount;
    if (f->is_dirty)
        return;
    f->is_dirty = true;
    DL_APPEND2(m->dirty, f, dirty_prev, dirty_next);
    loop_defer(m->loop, &m->flush);
}

static void forget_dirty(struct mount_tcp *f)
{
    assert(!f->is_dirty || f->dirty_prev == f || f->dirty_next || f->mount->dirty != f);
    if (f->is_dirty)
        DL_DELETE2(f->mount->dirty, f, dirty_prev, dirty_next);
    f->is_dirty = false;
}

static void leave_half_open(struct mount_tcp *f)
{
    if (!f->is_half_open)
        return;
    f->is_half_open = false;
    f->mount->n_half_open--;
    DL_DELETE2(f->mount->half_open, f, half_prev, half_next);
}

static void free_flow(struct mount_tcp *f)
{
    struct mount *m = f->mount;
    forget_dirty(f);
    leave_half_open(f);
    timer_stop(&f->timer);
    tcp_done(&f->tcp);
    HASH_DEL(m->tcp, f);
    mem_free(f);
}

/* ---- what the program hears ---- */

static void send_segment(struct mount_tcp *f, const struct tcp_segment *s)
{
    uint8_t headers[PACKET_HEADER_MAX];
    struct tun_offload o = {.sum_offset = 16, .is_v6 = !packet_is_v4(f->ends.near)};
    o.header_len = packet_put_tcp(headers, &f->ends, &s->header, s->len, &o.sum_at);
    o.mss = s->len > s->mss ? s->mss : 0;
    bool is_taken = tun_write(&f->mount->tun, &o, headers, s->pieces, s->n_pieces);
    if (!is_taken && s->len > TCP_SEGMENTS_MAX)
        f->mount->takes_large = false; /* it has no memory in such pieces; sent again in smaller */
    f->mount->stats.bytes_down += s->len;
}

/* `err`: how it went. */
static void end_dialling(struct mount_tcp *f, int err)
{
    if (!f->dial)
        return;
    dial_gate_leave(&f->dial->ticket, err);
    mem_free(TAKE(f->dial));
}

static void dial_failed(struct mount_tcp *f, int err, const struct icmp_cause *cause)
{
    f->mount->stats.dials_failed++;
    if (err == ERR_REFUSED && !cause->version) {
        tcp_abort(&f->tcp);
    } else {
        mount_tell_error(f->mount, f->dial->quote, err, cause);
        tcp_forget(&f->tcp);
    }
    end_dialling(f, err);
}

/* ---- the stream ---- */

/* A stream that was refused is ended properly: resets in numbers look like an attack. */
static int produce_end(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    *eof = true;
    return 0;
}

static const struct h2_stream_ops refused_ops = {.on_produce = produce_end};

static void on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct mount_tcp *f = arg;
    int status = h2_headers_status(h);
    if (status < 200 || !f->dial)
        return;
    if (status < 300) {
        end_dialling(f, 0);
        tcp_accept(&f->tcp);
        f->is_half_open = true;
        f->half_open_ms = loop_now_ms(f->mount->loop);
        f->mount->n_half_open++;
        DL_APPEND2(f->mount->half_open, f, half_prev, half_next);
    } else {
        const char *field = h2_headers_get(h, "proxy-status");
        struct icmp_cause cause;
        proxy_status_cause(field, &cause);
        dial_failed(f, proxy_status_parse(status, field), &cause);
        f->stream = NULL;
        h2_stream_set(s, &refused_ops, NULL);
        h2_resume(s);
    }
    mark_dirty(f);
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct mount_tcp *f = arg;
    size_t n = f->tcp.out_ended ? len : tcp_write(&f->tcp, data, len);
    if (n < len || f->tcp.state == TCP_DEAD)
        h2_reset(s, H2_FLOW_CONTROL_ERROR);
    if (len >= BULK_BYTES)
        f->cork_turns = CORK_TURNS;
    mark_dirty(f);
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct mount_tcp *f = arg;
    tcp_finish(&f->tcp);
    mark_dirty(f);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct mount_tcp *f = arg;
    if (f->dial || f->tcp.state == TCP_DEAD)
        return 0;
    size_t n = tcp_read(&f->tcp, out, cap, eof);
    f->mount->stats.bytes_up += n;
    if (f->tcp.ack_due)
        mark_dirty(f);
    return (int)n;
}

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct mount_tcp *f = arg;
    f->stream = NULL;
    if (f->dial)
        dial_failed(f, ERR_CANCELED, &(struct icmp_cause){0});
    else if (error != H2_NO_ERROR || !f->tcp.out_ended)
        f->is_cut = true;
    mark_dirty(f);
}

static const struct h2_stream_ops stream_ops = {.on_headers = on_headers,
                                                .on_data = on_data,
                                                .on_end = on_end,
                                                .on_produce = on_produce,
                                                .on_close = on_close};

static const struct h2_stream_ops nobody;

static void leave_stream(struct mount_tcp *f, uint32_t error)
{
    struct h2_stream *s = TAKE(f->stream);
    if (!s)
        return;
    h2_stream_set(s, &nobody, NULL);
    h2_reset(s, error);
}

/* ---- the program ---- */

static uint64_t dial_due(const struct mount_tcp *f)
{
    const struct mount_dial *d = f->dial;
    return d->last_syn_ms + GIVE_UP_MS + 2 * (d->last_syn_ms - d->first_syn_ms);
}

static void on_timer(struct timer *t)
{
    struct mount_tcp *f = container_of(t, struct mount_tcp, timer);
    uint64_t now = loop_now_ms(f->mount->loop);
    if (f->dial && now >= dial_due(f)) {
        mount_tcp_drop(f);
        return;
    }
    if (!f->dial)
        tcp_timeout(&f->tcp, now);
    mark_dirty(f);
}

static int open_stream(struct mount_tcp *f, uint8_t ttl)
{
    const struct mount_uplink *u = &f->mount->uplink;
    struct h2conn *hc = u->conn(u->arg);
    char authority[AUTHORITY_SIZE], ttl_text[4];
    struct h2_header headers[3 + MOUNT_HEADERS_MAX] = {{":method", "CONNECT"},
                                                       {":authority", authority}};
    size_t n = 2;
    assert(u->n_headers <= MOUNT_HEADERS_MAX);
    if (!hc || h2conn_is_ending(hc))
        return ERR_UNAVAILABLE;
    mount_format_target(&f->ends, authority);
    for (size_t i = 0; i < u->n_headers; i++)
        headers[n++] = u->headers[i];
    if (ttl < SMALL_TTL) {
        snprintf(ttl_text, sizeof(ttl_text), "%u", ttl);
        headers[n++] = (struct h2_header){RELAY_TTL, ttl_text};
    }
    return h2_request(h2conn_session(hc), headers, n, true, &stream_ops, f, &f->stream);
}

static bool is_full(const struct mount *m)
{
    return HASH_COUNT(m->tcp) >= MOUNT_FLOWS_MAX || m->n_half_open >= HALF_OPEN_MAX;
}

/* Soon there will be room. */
static bool must_wait(const struct mount *m)
{
    return is_full(m) && m->half_open &&
           loop_now_ms(m->loop) - m->half_open->half_open_ms < HALF_OPEN_MS;
}

static bool make_room(struct mount *m)
{
    if (m->half_open && is_full(m))
        mount_tcp_drop(m->half_open);
    return HASH_COUNT(m->tcp) < MOUNT_FLOWS_MAX;
}

static void take_syn(struct mount_tcp *f, const struct packet *syn)
{
    tcp_syn(&f->tcp, syn, random_number(), MOUNT_MTU);
    mount_quote(f->dial->quote, syn);
    f->dial->first_syn_ms = f->dial->last_syn_ms = loop_now_ms(f->mount->loop);
    mark_dirty(f);
}

static void on_turn(struct dial_ticket *t)
{
    struct mount_dial *d = container_of(t, struct mount_dial, ticket);
    if (open_stream(d->flow, d->ttl) < 0)
        mount_tcp_drop(d->flow);
}

static void give_way(struct dial_ticket *t)
{
    mount_tcp_drop(container_of(t, struct mount_dial, ticket)->flow);
}

static int enter(struct mount_tcp *f)
{
    struct addr to = {.in6 = {.sin6_family = AF_INET6}, .len = sizeof(to.in6)};
    memcpy(&to.in6.sin6_addr, f->ends.far, sizeof(f->ends.far));
    f->dial->ticket.on_turn = on_turn;
    f->dial->ticket.give_way = give_way;
    return dial_gate_enter(f->mount->gate, &f->dial->ticket, &to);
}

/* Without success the program hears nothing, and its kernel sends the SYN again. */
static void dial(struct mount *m, const struct packet *syn)
{
    if (!make_room(m))
        return;
    struct mount_tcp *f = NEW(struct mount_tcp);
    f->mount = m;
    f->ends = syn->ends;
    f->dial = NEW(struct mount_dial);
    f->dial->flow = f;
    f->dial->ttl = MIN(syn->ttl, SMALL_TTL);
    int rc = enter(f);
    if (rc == 0)
        rc = open_stream(f, f->dial->ttl);
    if (rc < 0) {
        end_dialling(f, ERR_CANCELED);
        mem_free(f);
        return;
    }
    timer_init(&f->timer, m->loop, on_timer);
    HASH_ADD(hh, m->tcp, ends, sizeof(f->ends), f);
    m->stats.flows_total++;
    take_syn(f, syn);
}

void mount_tcp_drop(struct mount_tcp *f)
{
    leave_stream(f, H2_CANCEL);
    end_dialling(f, ERR_CANCELED);
    free_flow(f);
}

/* Some of those that wait. */
static void dial_waiting(struct mount *m)
{
    struct syn_waiting *w;
    bool is_flood = m->tun.io.readable && m->syns.n > SYNS_MANY;
    int n = !is_flood ? SYNS_A_TURN : m->flood_turns++ % FLOOD_TURNS == 0;
    for (; n > 0; n--) {
        if (must_wait(m) || !(w = syn_queue_take(&m->syns)))
            return;
        struct mount_tcp *f = find(m, &w->packet.ends);
        if (f && tcp_is_replaced_by(&f->tcp, &w->packet))
            mount_tcp_drop(TAKE(f));
        if (!f)
            dial(m, &w->packet);
        mem_free(w);
    }
    if (m->syns.n)
        loop_defer(m->loop, &m->flush);
}

static bool is_too_many_strays(struct mount *m)
{
    uint64_t now = loop_now_ms(m->loop);
    if (m->strays_ms != now)
        m->strays = 0;
    m->strays_ms = now;
    return m->strays++ >= STRAYS_A_MS;
}

/* Data of a connection that we know nothing of (any more): its sender learns that. Other strays are
 * met with silence: what the target would say to them, only it knows. */
static void refuse_stray(struct mount *m, const struct packet *p)
{
    uint8_t headers[PACKET_HEADER_MAX];
    const struct packet_tcp reset = {.seq = p->tcp.ack, .flags = PACKET_RST, .wscale = -1};
    struct tun_offload o = {.sum_offset = 16};
    if ((p->tcp.flags & (PACKET_SYN | PACKET_ACK | PACKET_RST)) != PACKET_ACK || !p->payload_len ||
        is_too_many_strays(m))
        return;
    o.header_len = packet_put_tcp(headers, &p->ends, &reset, 0, &o.sum_at);
    tun_write(&m->tun, &o, headers, NULL, 0);
}

void mount_tcp_input(struct mount *m, const struct packet *p)
{
    struct mount_tcp *f = find(m, &p->ends);
    bool is_first = (p->tcp.flags & (PACKET_SYN | PACKET_ACK | PACKET_RST)) == PACKET_SYN;
    if (f && f->dial && is_first && p->tcp.seq != f->tcp.peer_isn &&
        MIN(p->ttl, SMALL_TTL) == f->dial->ttl) {
        take_syn(f, p); /* another try of a scanner: the dial is the same */
        return;
    }
    if (is_first && (!f || tcp_is_replaced_by(&f->tcp, p))) {
        syn_queue_put(&m->syns, p);
        return;
    }
    if (!f) {
        refuse_stray(m, p);
        return;
    }
    if (is_first && f->dial)
        f->dial->last_syn_ms = loop_now_ms(m->loop);
    tcp_input(&f->tcp, p, loop_now_ms(m->loop));
    if (f->tcp.state != TCP_SYN_RECEIVED)
        leave_half_open(f);
    mark_dirty(f);
}

static void arm(struct mount_tcp *f, uint64_t now)
{
    uint64_t due = f->dial ? dial_due(f) : f->tcp.due_ms;
    if (due == TCP_NEVER)
        timer_stop(&f->timer);
    else if (!timer_is_running(&f->timer) || f->timer.due_ms != due)
        timer_start(&f->timer, due > now ? due - now : 0);
}

/* What waits for more goes out some turns later, with or without it. */
static void count_turn(struct mount_tcp *f)
{
    if (!f->cork_turns)
        return;
    f->cork_turns--;
    if (f->tcp.state == TCP_OPEN && tcp_has_unsent(&f->tcp))
        mark_dirty(f);
}

/* Payload given to the device at once. */
static size_t segments_max(const struct mount_tcp *f)
{
    bool is_large = f->mount->takes_large && !f->tcp.was_late && packet_is_v4(f->ends.near);
    return is_large ? TCP_LARGE_MAX : TCP_SEGMENTS_MAX;
}

/* Once the stream has taken what came, which it does in this very turn, one acknowledgement tells
 * the window as well. */
static bool may_wait(struct mount_tcp *f)
{
    bool may = f->stream && !f->dial && f->tcp.in.len && !f->has_waited;
    f->has_waited = may;
    return may;
}

static void pump(struct mount_tcp *f)
{
    uint64_t now = loop_now_ms(f->mount->loop);
    struct tcp_segment s;
    if (f->is_cut && !f->tcp.out.len)
        tcp_abort(&f->tcp);
    f->tcp.is_corked = f->cork_turns > 0;
    f->tcp.is_quiet = may_wait(f);
    while (tcp_next(&f->tcp, now, segments_max(f), &s))
        send_segment(f, &s);
    count_turn(f);
    if (f->stream && f->tcp.acked)
        h2_consume(f->stream, f->tcp.acked);
    f->tcp.acked = 0;
    if (f->tcp.state == TCP_DEAD)
        leave_stream(f, H2_CANCEL);
    else if (f->stream && !f->dial && tcp_is_readable(&f->tcp))
        h2_resume(f->stream);
    if (f->tcp.is_quiet && f->tcp.ack_due)
        mark_dirty(f); /* behind the stream */
    if (!f->stream && tcp_is_over(&f->tcp))
        free_flow(f);
    else
        arm(f, now);
}

/* Those that are dirty now; who becomes so meanwhile is for the next turn. */
void mount_tcp_flush(struct mount *m)
{
    loop_defer_cancel(&m->flush);
    dial_waiting(m);
    const struct mount_tcp *last = m->dirty ? m->dirty->dirty_prev : NULL;
    for (bool is_last = !last; !is_last;) {
        struct mount_tcp *f = m->dirty;
        is_last = f == last;
        forget_dirty(f);
        pump(f);
    }
}
