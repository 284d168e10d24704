/*
 * ICMP: echo requests of the program, of which the agent makes its own. All of a mount go in one
 * stream, as records (wire/echo.h) of a flow to MOUNT_ECHO_TARGET; what came back for one is told
 * with the number and identifier that the program gave it. Other messages of ICMP are not answered.
 *
 * The last ASKED_MAX echoes are remembered; an answer to an older one is dropped. An agent that may
 * not send echoes says so once, and the mount to whoever runs it: the program hears nothing.
 */
#include "mount/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "wire/echo.h"

#include <assert.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <string.h>

#define ASKED_MAX 4096
#define IDLE_MS   60000
#define RETRY_MS  10000 /* after an agent that does not do this */
#define USUAL_TTL 64

struct echo_asked {
    bool is_used;
    uint32_t cookie;
    uint16_t id, seq;
    struct packet_ends ends;
    uint8_t quote[QUOTE_SIZE];
};

static_assert(UINT32_MAX % ASKED_MAX == ASKED_MAX - 1, "numbers and places run on together");

/* ---- what came back ---- */

static void on_reply(struct mount *m, const struct echo_asked *a, const struct echo_record *r)
{
    uint8_t headers[PACKET_HEADER_MAX];
    struct packet_ends ends = a->ends;
    struct tun_offload o = {0};
    memcpy(ends.far, r->address, sizeof(ends.far));
    o.header_len = packet_put_echo_reply(headers, &ends, r->ttl, a->id, a->seq, r->data, r->len);
    tun_write(&m->tun, &o, headers, &(struct iovec){(void *)r->data, r->len}, 1);
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    struct mount *m = arg;
    struct echo_record r;
    if (echo_record_parse(data, len, &r) < 0)
        return;
    const struct echo_asked *a = &m->echo.asked[r.cookie % ASKED_MAX];
    bool is_v4 = packet_is_v4(a->ends.far);
    if (!a->is_used || a->cookie != r.cookie || r.version != (is_v4 ? 4 : 6))
        return;
    struct icmp_cause cause = {.version = r.version, .type = r.type, .code = r.code};
    memcpy(cause.from, r.address, sizeof(cause.from));
    if (r.kind == ECHO_ERROR)
        mount_tell_cause(m, a->quote, &cause);
    else if (r.kind == ECHO_REPLY && packet_is_v4(r.address) == is_v4)
        on_reply(m, a, &r);
}

/* It will say the same again for a while. */
static void note_refusal(struct mount *m, int err)
{
    const char *text = NULL;
    if (err == ERR_DENIED)
        text = "pings are not answered: the agent may not send them (there, permit its group in "
               "net.ipv4.ping_group_range, or give it CAP_NET_RAW)";
    if (err == ERR_DNS)
        text = "pings are not answered: the agent is too old for them";
    if (!text)
        return;
    m->echo.retry_ms = loop_now_ms(m->loop) + RETRY_MS;
    if (m->uplink.note)
        m->uplink.note(m->uplink.arg, text);
}

static void on_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct mount *m = arg;
    struct mount_echo *e = &m->echo;
    timer_stop(&e->timer);
    e->flow = NULL;
    mem_free(TAKE(e->asked));
    if (res->end == FLOW_END_NOT_OPENED)
        note_refusal(m, res->err);
    mount_free_if_over(m);
}

static const struct flow_ops flow_callbacks = {.on_datagram = on_datagram, .on_end = on_end};

/* ---- the program ---- */

static int open_flow(struct mount *m)
{
    const struct mount_uplink *up = &m->uplink;
    struct h2conn *hc = up->conn(up->arg);
    struct host_port to;
    TRY(host_port_parse(MOUNT_ECHO_TARGET, false, &to, NULL));
    if (!hc || h2conn_is_ending(hc) || loop_now_ms(m->loop) < m->echo.retry_ms)
        return ERR_UNAVAILABLE;
    const struct flow_open_params params = {.target = &to,
                                            .authority = up->authority,
                                            .headers = up->headers,
                                            .n_headers = up->n_headers,
                                            .set = &m->udp_set,
                                            .ops = &flow_callbacks,
                                            .arg = m};
    TRY(flow_open(hc, &params, &m->echo.flow));
    m->echo.asked = mem_new(ASKED_MAX * sizeof(*m->echo.asked));
    timer_start(&m->echo.timer, IDLE_MS);
    return 0;
}

static void ask(struct mount *m, const struct packet *p)
{
    struct mount_echo *e = &m->echo;
    uint8_t record[ECHO_HEAD_MAX + ECHO_DATA_MAX];
    uint32_t cookie = e->next++;
    struct echo_asked *a = &e->asked[cookie % ASKED_MAX];
    *a = (struct echo_asked){
        .is_used = true, .cookie = cookie, .id = p->icmp.id, .seq = p->icmp.seq, .ends = p->ends};
    mount_quote(a->quote, p);
    struct echo_record r = {.kind = ECHO_REQUEST,
                            .version = p->is_v6 ? 6 : 4,
                            .ttl = p->ttl == USUAL_TTL ? 0 : p->ttl,
                            .tos = p->tos,
                            .cookie = cookie,
                            .len = p->payload_len};
    memcpy(r.address, p->ends.far, sizeof(r.address));
    size_t n = echo_record_head(record, &r);
    if (n + r.len > CAPSULE_PAYLOAD_MAX)
        return;
    memcpy(record + n, p->payload, p->payload_len);
    flow_send(e->flow, record, n + p->payload_len);
    e->used_ms = loop_now_ms(m->loop);
}

void mount_icmp_input(struct mount *m, const struct packet *p)
{
    bool is_echo = p->icmp.code == 0 &&
                   p->icmp.type == (p->is_v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO) &&
                   p->protocol == (p->is_v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    if (!is_echo || p->payload_len > ECHO_DATA_MAX) {
        m->stats.packets_ignored++;
        return;
    }
    if (m->echo.flow || open_flow(m) == 0)
        ask(m, p);
}

/* ---- time ---- */

static void on_timer(struct timer *t)
{
    struct mount *m = container_of(t, struct mount, echo.timer);
    uint64_t idle = loop_now_ms(m->loop) - m->echo.used_ms;
    if (idle >= IDLE_MS)
        flow_finish(m->echo.flow);
    else
        timer_start(t, IDLE_MS - idle);
}

void mount_icmp_init(struct mount *m)
{
    timer_init(&m->echo.timer, m->loop, on_timer);
}

void mount_icmp_stop(struct mount *m)
{
    timer_stop(&m->echo.timer);
}
