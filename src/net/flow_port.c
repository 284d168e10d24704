#include "net/flow_port.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/icmp.h"
#include "net/udp.h"

#include <assert.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define RETRY_MS                  1000
#define SETTLED_MS                2000 /* a client that goes on after so long is no single question */
#define NEW_PER_SECOND            2000
#define NEW_AT_ONCE               4000
#define BATCHES_A_TURN            8
#define V2_HEADER_MAX             52    /* addresses only */
#define DATAGRAM_MAX              65507 /* bytes of the largest over IPv4 */
#define DEFAULT(value, otherwise) ((value) ? (value) : (otherwise))

/* Which client: compared as bytes. */
struct key {
    uint8_t ip[16], local[16];
    uint32_t scope;
    uint32_t port;
};

struct client {
    struct flow_port *port;
    struct flow *flow; /* NULL: has none now, and until retry_ms gets none */
    struct key key;
    struct udp_path path;
    uint64_t first_ms, last_ms, retry_ms;
    bool is_answered; /* the target has sent something */
    bool is_in_order; /* ... and no error since */
    bool is_settled;  /* in `settled`, else in `fresh` */
    bool is_known;    /* in the table and a list; else only waits for its flow's end */
    uint8_t header_len;
    uint8_t header[V2_HEADER_MAX]; /* before each of its datagrams */
    struct client *prev, *next;
    UT_hash_handle hh;
};

struct flow_port {
    struct io io;
    struct flow_port_config cfg;
    struct udp_sender sender;
    uint64_t unsent_told;
    uint32_t lost_told;
    bool is_lost_known; /* it counts from when the socket was made */
    struct h2conn_batch at_end;
    struct client *table;
    struct client *fresh, *settled; /* least recently used first */
    uint32_t n_clients;
    uint32_t allowance; /* of new clients, now */
    uint64_t allowance_ms;
    bool is_refusing;
    uint16_t port; /* of the socket */
    struct timer sweep;
    struct defer again;
};

/* ---- clients ---- */

static void forget(struct client *c)
{
    struct flow_port *p = c->port;
    if (!c->is_known)
        return;
    c->is_known = false;
    if (c->is_settled)
        DL_DELETE(p->settled, c);
    else
        DL_DELETE(p->fresh, c);
    HASH_DEL(p->table, c);
    p->n_clients--;
    if (!c->flow)
        mem_free(c);
}

/* The client is not asked for again; its flow ends, and frees it. */
static void end_client(struct client *c)
{
    struct flow *f = c->flow;
    forget(c);
    if (f)
        flow_finish(f);
}

static uint64_t due(const struct flow_port *p, const struct client *c)
{
    uint32_t idle = p->cfg.idle_ms;
    return c->last_ms + (c->is_settled ? idle : MIN(idle, (uint32_t)FLOW_PORT_FRESH_MS));
}

static void plan_sweep(struct flow_port *p)
{
    uint64_t at = UINT64_MAX, now = loop_now_ms(p->cfg.loop);
    if (p->fresh)
        at = due(p, p->fresh);
    if (p->settled)
        at = MIN(at, due(p, p->settled));
    if (at != UINT64_MAX)
        timer_start(&p->sweep, at > now ? at - now : 0);
}

static void on_sweep(struct timer *t)
{
    struct flow_port *p = container_of(t, struct flow_port, sweep);
    uint64_t now = loop_now_ms(p->cfg.loop);
    while (p->fresh && due(p, p->fresh) <= now)
        end_client(p->fresh);
    while (p->settled && due(p, p->settled) <= now)
        end_client(p->settled);
    plan_sweep(p);
}

static void touch(struct client *c, bool is_from_client)
{
    struct flow_port *p = c->port;
    uint64_t now = loop_now_ms(p->cfg.loop);
    if (c->is_settled)
        DL_DELETE(p->settled, c);
    else
        DL_DELETE(p->fresh, c);
    c->last_ms = now;
    if (c->is_answered && is_from_client && now - c->first_ms >= SETTLED_MS)
        c->is_settled = true;
    if (c->is_settled)
        DL_APPEND(p->settled, c);
    else
        DL_APPEND(p->fresh, c);
}

/* ---- from the flows ---- */

static void flush(struct flow_port *p)
{
    udp_flush(&p->sender);
    flow_set_lost(p->cfg.set, p->sender.unsent - p->unsent_told);
    p->unsent_told = p->sender.unsent;
}

static void on_batch_end(struct h2conn_batch *b)
{
    flush(container_of(b, struct flow_port, at_end));
}

static void on_open(void *arg, struct flow *f)
{
    struct client *c = arg;
    struct flow_port *p = c->port;
    (void)f;
    if (p->cfg.ops->on_open)
        p->cfg.ops->on_open(p->cfg.arg, &c->path.peer);
}

/* Within the bandwidth; else it is dropped and counted. */
static bool passes(struct flow_port *p, bool is_out, size_t len)
{
    uint64_t now = loop_now_ms(p->cfg.loop);
    for (int i = 0; i < PACER_METERS; i++) {
        struct meter *m = p->cfg.meters[i];
        if (m && !bucket_pass(is_out ? &m->out : &m->in, len, now)) {
            flow_set_lost(p->cfg.set, 1);
            return false;
        }
    }
    return true;
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    struct client *c = arg;
    struct flow_port *p = c->port;
    if (!c->is_in_order && p->cfg.ops->on_answer)
        p->cfg.ops->on_answer(p->cfg.arg, &c->path.peer);
    c->is_answered = c->is_in_order = true;
    if (c->is_known)
        touch(c, false);
    if (!passes(p, true, len))
        return;
    udp_send(&p->sender, data, len, &c->path);
    if (is_kept)
        flush(p);
    else
        h2conn_at_batch_end(flow_h2conn(f), &p->at_end);
}

/* As far as this process may: to the client itself, as if there were no tunnel in between. */
static void report(const struct flow_port *p, const struct udp_path *path, int err)
{
    icmp_unreachable(path, p->port, err, loop_now_ms(p->cfg.loop));
}

static void on_error(void *arg, struct flow *f, int err)
{
    struct client *c = arg;
    struct flow_port *p = c->port;
    (void)f;
    c->is_in_order = false;
    report(p, &c->path, err);
    if (p->cfg.ops->on_error)
        p->cfg.ops->on_error(p->cfg.arg, &c->path.peer, err);
}

/* A client whose flow could not be opened stays known for a while: each of its datagrams would try
 * again. One whose flow was cut gets another with its next datagram. */
static void on_flow_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct client *c = arg;
    struct flow_port *p = c->port;
    if (udp_is_gathering(&p->sender))
        flush(p); /* it may hold the client's path */
    p->cfg.ops->on_end(p->cfg.arg, &c->path.peer, f, res);
    c->flow = NULL;
    if (res->end == FLOW_END_NOT_OPENED)
        report(p, &c->path, res->err);
    if (!c->is_known)
        mem_free(c);
    else if (res->end == FLOW_END_NOT_OPENED)
        c->retry_ms = loop_now_ms(p->cfg.loop) + RETRY_MS;
    else
        forget(c);
}

static const struct flow_ops client_ops = {
    .on_open = on_open, .on_datagram = on_datagram, .on_error = on_error, .on_end = on_flow_end};

/* ---- from the socket ---- */

static void make_key(const struct udp_datagram *d, struct key *ret)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    *ret = (struct key){.port = addr_port(&d->peer)};
    if (d->peer.sa.sa_family == AF_INET) {
        memcpy(ret->ip, mapped, sizeof(mapped));
        memcpy(ret->ip + sizeof(mapped), &d->peer.in4.sin_addr, 4);
    } else {
        memcpy(ret->ip, &d->peer.in6.sin6_addr, 16);
        ret->scope = d->peer.in6.sin6_scope_id;
    }
    memcpy(ret->local, d->local.ip, 16);
}

static bool may_be_new(struct flow_port *p)
{
    uint64_t now = loop_now_ms(p->cfg.loop);
    uint64_t more = (now - p->allowance_ms) * NEW_PER_SECOND / 1000;
    if (more) {
        p->allowance = (uint32_t)MIN(p->allowance + more, (uint64_t)NEW_AT_ONCE);
        p->allowance_ms = now;
    }
    if (p->is_refusing || p->allowance == 0)
        return false;
    p->allowance--;
    if (p->n_clients >= p->cfg.flows_max && p->fresh)
        end_client(p->fresh);
    return p->n_clients < p->cfg.flows_max;
}

static void make_header(struct client *c)
{
    struct flow_port *p = c->port;
    uint8_t header[PROXY_HEADER_OUT_MAX];
    struct addr bound = {.len = sizeof(bound.in6)}, here = {.len = sizeof(here.in6)};
    c->header_len = 0;
    if (p->cfg.proxy != PROXY_V2)
        return;
    getsockname(p->io.fd, &bound.sa, &bound.len);
    here.sa.sa_family = AF_INET6;
    memcpy(&here.in6.sin6_addr, c->path.local.ip, sizeof(c->path.local.ip));
    addr_set_port(&here, addr_port(&bound));
    bool is_known = !IN6_IS_ADDR_UNSPECIFIED(&here.in6.sin6_addr);
    c->header_len = (uint8_t)proxy_header_write(PROXY_V2, true, &c->path.peer,
                                                is_known ? &here : &bound, header);
    memcpy(c->header, header, c->header_len);
}

static void send_on(struct client *c, const struct udp_datagram *d)
{
    uint8_t whole[DATAGRAM_MAX];
    if (!c->header_len) {
        flow_send(c->flow, d->data, d->len);
        return;
    }
    if (c->header_len + d->len > sizeof(whole)) {
        flow_set_lost(c->port->cfg.set, 1);
        return;
    }
    memcpy(whole, c->header, c->header_len);
    memcpy(whole + c->header_len, d->data, d->len);
    flow_send(c->flow, whole, c->header_len + d->len);
}

static int open_flow(struct client *c)
{
    struct flow_port *p = c->port;
    int rc = p->cfg.ops->open(p->cfg.arg, &c->path.peer, &client_ops, c, &c->flow);
    make_header(c);
    if (rc < 0)
        c->retry_ms = loop_now_ms(p->cfg.loop) + RETRY_MS;
    return rc;
}

static struct client *add_client(struct flow_port *p, const struct key *key,
                                 const struct udp_datagram *d)
{
    if (!may_be_new(p))
        return NULL;
    struct client *c = NEW(struct client);
    c->port = p;
    c->key = *key;
    c->path = (struct udp_path){d->peer, d->local};
    c->first_ms = c->last_ms = loop_now_ms(p->cfg.loop);
    c->is_known = true;
    HASH_ADD(hh, p->table, key, sizeof(c->key), c);
    DL_APPEND(p->fresh, c);
    p->n_clients++;
    if (!timer_is_running(&p->sweep))
        plan_sweep(p);
    (void)open_flow(c);
    return c;
}

static void take(struct flow_port *p, const struct udp_datagram *d)
{
    struct key key;
    struct client *c;
    make_key(d, &key);
    HASH_FIND(hh, p->table, &key, sizeof(key), c);
    if (!c)
        c = add_client(p, &key, d);
    else if (!c->flow && loop_now_ms(p->cfg.loop) >= c->retry_ms)
        (void)open_flow(c);
    if (!c || !c->flow) {
        flow_set_lost(p->cfg.set, 1);
        if (p->is_refusing)
            report(p, &(struct udp_path){d->peer, d->local}, ERR_REFUSED);
        return;
    }
    touch(c, true);
    if (passes(p, false, d->len))
        send_on(c, d);
}

static void receive(struct flow_port *p)
{
    struct udp_datagram batch[UDP_BATCH];
    for (int i = 0; i < BATCHES_A_TURN && p->io.readable; i++) {
        uint32_t lost = p->lost_told;
        int n = udp_receive(p->io.fd, batch, &lost);
        if (n >= 0 && n < UDP_BATCH) /* it was emptied */
            p->io.readable = false;
        for (int k = 0; k < n; k++)
            take(p, &batch[k]);
        if (p->is_lost_known)
            flow_set_lost(p->cfg.set, lost - p->lost_told);
        p->is_lost_known |= n > 0;
        p->lost_told = lost;
    }
    if (p->io.readable)
        loop_defer(p->cfg.loop, &p->again);
}

static void on_event(struct io *io)
{
    receive(container_of(io, struct flow_port, io));
}

static void on_again(struct defer *d)
{
    receive(container_of(d, struct flow_port, again));
}

/* ---- life ---- */

static uint16_t port_of(int fd)
{
    struct addr a = {.len = sizeof(a.in6)};
    return getsockname(fd, &a.sa, &a.len) == 0 ? addr_port(&a) : 0;
}

int flow_port_new(const struct flow_port_config *cfg, struct flow_port **ret)
{
    struct flow_port *p = NEW(struct flow_port);
    p->cfg = *cfg;
    p->cfg.idle_ms = DEFAULT(cfg->idle_ms, (uint32_t)FLOW_PORT_IDLE_MS);
    p->cfg.flows_max = DEFAULT(cfg->flows_max, (uint32_t)FLOW_PORT_FLOWS_MAX);
    p->allowance = NEW_AT_ONCE;
    p->allowance_ms = loop_now_ms(cfg->loop);
    p->sender.fd = cfg->fd;
    p->port = port_of(cfg->fd);
    p->at_end.fn = on_batch_end;
    p->again.fn = on_again;
    timer_init(&p->sweep, cfg->loop, on_sweep);
    int rc = io_start_reading(&p->io, cfg->loop, cfg->fd, on_event);
    if (rc < 0) {
        mem_free(p);
        return rc;
    }
    *ret = p;
    return 0;
}

void flow_port_refuse_new(struct flow_port *p)
{
    p->is_refusing = true;
}

void flow_port_set_proxy(struct flow_port *p, enum proxy_version proxy)
{
    p->cfg.proxy = proxy;
}

void flow_port_set_idle(struct flow_port *p, uint32_t idle_ms)
{
    p->cfg.idle_ms = idle_ms;
    plan_sweep(p);
}

void flow_port_stop(struct flow_port *p)
{
    p->is_refusing = true;
    loop_defer_cancel(&p->again);
    if (p->io.loop)
        io_stop(&p->io);
    p->io.readable = false;
}

void flow_port_free(struct flow_port *p)
{
    if (!p)
        return;
    flow_port_stop(p);
    while (p->fresh) {
        assert(!p->fresh->flow);
        forget(p->fresh);
    }
    assert(!p->table && !p->settled);
    timer_stop(&p->sweep);
    h2conn_batch_cancel(&p->at_end);
    mem_free(p);
}

const struct addr *flow_port_client(const struct flow *f)
{
    const struct client *c = flow_arg(f);
    return &c->path.peer;
}
