/* The connections of a lane: who may come, how many, and how they end. */
#include "tunnel/lane_internal.h"

#include "base/error.h"
#include "base/mem.h"
#include "fleet/link.h"
#include "scan/scan_stream.h"
#include "tunnel/tunnel_forward.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define STREAMS_MAX     4096 /* of one connection; a mount that is swept has thousands of dials */
#define RESETS_MAX      8192 /* a second: ... and gives up those that nobody answers */
#define HUB_STREAMS_MAX 65536
#define CONNS_MAX       4096 /* of one lane */
#define STRANGERS_MAX   256  /* ... that have not shown who they are */
#define STRANGER_MS     10000
#define STRANGER_ASKS   128 /* streams, until the first has shown who it is; RFC 9113 6.5.2 */
#define DRAIN_MS        (24 * 3600 * 1000) /* the hub's own drain ends before */

/* The credentials were good. */
void lane_conn_meet(struct client_conn *c)
{
    if (!c || c->is_known)
        return;
    c->is_known = true;
    c->lane->n_strangers--;
    timer_stop(&c->deadline);
}

static void answer(struct tunnel_lane *lane, struct client_conn *c, struct h2_stream *s,
                   const struct h2_headers *h)
{
    const char *authority = h2_headers_get(h, ":authority");
    const char *protocol = h2_headers_get(h, ":protocol");
    if (protocol && strcmp(protocol, "connect-udp") == 0)
        lane_stream_start(lane, c, s, h, NULL, h2_headers_get(h, ":path"));
    else if (protocol && !(c && c->hub[0] && strcmp(protocol, SCAN_PROTOCOL) == 0))
        h2_respond(s, H2_HEADERS({":status", "501"}), 1, false);
    else if (!authority)
        h2_respond(s, H2_HEADERS({":status", "400"}), 1, false);
    else
        lane_stream_start(lane, c, s, h, authority, NULL);
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
        lane_stream_start(c->lane, c, h2, h, NULL, NULL);
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
    char hub[ID_SIZE], worker[LANE_WORKER_SIZE];
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
        cfg.h2.bulk_window = FLEET_BULK_WINDOW;
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
    snprintf(c->worker, sizeof(c->worker), "%s", a->worker);
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
    lane_name_worker(lane->tunnels, lane->loop, a->worker);
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

void lane_name_worker(const struct tunnels *ts, const struct loop *l, char ret[LANE_WORKER_SIZE])
{
    const struct tunnel_lane *lane;
    unsigned number = 0;
    DL_FOREACH (ts->lanes, lane) {
        if (lane->loop == l)
            snprintf(ret, LANE_WORKER_SIZE, "%u/%u", number, count_workers(ts));
        number += is_workers(lane);
    }
}

struct exposure_index *tunnel_lane_index(struct tunnels *ts, const struct loop *l)
{
    struct tunnel_lane *lane;
    DL_FOREACH (ts->lanes, lane) {
        if (lane->loop == l)
            return &lane->index;
    }
    return NULL;
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
