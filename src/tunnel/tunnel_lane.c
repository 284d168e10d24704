/*
 * A stream is shared by two threads. What it needs of the main loop, and how it goes on:
 *
 *   lane: request ─ relay_await ─► main: judged, then a tunnel demanded
 *   lane: relay_begin ◄─────────── main: it serves: tunnel_dial_by_lane
 *   lane: relay_confirm ◄───────── main: the target is reached
 *   lane: relay_fail ◄──────────── main: ... or is not
 *   lane: relay_other_ended ◄───── main: how the far side ended
 *   lane: the relay has ended ───► main: exposure_dial_done, nothing is posted any more
 *
 * The stream's own reference is the lane's until the relay has ended, then the message's that says
 * so; each other message carries one.
 */
#include "tunnel/tunnel_lane.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet/link.h"
#include "net/h2conn.h"
#include "net/relay.h"
#include "peer/peers.h"
#include "scan/scan_stream.h"
#include "tunnel/tunnel_forward.h"
#include "tunnel/tunnel_proxy.h"
#include "wire/connect_udp.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#define STREAMS_MAX     4096 /* of one connection; a mount that is swept has thousands of dials */
#define RESETS_MAX      8192 /* a second: ... and gives up those that nobody answers */
#define HUB_STREAMS_MAX 65536
#define CONNS_MAX       4096 /* of one lane */
#define STRANGERS_MAX   256  /* ... that have not shown who they are */
#define STRANGER_MS     10000
#define STRANGER_ASKS   128 /* streams, until the first has shown who it is; RFC 9113 6.5.2 */
#define DRAIN_MS        (24 * 3600 * 1000) /* the hub's own drain ends before */
#define FIELD_SIZE      384
#define MISDIRECTED \
    421 /* RFC 9110 section 15.5.20: another hub's client, whose tunnel is not here */

struct tunnel_lane {
    struct tunnels *tunnels;
    struct loop *main, *loop;
    struct tunnel_forward *forward;
    struct tunnel_lane *prev, *next; /* of the tunnels'; main loop */

    /* The lane's loop's. */
    struct relay_set relays;
    struct h2_budget hubs_budget;
    struct client_conn *conns;
    _Atomic uint32_t n_conns;
    size_t n_strangers;
    bool is_draining, is_stopped;
    void (*done)(void *arg);
    void *done_arg;
};

struct client_conn {
    struct tunnel_lane *lane;
    struct h2conn *hc;
    struct timer deadline; /* of a stranger */
    bool is_known;
    char hub[ID_SIZE]; /* which hub it is, by its certificate; empty: a client */
    struct client_conn *prev, *next;
};

struct lane_stream {
    _Atomic uint32_t refs;
    struct tunnel_lane *lane;
    struct tunnel_proxy_ask ask;              /* its strings are this stream's */
    char *credentials, *authority, *udp_path; /* no target: "OPTIONS *" */
    char *scope;
    char hub[ID_SIZE]; /* which forwards it; empty: a client's own */
    char *ticket;
    bool is_bad;                /* a header of it cannot be read */
    char worker[16];            /* the hub that forwards it is told; see RELAY_WORKER */
    bool is_scan;               /* another hub's: the agent itself is meant */
    uint8_t ttl;                /* of what reaches for the target; 0: as usual */
    struct tunnel_ranges allow; /* of echoes that another hub forwards */

    /* The lane's loop's. */
    struct relay *relay;      /* NULL: ended */
    struct client_conn *conn; /* NULL: not one of the lane's own, or gone */

    /* The main loop's. */
    struct tunnel_demand demand;
    struct tunnel_await await; /* while it waits, it has a reference */
    struct exposure_dial *dial;
    bool is_open; /* the target was reached */
};

static void unref(struct lane_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    if (s->credentials)
        explicit_bzero(s->credentials, strlen(s->credentials));
    mem_free(s->credentials);
    mem_free(s->authority);
    mem_free(s->udp_path);
    mem_free(s->scope);
    mem_free(s->ticket);
    mem_free(s);
}

static struct lane_stream *ref(struct lane_stream *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

/* ---- main to lane ---- */

struct news {
    struct lane_stream *stream;
    struct tunnel_near near;
    int err;
    bool is_not_here;
    struct icmp_cause cause;
    char text[256];
};

static struct news *news_new(struct lane_stream *s)
{
    struct news *n = NEW(struct news);
    n->stream = ref(s);
    return n;
}

static void send_news(struct news *n, void (*fn)(void *arg))
{
    loop_post(n->stream->lane->loop, fn, n);
}

static void news_free(struct news *n)
{
    unref(n->stream);
    mem_free(n);
}

/* The credentials were good. */
static void meet(struct client_conn *c)
{
    if (!c || c->is_known)
        return;
    c->is_known = true;
    c->lane->n_strangers--;
    timer_stop(&c->deadline);
}

static void begin_on_lane(void *arg)
{
    struct news *n = arg;
    struct relay *r = n->stream->relay;
    meet(n->stream->conn);
    if (r && n->near.pair)
        relay_begin_pair(r, n->near.pair);
    else if (n->near.pair)
        relay_pair_drop(n->near.pair);
    else if (r)
        relay_begin(r, n->near.fd);
    else
        close(n->near.fd);
    news_free(n);
}

static void confirm_on_lane(void *arg)
{
    struct news *n = arg;
    const struct lane_stream *s = n->stream;
    struct h2_header headers[2];
    size_t n_headers = 0;
    if (s->udp_path)
        headers[n_headers++] = (struct h2_header){"capsule-protocol", "?1"};
    if (s->worker[0])
        headers[n_headers++] = (struct h2_header){RELAY_WORKER, s->worker};
    if (s->relay)
        relay_confirm(s->relay, headers, n_headers);
    news_free(n);
}

static void end_on_lane(void *arg)
{
    struct news *n = arg;
    if (n->stream->relay)
        relay_other_ended(n->stream->relay, n->err);
    news_free(n);
}

/* The reason as the parameter "details" of Proxy-Status (RFC 9209 section 2.1.5). */
static void put_details(char *field, size_t size, const char *error, const char *text)
{
    size_t at = (size_t)snprintf(field, size, text[0] ? "%s; details=\"" : "%s", error);
    if (!text[0])
        return;
    for (; *text && at < size - 2; text++)
        field[at++] = *text < ' ' || *text > '~' || *text == '"' || *text == '\\' ? '?' : *text;
    snprintf(field + at, size - at, "\"");
}

static void fail_on_lane(void *arg)
{
    struct news *n = arg;
    struct relay *r = n->stream->relay;
    char status[12], error[PROXY_STATUS_SIZE], field[FIELD_SIZE];
    bool is_stranger = n->err == ERR_UNAUTHENTICATED;
    int code = tunnel_proxy_refusal(n->err, error);
    proxy_status_add_cause(error, &n->cause);
    snprintf(status, sizeof(status), "%d", n->is_not_here ? MISDIRECTED : code);
    put_details(field, sizeof(field), error, n->text);
    const struct h2_header headers[] = {{":status", status},
                                        {"proxy-status", field},
                                        {"proxy-authenticate", TUNNEL_PROXY_CHALLENGE}};
    if (!is_stranger)
        meet(n->stream->conn);
    if (r)
        relay_fail(r, n->err, headers, is_stranger ? 3 : 2);
    news_free(n);
}

/* "OPTIONS *": the credentials are good, and that is all. */
static void welcome_on_lane(void *arg)
{
    struct news *n = arg;
    meet(n->stream->conn);
    if (n->stream->relay)
        relay_fail(n->stream->relay, ERR_CANCELED, H2_HEADERS({":status", "204"}), 1);
    news_free(n);
}

static void fail_because(struct lane_stream *s, int err, const struct icmp_cause *cause,
                         const char *text)
{
    struct news *n = news_new(s);
    n->err = err;
    n->cause = *cause;
    snprintf(n->text, sizeof(n->text), "%s", text ? text : "");
    send_news(n, fail_on_lane);
}

static void fail(struct lane_stream *s, int err, const char *text)
{
    fail_because(s, err, &(struct icmp_cause){0}, text);
}

/* ---- main ---- */

static void on_dial_open(void *arg)
{
    ((struct lane_stream *)arg)->is_open = true;
    send_news(news_new(arg), confirm_on_lane);
}

static void on_dial_end(void *arg, int err)
{
    struct lane_stream *s = arg;
    if (!s->is_open) {
        fail_because(s, err, exposure_dial_cause(s->dial), NULL);
        return;
    }
    struct news *n = news_new(s);
    n->err = err;
    send_news(n, end_on_lane);
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_dial_open, .on_end = on_dial_end};

static struct tunnel_lane_dial dial_of(struct lane_stream *s, const struct exposure_goal *goal)
{
    return (struct tunnel_lane_dial){
        .goal = goal, .client = &s->ask.peer, .loop = s->lane->loop, .ops = &dial_ops, .arg = s};
}

static void begin(struct lane_stream *s, const struct tunnel_lane_dial *d)
{
    struct news *n = news_new(s);
    s->dial = d->dial;
    n->near = d->near;
    send_news(n, begin_on_lane);
}

static void on_ready(struct tunnel_demand *d, struct tunnel_object *o)
{
    struct lane_stream *s = container_of(d, struct lane_stream, demand);
    struct exposure_goal goal;
    tunnel_demand_goal(d, &goal);
    goal.ttl = s->ttl;
    struct tunnel_lane_dial dial = dial_of(s, &goal);
    int rc = tunnel_dial_by_lane(o, &dial);
    assert(rc == 0 || rc == ERR_LIMIT);
    if (rc == 0)
        begin(s, &dial);
    else
        fail(s, rc, "the hub is out of descriptors");
}

static void on_fail(struct tunnel_demand *d, int err, const char *text)
{
    fail(container_of(d, struct lane_stream, demand), err, text);
}

static const struct tunnel_demand_ops demand_ops = {.on_ready = on_ready, .on_fail = on_fail};

/* ---- of other hubs ---- */

static int check_ticket(const struct lane_stream *s, struct ticket *ret)
{
    const struct tunnels *ts = s->lane->tunnels;
    if (!ts->cluster || !s->ticket ||
        ticket_check_any(s->ticket, ts->forward.keys, peer_clock_now(ts->forward.clock), ret) < 0 ||
        strcmp(ret->hub, s->hub) != 0)
        return ERR_DENIED;
    return 0;
}

static int read_goal(const struct lane_stream *s, struct exposure_goal *ret)
{
    *ret = (struct exposure_goal){.is_udp = s->udp_path != NULL,
                                  .ttl = s->ttl,
                                  .allow = s->allow,
                                  .protocol = s->is_scan ? SCAN_PROTOCOL : NULL};
    if (s->is_bad)
        return ERR_INVALID;
    if (s->udp_path)
        return connect_udp_parse(s->udp_path, &ret->target, NULL);
    return s->authority ? host_port_parse(s->authority, false, &ret->target, NULL) : ERR_INVALID;
}

static bool is_workers(const struct tunnel_lane *lane)
{
    return lane->loop != lane->main;
}

static unsigned count_workers(const struct tunnels *ts)
{
    const struct tunnel_lane *lane;
    unsigned n = 0;
    DL_FOREACH (ts->lanes, lane)
        n += is_workers(lane);
    return n;
}

static void name_worker(struct lane_stream *s, const struct loop *l)
{
    const struct tunnels *ts = s->lane->tunnels;
    const struct tunnel_lane *lane;
    unsigned number = 0;
    DL_FOREACH (ts->lanes, lane) {
        if (lane->loop == l)
            snprintf(s->worker, sizeof(s->worker), "%u/%u", number, count_workers(ts));
        number += is_workers(lane);
    }
}

/* 0: it is on its way. */
static int dial_for_hub(struct lane_stream *s, const struct ticket *t,
                        const struct exposure_goal *goal)
{
    struct tunnel_object *o = tunnel_find(s->lane->tunnels, t->tunnel);
    struct tunnel_lane_dial dial = dial_of(s, goal);
    if (!o)
        return ERR_STALE;
    TRY(tunnel_dial_for_hub(o, t->lease_epoch, &dial));
    name_worker(s, dial.far_loop);
    begin(s, &dial);
    return 0;
}

static void admit_hubs(struct lane_stream *s);

static void on_awaited(struct tunnel_await *w, int err)
{
    struct lane_stream *s = container_of(w, struct lane_stream, await);
    admit_hubs(s);
    unref(s);
}

/* The route may be known elsewhere before its agent has taken the lease. */
static int await_lease(struct lane_stream *s, const struct ticket *t)
{
    struct tunnel_object *o = tunnel_find(s->lane->tunnels, t->tunnel);
    if (!o || s->await.fn) /* once */
        return ERR_STALE;
    s->await.fn = on_awaited;
    TRY(tunnel_await_start(o, t->lease_epoch, &s->await));
    ref(s);
    return 0;
}

static void admit_hubs(struct lane_stream *s)
{
    struct ticket t;
    struct exposure_goal goal = {0};
    int rc = check_ticket(s, &t);
    if (rc == 0)
        rc = read_goal(s, &goal);
    if (rc == 0)
        rc = dial_for_hub(s, &t, &goal);
    if (rc == ERR_STALE)
        rc = await_lease(s, &t);
    if (rc == 0)
        return;
    LOG_INFO("another hub's client refused", LOG_STR("hub", s->hub), LOG_ERR(rc));
    struct news *n = news_new(s);
    n->err = rc;
    n->is_not_here = rc == ERR_STALE;
    send_news(n, fail_on_lane);
}

static void asked_on_main(void *arg)
{
    struct lane_stream *s = arg;
    struct diag d = {0};
    if (s->hub[0]) {
        admit_hubs(s);
        unref(s);
        return;
    }
    s->demand.ops = &demand_ops;
    int rc = tunnel_proxy_judge(s->lane->tunnels, &s->ask, &s->demand, &d);
    if (rc < 0)
        fail(s, rc, diag_text(&d));
    else if (!s->authority && !s->udp_path)
        send_news(news_new(s), welcome_on_lane);
    else
        tunnel_demand_start(s->lane->tunnels, &s->demand);
    unref(s);
}

struct ended {
    struct lane_stream *stream;
    int err;
};

static void ended_on_main(void *arg)
{
    CLEANUP(mem_free) struct ended *e = arg;
    tunnel_demand_cancel(&e->stream->demand);
    if (e->stream->await.tunnels) {
        tunnel_await_cancel(&e->stream->await);
        unref(e->stream);
    }
    if (e->stream->dial)
        exposure_dial_done(e->stream->dial, e->err);
    unref(e->stream);
}

/* ---- lane ---- */

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct lane_stream *s = arg;
    struct ended *e = NEW(struct ended);
    s->relay = NULL;
    s->conn = NULL;
    *e = (struct ended){s, res->end == RELAY_END_FINISHED ? 0 : res->err ? res->err : ERR_RESET};
    loop_post(s->lane->main, ended_on_main, e);
}

static const struct relay_ops relay_ops = {.on_end = on_relay_end};

static void own_address(const struct conn *c, struct addr *ret)
{
    ret->len = sizeof(ret->in6);
    if (getsockname(conn_fd(c), &ret->sa, &ret->len) < 0)
        ret->len = 0;
}

static void start(struct tunnel_lane *lane, struct client_conn *conn, struct h2_stream *h2,
                  const struct h2_headers *h, const char *authority, const char *udp_path)
{
    struct lane_stream *s = NEW(struct lane_stream);
    const struct conn *c = h2conn_conn(h2conn_of(h2));
    s->refs = 2;
    s->lane = lane;
    s->conn = conn;
    s->credentials = mem_strdup(h2_headers_get(h, "proxy-authorization"));
    s->authority = mem_strdup(authority);
    s->ask.credentials = s->credentials;
    s->ask.authority = s->authority;
    s->udp_path = mem_strdup(udp_path);
    s->ask.udp_path = s->udp_path;
    s->ask.peer = *conn_peer_addr(c);
    own_address(c, &s->ask.own);
    s->scope = mem_strdup(h2_headers_get(h, TUNNEL_LANE_SCOPE));
    s->ask.scope = s->scope;
    if (conn && conn->hub[0]) {
        snprintf(s->hub, sizeof(s->hub), "%s", conn->hub);
        s->ticket = mem_strdup(h2_headers_get(h, EXPOSURE_TICKET));
        const char *allow = h2_headers_get(h, TUNNEL_ALLOW);
        s->is_bad = allow && tunnel_ranges_read(allow, &s->allow) < 0;
    }
    s->ttl = relay_read_ttl(h);
    s->is_scan = !udp_path && h2_headers_get(h, ":protocol");
    s->relay = relay_await(h2, &lane->relays, &relay_ops, s);
    loop_post(lane->main, asked_on_main, s);
}

static void answer(struct tunnel_lane *lane, struct client_conn *c, struct h2_stream *s,
                   const struct h2_headers *h)
{
    const char *authority = h2_headers_get(h, ":authority");
    const char *protocol = h2_headers_get(h, ":protocol");
    if (protocol && strcmp(protocol, "connect-udp") == 0)
        start(lane, c, s, h, NULL, h2_headers_get(h, ":path"));
    else if (protocol && !(c && c->hub[0] && strcmp(protocol, SCAN_PROTOCOL) == 0))
        h2_respond(s, H2_HEADERS({":status", "501"}), 1, false);
    else if (!authority)
        h2_respond(s, H2_HEADERS({":status", "400"}), 1, false);
    else
        start(lane, c, s, h, authority, NULL);
}

void tunnel_lane_request(struct tunnel_lane *lane, struct h2_stream *s, const struct h2_headers *h)
{
    answer(lane, NULL, s, h);
}

/* ---- the lane's own connections ---- */

static void finish_if_stopped(struct tunnel_lane *lane)
{
    if (lane->is_stopped && !lane->conns && lane->done)
        loop_post(lane->main, TAKE(lane->done), lane->done_arg);
}

static void on_request(void *arg, struct h2_stream *h2, const struct h2_headers *h)
{
    struct client_conn *c = arg;
    const char *method = h2_headers_get(h, ":method");
    if (!c->is_known && h2_stream_count(h2conn_session(c->hc)) > STRANGER_ASKS)
        h2_reset(h2, H2_REFUSED_STREAM);
    else if (method && strcmp(method, "CONNECT") == 0)
        answer(c->lane, c, h2, h);
    else if (method && strcmp(method, "OPTIONS") == 0)
        start(c->lane, c, h2, h, NULL, NULL);
    else
        h2_respond(h2, H2_HEADERS({":status", "405"}, {"allow", "CONNECT, OPTIONS"}), 2, false);
}

static void on_close(void *arg, int err)
{
    struct client_conn *c = arg;
    struct tunnel_lane *lane = c->lane;
    timer_stop(&c->deadline);
    DL_DELETE(lane->conns, c);
    lane->n_conns--;
    lane->n_strangers -= !c->is_known;
    mem_free(c);
    finish_if_stopped(lane);
}

static const struct h2conn_ops conn_ops = {.on_request = on_request, .on_close = on_close};

static void on_deadline(struct timer *t)
{
    h2conn_abort(container_of(t, struct client_conn, deadline)->hc, ERR_TIMEOUT);
}

static void ignore_close(void *arg, int err)
{
}

static const struct conn_ops nobody = {.on_close = ignore_close};

struct arrival {
    struct tunnel_lane *lane;
    struct conn *conn;
    char hub[ID_SIZE];
};

/* Hubs have windows as agents have: their streams are forwarded ones. */
static struct h2conn_config config_of(struct tunnel_lane *lane, bool is_hub)
{
    struct h2conn_config cfg = {.h2 = {.is_server = true,
                                       .enable_connect = true,
                                       .max_streams = is_hub ? HUB_STREAMS_MAX : STREAMS_MAX,
                                       .peer_is_trusted = is_hub,
                                       .resets_a_second = RESETS_MAX}};
    if (is_hub) {
        cfg.h2.stream_window_max = FLEET_STREAM_WINDOW_MAX;
        cfg.h2.connection_window = FLEET_CONNECTION_WINDOW;
        cfg.h2.budget = &lane->hubs_budget;
    } else {
        cfg.h2.buffer_budget = 32u << 20;
    }
    return cfg;
}

static void arrive_on_lane(void *arg)
{
    CLEANUP(mem_free) struct arrival *a = arg;
    struct tunnel_lane *lane = a->lane;
    bool is_hub = a->hub[0] != '\0';
    if (lane->is_draining || lane->n_conns >= CONNS_MAX ||
        (!is_hub && lane->n_strangers >= STRANGERS_MAX)) {
        conn_attach(a->conn, lane->loop, &nobody, NULL);
        conn_abort(a->conn, ERR_LIMIT);
        return;
    }
    struct client_conn *c = NEW(struct client_conn);
    c->lane = lane;
    snprintf(c->hub, sizeof(c->hub), "%s", a->hub);
    c->is_known = is_hub;
    lane->n_conns++;
    lane->n_strangers += !is_hub;
    DL_APPEND(lane->conns, c);
    timer_init(&c->deadline, lane->loop, on_deadline);
    if (!is_hub)
        timer_start(&c->deadline, STRANGER_MS);
    const struct h2conn_config cfg = config_of(lane, is_hub);
    c->hc = h2conn_attach(a->conn, lane->loop, &cfg, &conn_ops, c);
}

void tunnel_lane_take_hubs(struct tunnel_lane *lane, struct conn *c, const char *hub)
{
    struct arrival *a = NEW(struct arrival);
    *a = (struct arrival){.lane = lane, .conn = c};
    snprintf(a->hub, sizeof(a->hub), "%s", hub);
    loop_post(lane->loop, arrive_on_lane, a);
}

void tunnel_lane_take(struct tunnel_lane *lane, struct conn *c)
{
    struct arrival *a = NEW(struct arrival);
    *a = (struct arrival){.lane = lane, .conn = c};
    loop_post(lane->loop, arrive_on_lane, a);
}

static void forward_on_lane(void *arg)
{
    CLEANUP(mem_free) struct arrival *a = arg;
    struct tunnel_lane *lane = a->lane;
    conn_attach(a->conn, lane->loop, &nobody, NULL);
    if (lane->is_draining)
        conn_abort(a->conn, ERR_UNAVAILABLE);
    else
        tunnel_forward_take(lane->forward, a->conn);
}

void tunnel_lane_forward(struct tunnel_lane *lane, struct conn *c)
{
    struct arrival *a = NEW(struct arrival);
    *a = (struct arrival){.lane = lane, .conn = c};
    loop_post(lane->loop, forward_on_lane, a);
}

struct tunnel_lane *tunnel_lane_pick(struct tunnels *ts)
{
    struct tunnel_lane *lane, *best = NULL;
    DL_FOREACH (ts->lanes, lane) {
        if (!best || best->loop == ts->loop ||
            (lane->loop != ts->loop && lane->n_conns < best->n_conns))
            best = lane;
    }
    return best;
}

struct tunnel_lane *tunnel_lane_of_worker(struct tunnels *ts, uint32_t number)
{
    struct tunnel_lane *lane, *found = NULL;
    unsigned count = count_workers(ts), at = 0;
    DL_FOREACH (ts->lanes, lane) {
        if (!found || (is_workers(lane) && at == number % count))
            found = lane;
        at += is_workers(lane);
    }
    return found;
}

/* ---- its life ---- */

struct tunnel_lane *tunnel_lane_new(struct tunnels *ts, struct loop *l)
{
    struct tunnel_lane *lane = NEW(struct tunnel_lane);
    lane->tunnels = ts;
    lane->main = ts->loop;
    lane->loop = l;
    lane->hubs_budget = (struct h2_budget)FLEET_BUDGET;
    lane->forward = tunnel_forward_new(ts, l);
    DL_APPEND(ts->lanes, lane);
    return lane;
}

static void drain_on_lane(void *arg)
{
    struct tunnel_lane *lane = arg;
    struct client_conn *c, *next;
    lane->is_draining = true;
    if (lane->forward)
        tunnel_forward_drain(lane->forward);
    DL_FOREACH_SAFE (lane->conns, c, next)
        h2conn_shutdown(c->hc, DRAIN_MS);
}

void tunnel_lane_drain(struct tunnel_lane *lane)
{
    loop_post(lane->loop, drain_on_lane, lane);
}

static void stop_on_lane(void *arg)
{
    struct tunnel_lane *lane = arg;
    struct client_conn *c, *next;
    lane->is_draining = lane->is_stopped = true;
    tunnel_forward_free(TAKE(lane->forward));
    DL_FOREACH_SAFE (lane->conns, c, next)
        h2conn_abort(c->hc, ERR_CANCELED);
    finish_if_stopped(lane);
}

void tunnel_lane_stop(struct tunnel_lane *lane, void (*done)(void *arg), void *arg)
{
    lane->done = done;
    lane->done_arg = arg;
    loop_post(lane->loop, stop_on_lane, lane);
}

void tunnel_lane_free(struct tunnel_lane *lane)
{
    tunnel_forward_free(lane->forward);
    DL_DELETE(lane->tunnels->lanes, lane);
    mem_free(lane);
}
