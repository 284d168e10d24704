#include "tunnel/expose.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "net/bridge.h"
#include "net/listener.h"
#include "net/pacer.h"
#include "net/proxy_gate.h"
#include "net/relay.h"
#include "tunnel/expose_internal.h"
#include "wire/connect_udp.h"
#include "wire/http1.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#define RECORDS_BATCH    256
#define RECORDS_DELAY_MS 200
#define REFUSED_SHOWN    20    /* clients over a limit, recorded and logged in a second */
#define LIST_MAX         10000 /* open connections shown */

struct exposure {
    /* Constant. */
    struct loop *main, *worker;
    const struct exposure_ops *ops;
    void *arg, *owner;
    char tunnel[ID_SIZE], agent[ID_SIZE];
    uint64_t lease_epoch;
    char lease_text[24];
    struct h2_header headers[EXPOSURE_HEADERS];
    struct exposure_udp *udp; /* NULL: clients are streams */

    struct fleet_pool *pool; /* as a name; followed on the worker only, until stop_on_worker */

    /* The worker's. */
    int listen_fd;
    struct listener *listener;
    struct pool_user pool_user;
    struct relay_set relays; /* its counters are read by anyone */
    char authority[EXPOSURE_AUTHORITY_SIZE];
    bool is_any; /* a whole network: who asks names the target, and what fails is his own affair */
    enum proxy_version proxy;
    struct proxy_trust *trust;
    struct tunnel_access who;
    struct meter *meters[PACER_METERS];
    struct pacer read_pace, write_pace;
    uint64_t refused_since_ms; /* the second in which the last ones were refused */
    uint32_t n_refused;        /* in it */
    uint32_t n_clients;
    struct client *proxied;
    struct defer last_gone;
    int target_err;
    bool is_stopped, is_closed; /* cut; takes no new clients */
    _Atomic uint64_t n_arrived; /* of those that the main loop gave */
    struct exposure_record *records;
    size_t n_records;
    struct timer flush_timer;

    /* Set by the main loop as soon as it stops the exposure: an agent that is told so too may close
     * the streams before the worker hears of it. */
    _Atomic int stop_err;

    /* The main loop's. */
    bool is_stopping, is_lingering;
    uint64_t n_given;
    struct exposure *prev, *next;
};

/* One client's connection, the relay's argument. It lives until both are gone: the relay, and the
 * bridge of a client that came through the proxy. */
struct client {
    struct exposure *exposure;
    int64_t opened;
    struct relay *relay;
    struct pool_bulk *bulk;     /* while it fills a connection */
    struct bridge *bridge;      /* NULL: a socket of the listener, or gone */
    struct exposure_dial *dial; /* NULL: nobody on the main loop asked for it */
    bool has_left;              /* its connection was lost, not ended */
    bool is_metered;            /* counts as an open stream of the meters */
    struct client *prev, *next; /* of `proxied` while there is a bridge */
};

/* ---- worker to main ---- */

struct record_batch {
    struct exposure *exposure;
    struct exposure_record *records;
    size_t n;
};

static void records_on_main(void *arg)
{
    CLEANUP(mem_free) struct record_batch *b = arg;
    b->exposure->ops->on_records(b->exposure->arg, b->records, b->n);
    mem_free(b->records);
}

static void flush_records(struct exposure *e)
{
    timer_stop(&e->flush_timer);
    if (!e->n_records)
        return;
    struct record_batch *b = NEW(struct record_batch);
    *b = (struct record_batch){e, e->records, e->n_records};
    e->records = NULL;
    e->n_records = 0;
    loop_post(e->main, records_on_main, b);
}

static void on_flush_timer(struct timer *t)
{
    flush_records(container_of(t, struct exposure, flush_timer));
}

struct target_news {
    struct exposure *exposure;
    int err;
};

static void target_on_main(void *arg)
{
    CLEANUP(mem_free) struct target_news *n = arg;
    n->exposure->ops->on_target(n->exposure->arg, n->exposure->tunnel, n->exposure->lease_epoch,
                                n->err);
}

bool exposure_tell_target(struct exposure *e, int err)
{
    if (e->target_err == err)
        return false;
    e->target_err = err;
    struct target_news *n = NEW(struct target_news);
    *n = (struct target_news){e, err};
    loop_post(e->main, target_on_main, n);
    return true;
}

static void stopped_on_main(void *arg)
{
    struct exposure *e = arg;
    e->ops->on_stopped(e->arg, e);
    exposure_udp_free(e->udp);
    mem_free(e);
}

static void close_listener(struct exposure *e)
{
    if (e->listener)
        listener_stop(TAKE(e->listener));
    if (e->listen_fd >= 0)
        close(e->listen_fd);
    e->listen_fd = -1;
}

/* Deferred, so that the relay whose end brought us here is done with its set. */
static void on_last_gone(struct defer *d)
{
    struct exposure *e = container_of(d, struct exposure, last_gone);
    if (e->udp)
        exposure_udp_done(e->udp);
    close_listener(e);
    flush_records(e);
    pacer_done(&e->read_pace);
    pacer_done(&e->write_pace);
    loop_post(e->main, stopped_on_main, e);
}

static void drained_on_main(void *arg)
{
    struct exposure *e = arg;
    if (!e->is_stopping)
        e->ops->on_drained(e->arg, e);
}

static void check_stopped(struct exposure *e)
{
    if (e->n_clients)
        return;
    if (e->is_stopped)
        loop_defer(e->worker, &e->last_gone);
    else if (e->is_closed)
        loop_post(e->main, drained_on_main, e);
}

void exposure_hold(struct exposure *e)
{
    e->n_clients++;
}

void exposure_release(struct exposure *e)
{
    e->n_clients--;
    check_stopped(e);
}

/* ---- clients ---- */

int exposure_stop_reason(const struct exposure *e)
{
    return atomic_load_explicit(&e->stop_err, memory_order_acquire);
}

const char *exposure_cut_text(int stop_reason)
{
    return stop_reason == ERR_REVOKED ? "revoked" : stop_reason == ERR_EXPIRED ? "expired" : "lost";
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
        return exposure_cut_text(stop_err);
    }
}

static void name_record(const struct exposure *e, struct exposure_record *r)
{
    snprintf(r->tunnel, sizeof(r->tunnel), "%s", e->tunnel);
    snprintf(r->agent, sizeof(r->agent), "%s", e->agent);
}

void exposure_record(struct exposure *e, const struct exposure_record *r)
{
    if (!e->records)
        e->records = mem_new(RECORDS_BATCH * sizeof(*e->records));
    struct exposure_record *added = &e->records[e->n_records++];
    *added = *r;
    name_record(e, added);
    added->closed = time_wall_ms();
    if (e->n_records == RECORDS_BATCH)
        flush_records(e);
    else if (!timer_is_running(&e->flush_timer))
        timer_start(&e->flush_timer, RECORDS_DELAY_MS);
}

static void add_record(struct exposure *e, const struct client *c, const struct addr *peer,
                       const struct relay_result *res)
{
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

void exposure_leave(struct exposure *e)
{
    for (int i = 0; i < PACER_METERS; i++)
        if (e->meters[i])
            meter_leave(e->meters[i]);
}

int exposure_enter(struct exposure *e, const struct addr *client)
{
    for (int i = 0; i < PACER_METERS; i++) {
        enum meter_refusal why =
            e->meters[i] ? meter_enter(e->meters[i], client, loop_now_ms(e->worker)) : METER_OK;
        if (why == METER_OK)
            continue;
        while (i-- > 0) {
            if (!e->meters[i])
                continue;
            meter_leave(e->meters[i]);
            atomic_fetch_add(&e->meters[i]->refused[why], 1);
        }
        return meter_refusal_error(why);
    }
    return 0;
}

bool exposure_shows_refusal(struct exposure *e, const struct addr *client, int err)
{
    char text[ADDR_TEXT_SIZE];
    uint64_t now = loop_now_ms(e->worker);
    if (now - e->refused_since_ms >= 1000) {
        e->refused_since_ms = now;
        e->n_refused = 0;
    }
    if (e->n_refused++ >= REFUSED_SHOWN)
        return false;
    addr_format(client, text, sizeof(text));
    LOG_INFO("client refused", LOG_STR("tunnel", e->tunnel), LOG_STR("client", text),
             LOG_STR("error", proxy_status_token(err)));
    return true;
}

struct meter *const *exposure_meters(const struct exposure *e)
{
    return e->meters;
}

enum proxy_version exposure_proxy(const struct exposure *e)
{
    return e->proxy;
}

static void free_if_gone(struct client *c)
{
    struct exposure *e = c->exposure;
    if (c->relay || c->bridge)
        return;
    if (c->is_metered)
        exposure_leave(e);
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
        exposure_dial_ended(TAKE(c->dial), res->end == RELAY_END_FINISHED ? 0 : res->err);
}

static void on_relay_open(void *arg, struct relay *r)
{
    struct client *c = arg;
    exposure_tell_target(c->exposure, 0);
    if (c->bridge)
        say_opened(c->bridge, c->exposure->udp != NULL);
    if (c->dial)
        exposure_dial_opened(c->dial);
}

void exposure_log_not_reached(const struct exposure *e, const struct addr *peer, int err)
{
    char client[ADDR_TEXT_SIZE];
    addr_format(peer, client, sizeof(client));
    LOG_INFO("target not reached", LOG_STR("tunnel", e->tunnel), LOG_STR("client", client),
             LOG_STR("target", e->authority), LOG_STR("error", proxy_status_token(err)));
}

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct client *c = arg;
    struct exposure *e = c->exposure;
    bool is_missed = res->end == RELAY_END_NOT_OPENED;
    if (is_missed && !e->is_any) {
        exposure_log_not_reached(e, relay_peer(r), res->err);
        exposure_tell_target(e, res->err);
    }
    if (!is_missed || !e->is_any)
        add_record(e, c, relay_peer(r), res);
    c->relay = NULL;
    fleet_pool_bulk_end(&c->bulk);
    end_near_side(c, res);
    free_if_gone(c);
}

static void on_relay_bulk(void *arg, struct relay *r)
{
    struct client *c = arg;
    if (!c->exposure->udp) /* the agent's end of those is a flow, which stays where it is */
        fleet_pool_bulk(c->exposure->pool, &c->bulk, r);
}

static const struct relay_ops client_ops = {
    .on_open = on_relay_open, .on_bulk = on_relay_bulk, .on_end = on_relay_end};

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
    ret->is_udp = e->udp != NULL;
    return host_port_parse(e->authority, false, &ret->target, NULL);
}

/* A client that is over a limit. */
static void refuse_client(struct client *c, int fd, const struct addr *peer, int err)
{
    struct exposure *e = c->exposure;
    const struct linger reset = {.l_onoff = 1};
    const struct relay_result res = {.end = RELAY_END_NOT_OPENED, .err = err, .fd = -1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    if (exposure_shows_refusal(e, peer, err))
        add_record(e, c, peer, &res);
    end_near_side(c, &res);
    free_if_gone(c);
}

/* Relays `fd` (taken). NULL: the client is recorded, and freed unless it has a bridge. */
static struct relay *open_relay(struct client *c, const struct exposure_goal *asked, int fd,
                                const struct addr *peer)
{
    struct exposure *e = c->exposure;
    struct exposure_goal goal;
    int refused = exposure_enter(e, peer);
    if (refused < 0) {
        refuse_client(c, fd, peer, refused);
        return NULL;
    }
    c->is_metered = true;
    uint8_t prefix[PROXY_HEADER_OUT_MAX];
    char path[CONNECT_UDP_PATH_SIZE], authority[EXPOSURE_AUTHORITY_SIZE];
    struct relay_open_params params = {.peer = *peer,
                                       .authority = authority,
                                       .headers = e->headers,
                                       .n_headers = EXPOSURE_HEADERS,
                                       .set = &e->relays,
                                       .ops = &client_ops,
                                       .arg = c,
                                       .is_local = c->dial != NULL,
                                       .prefix = prefix};
    int rc = find_goal(e, asked, &goal);
    if (rc == 0)
        host_port_format(&goal.target, authority, sizeof(authority));
    if (rc == 0 && goal.is_udp) {
        connect_udp_path(&goal.target, path);
        params.udp_path = path;
    } else if (rc == 0) {
        params.prefix_len = (uint16_t)write_proxy_header(e, fd, peer, prefix);
    }
    struct relay_result res = {.end = RELAY_END_NOT_OPENED, .err = rc < 0 ? rc : ERR_UNAVAILABLE};
    struct h2conn *hc = rc == 0 ? fleet_pool_pick(e->pool, POOL_STREAM) : NULL;
    if (hc)
        res.err = relay_open(hc, fd, &params, &c->relay);
    else
        close(fd);
    if (res.err == 0)
        return c->relay;
    add_record(e, c, peer, &res);
    end_near_side(c, &res);
    free_if_gone(c);
    return NULL;
}

struct relay *exposure_open_dial(struct exposure *e, struct exposure_dial *d,
                                 const struct exposure_goal *goal, int fd,
                                 const struct addr *client)
{
    struct client *c = client_new(e);
    c->dial = d;
    return open_relay(c, goal, fd, client);
}

bool exposure_admits(const struct exposure *e, const struct addr *client)
{
    return tunnel_access_admits(&e->who, client);
}

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct exposure *e = arg;
    const struct linger reset = {.l_onoff = 1};
    if (exposure_admits(e, peer)) {
        open_relay(client_new(e), NULL, fd, peer);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

struct socket_arrival {
    struct exposure *exposure;
    int fd;
    struct addr peer;
};

static void socket_on_worker(void *arg)
{
    CLEANUP(mem_free) struct socket_arrival *a = arg;
    open_relay(client_new(a->exposure), NULL, a->fd, &a->peer);
}

struct gift {
    struct exposure *exposure;
    int fd;
    struct addr peer;
};

static void give_on_worker(void *arg)
{
    CLEANUP(mem_free) struct gift *g = arg;
    on_accept(g->exposure, g->fd, &g->peer);
    atomic_fetch_add_explicit(&g->exposure->n_arrived, 1, memory_order_release);
}

/* ---- clients of the proxy ---- */

static void on_bridge_end(void *arg, int err)
{
    struct client *c = arg;
    c->bridge = NULL;
    DL_DELETE(c->exposure->proxied, c);
    c->has_left = err < 0;
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
    open_relay(c, &a->goal, fds[1], &peer);
}

/* Those whose relay has ended and that still take their last bytes. */
static void cut_proxied(struct exposure *e)
{
    struct client *c;
    DL_FOREACH (e->proxied, c)
        bridge_finish(c->bridge, atomic_load(&e->stop_err));
}

/* ---- the worker's side of starting and stopping ---- */

/* The socket too: while it is open the kernel takes clients that nobody would accept. Not that of
 * flows: they answer from it until they have ended. */
static void stop_listening(struct exposure *e)
{
    if (e->udp)
        exposure_udp_stop(e->udp, 0);
    else
        close_listener(e);
}

static void on_pool_gone(struct pool_user *u)
{
    stop_listening(container_of(u, struct exposure, pool_user));
}

static void start_on_worker(void *arg)
{
    struct exposure *e = arg;
    timer_init(&e->flush_timer, e->worker, on_flush_timer);
    pacer_init(&e->read_pace, e->worker, e->meters, false);
    pacer_init(&e->write_pace, e->worker, e->meters, true);
    e->relays.read_pace = &e->read_pace;
    e->relays.write_pace = &e->write_pace;
    if (!fleet_pool_is_usable(e->pool))
        return; /* gone meanwhile; main will stop this exposure */
    e->pool_user.on_gone = on_pool_gone;
    fleet_pool_use(e->pool, &e->pool_user);
    if (e->listen_fd < 0)
        return;
    int err = e->udp ? exposure_udp_start(e->udp, e->listen_fd)
                     : listener_start(e->worker, e->listen_fd, on_accept, e, &e->listener);
    if (err < 0)
        LOG_ERROR("cannot accept clients", LOG_STR("tunnel", e->tunnel), LOG_ERR(err));
    else if (!e->udp)
        listener_trust(e->listener, e->trust);
}

static void stop_on_worker(void *arg)
{
    struct exposure *e = arg;
    stop_listening(e);
    fleet_pool_unuse(e->pool, &e->pool_user);
    e->is_stopped = true;
    relay_set_abort(&e->relays, exposure_stop_reason(e));
    if (e->udp)
        exposure_udp_stop(e->udp, exposure_stop_reason(e));
    cut_proxied(e);
    check_stopped(e);
}

static void stop_accepting_on_worker(void *arg)
{
    struct exposure *e = arg;
    if (e->udp)
        exposure_udp_refuse_new(e->udp);
    else
        stop_listening(e);
}

static void linger_on_worker(void *arg)
{
    struct exposure *e = arg;
    stop_listening(e);
    if (e->udp)
        exposure_udp_linger(e->udp);
    e->is_closed = true;
    check_stopped(e);
}

struct retarget {
    struct exposure *exposure;
    char authority[EXPOSURE_AUTHORITY_SIZE];
    enum proxy_version proxy;
};

struct admission {
    struct exposure *exposure;
    struct tunnel_access who;
};

static void admit_on_worker(void *arg)
{
    CLEANUP(mem_free) struct admission *a = arg;
    a->exposure->who = a->who;
}

static void retarget_on_worker(void *arg)
{
    CLEANUP(mem_free) struct retarget *r = arg;
    snprintf(r->exposure->authority, sizeof(r->exposure->authority), "%s", r->authority);
    r->exposure->proxy = r->proxy;
    if (r->exposure->udp)
        exposure_udp_set_proxy(r->exposure->udp, r->proxy);
    r->exposure->target_err = 0;
}

/* ---- main: after exposure_stop nothing is posted to the worker any more, for the answer that
 * frees the exposure may be on its way ---- */

int exposure_start(const struct exposure_config *cfg, struct exposure **ret)
{
    int fd = -1;
    if (cfg->listen_fd >= 0) {
        fd = fcntl(cfg->listen_fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            return error_from_errno(errno);
    }
    struct exposure *e = NEW(struct exposure);
    e->main = cfg->main;
    e->pool = cfg->pool;
    e->worker = cfg->pool->worker;
    e->ops = cfg->ops;
    e->arg = cfg->arg;
    e->owner = cfg->owner;
    e->last_gone.fn = on_last_gone;
    e->listen_fd = fd;
    e->lease_epoch = cfg->lease_epoch;
    e->proxy = cfg->proxy;
    e->trust = cfg->trust;
    memcpy(e->meters, cfg->meters, sizeof(e->meters));
    snprintf(e->tunnel, sizeof(e->tunnel), "%s", cfg->tunnel);
    snprintf(e->agent, sizeof(e->agent), "%s", cfg->pool->agent);
    snprintf(e->authority, sizeof(e->authority), "%s", cfg->authority);
    e->who = *cfg->who;
    snprintf(e->lease_text, sizeof(e->lease_text), "%" PRIu64, cfg->lease_epoch);
    e->headers[0] = (struct h2_header){"warren-tunnel", e->tunnel};
    e->headers[1] = (struct h2_header){"warren-lease", e->lease_text};
    e->is_any = cfg->protocol == TUNNEL_ANY;
    if (cfg->protocol == TUNNEL_UDP)
        e->udp = exposure_udp_new(e, cfg->flow_idle_ms);
    loop_post(e->worker, start_on_worker, e);
    *ret = e;
    return 0;
}

void exposure_stop(struct exposure *e, int err)
{
    if (e->is_stopping)
        return;
    e->is_stopping = true;
    atomic_store_explicit(&e->stop_err, err, memory_order_release);
    loop_post(e->worker, stop_on_worker, e);
}

void exposure_linger(struct exposure *e)
{
    if (e->is_stopping || e->is_lingering)
        return;
    e->is_lingering = true;
    loop_post(e->worker, linger_on_worker, e);
}

void exposure_retarget(struct exposure *e, const char *authority, enum proxy_version proxy)
{
    if (e->is_stopping)
        return;
    struct retarget *r = NEW(struct retarget);
    r->exposure = e;
    r->proxy = proxy;
    snprintf(r->authority, sizeof(r->authority), "%s", authority);
    loop_post(e->worker, retarget_on_worker, r);
}

struct loop *exposure_worker(const struct exposure *e)
{
    return e->worker;
}

struct loop *exposure_main(const struct exposure *e)
{
    return e->main;
}

void exposure_set_sources(struct exposure *e, const struct tunnel_access *who)
{
    if (e->is_stopping)
        return;
    struct admission *a = NEW(struct admission);
    *a = (struct admission){e, *who};
    loop_post(e->worker, admit_on_worker, a);
}

void exposure_take_socket(struct exposure *e, int fd, const struct addr *peer)
{
    assert(!e->is_stopping);
    struct socket_arrival *a = NEW(struct socket_arrival);
    *a = (struct socket_arrival){e, fd, *peer};
    loop_post(e->worker, socket_on_worker, a);
}

void exposure_take(struct exposure *e, const struct exposure_goal *goal, struct conn *c)
{
    assert(exposure_is_serving(e));
    struct arrival *a = NEW(struct arrival);
    *a = (struct arrival){e, c, *goal};
    loop_post(e->worker, arrive_on_worker, a);
}

void exposure_give(struct exposure *e, int fd, const struct addr *peer)
{
    assert(exposure_is_serving(e));
    struct gift *g = NEW(struct gift);
    *g = (struct gift){e, fd, *peer};
    e->n_given++;
    loop_post(e->worker, give_on_worker, g);
}

uint64_t exposure_load(const struct exposure *e)
{
    uint64_t arrived = atomic_load_explicit(&e->n_arrived, memory_order_acquire);
    return atomic_load_explicit(&e->relays.open, memory_order_relaxed) + (e->n_given - arrived);
}

void exposure_stop_accepting(struct exposure *e)
{
    if (!e->is_stopping)
        loop_post(e->worker, stop_accepting_on_worker, e);
}

void exposure_traffic(const struct exposure *e, struct tunnel_traffic *sum)
{
    const struct relay_set *s = &e->relays;
    sum->streams_open += atomic_load_explicit(&s->open, memory_order_relaxed);
    sum->streams_total += atomic_load_explicit(&s->total, memory_order_relaxed);
    sum->bytes_in += atomic_load_explicit(&s->bytes_read, memory_order_relaxed);
    sum->bytes_out += atomic_load_explicit(&s->bytes_written, memory_order_relaxed);
    if (e->udp)
        exposure_udp_traffic(e->udp, sum);
}

struct listing {
    struct exposure *exposure;
    void (*done)(void *arg, const struct exposure_record *records, size_t n);
    void *arg;
    struct exposure_record *records;
    size_t n;
};

static void listed_on_main(void *arg)
{
    CLEANUP(mem_free) struct listing *l = arg;
    l->done(l->arg, l->records, l->n);
    mem_free(l->records);
}

static void list_on_worker(void *arg)
{
    struct listing *l = arg;
    struct exposure *e = l->exposure;
    uint32_t open = atomic_load(&e->relays.open) + (e->udp ? exposure_udp_open(e->udp) : 0);
    size_t room = MIN(open, (uint32_t)LIST_MAX);
    l->records = mem_new(room * sizeof(*l->records));
    for (const struct relay *r = e->relays.head; r && l->n < room; r = relay_next(r)) {
        const struct client *c = relay_arg(r);
        l->records[l->n++] = (struct exposure_record){.client = *relay_peer(r),
                                                      .opened = c->opened,
                                                      .bytes_in = relay_bytes_read(r),
                                                      .bytes_out = relay_bytes_written(r)};
    }
    if (e->udp)
        l->n += exposure_udp_list(e->udp, l->records + l->n, room - l->n);
    for (size_t i = 0; i < l->n; i++) {
        name_record(e, &l->records[i]);
        l->records[i].end = "open";
    }
    loop_post(e->main, listed_on_main, l);
}

void exposure_list_open(struct exposure *e,
                        void (*done)(void *arg, const struct exposure_record *records, size_t n),
                        void *arg)
{
    struct listing *l = NEW(struct listing);
    *l = (struct listing){.exposure = e, .done = done, .arg = arg};
    if (e->is_stopping)
        loop_post(e->main, listed_on_main, l);
    else
        loop_post(e->worker, list_on_worker, l);
}

const char *exposure_authority(const struct exposure *e)
{
    return e->authority;
}

const struct h2_header *exposure_headers(const struct exposure *e)
{
    return e->headers;
}

void *exposure_owner(const struct exposure *e)
{
    return e->owner;
}

struct fleet_pool *exposure_pool(const struct exposure *e)
{
    return e->pool;
}

bool exposure_is_stopping(const struct exposure *e)
{
    return e->is_stopping;
}

bool exposure_is_serving(const struct exposure *e)
{
    return !e->is_stopping && !e->is_lingering;
}

uint64_t exposure_epoch(const struct exposure *e)
{
    return e->lease_epoch;
}

struct exposure *exposure_next(const struct exposure *e)
{
    return e->next;
}

void exposure_list_add(struct exposure **head, struct exposure *e)
{
    DL_APPEND(*head, e);
}

void exposure_list_remove(struct exposure **head, struct exposure *e)
{
    DL_DELETE(*head, e);
}
