/*
 * UDP flows, one for each pair of ends, each a connect-udp stream. A datagram that comes back as an
 * ICMP error is told to the program as one, about its last datagram.
 *
 * A flow ends when it is idle: after 30 s while it looks like a question without an answer, after
 * 180 s once it is a conversation. At the limit the one that was idle longest gives way.
 */
#include "mount/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <utlist.h>

#define FLOWS_MAX       4096
#define QUESTION_MS     30000
#define CONVERSATION_MS 180000
#define CONVERSATION    3 /* datagrams of the program */
#define SWEEP_MS        1000
#define USUAL_TTL       64

static void unlist(struct mount_udp *u)
{
    struct mount *m = u->mount;
    if (!u->is_listed)
        return;
    u->is_listed = false;
    DL_DELETE(m->udp_idle, u);
    HASH_DEL(m->udp, u);
}

/* on_end follows; a further datagram of the program opens another flow. */
static void finish(struct mount_udp *u)
{
    unlist(u);
    flow_finish(u->flow);
}

/* ---- the stream ---- */

void mount_udp_give(struct mount_udp *u, const uint8_t *data, size_t len)
{
    uint8_t headers[PACKET_HEADER_MAX];
    struct tun_offload o = {.sum_offset = 6};
    bool is_v4 = packet_is_v4(u->ends.near);
    if (len > (size_t)PACKET_MAX - 8 - (is_v4 ? 20 : 0))
        return;
    o.header_len = packet_put_udp(headers, &u->ends, 0, len, &o.sum_at);
    tun_write(&u->mount->tun, &o, headers, &(struct iovec){(void *)data, len}, 1);
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    mount_ahead_response(arg, data, len);
    mount_udp_give(arg, data, len);
}

static void on_ahead(void *arg, struct flow *f, enum capsule_kind kind, const uint8_t *value,
                     size_t len)
{
    if (kind == CAPSULE_AHEAD)
        mount_ahead_push(arg, value, len);
}

static void on_error(void *arg, struct flow *f, int err)
{
    struct mount_udp *u = arg;
    mount_tell_error(u->mount, u->quote, err, flow_cause(f));
}

static void on_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct mount_udp *u = arg;
    struct mount *m = u->mount;
    if (res->end == FLOW_END_NOT_OPENED)
        mount_tell_error(m, u->quote, res->err, flow_cause(f));
    unlist(u);
    mount_ahead_end(u);
    mem_free(u);
    mount_free_if_over(m);
}

static const struct flow_ops flow_callbacks = {
    .on_datagram = on_datagram, .on_error = on_error, .on_ahead = on_ahead, .on_end = on_end};

/* ---- the program ---- */

static int open_flow(struct mount_udp *u)
{
    const struct mount_uplink *up = &u->mount->uplink;
    struct h2conn *hc = up->conn(up->arg);
    char target[AUTHORITY_SIZE];
    struct host_port to;
    mount_format_target(&u->ends, target);
    TRY(host_port_parse(target, false, &to, NULL));
    if (!hc || h2conn_is_ending(hc))
        return ERR_UNAVAILABLE;
    const struct flow_open_params params = {.target = &to,
                                            .authority = up->authority,
                                            .headers = up->headers,
                                            .n_headers = up->n_headers,
                                            .set = &u->mount->udp_set,
                                            .ops = &flow_callbacks,
                                            .arg = u};
    return flow_open(hc, &params, &u->flow);
}

static struct mount_udp *udp_new(struct mount *m, const struct packet *p)
{
    if (HASH_COUNT(m->udp) >= FLOWS_MAX)
        finish(m->udp_idle);
    struct mount_udp *u = NEW(struct mount_udp);
    u->mount = m;
    u->ends = p->ends;
    if (open_flow(u) < 0) {
        mem_free(u);
        return NULL;
    }
    u->is_listed = true;
    HASH_ADD(hh, m->udp, ends, sizeof(u->ends), u);
    DL_APPEND(m->udp_idle, u);
    m->stats.flows_total++;
    if (!timer_is_running(&m->udp_timer))
        timer_start(&m->udp_timer, SWEEP_MS);
    return u;
}

void mount_udp_input(struct mount *m, const struct packet *p)
{
    struct mount_udp *u;
    HASH_FIND(hh, m->udp, &p->ends, sizeof(p->ends), u);
    if (!u)
        u = udp_new(m, p);
    if (!u)
        return;
    u->used_ms = loop_now_ms(m->loop);
    u->sent++;
    DL_DELETE(m->udp_idle, u);
    DL_APPEND(m->udp_idle, u);
    mount_quote(u->quote, p);
    const struct capsule_mark mark = {p->ttl == USUAL_TTL ? 0 : p->ttl, p->tos};
    bool is_marked = mark.ttl || mark.tos; /* what comes back may be about the way there */
    if (is_marked)
        mount_ahead_bypass(u);
    if (is_marked || !mount_ahead_request(u, p->payload, p->payload_len))
        flow_send_marked(u->flow, p->payload, p->payload_len, &mark);
}

/* ---- time ---- */

static void on_sweep(struct timer *t)
{
    struct mount *m = container_of(t, struct mount, udp_timer);
    uint64_t now = loop_now_ms(m->loop);
    struct mount_udp *u, *next;
    DL_FOREACH_SAFE (m->udp_idle, u, next) {
        uint64_t idle = now - u->used_ms;
        mount_ahead_expire(u);
        if (idle < QUESTION_MS)
            continue;
        if (u->sent < CONVERSATION || idle >= CONVERSATION_MS)
            finish(u);
    }
    if (m->udp)
        timer_start(t, SWEEP_MS);
}

void mount_udp_init(struct mount *m)
{
    timer_init(&m->udp_timer, m->loop, on_sweep);
}

void mount_udp_stop(struct mount *m)
{
    timer_stop(&m->udp_timer);
    flow_set_abort(&m->udp_set, ERR_CANCELED);
}
