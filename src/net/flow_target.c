#include "net/flow_target.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/dialer.h"
#include "net/errqueue.h"
#include "net/udp.h"

#include <string.h>
#include <unistd.h>

#define BATCHES_A_TURN 2           /* other flows of the agent want their turn too */
#define EARLY_BYTES    (128 << 10) /* datagrams that come while a name is resolved */
#define ERRORS_A_TURN  16
#define WAITING_BYTES  (4 << 10) /* ... while others that have not answered have their turn */

struct flow_target {
    struct io io; /* fd -1: not connected */
    struct loop *loop;
    struct flow *flow;
    struct flow_target_params p;
    struct dial *dial;
    struct flow_ahead *ahead; /* NULL: the other end does not ask for it */
    struct buf early;         /* struct early_head and bytes of each */
    struct dial_ticket ticket;
    uint64_t passed_ms; /* when the gate let us; 0: not yet */
    bool is_heard;      /* the target has answered */
    struct udp_sender sender;
    uint64_t unsent_told;
    struct h2conn_batch at_end;
    struct defer again;
};

struct early_head {
    size_t len;
    struct capsule_mark mark;
};

static void heard(struct flow_target *t)
{
    if (!t->is_heard && t->p.gate)
        dial_gate_answered(t->p.gate, flow_peer(t->flow));
    t->is_heard = true;
}

/* An ICMP error is told once, whichever call met it first: `err` counts if the queue has none. */
static void tell_errors(struct flow_target *t, int err)
{
    struct errqueue_entry e;
    int n = 0;
    while (n < ERRORS_A_TURN && errqueue_take(t->io.fd, &e) > 0) {
        if (error_from_errno(e.errnum) == ERR_REFUSED)
            heard(t);
        flow_tell_error(t->flow, error_from_errno(e.errnum), &e.cause);
        n++;
    }
    int pending = udp_take_error(t->io.fd);
    err = pending ? pending : err;
    if (err && !n)
        flow_tell_error(t->flow, err, NULL);
}

static void flush(struct flow_target *t)
{
    udp_flush(&t->sender);
    flow_set_lost(t->p.set, t->sender.unsent - t->unsent_told);
    t->unsent_told = t->sender.unsent;
    int err = t->sender.err;
    t->sender.err = 0;
    if (err)
        tell_errors(t, err);
}

/* The program's, unless its answer is on its way: now, if it is marked, or with what is gathered.
 */
static void send_on(struct flow_target *t, const uint8_t *data, size_t len,
                    const struct capsule_mark *mark)
{
    if (mark->ttl || mark->tos)
        udp_send_marked(&t->sender, data, len, mark);
    else if (!t->ahead || !flow_ahead_request(t->ahead, data, len))
        udp_send(&t->sender, data, len, NULL);
}

static void send_now(void *arg, const uint8_t *data, size_t len)
{
    struct flow_target *t = arg;
    udp_send(&t->sender, data, len, NULL);
    flush(t);
}

static void on_batch_end(struct h2conn_batch *b)
{
    flush(container_of(b, struct flow_target, at_end));
}

static void keep_early(struct flow_target *t, const uint8_t *data, size_t len)
{
    const struct early_head head = {len, *flow_mark(t->flow)};
    t->early.limit = t->dial ? EARLY_BYTES : WAITING_BYTES;
    if (buf_reserve(&t->early, sizeof(head) + len) < 0) {
        flow_set_lost(t->p.set, 1);
        return;
    }
    buf_append(&t->early, &head, sizeof(head));
    buf_append(&t->early, data, len);
}

static void send_early(struct flow_target *t)
{
    struct early_head head;
    for (size_t at = 0; at < t->early.len; at += head.len) {
        memcpy(&head, t->early.data + at, sizeof(head));
        at += sizeof(head);
        send_on(t, (const uint8_t *)t->early.data + at, head.len, &head.mark);
    }
    flush(t);
    buf_done(&t->early);
}

/* Whether datagrams may go out now: 0, DIAL_GATE_WAIT, or ERR_LIMIT. */
static int pass(struct flow_target *t, const struct addr *peer)
{
    uint64_t now = loop_now_ms(t->loop);
    bool has_passed = t->passed_ms && now - t->passed_ms < DIAL_GATE_PASS_MS;
    if (!t->p.gate || t->is_heard || has_passed)
        return 0;
    if (t->ticket.target)
        return DIAL_GATE_WAIT;
    int rc = dial_gate_enter(t->p.gate, &t->ticket, peer);
    if (rc == 0)
        t->passed_ms = now;
    return rc;
}

static void on_turn(struct dial_ticket *k)
{
    struct flow_target *t = container_of(k, struct flow_target, ticket);
    t->passed_ms = loop_now_ms(t->loop);
    send_early(t);
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    struct flow_target *t = arg;
    int rc = t->io.fd < 0 ? DIAL_GATE_WAIT : pass(t, flow_peer(f));
    if (rc) {
        if (rc < 0)
            flow_set_lost(t->p.set, 1);
        else
            keep_early(t, data, len);
        return;
    }
    send_on(t, data, len, flow_mark(f));
    if (is_kept)
        flush(t);
    else
        h2conn_at_batch_end(flow_h2conn(f), &t->at_end);
}

static void on_ahead(void *arg, struct flow *f, enum capsule_kind kind, const uint8_t *value,
                     size_t len)
{
    struct flow_target *t = arg;
    if (kind != CAPSULE_NOTE || !t->p.devices)
        return;
    if (!t->ahead) {
        t->ahead = flow_ahead_new(t->p.devices, f, send_now, t);
        if (t->ahead && t->io.fd >= 0)
            flow_ahead_connected(t->ahead, flow_peer(f));
    }
    if (t->ahead)
        flow_ahead_note(t->ahead, value, len);
}

static void on_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct flow_target *t = arg;
    (void)f;
    flow_ahead_free(t->ahead);
    dial_gate_leave(&t->ticket, ERR_CANCELED);
    dial_gate_free(t->p.gate);
    if (t->dial)
        dial_cancel(t->dial);
    if (udp_is_gathering(&t->sender))
        udp_flush(&t->sender);
    h2conn_batch_cancel(&t->at_end);
    loop_defer_cancel(&t->again);
    io_close(&t->io);
    buf_done(&t->early);
    t->p.on_end(t->p.arg, res);
    mem_free(t);
}

static const struct flow_ops target_ops = {
    .on_datagram = on_datagram, .on_ahead = on_ahead, .on_end = on_end};

static void receive(struct flow_target *t)
{
    struct udp_datagram batch[UDP_BATCH];
    for (int i = 0; i < BATCHES_A_TURN && t->io.readable; i++) {
        int n = udp_receive(t->io.fd, batch, NULL);
        if (n < 0)
            tell_errors(t, n);
        if (n >= 0 && n < UDP_BATCH) /* it was emptied */
            t->io.readable = false;
        if (n > 0)
            heard(t);
        for (int k = 0; k < n; k++) {
            flow_send(t->flow, batch[k].data, batch[k].len);
            if (t->ahead)
                flow_ahead_response(t->ahead, batch[k].data, batch[k].len);
        }
    }
    if (t->io.readable)
        loop_defer(t->loop, &t->again);
}

static void on_event(struct io *io)
{
    struct flow_target *t = container_of(io, struct flow_target, io);
    if (io->error) {
        io->error = false;
        tell_errors(t, 0);
    }
    receive(t);
}

static void on_again(struct defer *d)
{
    receive(container_of(d, struct flow_target, again));
}

static void on_dialled(void *arg, const struct dial_result *res)
{
    struct flow_target *t = arg;
    int err = res->err;
    t->dial = NULL;
    if (err == 0) {
        err = io_start_reading(&t->io, t->loop, res->fd, on_event);
        if (err < 0) {
            close(res->fd);
            t->io.fd = -1;
        }
    }
    if (err == 0) {
        udp_watch_errors(res->fd);
        t->sender.fd = res->fd;
        if (t->ahead)
            flow_ahead_connected(t->ahead, &res->peer);
        int rc = t->early.len ? pass(t, &res->peer) : 0;
        if (rc == 0) {
            send_early(t);
        } else if (rc < 0) {
            flow_set_lost(t->p.set, 1);
            buf_done(&t->early);
        }
    }
    flow_answer(t->flow, err, &res->cause, &res->peer);
}

static int check_target(void *arg, const struct addr *a)
{
    const struct flow_target *t = arg;
    return t->p.check ? t->p.check(t->p.check_arg, a) : 0;
}

void flow_target_accept(struct h2_stream *s, const struct flow_target_params *p)
{
    struct flow_target *t = NEW(struct flow_target);
    t->p = *p;
    t->io.fd = -1;
    t->loop = h2conn_loop(h2conn_of(s));
    t->at_end.fn = on_batch_end;
    t->again.fn = on_again;
    t->ticket.on_turn = on_turn;
    t->ticket.is_passing = true;
    if (p->gate)
        dial_gate_ref(p->gate);
    t->flow = flow_accept(s, p->set, &target_ops, t);
    t->dial = dial_start(t->loop, &(struct dial_params){.target = p->target,
                                                        .deadline_ms = p->deadline_ms,
                                                        .check = check_target,
                                                        .is_datagram = true,
                                                        .wants_cause = true,
                                                        .on_done = on_dialled,
                                                        .arg = t});
}
