/*
 * Start: settings, store, identity, TLS, fleet, tunnels, HTTP, workers; each needs those before it.
 *
 * End (SIGTERM): first it drains (hub_drain.c); then, each waiting for the one before: streams,
 * unfinished handshakes, sessions and links, HTTP answers, threads, store. A second signal skips
 * the grace.
 */
#include "hub/hub.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/link.h"
#include "hub/internal.h"
#include "loop/io.h"
#include "net/listener.h"
#include "net/tls.h"
#include "peer/peers.h"
#include "pki/cert.h"
#include "rpc/server.h"
#include "tunnel/tunnel_lease.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FDS_RESERVED 256

/* ---- connections from the workers ---- */

static void attached_close(void *arg, int err)
{
}

/* Between being attached and being taken by a server, in one turn, nothing arrives. */
static const struct conn_ops attached_ops = {.on_close = attached_close};

static void take_hubs(struct hub *h, struct conn *c)
{
    char id[ID_SIZE];
    if (cert_hub_identity(conn_peer_cert(c), h->settings->trust_domain, id) == 0) {
        int worker = fleet_worker_number(conn_server_name(c));
        struct tunnel_lane *lane = worker < 0 ? tunnel_lane_pick(h->tunnels)
                                              : tunnel_lane_of_worker(h->tunnels, (uint32_t)worker);
        tunnel_lane_take_hubs(lane, c, id);
        return;
    }
    conn_attach(c, h->loop, &attached_ops, NULL);
    conn_abort(c, ERR_DENIED);
}

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct hub *h = arg;
    if (lane == LANE_HUB && h->state < HUB_STOPPING) {
        take_hubs(h, c);
        return;
    }
    if (lane == LANE_CLIENT && h->state < HUB_STOPPING) {
        tunnel_lane_take(tunnel_lane_pick(h->tunnels), c);
        return;
    }
    conn_attach(c, h->loop, &attached_ops, NULL);
    if (h->state >= HUB_STOPPING) {
        conn_abort(c, ERR_UNAVAILABLE);
        return;
    }
    if (lane == LANE_REVERSE)
        fleet_link_accept(h->fleet, c);
    else if (lane == LANE_AGENT)
        rpc_server_take(fleet_rpc(h->fleet), c);
    else
        http_server_take(lane == LANE_RENEW ? h->renew : h->http, c);
}

/* ---- identity's news ---- */

static void on_agent_revoked(void *arg, const char *agent)
{
    struct hub *h = arg;
    if (h->fleet)
        fleet_cut_revoked(h->fleet, agent);
}

static void on_token_revoked(void *arg, const char *token)
{
    struct hub *h = arg;
    if (h->tunnels)
        tunnels_cut_token(h->tunnels, token);
}

/* Every part that holds something of the CA. */
static void on_roots(void *arg)
{
    struct hub *h = arg;
    if (!h->tunnels)
        return;
    hub_set_ticket_keys(h);
    tunnels_roots_changed(h->tunnels);
    fleet_roots_changed(h->fleet);
    if (h->peers)
        peers_renew_now(h->peers);
}

static void on_server_cert(void *arg)
{
    struct hub *h = arg;
    struct diag d = {0};
    if (!h->tls)
        return;
    if (tls_server_reload(h->tls, identity_server_chain(h->identity),
                          identity_server_key(h->identity), identity_ca_pem(h->identity), &d) < 0)
        LOG_ERROR("the hub's new certificate cannot be used", LOG_STR("why", diag_text(&d)));
}

/* ---- start ---- */

static void apply_log(const struct hub_settings *s)
{
    log_setup((enum log_level)s->log_level, (enum log_format)s->log_format, STDERR_FILENO);
}

static struct identity_policy policy_of(const struct hub_settings *s)
{
    static const enum identity_late late[] = {[LATE_RENEWAL_DENY] = IDENTITY_LATE_DENY,
                                              [LATE_RENEWAL_GRACE] = IDENTITY_LATE_GRACE,
                                              [LATE_RENEWAL_APPROVE] = IDENTITY_LATE_APPROVE};
    return (struct identity_policy){.cert_life_ms = s->cert_ttl_ms,
                                    .late_renewal = late[s->late_renewal],
                                    .late_grace_ms = s->late_renewal_grace_ms,
                                    .enroll_per_minute = (uint32_t)s->limits.enroll_per_minute};
}

static const struct store_schema *const schemas[] = {&identity_schema, &fleet_schema,
                                                     &tunnel_schema};

const struct store_schema *const *hub_schemas(size_t *ret_n)
{
    *ret_n = ARRAY_SIZE(schemas);
    return schemas;
}

static int read_hub_row(struct tx *tx, void *arg)
{
    struct hub *h = arg;
    bool is_alone = !store_is_shared(h->settings->db ? h->settings->db : "");
    return store_hub_start(tx, is_alone, WARREN_VERSION, time_wall_ms(), &h->row);
}

static int open_store(struct hub *h, struct diag *d)
{
    TRY(hub_data_open(h, d));
    CLEANUP(mem_free) char *file = mem_printf("%s/warren.db", h->settings->data);
    const struct store_options options = {.db = h->settings->db ? h->settings->db : file,
                                          .db_password_file = h->settings->db_password_file,
                                          .db_listen = h->settings->db_listen,
                                          .schemas = schemas,
                                          .n_schemas = ARRAY_SIZE(schemas)};
    TRY(store_open(h->loop, &options, &h->store, d));
    int rc = store_run_wait(h->store, STORE_WRITE, read_hub_row, h);
    if (rc < 0)
        return diag_set(d, rc, "cannot write to %s: %s", options.db, error_text(rc));
    return hub_data_keep_id(h, d);
}

/* Out of the environment, where children and dumps would show it. */
static void take_passphrase(struct hub *h)
{
    char *text = getenv("WARREN_CA_PASSPHRASE");
    if (!text || !*text)
        return;
    secret_set(&h->passphrase, text, strlen(text));
    explicit_bzero(text, strlen(text));
    unsetenv("WARREN_CA_PASSPHRASE");
}

static int open_identity(struct hub *h, struct diag *d)
{
    const struct hub_settings *s = h->settings;
    take_passphrase(h);
    const struct identity_config cfg = {
        .loop = h->loop,
        .store = h->store,
        .data_dir = s->data,
        .hub = h->row.id,
        .ca_source = {.key_file = s->ca_key_file,
                      .passphrase_file = s->ca_passphrase_file,
                      .passphrase = h->passphrase.len ? &h->passphrase : NULL},
        .trust_domain = s->trust_domain,
        .public_names = (const char *const *)s->public_names.items,
        .n_public_names = s->public_names.n,
        .policy = policy_of(s),
        .on_agent_revoked = on_agent_revoked,
        .on_token_revoked = on_token_revoked,
        .on_server_cert = on_server_cert,
        .on_roots = on_roots,
        .arg = h};
    return identity_open(&cfg, &h->identity, d);
}

static int open_tls(struct hub *h, struct diag *d)
{
    const struct tls_server_config cfg = {
        .chain_pem = identity_server_chain(h->identity),
        .key_pem = identity_server_key(h->identity),
        .client_ca_pem = identity_ca_pem(h->identity),
        .lanes = {[LANE_HTTP1] = {.alpn = "http/1.1"},
                  [LANE_HTTP2] = {.alpn = "h2"},
                  [LANE_AGENT] = {.alpn = "warren-agent/1", .client_cert = true},
                  [LANE_REVERSE] = {.alpn = "warren-reverse/1", .client_cert = true},
                  [LANE_RENEW] = {.alpn = "warren-renew/1",
                                  .client_cert = true,
                                  .expired_is_allowed = true},
                  [LANE_CLIENT] = {.alpn = TUNNEL_LANE_ALPN},
                  [LANE_HUB] = {.alpn = PEER_ALPN,
                                .client_cert = true,
                                .verify = identity_verify_hub}},
        .n_lanes = LANE_COUNT,
        .verify = identity_verify_leaf,
        .verify_arg = h->identity};
    return tls_server_new(&cfg, &h->tls, d);
}

static bool is_draining(void *arg)
{
    return ((struct hub *)arg)->state >= HUB_DRAINING;
}

static size_t count_served(void *arg, const char *hub)
{
    return tunnels_served_by(((struct hub *)arg)->tunnels, hub);
}

static int open_fleet(struct hub *h, struct diag *d)
{
    const struct fleet_config cfg = {.loop = h->loop,
                                     .store = h->store,
                                     .hub = h->row,
                                     .name = h->machine,
                                     .trust_domain = h->settings->trust_domain,
                                     .lease_ms = LEASE_LIFE_MS,
                                     .links_max = (uint32_t)h->settings->limits.reverse_connections,
                                     .logins_per_second =
                                         (uint32_t)h->settings->limits.logins_per_second,
                                     .links_quiet_ms = (uint32_t)h->settings->reverse_quiet_ms,
                                     .renew_ms = LEASE_RENEW_MS};
    TRY(fleet_new(&cfg, &h->fleet, d));
    TRY(tunnels_new(h->fleet, &h->tunnels, d));
    tunnels_set_trust(h->tunnels, &h->trust);
    return 0;
}

static bool is_tunnel_host(void *arg, const char *host)
{
    struct hub *h = arg;
    return tunnel_names_find(tunnels_names(h->tunnels), host) != TUNNEL_NAME_NONE;
}

static int open_web(struct hub *h, struct diag *d)
{
    const struct hub_settings *s = h->settings;
    CLEANUP(mem_free) char *key_path = mem_printf("%s/web.key", s->data);
    const struct tunnel_web_config web = {.tunnels = h->tunnels,
                                          .identity = h->identity,
                                          .key_path = key_path,
                                          .shares_key = hub_has_shared_ca(h),
                                          .public_names =
                                              (const char *const *)s->public_names.items,
                                          .n_public_names = s->public_names.n};
    http_server_on_host(h->http, is_tunnel_host, h);
    TRY(tunnels_serve_web(&web, d));
    return hub_certs_open(h, d);
}

static void on_self(void *arg, const struct fleet_hub *self)
{
    hub_follow_order(arg, self);
}

static int open_http(struct hub *h, struct diag *d)
{
    const struct http_server_config rest = {.loop = h->loop,
                                            .hooks = identity_http_hooks(h->identity)};
    const struct http_server_config renew = {.loop = h->loop};
    int rc = http_server_new(&rest, &h->http);
    if (rc == 0)
        rc = http_server_new(&renew, &h->renew);
    if (rc < 0)
        return diag_set(d, rc, "cannot serve HTTP: %s", error_text(rc));
    const struct fleet_api_config api = {.fleet = h->fleet,
                                         .identity = h->identity,
                                         .address = h->address_text,
                                         .hub_name = h->machine,
                                         .count_tunnels = count_served,
                                         .is_draining = is_draining,
                                         .on_self = on_self,
                                         .arg = h};
    identity_add_routes(h->identity, h->http);
    identity_add_renew_routes(h->identity, h->renew);
    h->fleet_api = fleet_api_new(&api, h->http);
    fleet_ca_new(h->fleet, h->identity, h->http);
    tunnels_serve(h->tunnels, h->http);
    tunnels_serve_proxy(h->tunnels, h->http, h->identity);
    hub_status_serve(h);
    return open_web(h, d);
}

/* The rest is for the database, other hubs, files, clients of tunnels: at its limit a hub has still
 * what its agents need of it. */
static int fd_max(void)
{
    size_t limit = MIN(io_descriptor_limit(), (size_t)INT_MAX);
    return (int)(limit - MIN(limit / 8, (size_t)FDS_RESERVED));
}

static int start_worker(struct hub *h, int fd)
{
    const struct hub_settings *s = h->settings;
    uint32_t n = (uint32_t)h->n_workers;
    const struct worker_config cfg = {
        .main = h->loop,
        .tls = h->tls,
        .trust = &h->trust,
        .web = h->tunnels,
        .n_web_lanes = LANE_HTTP2 + 1,
        .max_waiting = (uint32_t)MAX(s->limits.handshakes / n, (int64_t)1),
        .max_per_address = (uint32_t)MAX(s->limits.handshakes_per_address / n, (int64_t)1),
        .handshakes_per_second = (uint32_t)(s->limits.handshakes_per_second + n - 1) / n,
        .fd_max = fd_max(),
        .on_conn = on_conn,
        .arg = h};
    struct worker *w;
    TRY(worker_start(&cfg, fd, &w));
    h->lanes[h->started_workers] = tunnel_lane_new(h->tunnels, worker_loop(w));
    h->workers[h->started_workers++] = w;
    fleet_add_worker(h->fleet, worker_loop(w));
    return 0;
}

/* With SO_REUSEPORT two hubs would share a port without a word; so one socket tries without. */
static int check_port_is_free(const struct addr *at, struct diag *d)
{
    int fd;
    TRY(listener_bind(at, false, &fd, NULL, d));
    close(fd);
    return 0;
}

static int start_workers(struct hub *h, struct diag *d)
{
    const struct hub_settings *s = h->settings;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct addr at;
    h->n_workers = s->workers ? (size_t)s->workers : cores > 0 ? (size_t)cores : 1;
    h->n_workers = MIN(h->n_workers, (size_t)WORKERS_MAX);
    if (addr_parse(s->listen.host, s->listen.port, &at) < 0)
        return diag_set_field(d, ERR_INVALID, "listen", "'%.100s' is not an IP address",
                              s->listen.host);
    TRY(check_port_is_free(&at, d));
    for (size_t i = 0; i < h->n_workers; i++) {
        int fd;
        TRY(listener_bind(&at, true, &fd, &h->address, d));
        at = h->address; /* port 0: all get the port that the first was given */
        int rc = start_worker(h, fd);
        if (rc < 0)
            return diag_set(d, rc, "cannot start a worker: %s", error_text(rc));
    }
    addr_format(&h->address, h->address_text, sizeof(h->address_text));
    return 0;
}

static int read_trust(struct hub *h, struct diag *d)
{
    const struct conf_list *from = &h->settings->proxy_protocol_from;
    if (from->n > PROXY_TRUST_RULES)
        return diag_set_field(d, ERR_LIMIT, "proxy_protocol.from", "may have %d entries",
                              PROXY_TRUST_RULES);
    for (size_t i = 0; i < from->n; i++)
        TRY(addr_rule_parse(from->items[i], &h->trust.rules[i], d));
    h->trust.n = from->n;
    return 0;
}

static int start(struct hub *h, struct diag *d)
{
    io_raise_descriptor_limit();
    gethostname(h->machine, sizeof(h->machine) - 1);
    TRY(read_trust(h, d));
    TRY(open_store(h, d));
    TRY(open_identity(h, d));
    TRY(open_tls(h, d));
    TRY(open_fleet(h, d));
    TRY(open_http(h, d));
    TRY(start_workers(h, d));
    TRY(hub_join_cluster(h, d));
    h->state = HUB_READY;
    LOG_INFO("hub ready", LOG_STR("hub", h->row.id), LOG_INT("epoch", h->row.epoch),
             LOG_STR("address", h->address_text), LOG_STR("data", h->settings->data),
             LOG_INT("workers", h->n_workers), LOG_STR("version", WARREN_VERSION));
    notify_ready(&h->notify);
    return 0;
}

/* ---- end ---- */

static void part_ended(void *arg)
{
    struct hub *h = arg;
    if (--h->closing == 0)
        loop_stop(h->loop); /* tear_down does the rest */
}

static void links_gone(void *arg)
{
    struct hub *h = arg;
    h->closing = 2;
    http_server_drain(h->http, part_ended, h);
    http_server_drain(h->renew, part_ended, h);
}

static void servers_closed(void *arg)
{
    struct hub *h = arg;
    if (--h->closing)
        return;
    peers_stop(h->peers);
    fleet_stop(h->fleet, links_gone, h);
}

static void lane_stopped(void *arg)
{
    struct hub *h = arg;
    if (--h->closing)
        return;
    h->closing = h->started_workers;
    for (size_t i = 0; i < h->started_workers; i++)
        worker_close_server(h->workers[i], servers_closed, h);
}

static void streams_gone(void *arg)
{
    struct hub *h = arg;
    h->closing = h->started_workers;
    for (size_t i = 0; i < h->started_workers; i++)
        tunnel_lane_stop(h->lanes[i], lane_stopped, h);
}

void hub_stop(struct hub *h)
{
    if (h->state >= HUB_STOPPING)
        return;
    h->state = HUB_STOPPING;
    timer_stop(&h->drain_timer);
    tunnels_stop(h->tunnels, streams_gone, h);
}

static void on_terminate(void *arg, int signum)
{
    hub_terminate(arg);
}

static void on_reload(void *arg, int signum)
{
    struct hub *h = arg;
    struct diag d = {0};
    notify_reloading(&h->notify);
    if (conf_reload(h->conf, h->sources, conf_log_change, h, &d) < 0) {
        LOG_ERROR("reload refused, the old settings stay", LOG_STR("why", diag_text(&d)));
    } else {
        struct identity_policy policy = policy_of(h->settings);
        apply_log(h->settings);
        identity_set_policy(h->identity, &policy);
        hub_certs_reload(h);
        LOG_INFO("reloaded");
    }
    notify_ready(&h->notify);
}

/* Everything that was opened, in the reverse order; but what waits for the database is told first,
 * while all that it may touch is still there. */
static void tear_down(struct hub *h)
{
    if (h->tunnels)
        tunnels_settle_web(h->tunnels);
    hub_certs_close(h);
    if (h->http)
        http_server_free(h->http);
    if (h->renew)
        http_server_free(h->renew);
    for (size_t i = 0; i < h->started_workers; i++)
        worker_end(h->workers[i]);
    loop_settle(h->loop);
    for (size_t i = 0; i < h->started_workers; i++)
        tunnel_lane_free(h->lanes[i]);
    if (h->store)
        store_close(h->store);
    fleet_api_free(h->fleet_api);
    tunnels_free(h->tunnels);
    peers_free(h->peers);
    fleet_free(h->fleet);
    if (h->tls)
        tls_server_unref(h->tls);
    if (h->identity)
        identity_close(h->identity);
    secret_done(&h->passphrase);
    notify_done(&h->notify);
    loop_settle(h->loop);
    loop_free(h->loop);
    hub_data_close(h);
    conf_free(h->conf);
}

int hub_main(const struct conf_sources *sources)
{
    struct hub h = {.sources = sources, .data_fd = -1};
    struct diag d = {0};
    if (conf_load(&hub_conf_table, sources, &h.conf, &d) < 0) {
        fprintf(stderr, "warren hub: %s%s%s\n", d.field, d.field[0] ? ": " : "", diag_text(&d));
        return 2;
    }
    h.settings = conf_settings(h.conf);
    apply_log(h.settings);
    if (loop_new(&h.loop) < 0) {
        fprintf(stderr, "warren hub: cannot make an event loop\n");
        conf_free(h.conf);
        return 1;
    }
    notify_init(&h.notify, h.loop);
    hub_drain_init(&h);
    signal(SIGPIPE, SIG_IGN);
    int rc = start(&h, &d);
    if (rc == 0) {
        loop_on_signal(h.loop, SIGTERM, on_terminate, &h);
        loop_on_signal(h.loop, SIGINT, on_terminate, &h);
        loop_on_signal(h.loop, SIGHUP, on_reload, &h);
        loop_run(h.loop);
        LOG_INFO("hub stopped");
    } else {
        LOG_ERROR("the hub cannot start", LOG_STR("why", diag_text(&d)),
                  LOG_STR("setting", d.field));
    }
    tear_down(&h);
    return rc == 0 ? 0 : 1;
}
