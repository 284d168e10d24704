#include "net/echo_target.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/buffers.h"
#include "net/ping.h"
#include "wire/echo.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define ANSWERS_A_TURN 64
#define SENDS_MAX      8 /* of one echo, while errors of others come in between */

/* An echo under way. */
struct pending {
    uint32_t cookie;
    uint16_t seq;
    uint8_t version; /* 0: free */
    uint8_t address[16];
};

/* One for each version of IP. */
struct sender {
    struct io io; /* fd -1: not permitted */
    struct ping ping;
    struct echo_target *target;
};

struct echo_target {
    struct loop *loop;
    struct flow *flow;
    struct echo_target_params p;
    struct sender senders[2]; /* IPv4, IPv6 */
    struct pending *pending;  /* by sequence number */
    uint16_t next_seq;
    uint64_t second_ms; /* when the present second began */
    uint32_t sent;      /* in it */
    int err;            /* to answer with */
    struct defer answer, again;
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

static void on_answer(struct sender *s, const struct ping_answer *a)
{
    struct echo_target *t = s->target;
    const struct pending *p = &t->pending[a->seq % ECHO_PENDING];
    if (p->seq != a->seq || p->version != (s->ping.is_v6 ? 6 : 4))
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
    if (memcmp(a->from, p->address, sizeof(p->address)) == 0)
        tell(t, &r);
}

/* Whether there was anything. */
static bool receive(struct sender *s)
{
    struct ping_answer a;
    bool was_any = false;
    for (int i = 0; i < ANSWERS_A_TURN && s->io.readable; i++) {
        int rc = ping_receive(&s->ping, &a);
        was_any |= rc != 0;
        if (rc > 0)
            on_answer(s, &a);
        else if (rc == 0)
            s->io.readable = false;
    }
    if (s->io.readable)
        loop_defer(s->target->loop, &s->target->again);
    return was_any;
}

static void on_event(struct io *io)
{
    if (io->error) {
        io->error = false;
        io->readable = true;
    }
    receive(container_of(io, struct sender, io));
}

static void on_again(struct defer *d)
{
    struct echo_target *t = container_of(d, struct echo_target, again);
    for (size_t i = 0; i < ARRAY_SIZE(t->senders); i++) {
        if (t->senders[i].io.fd >= 0)
            receive(&t->senders[i]);
    }
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

static void read_address(const struct echo_record *r, struct addr *ret)
{
    *ret = (struct addr){0};
    if (r->version == 4) {
        ret->in4.sin_family = AF_INET;
        memcpy(&ret->in4.sin_addr, r->address + 12, 4);
        ret->len = sizeof(ret->in4);
    } else {
        ret->in6.sin6_family = AF_INET6;
        memcpy(&ret->in6.sin6_addr, r->address, 16);
        ret->len = sizeof(ret->in6);
    }
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
    int errnum = ping_send(&s->ping, &request);
    bool was_any = true;
    for (int i = 0; errnum && was_any && i < SENDS_MAX; i++) { /* that of an earlier echo? */
        s->io.readable = true;
        was_any = receive(s);
        errnum = ping_send(&s->ping, &request);
    }
    if (errnum && icmp_cause_of_errno(errnum, s->ping.is_v6, &cause))
        tell_cause(t, r->cookie, &cause);
    else if (errnum)
        flow_set_lost(t->p.set, 1);
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
    read_address(&r, &to);
    if (t->p.check && t->p.check(t->p.check_arg, &to) < 0) {
        icmp_cause_of_errno(EACCES, r.version == 6, &prohibited);
        tell_cause(t, r.cookie, &prohibited);
    } else if (s->io.fd < 0 || !may_send(t)) {
        flow_set_lost(t->p.set, 1);
    } else {
        send_echo(s, &r, &to);
    }
}

static void on_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct echo_target *t = arg;
    for (size_t i = 0; i < ARRAY_SIZE(t->senders); i++)
        io_close(&t->senders[i].io);
    loop_defer_cancel(&t->answer);
    loop_defer_cancel(&t->again);
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
    TRY(ping_open(is_v6, &s->ping));
    s->io.fd = s->ping.fd;
    int rc = io_start(&s->io, t->loop, s->ping.fd, on_event);
    if (rc < 0) {
        close(s->ping.fd);
        s->io.fd = -1;
    }
    return rc;
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
    t->answer.fn = on_answer_due;
    t->again.fn = on_again;
    t->senders[0].io.fd = t->senders[1].io.fd = -1;
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
