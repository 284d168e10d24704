/*
 * Tunnels by name, on the main loop: which tunnel a request is for, and streams to its target. A
 * stream waits for an agent while the network has one (`waiting`, looked at again whenever some
 * tunnel changes), at most TUNNEL_HOLD_MS, as a client of a listener does.
 */
#include "tunnel/web_internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/tls.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

/* ---- answers ---- */

void web_answer(struct web_ask *a, int status, const char *content_type, const char *body)
{
    a->d.status = status;
    a->d.content_type = content_type ? arena_strdup(&a->arena, content_type) : NULL;
    a->d.body = arena_strdup(&a->arena, body);
}

void web_header(struct web_ask *a, const char *name, const char *value)
{
    assert(a->n_headers < WEB_HEADERS_MAX);
    a->headers[a->n_headers++] =
        (struct http_header){arena_strdup(&a->arena, name), arena_strdup(&a->arena, value)};
}

/* See gateway_decision.key. */
static void write_key(const struct tunnel_object *o, const char *client, char key[GATEWAY_KEY_SIZE])
{
    uint64_t epochs = 0; /* who serves it: another sum whenever that changes */
    for (const struct exposure *e = o->exposures; e; e = exposure_next(e))
        epochs += exposure_is_serving(e) ? exposure_epoch(e) : 0;
    snprintf(key, GATEWAY_KEY_SIZE, "%s %" PRIu64 "/%" PRIu64 " %s", o->t.id, o->t.version, epochs,
             client);
}

void web_let_in(struct web_ask *a, const struct tunnel_object *o)
{
    char client[ADDR_TEXT_SIZE] = "";
    if (o->t.spec.proxy) /* a stream tells who its client is: it is not for others */
        addr_format(&a->q.peer, client, sizeof(client));
    write_key(o, client, a->d.key);
    if (o->t.spec.protocol == TUNNEL_HTTPS)
        a->d.tls = tls_client_ref(o->owner->web->tls);
}

void web_judge(struct web_ask *a)
{
    struct tunnels *ts = a->tunnels;
    const char *id = tunnel_names_tunnel(ts->names, a->q.host);
    struct tunnel_object *o = id ? tunnel_find(ts, id) : NULL;
    if (ts->is_draining) {
        a->d.error = ERR_UNAVAILABLE;
        a->d.body = "the hub is about to stop";
    } else if (!o || o->t.spec.is_sni) {
        web_answer(a, 421, NULL, "no tunnel of this hub has the name");
    } else if (!web_gate(a, o)) {
        return; /* web_decided is called when it is known */
    } else {
        web_let_in(a, o);
    }
    web_decided(a);
}

/* ---- streams ---- */

static void on_dial_open(void *arg)
{
}

static void on_dial_end(void *arg, int err)
{
    web_dial_tell(arg, err, NULL);
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_dial_open, .on_end = on_dial_end};

static void stop_waiting(struct web_dial *wd)
{
    if (!wd->is_waiting)
        return;
    wd->is_waiting = false;
    timer_stop(&wd->timer);
    DL_DELETE(wd->tunnels->web->waiting, wd);
}

static void give_up(struct web_dial *wd, int err, const char *reason)
{
    stop_waiting(wd);
    close(wd->fd);
    wd->fd = -1;
    web_dial_tell(wd, err, reason);
}

/* True: it is dialled, or never will be. */
static bool try_dial(struct web_dial *wd)
{
    struct tunnels *ts = wd->tunnels;
    struct tunnel_object *o = tunnel_find(ts, wd->tunnel);
    if (!o) {
        give_up(wd, ERR_UNAVAILABLE, "the tunnel is gone");
        return true;
    }
    if (tunnel_dial(o, &wd->goal, wd->fd, &wd->client, &dial_ops, wd, &wd->dialled) == 0) {
        stop_waiting(wd);
        wd->fd = -1;
        return true;
    }
    struct fleet_network *n = fleet_network_find(ts->fleet, o->t.spec.network);
    if (tunnel_phase_is_over(o->t.phase) || !n || !fleet_network_is_online(n)) {
        give_up(wd, ERR_UNAVAILABLE,
                tunnel_phase_is_over(o->t.phase) ? "the tunnel is closed"
                                                 : "no agent of its network is connected");
        return true;
    }
    return false;
}

static void on_hold_over(struct timer *t)
{
    struct web_dial *wd = container_of(t, struct web_dial, timer);
    give_up(wd, ERR_UNAVAILABLE, "no agent serves the tunnel now");
}

void web_dial_start(void *arg)
{
    struct web_dial *wd = arg;
    struct tunnels *ts = wd->tunnels;
    if (try_dial(wd))
        return;
    wd->is_waiting = true;
    timer_init(&wd->timer, ts->loop, on_hold_over);
    timer_start(&wd->timer, TUNNEL_HOLD_MS);
    DL_APPEND(ts->web->waiting, wd);
}

void web_dial_done(struct web_dial *wd, int err)
{
    stop_waiting(wd);
    if (wd->fd >= 0)
        close(wd->fd);
    wd->fd = -1;
    if (wd->dialled)
        exposure_dial_done(TAKE(wd->dialled), err);
}

static void on_retry(struct defer *d)
{
    struct tunnel_web *w = container_of(d, struct tunnel_web, retry);
    struct web_dial *wd, *next;
    DL_FOREACH_SAFE (w->waiting, wd, next)
        try_dial(wd);
}

/* Streams that wait look again; idle ones that lead to where it was are closed, so that an agent
 * which gives it up need not wait for them. */
void tunnel_web_changed(struct tunnel_object *o)
{
    struct tunnel_web *w = o->owner->web;
    char key[GATEWAY_KEY_SIZE];
    if (!w)
        return;
    if (w->waiting)
        loop_defer(o->owner->loop, &w->retry);
    if (!o->t.spec.host[0] || o->t.spec.is_sni)
        return;
    write_key(o, "", key);
    if (o->web_key && strcmp(o->web_key, key) == 0)
        return;
    mem_free(o->web_key);
    o->web_key = mem_strdup(key);
    web_gateways_tell(w, key);
}

/* ---- TLS that passes ---- */

void web_pass(struct tunnels *ts, int fd, const struct addr *peer, const char *name)
{
    const struct linger reset = {.l_onoff = 1};
    const char *id = tunnel_names_tunnel(ts->names, name);
    struct tunnel_object *o = id ? tunnel_find(ts, id) : NULL;
    struct exposure *e = o && !ts->is_draining ? tunnel_pick_exposure(o) : NULL;
    if (e && tunnel_access_admits(&o->t.spec.who, peer)) {
        exposure_give(e, fd, peer);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

/* ---- names ---- */

int tunnel_check_host(struct tunnels *ts, const char *tenant, const struct tunnel_spec *spec,
                      const char *tunnel, struct diag *d)
{
    const char *field = spec->is_sni ? "spec.access.endpoint.sni" : "spec.access.endpoint.host";
    if (!spec->host[0])
        return 0;
    int rc = tunnel_names_check(ts->names, spec->host, tunnel);
    if (rc == ERR_EXISTS)
        return diag_set_field(d, rc, field, "another tunnel has the name '%.200s'", spec->host);
    if (rc < 0)
        return diag_set_field(d, ERR_INVALID, field, "'%.200s' is a name of the hub itself",
                              spec->host);
    const char *owner = tunnel_names_tunnel(ts->names, spec->host);
    bool is_its_own = owner && strcmp(owner, tunnel) == 0; /* a limit that came later */
    return is_its_own ? 0 : tunnel_check_domain(ts, tenant, spec->host, field, d);
}

/* ---- life ---- */

static_assert(MAC_KEY_SIZE == CA_DERIVED_SIZE, "the CA's secret is a key");

static int read_key(struct tunnel_web *w, const char *path, struct diag *d)
{
    CLEANUP(buf_done) struct buf text = {0};
    int rc = file_read(path, MAC_KEY_SIZE, true, &text, d);
    if (rc == 0 && text.len == MAC_KEY_SIZE) {
        memcpy(w->keys[0], text.data, MAC_KEY_SIZE);
        return 0;
    }
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return rc;
    random_bytes(w->keys[0], MAC_KEY_SIZE);
    return file_write_atomic(path, w->keys[0], MAC_KEY_SIZE, 0600, d);
}

static int derive_keys(struct tunnel_web *w)
{
    return identity_derive_keys(w->identity, "warren web cookies 1", w->keys, WEB_KEYS_MAX,
                                &w->n_keys);
}

void tunnels_roots_changed(struct tunnels *ts)
{
    struct tunnel_web *w = ts->web;
    uint8_t before[MAC_KEY_SIZE];
    bool is_left = false;
    if (!w || !w->shares_keys)
        return;
    memcpy(before, w->keys[0], sizeof(before));
    if (derive_keys(w) < 0)
        LOG_ERROR("cannot derive the key of cookies");
    for (size_t i = 0; i < w->n_keys; i++)
        is_left |= memcmp(w->keys[i], before, sizeof(before)) == 0;
    if (!is_left && w->n_keys < WEB_KEYS_MAX) /* logins made with it go on */
        memcpy(w->keys[w->n_keys++], before, sizeof(before));
    explicit_bzero(before, sizeof(before));
}

int tunnels_serve_web(const struct tunnel_web_config *cfg, struct diag *d)
{
    static const struct tls_client_config tls = {
        .insecure = true, .old_is_allowed = true, .alpn = {"http/1.1"}};
    struct tunnel_web *w = NEW(struct tunnel_web);
    struct tunnels *ts = cfg->tunnels;
    w->tunnels = ts;
    w->identity = cfg->identity;
    w->retry.fn = on_retry;
    ts->web = w;
    for (size_t i = 0; i < cfg->n_public_names; i++)
        tunnel_names_reserve(ts->names, cfg->public_names[i]);
    w->n_keys = 1;
    w->shares_keys = cfg->shares_key;
    TRY(cfg->shares_key ? derive_keys(w) : read_key(w, cfg->key_path, d));
    return tls_client_new(&tls, &w->tls, d);
}

struct tunnel_names *tunnels_names(struct tunnels *ts)
{
    return ts->names;
}

void tunnels_settle_web(struct tunnels *ts)
{
    while (ts->web && ts->web->n_running)
        loop_turn(ts->loop, true);
    if (ts->web)
        ts->web->gateways = NULL;
}

void tunnel_web_free(struct tunnels *ts)
{
    struct tunnel_web *w = TAKE(ts->web);
    if (!w)
        return;
    loop_defer_cancel(&w->retry);
    web_gate_free(w);
    tls_client_unref(w->tls);
    explicit_bzero(w->keys, sizeof(w->keys));
    mem_free(w);
}
