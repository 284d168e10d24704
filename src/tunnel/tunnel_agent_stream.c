/*
 * The streams of an agent's leases: what the hub opens under one is dialled within the owner's
 * ceiling and relayed, a stream of bytes or one of datagrams.
 */
#include "tunnel/agent_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/echo_target.h"
#include "net/nameserver.h"
#include "wire/connect_udp.h"
#include "wire/proxy_status.h"

#include <string.h>
#include <utlist.h>

#define DIAL_DEADLINE_MS 10000

void held_free_when_idle(struct held *h)
{
    if (h->state == HELD_OVER && h->n_relays == 0)
        loop_defer(h->loop, &h->last_gone);
}

static void on_relay_open(void *arg, struct relay *r)
{
    struct held *h = arg;
    if (h->state != HELD_OVER)
        check_note(&h->tunnel->check, 0);
}

/* Who sweeps a network misses most of it, which is no news. */
static void stream_ended(struct held *h, int not_reached)
{
    if (not_reached && !h->is_any) {
        LOG_INFO("target not reached", LOG_STR("tunnel", h->id),
                 LOG_STR("error", proxy_status_token(not_reached)));
        if (h->state != HELD_OVER)
            check_note(&h->tunnel->check, not_reached);
    }
    h->n_relays--;
    held_free_when_idle(h);
}

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    stream_ended(arg, res->end == RELAY_END_NOT_OPENED ? res->err : 0);
}

static void on_flow_end(void *arg, const struct flow_result *res)
{
    stream_ended(arg, res->end == FLOW_END_NOT_OPENED ? res->err : 0);
}

void held_cut_streams(struct held *h)
{
    relay_set_abort(&h->relays, ERR_UNAVAILABLE);
    flow_set_abort(&h->flows, ERR_UNAVAILABLE);
    scan_set_abort(&h->scans);
}

/* What may be pinged in one stream. */
struct echo_permit {
    struct held *held;
    struct tunnel_ranges allow;
};

/* What an agent may not do is no trouble of a target. */
static void on_echo_end(void *arg, const struct flow_result *res)
{
    CLEANUP(mem_free) struct echo_permit *p = arg;
    stream_ended(p->held, 0);
}

/* Its client is at another hub, to which there is a shorter way. */
static void on_relay_busy(void *arg, struct relay *r)
{
    const struct held *h = arg;
    const char *tag = relay_tag(r);
    if (tag && (h->state == HELD_TAKEN || h->state == HELD_ASKED))
        session_want_shortcut(h->owner->session, tag);
}

static const struct relay_ops relay_callbacks = {.on_open = on_relay_open,
                                                 .on_bulk = on_relay_busy,
                                                 .on_busy = on_relay_busy,
                                                 .on_end = on_relay_end};

static bool is_allowed(const struct tunnel_agent *ta, const struct addr *a)
{
    for (size_t i = 0; i < ta->n_allow; i++) {
        if (addr_rule_match(&ta->allow[i], a))
            return true;
    }
    return ta->n_allow == 0;
}

int tunnel_agent_check(void *arg, const struct addr *a)
{
    return is_allowed(arg, a) ? 0 : ERR_DENIED;
}

/* The lease under which the hub may open a stream: of what came in while we slept past the end of
 * our leases nothing counts. */
static struct held *lease_for(struct tunnel_agent *ta, const char *tunnel, uint64_t epoch)
{
    const struct served *t = tunnel_agent_find(ta, tunnel);
    struct held *h = t ? tunnel_agent_find_lease(t, epoch) : NULL;
    bool is_late = loop_now_ms(ta->cfg.loop) - ta->renewed_ms > ta->lease_ms;
    if (h && h->state == HELD_LEFT) /* its end is the connection's */
        return h;
    return h && !is_late && (h->state == HELD_ASKED || h->state == HELD_TAKEN) ? h : NULL;
}

enum stream_kind { STREAM_TCP, STREAM_UDP, STREAM_SCAN };

/* What the hub asks for: CONNECT host:port, connect-udp with its path, or a scan. */
static int read_target(const struct h2_headers *h, enum stream_kind *kind, struct host_port *ret)
{
    const char *method = h2_headers_get(h, ":method"), *protocol = h2_headers_get(h, ":protocol");
    const char *authority = h2_headers_get(h, ":authority"), *path = h2_headers_get(h, ":path");
    *kind = !protocol                              ? STREAM_TCP
            : strcmp(protocol, SCAN_PROTOCOL) == 0 ? STREAM_SCAN
                                                   : STREAM_UDP;
    if (!method || strcmp(method, "CONNECT") != 0)
        return ERR_PROTO;
    if (!protocol)
        return authority ? host_port_parse(authority, false, ret, NULL) : ERR_PROTO;
    if (*kind == STREAM_SCAN)
        return 0;
    if (strcmp(protocol, "connect-udp") != 0 || !path)
        return ERR_UNSUPPORTED;
    return connect_udp_parse(path, ret, NULL);
}

/* The one name that is ours: the machine's own name server. It is under the ceiling like any
 * target. */
static int find_resolver(struct host_port *target)
{
    return strcmp(target->host, TUNNEL_RESOLVER) == 0 ? nameserver_find(target) : 0;
}

static void accept_stream(struct held *held, struct h2_stream *s, const struct host_port *target,
                          const struct h2_headers *h)
{
    const struct relay_accept_params p = {.target = *target,
                                          .deadline_ms = DIAL_DEADLINE_MS,
                                          .ttl = relay_read_ttl(h),
                                          .wants_cause = held->is_any,
                                          .check = tunnel_agent_check,
                                          .check_arg = held->owner,
                                          .gate = held->owner->gate,
                                          .tag = h2_headers_get(h, RELAY_SHORTCUT),
                                          .tags = &held->owner->tags,
                                          .set = &held->relays,
                                          .ops = &relay_callbacks,
                                          .arg = held};
    held->n_relays++;
    if (!relay_accept(s, &p))
        held->n_relays--;
}

static void ignore_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len,
                            bool is_kept)
{
}

static void on_lease_flow_end(void *arg, struct flow *f, const struct flow_result *res)
{
    stream_ended(arg, 0);
}

static void accept_lease_flow(struct held *held, struct h2_stream *s)
{
    static const struct flow_ops ops = {.on_datagram = ignore_datagram,
                                        .on_end = on_lease_flow_end};
    static const struct addr nowhere;
    held->n_relays++;
    flow_answer(flow_accept(s, &held->flows, &ops, held), 0, NULL, &nowhere);
}

static void accept_flow(struct held *held, struct h2_stream *s, const struct host_port *target)
{
    const struct flow_target_params p = {.target = *target,
                                         .deadline_ms = DIAL_DEADLINE_MS,
                                         .check = tunnel_agent_check,
                                         .check_arg = held->owner,
                                         .gate = held->owner->gate,
                                         .devices = held->owner->devices,
                                         .set = &held->flows,
                                         .on_end = on_flow_end,
                                         .arg = held};
    held->n_relays++;
    flow_target_accept(s, &p);
}

static int check_echo(void *arg, const struct addr *a)
{
    const struct echo_permit *p = arg;
    return tunnel_ranges_permit_addr(&p->allow, a) ? tunnel_agent_check(p->held->owner, a)
                                                   : ERR_DENIED;
}

static void accept_echo(struct held *held, struct h2_stream *s, const char *allow)
{
    struct tunnel_ranges ranges = {0};
    if (allow && tunnel_ranges_read(allow, &ranges) < 0) {
        relay_refuse(s, ERR_PROTO);
        return;
    }
    struct echo_permit *permit = NEW(struct echo_permit);
    *permit = (struct echo_permit){held, ranges};
    const struct echo_target_params p = {.check = check_echo,
                                         .check_arg = permit,
                                         .gate = held->owner->gate,
                                         .set = &held->flows,
                                         .on_end = on_echo_end,
                                         .arg = permit};
    held->n_relays++;
    echo_target_accept(s, &p);
}

static void on_scan_end(void *arg)
{
    stream_ended(arg, 0);
}

static size_t count_scans(const struct tunnel_agent *ta)
{
    const struct held *h;
    size_t n = 0;
    DL_FOREACH2 (ta->leases, h, more)
        n += h->scans.n;
    DL_FOREACH2 (ta->left, h, more)
        n += h->scans.n;
    return n;
}

/* Only under a lease of the whole network. */
static void accept_scan(struct held *held, struct h2_stream *s)
{
    const struct scan_stream_params p = {.loop = held->loop,
                                         .gate = held->owner->gate,
                                         .check = tunnel_agent_check,
                                         .check_arg = held->owner,
                                         .set = &held->scans,
                                         .on_end = on_scan_end,
                                         .arg = held};
    if (!held->is_any) {
        relay_refuse(s, ERR_DENIED);
        return;
    }
    if (count_scans(held->owner) >= SCAN_STREAMS_MAX) {
        relay_refuse(s, ERR_LIMIT);
        return;
    }
    held->n_relays++;
    scan_stream_accept(s, &p);
}

void tunnel_agent_on_request(struct tunnel_agent *ta, struct h2_stream *s,
                             const struct h2_headers *h)
{
    const char *tunnel = h2_headers_get(h, "warren-tunnel");
    const char *lease = h2_headers_get(h, "warren-lease");
    struct host_port target = {0};
    enum stream_kind kind;
    uint64_t epoch;
    if (!tunnel || !lease || text_to_u64(lease, UINT64_MAX, &epoch) < 0 ||
        read_target(h, &kind, &target) < 0) {
        relay_refuse(s, ERR_PROTO);
        return;
    }
    struct held *held = lease_for(ta, tunnel, epoch);
    if (!held) {
        LOG_WARN("stream refused: not our lease", LOG_STR("tunnel", tunnel),
                 LOG_INT("epoch", epoch));
        relay_refuse(s, ERR_STALE);
        return;
    }
    if (kind == STREAM_SCAN)
        accept_scan(held, s);
    else if (kind == STREAM_UDP && strcmp(target.host, TUNNEL_LEASE) == 0)
        accept_lease_flow(held, s);
    else if (kind == STREAM_UDP && strcmp(target.host, TUNNEL_ECHO) == 0)
        accept_echo(held, s, h2_headers_get(h, TUNNEL_ALLOW));
    else if (find_resolver(&target) < 0)
        relay_refuse(s, ERR_DNS);
    else if (kind == STREAM_UDP)
        accept_flow(held, s, &target);
    else
        accept_stream(held, s, &target, h);
}

void tunnel_agent_on_shortcut(struct tunnel_agent *ta, struct h2_stream *s,
                              const struct h2_headers *h)
{
    int rc = relay_accept_shortcut(s, &ta->tags, h);
    if (rc < 0)
        relay_refuse(s, rc);
}

static void cut_denied(const struct tunnel_agent *ta, struct held *h)
{
    struct relay *r, *next;
    for (r = h->relays.head; r; r = next) {
        next = relay_next(r);
        if (relay_peer(r)->len && !is_allowed(ta, relay_peer(r)))
            relay_abort(r, ERR_DENIED);
    }
    for (struct flow *f = h->flows.head; f; f = flow_next(f)) {
        if (flow_peer(f)->len && !is_allowed(ta, flow_peer(f)))
            flow_abort(f, ERR_DENIED);
    }
}

void tunnel_agent_set_allow(struct tunnel_agent *ta, const struct addr_rule *allow, size_t n)
{
    struct held *h;
    mem_free(ta->allow);
    ta->allow = mem_dup(allow, n * sizeof(*allow));
    ta->n_allow = n;
    DL_FOREACH2 (ta->leases, h, more)
        cut_denied(ta, h);
    DL_FOREACH2 (ta->left, h, more)
        cut_denied(ta, h);
}

size_t tunnel_agent_streams(const struct tunnel_agent *ta)
{
    const struct held *h;
    size_t n = 0;
    DL_FOREACH2 (ta->leases, h, more)
        n += h->n_relays;
    DL_FOREACH2 (ta->left, h, more)
        n += h->n_relays;
    return n;
}
