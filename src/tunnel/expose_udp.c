/*
 * The clients of a UDP tunnel: net/flow_port tells them apart, each has a flow to the agent, and
 * each flow is a record of the access log. A flow that is cut is opened anew by its client's next
 * datagram, over whatever connection of the pool then suits.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "net/flow_port.h"
#include "tunnel/expose_internal.h"

#define LINGER_MS 5000

struct exposure_udp {
    struct exposure *exposure;
    uint32_t idle_ms;
    struct flow_set flows; /* its counters are read by anyone */
    struct flow_port *port;
};

static const char *end_text(const struct exposure_udp *u, const struct flow_result *res)
{
    int reason = exposure_stop_reason(u->exposure);
    switch (res->end) {
    case FLOW_END_FINISHED:
        return "closed";
    case FLOW_END_IDLE:
        return "idle";
    case FLOW_END_NOT_OPENED:
        return "failed";
    case FLOW_END_STREAM_RESET:
        if (!reason)
            return "target_reset";
        /* fall through */
    default:
        return exposure_cut_text(reason);
    }
}

static struct exposure_record record_of(const struct flow *f)
{
    struct flow_traffic t;
    flow_traffic(f, &t);
    return (struct exposure_record){.client = *flow_port_client(f),
                                    .opened = t.opened,
                                    .bytes_in = t.bytes_read,
                                    .bytes_out = t.bytes_written,
                                    .error = t.error};
}

/* ---- what the port tells ---- */

/* A client over a limit: its datagrams are dropped until it may try again. */
static void refuse(struct exposure_udp *u, const struct addr *client, int err)
{
    int64_t now = time_wall_ms();
    if (exposure_shows_refusal(u->exposure, client, err))
        exposure_record(u->exposure,
                        &(struct exposure_record){
                            .client = *client, .opened = now, .end = "failed", .error = err});
}

static int open_flow(void *arg, const struct addr *client, const struct flow_ops *ops,
                     void *flow_arg, struct flow **ret)
{
    struct exposure_udp *u = arg;
    struct exposure *e = u->exposure;
    struct h2conn *hc = fleet_pool_pick(exposure_pool(e), POOL_DATAGRAMS, NULL);
    struct host_port target;
    size_t n_headers;
    if (!exposure_admits(e, client))
        return ERR_DENIED;
    if (!hc)
        return ERR_UNAVAILABLE;
    TRY(host_port_parse(e->authority, false, &target, NULL));
    const struct h2_header *headers = exposure_headers(e, &n_headers);
    const struct flow_open_params p = {.target = &target,
                                       .authority = e->authority,
                                       .headers = headers,
                                       .n_headers = n_headers,
                                       .set = &u->flows,
                                       .ops = ops,
                                       .arg = flow_arg};
    int rc = exposure_enter(e, client);
    if (rc < 0) {
        refuse(u, client, rc);
        return rc;
    }
    rc = flow_open(hc, &p, ret);
    if (rc < 0) {
        exposure_leave(e);
        return rc;
    }
    exposure_hold(e);
    return 0;
}

static void on_open(void *arg, const struct addr *client)
{
    struct exposure_udp *u = arg;
    exposure_flow_opened(u->exposure);
}

static void on_answer(void *arg, const struct addr *client)
{
    struct exposure_udp *u = arg;
    exposure_tell_target(u->exposure, 0);
}

static void on_error(void *arg, const struct addr *client, int err)
{
    struct exposure_udp *u = arg;
    if (exposure_tell_target(u->exposure, err))
        exposure_log_not_reached(u->exposure, client, err);
}

static void on_end(void *arg, const struct addr *client, const struct flow *f,
                   const struct flow_result *res)
{
    struct exposure_udp *u = arg;
    struct exposure_record r = record_of(f);
    if (res->end == FLOW_END_NOT_OPENED) {
        r.error = res->err;
        exposure_log_not_reached(u->exposure, client, res->err);
        exposure_flow_refused(u->exposure, res->err);
    }
    r.end = end_text(u, res);
    exposure_record(u->exposure, &r);
    exposure_leave(u->exposure);
    exposure_release(u->exposure);
}

static const struct flow_port_ops port_ops = {.open = open_flow,
                                              .on_open = on_open,
                                              .on_answer = on_answer,
                                              .on_error = on_error,
                                              .on_end = on_end};

/* ---- what expose.c asks for ---- */

struct exposure_udp *exposure_udp_new(struct exposure *e, uint32_t idle_ms)
{
    struct exposure_udp *u = NEW(struct exposure_udp);
    u->exposure = e;
    u->idle_ms = idle_ms;
    return u;
}

int exposure_udp_start(struct exposure_udp *u, int fd)
{
    const struct flow_port_config cfg = {.loop = u->exposure->worker,
                                         .fd = fd,
                                         .idle_ms = u->idle_ms,
                                         .set = &u->flows,
                                         .meters = {u->exposure->meters[0], u->exposure->meters[1]},
                                         .proxy = u->exposure->proxy,
                                         .ops = &port_ops,
                                         .arg = u};
    return flow_port_new(&cfg, &u->port);
}

void exposure_udp_set_proxy(struct exposure_udp *u, enum proxy_version proxy)
{
    if (u->port)
        flow_port_set_proxy(u->port, proxy);
}

void exposure_udp_refuse_new(struct exposure_udp *u)
{
    if (u->port)
        flow_port_refuse_new(u->port);
}

void exposure_udp_stop(struct exposure_udp *u, int err)
{
    if (u->port)
        flow_port_stop(u->port);
    if (err < 0)
        flow_set_abort(&u->flows, err);
}

void exposure_udp_linger(struct exposure_udp *u)
{
    if (u->port)
        flow_port_set_idle(u->port, LINGER_MS);
}

void exposure_udp_done(struct exposure_udp *u)
{
    flow_port_free(TAKE(u->port));
}

void exposure_udp_free(struct exposure_udp *u)
{
    mem_free(u);
}

static uint64_t load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void exposure_udp_traffic(const struct exposure_udp *u, struct tunnel_traffic *sum)
{
    const struct flow_set *s = &u->flows;
    sum->streams_open += exposure_udp_open(u);
    sum->streams_total += load(&s->total);
    sum->bytes_in += load(&s->bytes_read);
    sum->bytes_out += load(&s->bytes_written);
    sum->datagrams.in += load(&s->datagrams_read);
    sum->datagrams.out += load(&s->datagrams_written);
    sum->datagrams.dropped += load(&s->dropped);
}

uint32_t exposure_udp_open(const struct exposure_udp *u)
{
    return atomic_load_explicit(&u->flows.open, memory_order_relaxed);
}

size_t exposure_udp_list(const struct exposure_udp *u, struct exposure_record *ret, size_t room)
{
    size_t n = 0;
    for (const struct flow *f = u->flows.head; f && n < room; f = flow_next(f))
        ret[n++] = record_of(f);
    return n;
}
