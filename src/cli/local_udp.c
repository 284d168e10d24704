/*
 * Datagrams: a door whose clients' datagrams go to one target, and SOCKS associations, whose client
 * names the target with each (RFC 1928 section 7). Each client or target has a flow (net/flow.h).
 */
#include "cli/local.h"

#include "base/error.h"
#include "base/mem.h"
#include "net/flow_port.h"
#include "net/udp.h"
#include "wire/socks.h"

#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>

#define TARGETS_MAX 64 /* of one association */

static int open_flow(struct local *l, const struct host_port *target, const struct flow_ops *ops,
                     void *arg, struct flow **ret)
{
    struct flow_open_params p = {.target = target,
                                 .authority = uplink_hub(l->uplink),
                                 .set = &l->flows,
                                 .ops = ops,
                                 .arg = arg};
    struct h2conn *hc = uplink_pick(l->uplink);
    p.headers = uplink_headers(l->uplink, &p.n_headers);
    return hc && !l->is_stopping ? flow_open(hc, &p, ret) : ERR_UNAVAILABLE;
}

static void note_error(struct local *l, const struct host_port *target, int err)
{
    char text[LOCAL_TARGET_SIZE];
    host_port_format(target, text, sizeof(text));
    local_note(l, "%s (udp): %s", text, error_text(err));
}

/* ---- doors ---- */

struct local_port {
    struct flow_port *port;
};

static int open_for_client(void *arg, const struct addr *client, const struct flow_ops *ops,
                           void *flow_arg, struct flow **ret)
{
    struct local_door *d = arg;
    return open_flow(d->local, &d->target, ops, flow_arg, ret);
}

static void on_client_error(void *arg, const struct addr *client, int err)
{
    struct local_door *d = arg;
    note_error(d->local, &d->target, err);
}

static void on_client_end(void *arg, const struct addr *client, const struct flow *f,
                          const struct flow_result *res)
{
    struct local_door *d = arg;
    if (res->end == FLOW_END_NOT_OPENED && !d->local->is_stopping)
        note_error(d->local, &d->target, res->err);
}

int local_port_open(struct local_door *d)
{
    static const struct flow_port_ops ops = {
        .open = open_for_client, .on_error = on_client_error, .on_end = on_client_end};
    const struct flow_port_config cfg = {
        .loop = d->local->loop, .fd = d->fd, .set = &d->local->flows, .ops = &ops, .arg = d};
    struct local_port *p = NEW(struct local_port);
    int rc = flow_port_new(&cfg, &p->port);
    if (rc < 0)
        mem_free(p);
    else
        d->port = p;
    return rc;
}

void local_port_close(struct local_door *d)
{
    flow_port_free(d->port->port);
    mem_free(TAKE(d->port));
}

/* ---- associations ---- */

/* What one association sends to one target. */
struct local_path {
    struct local_associate *associate;
    struct host_port target;
    char key[LOCAL_TARGET_SIZE];
    struct flow *flow;
    uint64_t used_ms;
    UT_hash_handle hh;
};

struct local_associate {
    struct local *local;
    struct local_client *client; /* NULL: gone; lives until its last flow has ended */
    struct io io;
    struct addr peer; /* len 0: it has not sent yet; from its connection's address alone */
    struct local_path *paths;
    struct timer sweep;
};

static void free_if_over(struct local_associate *a)
{
    if (a->client || a->paths)
        return;
    timer_stop(&a->sweep);
    io_close(&a->io);
    mem_free(a);
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
    struct local_path *p = arg;
    struct local_associate *a = p->associate;
    uint8_t head[SOCKS_DATAGRAM_HEAD_MAX];
    struct iovec parts[] = {{head, socks_datagram_head(&p->target, head)}, {(void *)data, len}};
    const struct msghdr msg = {
        .msg_name = &a->peer.sa, .msg_namelen = a->peer.len, .msg_iov = parts, .msg_iovlen = 2};
    p->used_ms = loop_now_ms(a->local->loop);
    if (a->client)
        (void)!sendmsg(a->io.fd, &msg, MSG_NOSIGNAL); /* datagrams may be lost */
}

static void on_flow_error(void *arg, struct flow *f, int err)
{
    struct local_path *p = arg;
    note_error(p->associate->local, &p->target, err);
}

static void on_flow_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct local_path *p = arg;
    struct local_associate *a = p->associate;
    if (res->end == FLOW_END_NOT_OPENED && a->client)
        note_error(a->local, &p->target, res->err);
    HASH_DEL(a->paths, p);
    mem_free(p);
    free_if_over(a);
}

static const struct flow_ops flow_ops = {
    .on_datagram = on_datagram, .on_error = on_flow_error, .on_end = on_flow_end};

static struct local_path *find_path(struct local_associate *a, const struct host_port *target)
{
    char key[LOCAL_TARGET_SIZE];
    struct local_path *p;
    host_port_format(target, key, sizeof(key));
    HASH_FIND_STR(a->paths, key, p);
    if (p || HASH_COUNT(a->paths) >= TARGETS_MAX)
        return p;
    p = NEW(struct local_path);
    p->associate = a;
    p->target = *target;
    memcpy(p->key, key, sizeof(key));
    if (open_flow(a->local, target, &flow_ops, p, &p->flow) < 0) {
        mem_free(p);
        return NULL;
    }
    HASH_ADD_STR(a->paths, key, p);
    return p;
}

static void take_datagram(struct local_associate *a, const struct udp_datagram *d)
{
    struct host_port target;
    if (!addr_equal_ip(&d->peer, &a->client->peer))
        return;
    if (a->peer.len && addr_port(&a->peer) != addr_port(&d->peer))
        return;
    int head = socks_datagram_parse(d->data, d->len, &target);
    struct local_path *p = head > 0 && target.port ? find_path(a, &target) : NULL;
    if (!p)
        return;
    a->peer = d->peer;
    p->used_ms = loop_now_ms(a->local->loop);
    flow_send(p->flow, d->data + head, d->len - (size_t)head);
}

static void on_event(struct io *io)
{
    struct local_associate *a = container_of(io, struct local_associate, io);
    struct udp_datagram got[UDP_BATCH];
    int n;
    while (a->client && (n = udp_receive(io->fd, got, NULL)) > 0) {
        for (int i = 0; i < n; i++)
            take_datagram(a, &got[i]);
    }
}

static void on_sweep(struct timer *t)
{
    struct local_associate *a = container_of(t, struct local_associate, sweep);
    struct local_path *p, *next;
    uint64_t now = loop_now_ms(a->local->loop);
    HASH_ITER (hh, a->paths, p, next) {
        if (now - p->used_ms >= FLOW_PORT_IDLE_MS)
            flow_finish(p->flow);
    }
    timer_start(t, FLOW_PORT_IDLE_MS / 4);
}

int local_associate_new(struct local_client *c, struct addr *ret_bound)
{
    struct addr at = {.len = sizeof(at.in6)};
    int fd;
    if (getsockname(c->fd, &at.sa, &at.len) < 0)
        return ERR_IO;
    addr_set_port(&at, 0);
    TRY(udp_bind(&at, &fd, ret_bound, NULL));
    struct local_associate *a = NEW(struct local_associate);
    a->local = c->local;
    a->client = c;
    int rc = io_start_reading(&a->io, c->local->loop, fd, on_event);
    if (rc < 0) {
        close(fd);
        mem_free(a);
        return rc;
    }
    timer_init(&a->sweep, c->local->loop, on_sweep);
    timer_start(&a->sweep, FLOW_PORT_IDLE_MS / 4);
    c->associate = a;
    return 0;
}

void local_associate_end(struct local_client *c)
{
    struct local_associate *a = TAKE(c->associate);
    struct local_path *p, *next;
    a->client = NULL;
    HASH_ITER (hh, a->paths, p, next)
        flow_finish(p->flow);
    free_if_over(a);
}
