/*
 * The hub as a proxy into networks: CONNECT host:port with "Proxy-Authorization: Basic
 * NETWORK:API-TOKEN". Here are the checks, and CONNECT over HTTP/1.1, whose connection goes to the
 * worker of the exposure (exposure_take); tunnel_lane.c has HTTP/2. Main loop.
 */
#include "tunnel/tunnel_proxy.h"

#include "base/error.h"
#include "base/mem.h"
#include "http/server.h"
#include "identity/identity.h"
#include "identity/identity_model.h"
#include "net/conn.h"
#include "tunnel/tunnel_lane.h"
#include "wire/connect_udp.h"

#include <stdio.h>
#include <string.h>

#define BEARER_SIZE 512

struct tunnel_proxy {
    struct identity *identity;
    struct tunnel_lane *lane; /* the main loop's */
};

/* ---- checks ---- */

static int authenticate(struct identity *identity, const struct tunnel_proxy_ask *ask,
                        char network[IDENTITY_NAME_SIZE], struct identity_caller *ret,
                        struct diag *d)
{
    CLEANUP(secret_done) struct secret token = {0};
    char bearer[BEARER_SIZE];
    if (!ask->credentials || basic_parse(ask->credentials, network, &token) < 0 ||
        token.len >= BEARER_SIZE - strlen("Bearer "))
        return diag_set(d, ERR_UNAUTHENTICATED,
                        "the proxy wants a network's name as user and an API token as password");
    snprintf(bearer, sizeof(bearer), "Bearer %s", token.data);
    int rc = identity_authenticate(identity, bearer, &ask->peer, ret, d);
    explicit_bzero(bearer, sizeof(bearer));
    return rc < 0 ? ERR_UNAUTHENTICATED : 0;
}

/* The address at which the client found this hub: a stream to it would come back here. */
static bool is_hub_itself(const struct addr *own, const struct host_port *target)
{
    struct addr asked;
    return own->len && addr_parse(target->host, target->port, &asked) == 0 &&
           addr_port(own) == target->port && addr_equal_ip(own, &asked);
}

static int read_target(const struct tunnel_proxy_ask *ask, struct host_port *ret, struct diag *d)
{
    return ask->udp_path ? connect_udp_parse(ask->udp_path, ret, d)
                         : host_port_parse(ask->authority, false, ret, d);
}

static int read_scope(const char *scope, struct tunnel_demand *ret, struct diag *d)
{
    ret->wants_all = scope != NULL;
    if (!scope || strcmp(scope, "network") == 0)
        return 0;
    if (tunnel_ranges_read(scope, &ret->allow) < 0)
        return diag_set(d, ERR_INVALID, "the scope is neither \"network\" nor up to %d ranges",
                        TUNNEL_RANGES_MAX);
    return 0;
}

int tunnel_proxy_judge(struct tunnels *ts, const struct tunnel_proxy_ask *ask,
                       struct tunnel_demand *ret, struct diag *d)
{
    char network[IDENTITY_NAME_SIZE];
    if (!ts->proxy)
        return diag_set(d, ERR_DENIED, "this hub is no proxy");
    TRY(authenticate(ts->proxy->identity, ask, network, &ret->by, d));
    struct fleet_network *n = fleet_network_lookup(ts->fleet, ret->by.tenant, network);
    bool has_target = ask->authority || ask->udp_path;
    if (has_target && read_target(ask, &ret->target, d) < 0)
        return ERR_INVALID;
    if (!n)
        return diag_set(d, ERR_NOT_FOUND, "the tenant has no network '%.63s'", network);
    TRY(read_scope(ask->scope, ret, d));
    if (has_target && !tunnel_ranges_permit(&ret->allow, &ret->target))
        return diag_set(d, ERR_DENIED, "the target is outside of what was asked for");
    if (has_target && is_hub_itself(&ask->own, &ret->target))
        return diag_set(d, ERR_DENIED, "this is the hub's own address");
    snprintf(ret->network, sizeof(ret->network), "%s", n->id);
    ret->protocol = ask->udp_path ? TUNNEL_UDP : TUNNEL_TCP;
    return 0;
}

int tunnel_proxy_refusal(int err, char field[PROXY_STATUS_SIZE])
{
    if (err != ERR_UNAUTHENTICATED)
        return proxy_status_format(err, field);
    snprintf(field, PROXY_STATUS_SIZE, "warren; error=http_request_denied");
    return 407;
}

/* ---- CONNECT, or connect-udp, over HTTP/1.1 ---- */

/* A request that has not got its stream yet. */
struct proxied {
    struct tunnel_demand demand;
    struct http_request *req;
};

static void respond_failure(struct http_request *req, int err, const char *text)
{
    char field[PROXY_STATUS_SIZE];
    struct diag d = {0};
    int status = tunnel_proxy_refusal(err, field);
    diag_set(&d, err, "%s", text);
    http_add_header(req, "Proxy-Status", field);
    if (status == 407)
        http_add_header(req, "Proxy-Authenticate", TUNNEL_PROXY_CHALLENGE);
    http_respond_problem(req, status, &d);
}

static void on_fail(struct tunnel_demand *d, int err, const char *text)
{
    struct proxied *p = container_of(d, struct proxied, demand);
    respond_failure(p->req, err, text);
    mem_free(p);
}

static void on_ready(struct tunnel_demand *d, struct tunnel_object *o)
{
    struct proxied *p = container_of(d, struct proxied, demand);
    struct exposure_goal goal;
    tunnel_demand_goal(d, &goal);
    struct conn *c = http_take_conn(p->req);
    if (c)
        exposure_take(tunnel_pick_exposure(o), &goal, c);
    else
        respond_failure(p->req, ERR_UNAVAILABLE, "the connection cannot be used as a tunnel");
    mem_free(p);
}

static const struct tunnel_demand_ops demand_ops = {.on_ready = on_ready, .on_fail = on_fail};

static void on_client_gone(void *arg)
{
    struct proxied *p = arg;
    tunnel_demand_cancel(&p->demand);
    on_fail(&p->demand, ERR_CLOSED, "the client has gone");
}

static void own_address(struct http_request *req, struct addr *ret)
{
    struct conn *c = http_conn(req);
    ret->len = sizeof(ret->in6);
    if (!c || getsockname(conn_fd(c), &ret->sa, &ret->len) < 0)
        ret->len = 0;
}

static void handle_connect(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct proxied *p = NEW(struct proxied);
    struct diag d = {0};
    struct tunnel_proxy_ask ask = {.credentials = http_header(req, "proxy-authorization"),
                                   .peer = *http_peer(req)};
    if (strcmp(http_method(req), "CONNECT") == 0)
        ask.authority = http_path(req);
    else
        ask.udp_path = http_path(req);
    own_address(req, &ask.own);
    p->req = req;
    p->demand.ops = &demand_ops;
    int rc = tunnel_proxy_judge(ts, &ask, &p->demand, &d);
    if (rc < 0) {
        respond_failure(req, rc, diag_text(&d));
        mem_free(p);
        return;
    }
    http_request_on_gone(req, on_client_gone, p);
    tunnel_demand_start(ts, &p->demand);
}

/* ---- ... and over HTTP/2 ---- */

static void handle_connect_stream(void *ctx, struct h2_stream *s, const struct h2_headers *h)
{
    tunnel_lane_request(ctx, s, h);
}

/* ---- requests in absolute-form ---- */

static void handle_forward(void *ctx, struct conn *c)
{
    struct tunnels *ts = ctx;
    tunnel_lane_forward(tunnel_lane_pick(ts), c);
}

void tunnels_serve_proxy(struct tunnels *ts, struct http_server *http, struct identity *identity)
{
    ts->proxy = NEW(struct tunnel_proxy);
    ts->proxy->identity = identity;
    ts->proxy->lane = tunnel_lane_new(ts, ts->loop);
    http_server_on_connect(http, handle_connect, ts);
    http_server_on_connect_stream(http, handle_connect_stream, ts->proxy->lane);
    http_server_on_forward(http, handle_forward, ts);
}

void tunnel_proxy_free(struct tunnels *ts)
{
    if (ts->proxy)
        tunnel_lane_free(ts->proxy->lane);
    mem_free(TAKE(ts->proxy));
}
