/*
 * Clients that are streams: those of a listener, those of the proxy, and what the main loop dials.
 * Each is a relay over the pool. On the worker, but for the calls at the end, which are the main
 * loop's.
 */
#include "tunnel/expose_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/fleet.h"
#include "net/bridge.h"
#include "wire/connect_udp.h"
#include "wire/http1.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

/* One client's connection, the relay's argument. It lives until both are gone: the relay, and the
 * bridge of a client that came through the proxy. */
struct client {
    struct exposure *exposure;
    int64_t opened;
    struct relay *relay;
    struct pool_bulk *bulk;     /* while it fills a connection */
    struct bridge *bridge;      /* NULL: a socket of the listener, or gone */
    struct exposure_dial *dial; /* NULL: nobody on the main loop asked for it */
    struct relay_pair *pair;    /* in place of a socket, until the relay has it */
    char token[ID_SIZE];        /* see exposure_goal */
    bool is_udp;                /* it carries capsules: the agent's end is a flow */
    bool is_for_agent;          /* ... is the agent itself */
    bool has_left;              /* its connection was lost, not ended */
    bool is_metered;            /* counts as an open stream of the meters */
    bool is_watch;              /* to TUNNEL_LEASE */
    bool is_other_hubs;         /* see exposure_dial */
    bool is_again;              /* another hub has turned it away once */
    bool is_open;               /* of `retry`: the target was reached */
    struct exposure_shortcut shortcut;
    struct exposure_goal *goal;   /* of a bridge: what it asked for */
    struct exposure_retry *retry; /* of a bridge: another exposure has its stream */
    struct client *prev, *next;   /* of `proxied` while there is a bridge */
};

int64_t exposure_opened_at(const struct relay *r)
{
    return ((const struct client *)relay_arg(r))->opened;
}

static const char *end_text(const struct exposure *e, const struct client *c,
                            const struct relay_result *res)
{
    int stop_err = exposure_stop_reason(e);
    if (c->has_left)
        return "client_reset";
    switch (res->end) {
    case RELAY_END_FINISHED:
        return "closed";
    case RELAY_END_NOT_OPENED:
        return "failed";
    case RELAY_END_SOCKET_RESET:
        return "client_reset";
    case RELAY_END_STREAM_RESET:
        if (!stop_err)
            return "target_reset";
        /* fall through */
    default:
        return exposure_cut_text(stop_err ? stop_err : res->err);
    }
}

static void add_record(struct exposure *e, const struct client *c, const struct addr *peer,
                       const struct relay_result *res)
{
    if (c->is_other_hubs)
        return;
    const struct exposure_record r = {.client = *peer,
                                      .opened = c->opened,
                                      .bytes_in = res->bytes_read,
                                      .bytes_out = res->bytes_written,
                                      .end = end_text(e, c, res),
                                      .error = res->end == RELAY_END_NOT_OPENED ? res->err : 0};
    exposure_record(e, &r);
}

static struct client *client_new(struct exposure *e)
{
    struct client *c = NEW(struct client);
    c->exposure = e;
    c->opened = time_wall_ms();
    exposure_hold(e);
    return c;
}

static void free_if_gone(struct client *c)
{
    struct exposure *e = c->exposure;
    if (c->relay || c->bridge)
        return;
    if (c->is_metered)
        exposure_leave(e);
    mem_free(c->goal);
    mem_free(c);
    exposure_release(e);
}

static void say_opened(struct bridge *b, bool is_udp)
{
    CLEANUP(buf_done) struct buf head = {0};
    http1_put_status(&head, is_udp ? 101 : 200);
    if (is_udp) { /* RFC 9298 section 3.3 */
        http1_put_field(&head, "connection", "Upgrade");
        http1_put_field(&head, "upgrade", "connect-udp");
        http1_put_field(&head, "capsule-protocol", "?1");
    }
    http1_put_end(&head);
    bridge_say(b, head.data, head.len);
}

static void say_failed(struct bridge *b, int err)
{
    char field[PROXY_STATUS_SIZE], length[24];
    CLEANUP(buf_done) struct buf head = {0}, body = {0};
    int status = proxy_status_format(err, field);
    buf_printf(&body, "the target was not reached: %s\n", error_text(err));
    snprintf(length, sizeof(length), "%zu", body.len);
    http1_put_status(&head, status);
    http1_put_field(&head, "proxy-status", field);
    http1_put_field(&head, "content-type", "text/plain; charset=utf-8");
    http1_put_field(&head, "content-length", length);
    http1_put_field(&head, "connection", "close");
    http1_put_end(&head);
    buf_append(&head, body.data, body.len);
    bridge_say(b, head.data, head.len);
}

/* What the end of the relay is to the bridge. */
static void end_bridge(struct bridge *b, const struct relay_result *res)
{
    bool was_refused = res->end == RELAY_END_NOT_OPENED;
    if (was_refused)
        say_failed(b, res->err);
    bridge_finish(b, was_refused || res->end == RELAY_END_FINISHED ? 0 : ERR_RESET);
}

static void end_near_side(struct client *c, const struct relay_result *res)
{
    if (c->bridge)
        end_bridge(c->bridge, res);
    if (c->dial)
        exposure_dial_ended(TAKE(c->dial), res->end == RELAY_END_FINISHED ? 0 : res->err,
                            &res->cause);
}

static void on_relay_open(void *arg, struct relay *r)
{
    struct client *c = arg;
    if (c->is_udp)
        exposure_flow_opened(c->exposure);
    else
        exposure_tell_target(c->exposure, 0);
    if (c->exposure->forward)
        c->exposure->far_worker = relay_far_worker(r);
    if (c->bridge)
        say_opened(c->bridge, c->is_udp);
    if (c->dial)
        exposure_dial_opened(c->dial);
}

static void reset_and_close(int fd)
{
    const struct linger reset = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

/* It has not reached the other hub, or not come back from it. */
static bool is_lost_on_the_way(int err)
{
    return err == ERR_CLOSED || err == ERR_CANCELED || err == ERR_UNAVAILABLE;
}

/* The client is off for another try, unless its connection was lost meanwhile. Takes `fd`. */
static void turn(struct client *c, int fd, const struct addr *peer, int err)
{
    struct exposure *e = c->exposure;
    c->relay = NULL;
    if (c->goal && !c->bridge) {
        reset_and_close(fd);
        free_if_gone(c);
        return;
    }
    if (c->bridge) {
        DL_DELETE(e->proxied, c); /* what cuts this exposure cuts it no more */
        bridge_hold(c->bridge);
        c->retry = exposure_retry_new(e, c, c->goal);
    }
    exposure_turn(e, &(struct exposure_turned){.is_lost = err != ERR_STALE,
                                               .fd = fd,
                                               .peer = *peer,
                                               .opened = c->opened,
                                               .dial = TAKE(c->dial),
                                               .retry = c->retry});
    free_if_gone(c);
}

/* Whether it was turned away by another hub, or lost on the way. */
static bool is_turned(struct client *c, struct relay *r, const struct relay_result *res)
{
    if (res->fd < 0)
        return false;
    if (res->err != ERR_STALE && !is_lost_on_the_way(res->err)) {
        reset_and_close(res->fd);
        return false;
    }
    turn(c, res->fd, relay_peer(r), res->err);
    return true;
}

void exposure_client_opened(struct client *c)
{
    c->is_open = true;
    if (!c->bridge)
        return;
    say_opened(c->bridge, c->is_udp);
    bridge_go_on(c->bridge);
}

void exposure_client_ended(struct client *c, int err)
{
    if (c->bridge && !c->is_open)
        say_failed(c->bridge, err);
    if (c->bridge)
        bridge_finish(c->bridge, c->is_open && err ? ERR_RESET : 0);
}

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct client *c = arg;
    struct exposure *e = c->exposure;
    bool is_missed = res->end == RELAY_END_NOT_OPENED;
    if (is_turned(c, r, res))
        return;
    if (is_missed && !e->is_any) {
        exposure_log_not_reached(e, relay_peer(r), res->err);
        if (c->is_udp)
            exposure_flow_refused(e, res->err);
        else
            exposure_tell_target(e, res->err);
    }
    if (!c->is_watch && (!is_missed || !e->is_any))
        add_record(e, c, relay_peer(r), res);
    c->relay = NULL;
    fleet_pool_bulk_end(&c->bulk);
    end_near_side(c, res);
    free_if_gone(c);
}

static void on_relay_bulk(void *arg, struct relay *r)
{
    struct client *c = arg;
    if (c->is_udp || c->is_for_agent) /* flows stay where they are, scans too */
        return;
    if (exposure_take_shortcut(c->exposure, &c->shortcut, r, true))
        fleet_pool_bulk_end(&c->bulk);
    else
        fleet_pool_bulk(c->exposure->pool, &c->bulk, r);
}

static void on_relay_busy(void *arg, struct relay *r)
{
    struct client *c = arg;
    if (exposure_take_shortcut(c->exposure, &c->shortcut, r, false))
        fleet_pool_bulk_end(&c->bulk);
}

static const struct relay_ops client_ops = {.on_open = on_relay_open,
                                            .on_bulk = on_relay_bulk,
                                            .on_busy = on_relay_busy,
                                            .on_end = on_relay_end};

static void end_watches(const struct relay_set *set)
{
    struct relay *r, *next;
    for (r = set->head; r; r = next) {
        next = relay_next(r);
        if (((struct client *)relay_arg(r))->is_watch)
            relay_abort(r, ERR_UNAVAILABLE);
    }
}

void exposure_end_watches(struct exposure *e)
{
    end_watches(&e->relays);
    end_watches(&e->passing);
}

/* The header that goes before what the client of `fd` sends; 0: none. */
static size_t write_proxy_header(const struct exposure *e, int fd, const struct addr *client,
                                 uint8_t out[PROXY_HEADER_OUT_MAX])
{
    struct addr here = {.len = sizeof(here.in6)};
    if (e->proxy == PROXY_NONE)
        return 0;
    if (getsockname(fd, &here.sa, &here.len) < 0 ||
        (here.sa.sa_family != AF_INET && here.sa.sa_family != AF_INET6))
        here.len = 0; /* a socketpair: it came another way */
    return proxy_header_write(e->proxy, false, client, &here, out);
}

/* Where a stream goes: to the tunnel's target, or, where it has none, to what its client asked for.
 */
static int find_goal(const struct exposure *e, const struct exposure_goal *asked,
                     struct exposure_goal *ret)
{
    if (e->is_any && !asked)
        return ERR_NOT_FOUND;
    if (e->is_any) {
        *ret = *asked;
        return 0;
    }
    *ret = (struct exposure_goal){.is_udp = e->udp != NULL};
    return host_port_parse(e->authority, false, &ret->target, NULL);
}

/* The client is not relayed. */
static void drop_near_side(struct client *c, int fd)
{
    if (c->pair)
        relay_pair_drop(TAKE(c->pair));
    else
        reset_and_close(fd);
}

/* A client that is over a limit. */
static void refuse_client(struct client *c, int fd, const struct addr *peer, int err)
{
    struct exposure *e = c->exposure;
    const struct relay_result res = {.end = RELAY_END_NOT_OPENED, .err = err, .fd = -1};
    drop_near_side(c, fd);
    if (exposure_shows_refusal(e, peer, err))
        add_record(e, c, peer, &res);
    end_near_side(c, &res);
    free_if_gone(c);
}

/* Relays `fd`, or the client's pair (taken). NULL: the client is recorded, and freed unless it has
 * a bridge. */
static struct relay *open_relay(struct client *c, const struct exposure_goal *asked, int fd,
                                const struct addr *peer)
{
    struct exposure *e = c->exposure;
    struct exposure_goal goal = {0};
    if (asked)
        snprintf(c->token, sizeof(c->token), "%s", asked->token);
    int refused = c->is_other_hubs ? 0 : exposure_enter(e, peer);
    if (refused < 0) {
        refuse_client(c, fd, peer, refused);
        return NULL;
    }
    c->is_watch = asked && strcmp(asked->target.host, TUNNEL_LEASE) == 0;
    c->is_metered = !c->is_other_hubs;
    uint8_t prefix[PROXY_HEADER_OUT_MAX];
    char path[CONNECT_UDP_PATH_SIZE], authority[EXPOSURE_AUTHORITY_SIZE], ttl[4];
    char allow[TUNNEL_RANGES_TEXT];
    char tag[RELAY_TAG_SIZE];
    struct h2_header headers[EXPOSURE_HEADERS_MAX + 3];
    bool is_doubtful = !e->forward && !fleet_is_sure(e->pool->fleet);
    bool may_turn = (e->forward || is_doubtful) && !c->is_again && !c->is_other_hubs;
    struct relay_open_params params = {.peer = *peer,
                                       .authority = authority,
                                       .headers = headers,
                                       .set = c->is_other_hubs ? &e->passing : &e->relays,
                                       .ops = &client_ops,
                                       .arg = c,
                                       .is_local = c->dial != NULL,
                                       .keeps_fd = may_turn,
                                       .waits = may_turn,
                                       .prefix = prefix};
    int rc = find_goal(e, asked, &goal);
    if (rc == 0 && is_doubtful && c->is_other_hubs)
        rc = ERR_STALE; /* that one knows better */
    memcpy(headers, exposure_headers(e, &params.n_headers), sizeof(e->headers));
    if (rc == 0)
        host_port_format(&goal.target, authority, sizeof(authority));
    if (rc == 0 && goal.ttl) {
        snprintf(ttl, sizeof(ttl), "%u", goal.ttl);
        headers[params.n_headers++] = (struct h2_header){RELAY_TTL, ttl};
    }
    if (rc == 0 && goal.allow.n) {
        tunnel_ranges_write(&goal.allow, allow);
        headers[params.n_headers++] = (struct h2_header){TUNNEL_ALLOW, allow};
    }
    c->is_udp = rc == 0 && goal.is_udp;
    if (rc == 0 && exposure_tag(e, &c->shortcut, asked, &goal, tag))
        headers[params.n_headers++] = (struct h2_header){RELAY_SHORTCUT, tag};
    if (rc == 0 && goal.protocol) {
        c->is_for_agent = true;
        params.protocol = goal.protocol;
        params.path = "/";
    } else if (c->is_udp) {
        connect_udp_path(&goal.target, path);
        params.protocol = "connect-udp";
        params.path = path;
    } else if (rc == 0 && !c->is_other_hubs) {
        params.prefix_len = (uint16_t)write_proxy_header(e, fd, peer, prefix);
    }
    struct relay_result res = {.end = RELAY_END_NOT_OPENED, .err = rc < 0 ? rc : ERR_UNAVAILABLE};
    struct h2conn *hc = rc == 0 ? fleet_pool_pick(e->pool, POOL_STREAM, &e->far_worker) : NULL;
    if (hc) {
        params.pair = TAKE(c->pair);
        res.err = relay_open(hc, fd, &params, &c->relay);
    }
    if (res.err == 0)
        return c->relay;
    if (rc == 0 && may_turn && is_lost_on_the_way(res.err)) {
        turn(c, fd, peer, res.err);
        return NULL;
    }
    if (!hc || may_turn)
        drop_near_side(c, fd);
    add_record(e, c, peer, &res);
    end_near_side(c, &res);
    free_if_gone(c);
    return NULL;
}

struct relay *exposure_open_dial(struct exposure *e, struct exposure_dial *d,
                                 const struct exposure_goal *goal, int fd, struct relay_pair *pair,
                                 const struct addr *client, bool is_other_hubs)
{
    struct client *c = client_new(e);
    c->dial = d;
    c->pair = pair;
    c->is_other_hubs = is_other_hubs;
    c->is_again = exposure_dial_is_again(d);
    return open_relay(c, goal, fd, client);
}

static void accept_client(struct exposure *e, int fd, const struct addr *peer, bool is_again)
{
    if (!exposure_admits(e, peer)) {
        reset_and_close(fd);
        return;
    }
    struct client *c = client_new(e);
    c->is_again = is_again;
    open_relay(c, NULL, fd, peer);
}

void exposure_accept(void *arg, int fd, const struct addr *peer)
{
    accept_client(arg, fd, peer, false);
}

struct gift {
    struct exposure *exposure;
    int fd;
    struct addr peer;
    bool is_again;
};

static void give_on_worker(void *arg)
{
    CLEANUP(mem_free) struct gift *g = arg;
    accept_client(g->exposure, g->fd, &g->peer, g->is_again);
    atomic_fetch_add_explicit(&g->exposure->n_arrived, 1, memory_order_release);
}

/* ---- clients of the proxy ---- */

static void on_bridge_end(void *arg, int err)
{
    struct client *c = arg;
    c->bridge = NULL;
    c->has_left = err < 0;
    if (c->retry)
        exposure_retry_end(TAKE(c->retry), err < 0 ? ERR_RESET : 0);
    else
        DL_DELETE(c->exposure->proxied, c);
    if (c->relay)
        relay_abort(c->relay, ERR_RESET);
    else
        free_if_gone(c);
}

static const struct bridge_ops client_bridge_ops = {.on_end = on_bridge_end};

static void ignore_close(void *arg, int err)
{
}

static const struct conn_ops nobody = {.on_close = ignore_close};

struct arrival {
    struct exposure *exposure;
    struct conn *conn;
    struct exposure_goal goal;
};

static void arrive_on_worker(void *arg)
{
    CLEANUP(mem_free) struct arrival *a = arg;
    struct exposure *e = a->exposure;
    struct addr peer = *conn_peer_addr(a->conn);
    int fds[2];
    conn_attach(a->conn, e->worker, &nobody, NULL);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
        conn_abort(a->conn, ERR_LIMIT);
        return;
    }
    struct client *c = client_new(e);
    if (bridge_new(a->conn, fds[0], &client_bridge_ops, c, &c->bridge) < 0) {
        close(fds[1]);
        free_if_gone(c);
        return;
    }
    DL_APPEND(e->proxied, c);
    c->goal = mem_dup(&a->goal, sizeof(a->goal));
    open_relay(c, &a->goal, fds[1], &peer);
}

/* Those whose relay has ended and that still take their last bytes. */
void exposure_cut_proxied(struct exposure *e)
{
    struct client *c;
    DL_FOREACH (e->proxied, c)
        bridge_finish(c->bridge, atomic_load(&e->stop_err));
}

/* ---- main ---- */

void exposure_take(struct exposure *e, const struct exposure_goal *goal, struct conn *c)
{
    assert(exposure_is_serving(e));
    struct arrival *a = NEW(struct arrival);
    *a = (struct arrival){e, c, *goal};
    loop_post(e->worker, arrive_on_worker, a);
}

static void give(struct exposure *e, int fd, const struct addr *peer, bool is_again)
{
    assert(exposure_is_serving(e));
    struct gift *g = NEW(struct gift);
    *g = (struct gift){e, fd, *peer, is_again};
    e->n_given++;
    loop_post(e->worker, give_on_worker, g);
}

struct cut {
    struct exposure *exposure;
    char token[ID_SIZE];
};

static void cut_on_worker(void *arg)
{
    CLEANUP(mem_free) struct cut *cut = arg;
    struct relay *r, *next;
    for (r = cut->exposure->relays.head; r; r = next) {
        const struct client *c = relay_arg(r);
        next = relay_next(r);
        if (strcmp(c->token, cut->token) == 0)
            relay_abort(r, ERR_REVOKED);
    }
}

void exposure_cut_token(struct exposure *e, const char *token)
{
    if (e->is_stopping)
        return;
    struct cut *cut = NEW(struct cut);
    cut->exposure = e;
    snprintf(cut->token, sizeof(cut->token), "%s", token);
    loop_post(e->worker, cut_on_worker, cut);
}

void exposure_give(struct exposure *e, int fd, const struct addr *peer)
{
    give(e, fd, peer, false);
}

void exposure_give_again(struct exposure *e, int fd, const struct addr *peer)
{
    give(e, fd, peer, true);
}
