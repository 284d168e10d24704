/*
 *     OPENING ─► OPEN ─► ended: on_end comes when the stream is closed. Decided by `is_over`, the
 *        └───────────────► first decision counts: end and err.
 *
 * An orderly end is END_STREAM both ways (flow_finish, or the other end's); everything else is a
 * reset. Received bytes are credited at once: what cannot be delivered is dropped, never kept, so
 * the stream's window is not what bounds anything here.
 */
#include "net/flow.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "net/relay.h"
#include "wire/capsule_queue.h"
#include "wire/connect_udp.h"
#include "wire/proxy_status.h"
#include "wire/read_ahead.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

struct flow {
    struct h2_stream *stream; /* NULL once closed */
    struct h2conn *hc;
    struct flow_set *set;
    struct flow *prev, *next; /* in the set */
    const struct flow_ops *ops;
    void *arg;
    struct capsule_reader reader;
    struct capsule_queue queue;
    bool is_client;
    bool is_open : 1;
    bool is_over : 1;     /* `end` and `err` are decided; nothing is given to the owner any more */
    bool is_ending : 1;   /* END_STREAM is to go out, or has */
    bool is_answered : 1; /* server */
    bool is_torn : 1;     /* a capsule went out in part only: no orderly end is possible */
    enum flow_end end;
    int err;
    uint64_t lost_told;  /* server: of queue.dropped */
    uint64_t lost_there; /* client: as the server told */
    struct flow_traffic traffic;
    struct addr peer;
    struct capsule_mark mark; /* of the datagram that is being told */
    struct icmp_cause cause;  /* of the last error */
};

static void count(_Atomic uint64_t *c, uint64_t n)
{
    if (n)
        atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

void flow_set_lost(struct flow_set *set, uint64_t n)
{
    count(&set->dropped, n);
}

static void over(struct flow *f, enum flow_end end, int err)
{
    if (f->is_over)
        return;
    f->is_over = true;
    f->end = end;
    f->err = err;
    f->is_torn = !capsule_queue_is_between(&f->queue);
    f->set->queued -= capsule_queue_bytes(&f->queue);
    capsule_queue_done(&f->queue);
}

static void reset(struct flow *f, enum flow_end end, int err, uint32_t code)
{
    over(f, end, err);
    if (f->stream)
        h2_reset(f->stream, code);
}

static void end_stream(struct flow *f)
{
    f->is_ending = !f->is_torn;
    if (f->stream && f->is_torn)
        h2_reset(f->stream, H2_CANCEL);
    else if (f->stream)
        h2_resume(f->stream);
}

static void finish(struct flow *f)
{
    struct flow_result res = {f->end, f->err};
    DL_DELETE(f->set->head, f);
    f->set->open--;
    f->ops->on_end(f->arg, f, &res);
    capsule_reader_done(&f->reader);
    mem_free(f);
}

/* ---- from the stream ---- */

static void on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct flow *f = arg;
    int status = h2_headers_status(h);
    (void)s;
    if (!f->is_client || f->is_open || f->is_over || status < 200)
        return;
    if (status < 300) {
        f->is_open = true;
        if (f->ops->on_open)
            f->ops->on_open(f->arg, f);
        return;
    }
    const char *field = h2_headers_get(h, "proxy-status");
    proxy_status_cause(field, &f->cause);
    reset(f, FLOW_END_NOT_OPENED, proxy_status_parse(status, field), H2_CANCEL);
}

static void deliver(struct flow *f, const struct capsule *c)
{
    switch (c->kind) {
    case CAPSULE_DATAGRAM:
        count(&f->set->bytes_written, c->len);
        count(&f->set->datagrams_written, 1);
        f->traffic.bytes_written += c->len;
        f->traffic.datagrams_written++;
        f->traffic.error = 0;
        f->mark = c->mark;
        f->ops->on_datagram(f->arg, f, c->data, c->len, c->is_kept);
        break;
    case CAPSULE_ERROR:
        f->traffic.error = c->error;
        f->cause = c->cause;
        if (f->ops->on_error)
            f->ops->on_error(f->arg, f, c->error);
        break;
    case CAPSULE_LOSS:
        if (f->is_client && c->lost > f->lost_there) {
            count(&f->set->dropped, c->lost - f->lost_there);
            f->lost_there = c->lost;
        }
        break;
    case CAPSULE_NOTE:
    case CAPSULE_AHEAD:
        if (f->ops->on_ahead)
            f->ops->on_ahead(f->arg, f, c->kind, c->data, c->len);
        break;
    }
}

static void refuse_capsules(struct flow *f, const char *reason)
{
    LOG_INFO("datagram stream refused", LOG_STR("reason", reason));
    reset(f, FLOW_END_STREAM_RESET, ERR_PROTO, H2_PROTOCOL_ERROR);
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct flow *f = arg;
    struct capsule c;
    int rc = 1;
    h2_consume(s, len);
    while (!f->is_over && rc > 0) {
        rc = capsule_next(&f->reader, &data, &len, &c);
        if (rc > 0)
            deliver(f, &c);
        else if (rc < 0)
            refuse_capsules(f, f->reader.reason);
    }
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct flow *f = arg;
    (void)s;
    if (!f->is_over && !capsule_is_between(&f->reader)) {
        refuse_capsules(f, "the stream ends inside a capsule");
        return;
    }
    over(f, FLOW_END_FINISHED, 0);
    if (f->is_client || f->is_answered)
        end_stream(f);
}

/* ---- to the stream ---- */

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct flow *f = arg;
    uint8_t note[CAPSULE_NOTE_MAX];
    size_t n = 0;
    (void)s;
    if (f->is_over) {
        *eof = f->is_ending;
        return 0;
    }
    if (!f->is_client && f->queue.dropped != f->lost_told && cap >= sizeof(note) &&
        capsule_queue_is_between(&f->queue)) {
        n = capsule_loss(out, f->queue.dropped);
        f->lost_told = f->queue.dropped;
    }
    size_t taken = capsule_queue_take(&f->queue, out + n, cap - n);
    f->set->queued -= taken;
    return (int)(n + taken);
}

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct flow *f = arg;
    (void)s;
    f->stream = NULL;
    enum flow_end end = error == H2_NO_ERROR          ? FLOW_END_FINISHED
                        : h2conn_is_ending(f->hc)     ? FLOW_END_LOST
                        : f->is_open || !f->is_client ? FLOW_END_STREAM_RESET
                                                      : FLOW_END_NOT_OPENED;
    over(f, end, end == FLOW_END_FINISHED ? 0 : end == FLOW_END_LOST ? ERR_CLOSED : ERR_RESET);
    finish(f);
}

static const struct h2_stream_ops stream_ops = {.on_headers = on_headers,
                                                .on_data = on_data,
                                                .on_end = on_end,
                                                .on_produce = on_produce,
                                                .on_close = on_close};

/* ---- the owner's calls ---- */

/* Whether one more capsule may wait: a set that is full takes it only in place of older ones of the
 * same flow. */
static bool make_room(struct flow *f, size_t size)
{
    struct flow_set *set = f->set;
    while (set->queued + size > FLOW_SET_QUEUE_BYTES) {
        size_t before = capsule_queue_bytes(&f->queue);
        if (!capsule_queue_drop(&f->queue))
            return false;
        set->queued -= before - capsule_queue_bytes(&f->queue);
    }
    return true;
}

/* A datagram, or a whole capsule (`is_note`). */
static void put(struct flow *f, const void *data, size_t len, const struct capsule_mark *mark,
                bool is_note)
{
    struct capsule_queue *q = &f->queue;
    uint64_t dropped = q->dropped;
    if (make_room(f, len + CAPSULE_HEAD_MAX)) {
        size_t before = capsule_queue_bytes(q);
        if (is_note)
            capsule_queue_note(q, data, len);
        else
            capsule_queue_put(q, data, len, mark);
        f->set->queued += capsule_queue_bytes(q) - before;
    } else if (!is_note) {
        q->dropped++;
    }
    count(&f->set->dropped, q->dropped - dropped);
    if (f->stream)
        h2_resume(f->stream);
}

void flow_send_marked(struct flow *f, const uint8_t *data, size_t len,
                      const struct capsule_mark *mark)
{
    assert(len <= CAPSULE_PAYLOAD_MAX);
    count(&f->set->bytes_read, len);
    count(&f->set->datagrams_read, 1);
    f->traffic.bytes_read += len;
    if (!f->is_over)
        put(f, data, len, mark, false);
}

void flow_send(struct flow *f, const uint8_t *data, size_t len)
{
    flow_send_marked(f, data, len, NULL);
}

void flow_tell_error(struct flow *f, int err, const struct icmp_cause *cause)
{
    uint8_t note[CAPSULE_NOTE_MAX];
    if (!f->is_over)
        put(f, note, capsule_error(note, err, cause), NULL, true);
}

void flow_send_ahead(struct flow *f, enum capsule_kind kind, const uint8_t *value, size_t len)
{
    uint8_t capsule[CAPSULE_AHEAD_HEAD_MAX + 1 + READ_AHEAD_BATCH_MAX];
    size_t n = capsule_ahead_head(capsule, kind, len);
    assert(n + len <= sizeof(capsule));
    if (f->is_over)
        return;
    memcpy(capsule + n, value, len);
    put(f, capsule, n + len, NULL, true);
}

bool flow_is_congested(const struct flow *f)
{
    return f->is_over || capsule_queue_bytes(&f->queue) > FLOW_CONGESTED_BYTES ||
           f->set->queued > FLOW_SET_QUEUE_BYTES / 2;
}

void flow_finish(struct flow *f)
{
    if (f->is_over)
        return;
    over(f, FLOW_END_IDLE, 0);
    end_stream(f);
}

void flow_abort(struct flow *f, int err)
{
    reset(f, FLOW_END_ABORTED, err, f->is_client ? H2_CANCEL : H2_CONNECT_ERROR);
}

void flow_set_abort(struct flow_set *set, int err)
{
    struct flow *f;
    DL_FOREACH (set->head, f)
        flow_abort(f, err);
}

/* ---- beginnings ---- */

static struct flow *make(struct h2conn *hc, struct flow_set *set, const struct flow_ops *ops,
                         void *arg)
{
    struct flow *f = NEW(struct flow);
    f->hc = hc;
    f->set = set;
    f->ops = ops;
    f->arg = arg;
    f->queue.limit = FLOW_QUEUE_BYTES;
    f->traffic.opened = time_wall_ms();
    DL_APPEND(set->head, f);
    set->open++;
    set->total++;
    return f;
}

static int request(struct flow *f, const struct flow_open_params *p)
{
    char path[CONNECT_UDP_PATH_SIZE];
    connect_udp_path(p->target, path);
    struct h2_header headers[16] = {{":method", "CONNECT"},       {":protocol", "connect-udp"},
                                    {":scheme", "https"},         {":path", path},
                                    {":authority", p->authority}, {"capsule-protocol", "?1"}};
    assert(p->n_headers <= ARRAY_SIZE(headers) - 6);
    for (size_t i = 0; i < p->n_headers; i++)
        headers[i + 6] = p->headers[i];
    if (h2conn_is_ending(f->hc))
        return ERR_UNAVAILABLE;
    if (!h2conn_takes_protocols(f->hc))
        return ERR_UNSUPPORTED;
    return h2_request(h2conn_session(f->hc), headers, p->n_headers + 6, true, &stream_ops, f,
                      &f->stream);
}

int flow_open(struct h2conn *hc, const struct flow_open_params *p, struct flow **ret)
{
    struct flow *f = make(hc, p->set, p->ops, p->arg);
    f->is_client = true;
    int rc = request(f, p);
    if (rc < 0) {
        DL_DELETE(f->set->head, f); /* NOLINT(clang-analyzer-core.NullDereference): linked */
        f->set->open--;
        f->set->total--;
        mem_free(f);
        return rc;
    }
    *ret = f;
    return 0;
}

struct flow *flow_accept(struct h2_stream *s, struct flow_set *set, const struct flow_ops *ops,
                         void *arg)
{
    struct flow *f = make(h2conn_of(s), set, ops, arg);
    f->stream = s;
    h2_stream_set(s, &stream_ops, f);
    return f;
}

void flow_answer(struct flow *f, int err, const struct icmp_cause *cause, const struct addr *peer)
{
    assert(!f->is_answered);
    f->is_answered = true;
    if (!f->stream)
        return;
    if (err < 0) {
        over(f, FLOW_END_NOT_OPENED, err);
        relay_refuse_because(f->stream, err, cause);
        return;
    }
    f->is_open = true;
    f->peer = *peer;
    h2_respond(f->stream, H2_HEADERS({":status", "200"}, {"capsule-protocol", "?1"}), 2, true);
    if (f->is_over) /* the client has ended it already */
        end_stream(f);
}

void flow_traffic(const struct flow *f, struct flow_traffic *ret)
{
    *ret = f->traffic;
}

const struct capsule_mark *flow_mark(const struct flow *f)
{
    return &f->mark;
}

const struct icmp_cause *flow_cause(const struct flow *f)
{
    return &f->cause;
}

const struct addr *flow_peer(const struct flow *f)
{
    return &f->peer;
}

struct h2conn *flow_h2conn(const struct flow *f)
{
    return f->hc;
}

void *flow_arg(const struct flow *f)
{
    return f->arg;
}

struct flow *flow_next(const struct flow *f)
{
    return f->next;
}
