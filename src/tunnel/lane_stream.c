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
 * Where another hub's stream finds the agent's connections on the lane's own loop, it asks the main
 * loop for nothing, and all of these are calls.
 *
 * The stream's own reference is the lane's until the relay has ended, then the message's that says
 * so; each other message carries one.
 */
#include "tunnel/lane_internal.h"

#include "base/error.h"
#include "base/mem.h"
#include "scan/scan_stream.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIELD_SIZE  384
#define MISDIRECTED 421 /* RFC 9110 section 15.5.20: the tunnel is not at this hub */

void lane_stream_unref(struct lane_stream *s)
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

struct lane_stream *lane_stream_ref(struct lane_stream *s)
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
    n->stream = lane_stream_ref(s);
    return n;
}

static void send_news(struct news *n, void (*fn)(void *arg))
{
    if (n->stream->is_here)
        fn(n);
    else
        loop_post(n->stream->lane->loop, fn, n);
}

static void news_free(struct news *n)
{
    lane_stream_unref(n->stream);
    mem_free(n);
}

static void begin_on_lane(void *arg)
{
    struct news *n = arg;
    struct relay *r = n->stream->relay;
    lane_conn_meet(n->stream->conn);
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
        lane_conn_meet(n->stream->conn);
    if (r)
        relay_fail(r, n->err, headers, is_stranger ? 3 : 2);
    news_free(n);
}

/* "OPTIONS *": the credentials are good, and that is all. */
static void welcome_on_lane(void *arg)
{
    struct news *n = arg;
    lane_conn_meet(n->stream->conn);
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

/* It is who serves that has gone, not the target: another hub's client has not lost a byte, and may
 * be served elsewhere. */
static bool was_left(int err)
{
    return err == ERR_STALE || err == ERR_UNAVAILABLE || err == ERR_CLOSED || err == ERR_CANCELED;
}

static void on_dial_end(void *arg, int err)
{
    struct lane_stream *s = arg;
    if (!s->is_open && s->hub[0] && was_left(err)) {
        lane_stream_refuse(s, ERR_STALE);
        return;
    }
    if (!s->is_open) {
        fail_because(s, err, exposure_dial_cause(s->dial), NULL);
        return;
    }
    struct news *n = news_new(s);
    n->err = err;
    send_news(n, end_on_lane);
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_dial_open, .on_end = on_dial_end};

struct tunnel_lane_dial lane_stream_dial(struct lane_stream *s, const struct exposure_goal *goal)
{
    return (struct tunnel_lane_dial){
        .goal = goal, .client = &s->ask.peer, .loop = s->lane->loop, .ops = &dial_ops, .arg = s};
}

void lane_stream_begin(struct lane_stream *s, const struct tunnel_lane_dial *d)
{
    struct news *n = news_new(s);
    s->dial = d->dial;
    n->near = d->near;
    send_news(n, begin_on_lane);
}

void lane_stream_refuse(struct lane_stream *s, int err)
{
    struct news *n = news_new(s);
    n->err = err;
    n->is_not_here = err == ERR_STALE;
    send_news(n, fail_on_lane);
}

static void on_ready(struct tunnel_demand *d, struct tunnel_object *o)
{
    struct lane_stream *s = container_of(d, struct lane_stream, demand);
    struct exposure_goal goal;
    tunnel_demand_goal(d, &goal);
    goal.ttl = s->ttl;
    struct tunnel_lane_dial dial = lane_stream_dial(s, &goal);
    int rc = tunnel_dial_by_lane(o, &dial);
    assert(rc == 0 || rc == ERR_LIMIT);
    if (rc == 0)
        lane_stream_begin(s, &dial);
    else
        fail(s, rc, "the hub is out of descriptors");
}

static void on_fail(struct tunnel_demand *d, int err, const char *text)
{
    fail(container_of(d, struct lane_stream, demand), err, text);
}

static const struct tunnel_demand_ops demand_ops = {.on_ready = on_ready, .on_fail = on_fail};

static void asked_on_main(void *arg)
{
    struct lane_stream *s = arg;
    struct diag d = {0};
    if (s->hub[0]) {
        lane_hub_admit(s);
        lane_stream_unref(s);
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
    lane_stream_unref(s);
}

struct ended {
    struct lane_stream *stream;
    int err;
};

static void ended_on_main(void *arg)
{
    CLEANUP(mem_free) struct ended *e = arg;
    tunnel_demand_cancel(&e->stream->demand);
    if (e->stream->await.object) {
        tunnel_await_cancel(&e->stream->await);
        lane_stream_unref(e->stream);
    }
    if (e->stream->dial)
        exposure_dial_done(e->stream->dial, e->err);
    lane_stream_unref(e->stream);
}

/* ---- lane ---- */

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct lane_stream *s = arg;
    struct ended *e = NEW(struct ended);
    s->relay = NULL;
    s->conn = NULL;
    *e = (struct ended){s, res->end == RELAY_END_FINISHED ? 0 : res->err ? res->err : ERR_RESET};
    if (s->is_here)
        ended_on_main(e);
    else
        loop_post(s->lane->main, ended_on_main, e);
}

static const struct relay_ops relay_ops = {.on_end = on_relay_end};

static void own_address(const struct conn *c, struct addr *ret)
{
    ret->len = sizeof(ret->in6);
    if (getsockname(conn_fd(c), &ret->sa, &ret->len) < 0)
        ret->len = 0;
}

/* A hub speaks for itself only. */
static void read_tag(struct lane_stream *s, const char *tag)
{
    size_t n = strlen(s->hub);
    if (tag && strlen(tag) < sizeof(s->tag) && strncmp(tag, s->hub, n) == 0 && tag[n] == '/')
        snprintf(s->tag, sizeof(s->tag), "%s", tag);
}

void lane_stream_start(struct tunnel_lane *lane, struct client_conn *conn, struct h2_stream *h2,
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
        read_tag(s, h2_headers_get(h, RELAY_SHORTCUT));
        s->ticket = mem_strdup(h2_headers_get(h, EXPOSURE_TICKET));
        const char *allow = h2_headers_get(h, TUNNEL_ALLOW);
        s->is_bad = allow && tunnel_ranges_read(allow, &s->allow) < 0;
    }
    s->ttl = relay_read_ttl(h);
    s->is_scan = !udp_path && h2_headers_get(h, ":protocol");
    s->relay = relay_await(h2, &lane->relays, &relay_ops, s);
    if (s->hub[0] && lane_hub_admit_here(s))
        lane_stream_unref(s);
    else
        loop_post(lane->main, asked_on_main, s);
}
