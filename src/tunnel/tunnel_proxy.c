/*
 * The hub as a proxy into networks: CONNECT host:port with "Proxy-Authorization: Basic
 * NETWORK:API-TOKEN". Main loop.
 *
 *   CONNECT ─► checked ─► waiting ─► the tunnel serves ─► exposure_take: the connection goes to the
 *                │           │ no tunnel object for this target: one is made (audited), and
 *                └─ refused ─┘ ends once it was not used for IDLE_MS
 *
 * A request waits in the list `waiting` and is looked at again (`retry`) whenever some tunnel
 * changes; what it waits for is worked out anew each time, so nothing in it can go stale. It never
 * waits longer than WAIT_MS, and not at all while the network has no agent.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/server.h"
#include "identity/identity.h"
#include "net/conn.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#define WAIT_MS          10000
#define IDLE_MS          60000
#define PER_TENANT_MAX   256 /* tunnels made on demand, at once */
#define CREDENTIALS_SIZE 512

struct tunnel_proxy {
    struct tunnels *tunnels;
    struct identity *identity;
    struct proxied *waiting;
    struct making *making;
    struct defer retry;
};

/* A request that has not got its stream yet. */
struct proxied {
    struct tunnel_proxy *proxy;
    struct http_request *req;
    struct identity_caller by;
    char network[ID_SIZE];
    struct host_port target;
    struct timer deadline;
    struct proxied *prev, *next;
};

/* A tunnel on its way into the database. */
struct making {
    struct tunnel_proxy *proxy;
    struct identity_caller by;
    struct tunnel t;
    struct making *prev, *next;
};

static bool same_target(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcasecmp(a->host, b->host) == 0;
}

/* ---- answers ---- */

static void respond_failure(struct http_request *req, int err, const char *text)
{
    char field[PROXY_STATUS_SIZE];
    struct diag d = {0};
    int status = proxy_status_format(err, field);
    diag_set(&d, err, "%s", text);
    http_add_header(req, "Proxy-Status", field);
    http_respond_problem(req, status, &d);
}

static void respond_unauthenticated(struct http_request *req, const char *text)
{
    struct diag d = {0};
    diag_set(&d, ERR_UNAUTHENTICATED, "%s", text);
    http_add_header(req, "Proxy-Authenticate", "Basic realm=\"warren\", charset=\"UTF-8\"");
    http_respond_problem(req, 407, &d);
}

static void forget(struct proxied *p)
{
    timer_stop(&p->deadline);
    DL_DELETE(p->proxy->waiting, p);
    mem_free(p);
}

static void fail(struct proxied *p, int err, const char *text)
{
    char target[EXPOSURE_AUTHORITY_SIZE];
    host_port_format(&p->target, target, sizeof(target));
    LOG_INFO("proxy request failed", LOG_STR("network", p->network), LOG_STR("target", target),
             LOG_STR("client", p->by.address), LOG_STR("error", proxy_status_token(err)),
             LOG_STR("why", text));
    respond_failure(p->req, err, text);
    forget(p);
}

/* ---- tunnels made on demand ---- */

static size_t count_on_demand(const struct tunnel_proxy *proxy, const char *tenant)
{
    size_t n = 0;
    for (const struct tunnel_object *o = proxy->tunnels->objects; o; o = o->hh.next)
        n += o->t.idle_ms && strcmp(o->t.tenant, tenant) == 0;
    for (const struct making *m = proxy->making; m; m = m->next)
        n += strcmp(m->t.tenant, tenant) == 0;
    return n;
}

static int write_made(struct tx *tx, void *arg)
{
    const struct making *m = arg;
    int64_t there;
    TRY(tx_query_int(tx, &there, "SELECT COUNT(*) FROM network WHERE id = $1 AND tenant = $2",
                     STORE_TEXT(m->t.spec.network), STORE_TEXT(m->t.tenant)));
    if (!there)
        return ERR_NOT_FOUND;
    TRY(tunnel_store_insert(tx, &m->t, 0));
    return identity_audit_act(tx, &m->by, "tunnel.create", m->t.id, m->t.name);
}

static void fail_all(struct tunnel_proxy *proxy, const struct tunnel *t, int err)
{
    struct proxied *p, *next;
    DL_FOREACH_SAFE (proxy->waiting, p, next) {
        if (strcmp(p->network, t->spec.network) == 0 && same_target(&p->target, &t->spec.target))
            fail(p, err, "no tunnel to the target could be made");
    }
}

static void made(void *arg, int err)
{
    static const struct tunnel_traffic none;
    CLEANUP(mem_free) struct making *m = arg;
    struct tunnel_proxy *proxy = m->proxy;
    DL_DELETE(proxy->making, m);
    if (err < 0)
        fail_all(proxy, &m->t, err == ERR_NOT_FOUND ? err : ERR_IO);
    else
        tunnel_begin(tunnel_add(proxy->tunnels, &m->t, 0, &none));
    tunnel_proxy_changed(proxy->tunnels);
}

static void make(const struct proxied *p)
{
    struct tunnel_proxy *proxy = p->proxy;
    struct making *m = NEW(struct making);
    struct tunnel *t = &m->t;
    m->proxy = proxy;
    m->by = p->by;
    id_new(t->id, "tun");
    snprintf(t->name, sizeof(t->name), "on-demand-%s", t->id + strlen("tun_"));
    snprintf(t->tenant, sizeof(t->tenant), "%s", p->by.tenant);
    snprintf(t->spec.network, sizeof(t->spec.network), "%s", p->network);
    t->version = 1;
    t->spec.target = p->target;
    t->spec.internal = true;
    t->created = time_wall_ms();
    t->idle_ms = IDLE_MS;
    DL_APPEND(proxy->making, m);
    store_run(proxy->tunnels->store, STORE_WRITE, write_made, made, m);
}

static bool is_being_made(const struct proxied *p)
{
    for (const struct making *m = p->proxy->making; m; m = m->next) {
        if (strcmp(m->t.spec.network, p->network) == 0 &&
            same_target(&m->t.spec.target, &p->target))
            return true;
    }
    return false;
}

/* ---- the end of those that nobody uses ---- */

struct ending {
    struct tunnels *tunnels;
    struct tunnel t;
};

static int write_ended(struct tx *tx, void *arg)
{
    const struct ending *e = arg;
    char detail[96];
    snprintf(detail, sizeof(detail), "%s, not used any more", e->t.name);
    const struct audit_entry entry = {.tenant = e->t.tenant,
                                      .actor = "hub",
                                      .action = "tunnel.delete",
                                      .object = e->t.id,
                                      .outcome = AUDIT_OK,
                                      .detail = detail};
    TRY(tunnel_store_delete(tx, &e->t, 0));
    return identity_audit(tx, time_wall_ms(), &entry);
}

static void ended(void *arg, int err)
{
    CLEANUP(mem_free) struct ending *e = arg;
    struct tunnel_object *o = tunnel_find(e->tunnels, e->t.id);
    if (!o) /* somebody else was faster */
        return;
    if (err < 0) {
        LOG_ERROR("an unused tunnel was not deleted", LOG_STR("tunnel", o->t.id), LOG_ERR(err));
        o->is_ending = false;
        tunnel_proxy_used(o);
        timer_start(&o->idle_timer, (uint64_t)o->t.idle_ms);
    } else {
        tunnel_remove(o);
    }
}

static void on_idle_timer(struct timer *timer)
{
    struct tunnel_object *o = container_of(timer, struct tunnel_object, idle_timer);
    struct tunnel_traffic traffic;
    uint64_t now = loop_now_ms(o->owner->loop), idle = (uint64_t)o->t.idle_ms;
    tunnel_traffic(o, &traffic);
    if (traffic.streams_open)
        o->used_ms = now;
    if (o->used_ms + idle > now) {
        timer_start(timer, o->used_ms + idle - now);
        return;
    }
    struct ending *e = NEW(struct ending);
    e->tunnels = o->owner;
    e->t = o->t;
    o->is_ending = true;
    store_run(o->owner->store, STORE_WRITE, write_ended, ended, e);
}

void tunnel_proxy_used(struct tunnel_object *o)
{
    o->used_ms = loop_now_ms(o->owner->loop);
}

void tunnel_proxy_watch_idle(struct tunnel_object *o)
{
    if (!o->t.idle_ms)
        return;
    tunnel_proxy_used(o);
    timer_init(&o->idle_timer, o->owner->loop, on_idle_timer);
    timer_start(&o->idle_timer, (uint64_t)o->t.idle_ms);
}

/* ---- waiting ---- */

static bool fits(const struct tunnel_object *o, const struct proxied *p)
{
    return o->t.spec.internal && o->t.spec.protocol == TUNNEL_TCP && !o->is_ending &&
           (o->t.phase == TUNNEL_PENDING || o->t.phase == TUNNEL_ACTIVE) &&
           same_target(&o->t.spec.target, &p->target);
}

/* One that serves, else any. */
static struct tunnel_object *find_tunnel(const struct proxied *p)
{
    struct tunnel_network *n = tunnel_network_of(p->proxy->tunnels, p->network);
    struct tunnel_object *o, *found = NULL;
    if (!n)
        return NULL;
    DL_FOREACH (n->objects, o) {
        if (!fits(o, p))
            continue;
        if (tunnel_pick_exposure(o))
            return o;
        found = found ? found : o;
    }
    return found;
}

static void hand_over(struct proxied *p, struct tunnel_object *o, struct exposure *e)
{
    struct conn *c = http_take_conn(p->req);
    if (c) {
        tunnel_proxy_used(o);
        exposure_take(e, c);
    } else {
        respond_failure(p->req, ERR_UNAVAILABLE, "the connection cannot be used as a tunnel");
    }
    forget(p);
}

static void advance(struct proxied *p)
{
    struct tunnels *ts = p->proxy->tunnels;
    struct fleet_network *n = fleet_network_find(ts->fleet, p->network);
    struct tunnel_object *o = find_tunnel(p);
    struct exposure *e = o ? tunnel_pick_exposure(o) : NULL;
    if (http_request_is_gone(p->req))
        fail(p, ERR_CLOSED, "the client has gone");
    else if (ts->is_draining)
        fail(p, ERR_UNAVAILABLE, "the hub is about to stop");
    else if (e)
        hand_over(p, o, e);
    else if (!n)
        fail(p, ERR_NOT_FOUND, "the network is gone");
    else if (n->online == 0)
        fail(p, ERR_UNAVAILABLE, "no agent of the network is connected");
    else if (!o && !is_being_made(p)) {
        if (count_on_demand(p->proxy, p->by.tenant) >= PER_TENANT_MAX)
            fail(p, ERR_LIMIT, "the tenant has too many tunnels on demand");
        else
            make(p);
    }
}

static void on_retry(struct defer *d)
{
    struct tunnel_proxy *proxy = container_of(d, struct tunnel_proxy, retry);
    struct proxied *p, *next;
    DL_FOREACH_SAFE (proxy->waiting, p, next)
        advance(p);
}

void tunnel_proxy_changed(struct tunnels *ts)
{
    if (ts->proxy && ts->proxy->waiting)
        loop_defer(ts->loop, &ts->proxy->retry);
}

static void on_deadline(struct timer *t)
{
    fail(container_of(t, struct proxied, deadline), ERR_UNAVAILABLE,
         "no agent took the tunnel in time");
}

/* ---- a request ---- */

/* NETWORK:API-TOKEN of "Basic ..."; false if it is none. `text` gets the network, *token points
 * into it. */
static bool read_credentials(const char *header, char text[CREDENTIALS_SIZE], const char **token)
{
    static const char scheme[] = "Basic ";
    size_t len = CREDENTIALS_SIZE - 1;
    if (!header || strncasecmp(header, scheme, strlen(scheme)) != 0)
        return false;
    header += strlen(scheme);
    header += strspn(header, " ");
    if (text_unbase64(header, strlen(header), text, &len) < 0)
        return false;
    text[len] = '\0';
    char *colon = strchr(text, ':');
    if (!colon || strlen(text) != len)
        return false;
    *colon = '\0';
    *token = colon + 1;
    return true;
}

static int authenticate(struct tunnel_proxy *proxy, struct http_request *req,
                        char text[CREDENTIALS_SIZE], struct identity_caller *ret, struct diag *d)
{
    const char *token, *header = http_header(req, "proxy-authorization");
    char bearer[CREDENTIALS_SIZE + 8];
    if (!read_credentials(header, text, &token))
        return diag_set(d, ERR_UNAUTHENTICATED,
                        "the proxy wants a network's name as user and an API token as password");
    snprintf(bearer, sizeof(bearer), "Bearer %s", token);
    int rc = identity_authenticate(proxy->identity, bearer, http_peer(req), ret, d);
    explicit_bzero(bearer, sizeof(bearer));
    explicit_bzero(text + strlen(text), CREDENTIALS_SIZE - strlen(text));
    return rc;
}

/* The address at which the client found this hub: a stream to it would come back here. */
static bool is_hub_itself(struct http_request *req, const struct host_port *target)
{
    struct conn *c = http_conn(req);
    struct addr own = {.len = sizeof(own.in6)}, asked;
    if (!c || getsockname(conn_fd(c), &own.sa, &own.len) < 0 ||
        addr_parse(target->host, target->port, &asked) < 0)
        return false;
    return addr_port(&own) == target->port && addr_equal_ip(&own, &asked);
}

static void handle_connect(struct http_request *req, void *ctx)
{
    struct tunnel_proxy *proxy = ctx;
    struct host_port target;
    struct identity_caller by;
    struct diag d = {0};
    char credentials[CREDENTIALS_SIZE];
    if (authenticate(proxy, req, credentials, &by, &d) < 0) {
        respond_unauthenticated(req, diag_text(&d));
        return;
    }
    struct fleet_network *n = fleet_network_lookup(proxy->tunnels->fleet, by.tenant, credentials);
    if (host_port_parse(http_path(req), false, &target, &d) < 0) {
        http_respond_diag(req, &d);
    } else if (!n) {
        respond_failure(req, ERR_NOT_FOUND, "the tenant has no network of this name");
    } else if (is_hub_itself(req, &target)) {
        respond_failure(req, ERR_DENIED, "this is the hub's own address");
    } else {
        struct proxied *p = NEW(struct proxied);
        p->proxy = proxy;
        p->req = req;
        p->by = by;
        p->target = target;
        snprintf(p->network, sizeof(p->network), "%s", n->id);
        timer_init(&p->deadline, proxy->tunnels->loop, on_deadline);
        timer_start(&p->deadline, WAIT_MS);
        DL_APPEND(proxy->waiting, p);
        tunnel_proxy_changed(proxy->tunnels);
    }
}

void tunnels_serve_proxy(struct tunnels *ts, struct http_server *http, struct identity *identity)
{
    struct tunnel_proxy *proxy = NEW(struct tunnel_proxy);
    proxy->tunnels = ts;
    proxy->identity = identity;
    proxy->retry.fn = on_retry;
    ts->proxy = proxy;
    http_server_on_connect(http, handle_connect, proxy);
}

void tunnel_proxy_free(struct tunnels *ts)
{
    struct tunnel_proxy *proxy = TAKE(ts->proxy);
    struct proxied *p, *next;
    if (!proxy)
        return;
    loop_defer_cancel(&proxy->retry);
    DL_FOREACH_SAFE (proxy->waiting, p, next)
        fail(p, ERR_UNAVAILABLE, "the hub stops");
    mem_free(proxy);
}
