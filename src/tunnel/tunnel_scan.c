/*
 * POST /api/v1/networks/{network}/scans: an agent of the network looks through ranges of addresses
 * by itself, and what it finds is the answer, a stream of server-sent events. Main loop.
 *
 *     request ─► judged, written to the audit ─► demand: a tunnel to the whole network serves
 *             ─► stream to the agent (src/scan/scan_stream.h) ─► "host", "progress"…, "end"
 *
 * One end of a local socket is ours, the other a client of the exposure, so that a scan is in the
 * counters, and cut with its lease, like any stream. A client that leaves ends it.
 */
#include "tunnel/internal.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/mem.h"
#include "http/rest.h"
#include "loop/io.h"
#include "scan/scan_request.h"
#include "scan/scan_stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#define PER_TENANT_MAX 8            /* scans at once */
#define UNSENT_MAX     (256u << 10) /* events that wait for the client, bytes: then we wait, too */
#define READ_BYTES     (32u << 10)
#define DETAIL_SIZE    400

struct tunnel_scan {
    struct tunnels *tunnels;
    struct identity_caller by;
    struct tunnel_demand demand;
    struct http_request *req; /* NULL: answered, `sse` is what became of it */
    struct http_sse *sse;
    struct exposure_dial *dial;
    struct io io;
    struct defer go_on;
    struct buf ask, in;
    char network[ID_SIZE], detail[DETAIL_SIZE];
    bool is_open;  /* the agent has taken the stream */
    bool is_told;  /* "end" has gone out */
    int ended_err; /* 1: the agent's side goes on */
    struct tunnel_scan *prev, *next;
};

/* ---- its end ---- */

static void scan_free(struct tunnel_scan *s, int err)
{
    tunnel_demand_cancel(&s->demand);
    loop_defer_cancel(&s->go_on);
    if (s->dial)
        exposure_dial_done(s->dial, err);
    io_close(&s->io);
    if (s->sse)
        http_sse_end(s->sse);
    if (s->ask.data)
        explicit_bzero(s->ask.data, s->ask.cap);
    buf_done(&s->ask);
    buf_done(&s->in);
    DL_DELETE(s->tunnels->scans, s);
    mem_free(s);
}

static void refuse(struct tunnel_scan *s, int err, const char *text)
{
    http_respond_error(TAKE(s->req), err, "%s", text);
    scan_free(s, err);
}

static void on_client_gone(void *arg)
{
    scan_free(arg, ERR_CANCELED);
}

/* ---- results ---- */

static void send_event(struct tunnel_scan *s, const char *type, json_t *o)
{
    CLEANUP(mem_free) char *text = json_dumps(o, JSON_COMPACT);
    s->is_told |= strcmp(type, "end") == 0;
    (void)http_sse_send(s->sse, NULL, type, text);
}

/* What an agent says is checked as far as to be JSON of one of the three kinds. */
static void take_line(struct tunnel_scan *s, const char *line, size_t len)
{
    static const char *const types[] = {"host", "progress", "end"};
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    const char *type = json_string_value(json_object_get(o, "type"));
    for (size_t i = 0; type && i < ARRAY_SIZE(types); i++) {
        if (strcmp(type, types[i]) != 0)
            continue;
        json_object_del(o, "type");
        send_event(s, types[i], o);
        break;
    }
    json_decref(o);
}

static int take_lines(struct tunnel_scan *s)
{
    const char *end;
    while (s->in.len && (end = memchr(s->in.data, '\n', s->in.len))) {
        size_t len = (size_t)(end - s->in.data);
        take_line(s, s->in.data, len);
        buf_consume(&s->in, len + 1);
    }
    return s->in.len < SCAN_LINE_MAX ? 0 : ERR_TOO_LARGE;
}

static void finish(struct tunnel_scan *s, int err)
{
    char text[160];
    if (!s->is_told) {
        snprintf(text, sizeof(text), "the scan was cut short: %s",
                 error_text(err ? err : ERR_CLOSED));
        json_t *o = json_pack("{s:s}", "error", text);
        send_event(s, "end", o);
        json_decref(o);
    }
    scan_free(s, err);
}

/* 1: something was read; 0: nothing more now; else the end. */
static int read_some(struct tunnel_scan *s)
{
    (void)buf_reserve(&s->in, READ_BYTES);
    ssize_t n = recv(s->io.fd, s->in.data + s->in.len, READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        s->io.readable = false;
        return 0;
    }
    if (n <= 0)
        return ERR_CLOSED;
    s->in.len += (size_t)n;
    return take_lines(s) < 0 ? ERR_TOO_LARGE : 1;
}

static void on_go_on(struct defer *d)
{
    struct tunnel_scan *s = container_of(d, struct tunnel_scan, go_on);
    if (!s->is_open)
        return;
    if (s->ask.len && s->io.writable) {
        ssize_t n = send(s->io.fd, s->ask.data, s->ask.len, MSG_NOSIGNAL);
        if (n > 0)
            buf_consume(&s->ask, (size_t)n);
        s->io.writable = false;
    }
    while (s->io.readable && http_sse_waiting(s->sse) < UNSENT_MAX) {
        int rc = read_some(s);
        if (rc == ERR_CLOSED && s->ended_err == 1)
            return; /* on_dial_end comes, and says why */
        if (rc < 0) {
            finish(s, rc == ERR_CLOSED ? s->ended_err : rc);
            return;
        }
    }
}

static void wake(struct tunnel_scan *s)
{
    loop_defer(s->tunnels->loop, &s->go_on);
}

static void on_event(struct io *io)
{
    wake(container_of(io, struct tunnel_scan, io));
}

static void on_room(void *arg)
{
    wake(arg);
}

/* ---- the stream ---- */

static void on_dial_open(void *arg)
{
    struct tunnel_scan *s = arg;
    s->is_open = true;
    s->sse = http_sse_start(TAKE(s->req), on_client_gone, s);
    http_sse_on_room(s->sse, on_room);
    wake(s);
}

static void on_dial_end(void *arg, int err)
{
    struct tunnel_scan *s = arg;
    s->ended_err = err;
    if (s->is_open) {
        s->io.readable = true;
        wake(s);
    } else if (err == ERR_UNSUPPORTED || err == ERR_PROTO || err == ERR_INVALID) {
        refuse(s, ERR_UNSUPPORTED, "the network's agent is of a version that cannot scan");
    } else if (err == ERR_LIMIT) {
        refuse(s, ERR_RATE, "the network's agent has as many scans under way as it can");
    } else {
        refuse(s, ERR_UNAVAILABLE, "the network's agent did not take the scan");
    }
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_dial_open, .on_end = on_dial_end};

static void on_ready(struct tunnel_demand *d, struct tunnel_object *o)
{
    struct tunnel_scan *s = container_of(d, struct tunnel_scan, demand);
    struct exposure_goal goal;
    int fds[2];
    tunnel_demand_goal(d, &goal);
    goal.protocol = SCAN_PROTOCOL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
        refuse(s, ERR_UNAVAILABLE, "the hub is out of descriptors");
        return;
    }
    int rc = io_start(&s->io, s->tunnels->loop, fds[0], on_event);
    if (rc == 0)
        rc = tunnel_dial(o, &goal, fds[1], http_peer(s->req), &dial_ops, s, &s->dial);
    if (rc == 0)
        return;
    close(fds[1]);
    refuse(s, rc, "no agent takes the scan");
}

static void on_fail(struct tunnel_demand *d, int err, const char *text)
{
    refuse(container_of(d, struct tunnel_scan, demand), err, text);
}

static const struct tunnel_demand_ops demand_ops = {.on_ready = on_ready, .on_fail = on_fail};

/* ---- the request ---- */

static int write_audit(struct tx *tx, void *arg)
{
    const struct tunnel_scan *s = arg;
    return identity_audit_act(tx, &s->by, "network.scan", s->network, s->detail);
}

static void written(void *arg, int err)
{
    struct tunnel_scan *s = arg;
    if (err < 0) {
        refuse(s, err, "the audit could not be written");
        return;
    }
    if (http_request_is_gone(s->req)) {
        refuse(s, ERR_CLOSED, "the client has gone");
        return;
    }
    s->demand.ops = &demand_ops;
    s->demand.by = s->by;
    s->demand.wants_all = true;
    s->demand.protocol = TUNNEL_TCP;
    s->demand.target = (struct host_port){"scan.agent", 1};
    snprintf(s->demand.network, sizeof(s->demand.network), "%s", s->network);
    tunnel_demand_start(s->tunnels, &s->demand);
}

static size_t count_of(const struct tunnels *ts, const char *tenant)
{
    size_t n = 0;
    for (const struct tunnel_scan *s = ts->scans; s; s = s->next)
        n += strcmp(s->by.tenant, tenant) == 0;
    return n;
}

/* The network and what to scan; or the diag. */
static int read_request(struct tunnels *ts, struct http_request *req, struct tunnel_scan *s,
                        struct diag *d)
{
    CLEANUP(mem_free) struct scan_request *what = NEW(struct scan_request);
    const char *ref = http_param(req, "network");
    struct fleet_network *n = fleet_network_lookup(ts->fleet, s->by.tenant, ref);
    json_t *body;
    if (!n)
        return diag_set(d, ERR_NOT_FOUND, "there is no network '%.64s'", ref);
    TRY(rest_body(req, &body, d));
    TRY(scan_request_read(body, what, d));
    if (count_of(ts, s->by.tenant) >= PER_TENANT_MAX)
        return diag_set(d, ERR_RATE, "the tenant has %d scans under way", PER_TENANT_MAX);
    CLEANUP(mem_free) char *text = json_dumps(body, JSON_COMPACT);
    buf_printf(&s->ask, "%s\n", text);
    explicit_bzero(text, strlen(text));
    snprintf(s->network, sizeof(s->network), "%s", n->id);
    scan_request_describe(what, s->detail, sizeof(s->detail));
    return 0;
}

static void start_scan(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct tunnel_scan *s = NEW(struct tunnel_scan);
    struct diag d = {0};
    s->tunnels = ts;
    s->by = *identity_caller(req);
    s->io.fd = -1;
    s->ended_err = 1;
    s->go_on.fn = on_go_on;
    if (read_request(ts, req, s, &d) < 0) {
        http_respond_diag(req, &d);
        mem_free(s);
        return;
    }
    s->req = req;
    DL_APPEND(ts->scans, s);
    store_run(ts->store, STORE_WRITE, write_audit, written, s);
}

static const struct http_route routes[] = {
    {"POST", "/api/v1/networks/{network}/scans", HTTP_OPERATOR, SCAN_BODY_MAX, start_scan,
     "Has an agent look through ranges of addresses"},
};

void tunnels_serve_scans(struct tunnels *ts, struct http_server *http)
{
    http_server_add(http, routes, ARRAY_SIZE(routes), ts);
}
