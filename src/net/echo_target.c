#include "net/echo_target.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/buffers.h"
#include "net/pinger.h"
#include "wire/echo.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

/* An echo under way. */
struct pending {
    uint32_t cookie;
    uint16_t seq;
    uint8_t version; /* 0: free */
    uint8_t address[16];
};

/* One that must not be sent yet: others that have not answered have their turn. */
struct waiting {
    struct dial_ticket ticket;
    struct echo_target *target;
    struct addr to;
    struct echo_record record; /* its data follow */
    struct waiting *prev, *next;
};

/* One for each version of IP. */
struct sender {
    struct pinger pinger;
    struct echo_target *target;
};

struct echo_target {
    struct loop *loop;
    struct flow *flow;
    struct echo_target_params p;
    struct sender senders[2]; /* IPv4, IPv6 */
    struct pending *pending;  /* by sequence number */
    struct waiting *waiting;  /* oldest first */
    size_t n_waiting, waiting_bytes;
    uint16_t next_seq;
    uint64_t second_ms; /* when the present second began */
    uint32_t sent;      /* in it */
    int err;            /* to answer with */
    struct defer answer;
};

static _Thread_local size_t n_streams;

static_assert(65536 % ECHO_PENDING == 0, "a place is never that of two numbers in a row");

/* ---- what came back ---- */

static void tell(struct echo_target *t, const struct echo_record *r)
{
    uint8_t *record = buffers_of_thread()->datagrams[1]; /* [0] may have what came */
    size_t n = echo_record_head(record, r);
    if (n + r->len > CAPSULE_PAYLOAD_MAX)
        return;
    if (r->len)
        memcpy(record + n, r->data, r->len);
    flow_send(t->flow, record, n + r->len);
}

static void tell_cause(struct echo_target *t, uint32_t cookie, const struct icmp_cause *c)
{
    struct echo_record r = {.kind = ECHO_ERROR,
                            .version = c->version,
                            .type = c->type,
                            .code = c->code,
                            .cookie = cookie};
    memcpy(r.address, c->from, sizeof(r.address));
    tell(t, &r);
}

static void read_address(const uint8_t ip[16], uint8_t version, struct addr *ret)
{
    *ret = (struct addr){0};
    if (version == 4) {
        ret->in4.sin_family = AF_INET;
        memcpy(&ret->in4.sin_addr, ip + 12, 4);
        ret->len = sizeof(ret->in4);
    } else {
        ret->in6.sin6_family = AF_INET6;
        memcpy(&ret->in6.sin6_addr, ip, 16);
        ret->len = sizeof(ret->in6);
    }
}

static void note_answer(const struct echo_target *t, const uint8_t from[16], uint8_t version)
{
    struct addr a;
    if (!t->p.gate)
        return;
    read_address(from, version, &a);
    dial_gate_answered(t->p.gate, &a);
}

static void on_answer(struct pinger *pinger, const struct ping_answer *a)
{
    struct echo_target *t = container_of(pinger, struct sender, pinger)->target;
    const struct pending *p = &t->pending[a->seq % ECHO_PENDING];
    if (p->seq != a->seq || p->version != (pinger->ping.is_v6 ? 6 : 4))
        return;
    if (a->is_error) {
        tell_cause(t, p->cookie, &a->cause);
        return;
    }
    struct echo_record r = {.kind = ECHO_REPLY,
                            .version = p->version,
                            .ttl = a->ttl,
                            .cookie = p->cookie,
                            .data = a->data,
                            .len = MIN(a->len, (size_t)ECHO_DATA_MAX)};
    memcpy(r.address, a->from, sizeof(r.address));
    note_answer(t, a->from, p->version);
    if (memcmp(a->from, p->address, sizeof(p->address)) == 0)
        tell(t, &r);
}

/* ---- what is asked for ---- */

static bool may_send(struct echo_target *t)
{
    uint64_t now = loop_now_ms(t->loop);
    if (now - t->second_ms >= 1000) {
        t->second_ms = now;
        t->sent = 0;
    }
    return t->sent++ < ECHO_PER_SECOND;
}

static void send_echo(struct sender *s, const struct echo_record *r, const struct addr *to)
{
    struct echo_target *t = s->target;
    struct icmp_cause cause;
    uint16_t seq = t->next_seq++;
    struct pending *p = &t->pending[seq % ECHO_PENDING];
    *p = (struct pending){.cookie = r->cookie, .seq = seq, .version = r->version};
    memcpy(p->address, r->address, sizeof(p->address));
    const struct ping_request request = {
        .to = to, .ttl = r->ttl, .tos = r->tos, .seq = seq, .data = r->data, .len = r->len};
    int errnum = pinger_send(&s->pinger, &request);
    if (errnum && icmp_cause_of_errno(errnum, s->pinger.ping.is_v6, &cause))
        tell_cause(t, r->cookie, &cause);
    else if (errnum)
        flow_set_lost(t->p.set, 1);
}

/* ---- turns ---- */

static void drop(struct waiting *w)
{
    struct echo_target *t = w->target;
    dial_gate_leave(&w->ticket, ERR_CANCELED);
    DL_DELETE(t->waiting, w);
    t->n_waiting--;
    t->waiting_bytes -= w->record.len;
    mem_free(w);
}

static void on_turn(struct dial_ticket *k)
{
    struct waiting *w = container_of(k, struct waiting, ticket);
    send_echo(&w->target->senders[w->record.version == 6], &w->record, &w->to);
    drop(w);
}

/* Sends it, or keeps a copy until it may be sent. */
static void send_in_turn(struct sender *s, const struct echo_record *r, const struct addr *to)
{
    struct echo_target *t = s->target;
    struct waiting *w = mem_new(sizeof(*w) + r->len);
    *w = (struct waiting){
        .ticket = {.on_turn = on_turn, .is_passing = true}, .target = t, .to = *to, .record = *r};
    int rc = dial_gate_enter(t->p.gate, &w->ticket, to);
    if (rc == DIAL_GATE_WAIT) {
        w->record.data = memcpy(w + 1, r->data, r->len);
        DL_APPEND(t->waiting, w);
        t->n_waiting++;
        t->waiting_bytes += r->len;
    } else {
        mem_free(w);
        if (rc == 0)
            send_echo(s, r, to);
        else
            flow_set_lost(t->p.set, 1);
    }
    while (t->n_waiting > ECHO_WAITING || t->waiting_bytes > ECHO_WAITING_MAX) {
        drop(t->waiting);
        flow_set_lost(t->p.set, 1);
    }
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    struct echo_target *t = arg;
    struct echo_record r;
    struct icmp_cause prohibited;
    struct addr to;
    if (echo_record_parse(data, len, &r) < 0 || r.kind != ECHO_REQUEST)
        return;
    struct sender *s = &t->senders[r.version == 6];
    read_address(r.address, r.version, &to);
    if (t->p.check && t->p.check(t->p.check_arg, &to) < 0) {
        icmp_cause_of_errno(EACCES, r.version == 6, &prohibited);
        tell_cause(t, r.cookie, &prohibited);
    } else if (s->pinger.io.fd < 0 || !may_send(t)) {
        flow_set_lost(t->p.set, 1);
    } else if (t->p.gate) {
        send_in_turn(s, &r, &to);
    } else {
        send_echo(s, &r, &to);
    }
}

static void on_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct echo_target *t = arg;
    while (t->waiting)
        drop(t->waiting);
    dial_gate_free(t->p.gate);
    for (size_t i = 0; i < ARRAY_SIZE(t->senders); i++)
        pinger_stop(&t->senders[i].pinger);
    loop_defer_cancel(&t->answer);
    n_streams--;
    t->p.on_end(t->p.arg, res);
    mem_free(t->pending);
    mem_free(t);
}

static const struct flow_ops target_ops = {.on_datagram = on_datagram, .on_end = on_end};

/* ---- beginning ---- */

static int open_sender(struct echo_target *t, struct sender *s, bool is_v6)
{
    s->target = t;
    s->pinger.on_answer = on_answer;
    return pinger_start(&s->pinger, t->loop, is_v6);
}

static void on_answer_due(struct defer *d)
{
    struct echo_target *t = container_of(d, struct echo_target, answer);
    static const struct addr nobody;
    static const struct icmp_cause none;
    flow_answer(t->flow, t->err, &none, &nobody);
}

void echo_target_accept(struct h2_stream *s, const struct echo_target_params *p)
{
    struct echo_target *t = NEW(struct echo_target);
    t->p = *p;
    t->loop = h2conn_loop(h2conn_of(s));
    if (p->gate)
        dial_gate_ref(p->gate);
    t->answer.fn = on_answer_due;
    t->senders[0].pinger.io.fd = t->senders[1].pinger.io.fd = -1;
    t->pending = mem_new(ECHO_PENDING * sizeof(*t->pending));
    t->flow = flow_accept(s, p->set, &target_ops, t);
    if (n_streams++ >= ECHO_STREAMS_MAX) {
        t->err = ERR_LIMIT;
    } else {
        int v4 = open_sender(t, &t->senders[0], false), v6 = open_sender(t, &t->senders[1], true);
        t->err = v4 < 0 && v6 < 0 ? v4 : 0;
    }
    loop_defer(t->loop, &t->answer);
}
