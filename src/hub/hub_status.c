/*
 * Seen from outside: /healthz (the process runs), /readyz (it takes new work), /metrics. Numbers
 * that live in the parts are copied into the metric table when somebody asks.
 */
#include "hub/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "http/gateway.h"
#include "peer/peers.h"
#include "rpc/server.h"

#include <assert.h>
#include <malloc.h>
#include <string.h>

enum {
    AGENTS_ONLINE,
    REVERSE_CONNECTIONS,
    STREAM_MOVES,
    SHORTCUTS,
    SHORTCUTS_TAKEN,
    LOGINS_REFUSED,
    TUNNELS,
    STREAMS_OPEN,
    STREAMS_TOTAL,
    STREAM_BYTES,
    DATAGRAMS,
    STREAMS_REFUSED,
    BYTES_DELAYED,
    DIAL_ERRORS,
    LEASE_CHANGES,
    LAN_SIGHTINGS,
    LAN_BEACONS_REFUSED,
    NETWORK_MERGES,
    AGENT_MOVES,
    AGENT_CLONES,
    LEASE_MOVES,
    HANDSHAKES,
    HANDSHAKES_WAITING,
    PROXY_HEADERS,
    HTTP_REQUESTS,
    HTTP_CONNECTIONS,
    WEB_REQUESTS,
    WEB_OPEN,
    RPC_SESSIONS,
    RPC_CALLS,
    STORE_TRANSACTIONS,
    STORE_WAITING,
    STORE_AVAILABLE,
    STORE_LOSSES,
    FEED_POSITION,
    LOOP_LAG,
    MEMORY_BYTES,
    MEMORY_PER_AGENT,
    HUBS,
    HUB_LINKS,
    HUB_LEASE,
    STREAMS_TURNED,
    METRIC_COUNT
};

static const char *const phases[] = {"pending", "active", "closed", "expired", "failed"};
static_assert(ARRAY_SIZE(phases) == TUNNEL_PHASE_COUNT, "a name for each phase");
static const char *const directions[] = {"in", "out"};
static const char *const beacon_refusals[] = {"foreign", "replayed", "elsewhere", "dropped"};
static const char *const datagrams[] = {"in", "out", "dropped"};
static const char *const handshake_results[] = {"finished", "failed", "evicted", "refused"};
static const char *const header_results[] = {"accepted", "refused"};
static const char *const status_classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
static const char *const outcomes[] = {"done", "failed", "refused"};

static const char *const lease_moves[] = {"free", "lost", "check", "drain", "balance", "spread"};
static_assert(ARRAY_SIZE(lease_moves) == TUNNEL_WHY_COUNT, "a name for each reason");

#define X(error, status, token) token,
static const char *const dial_errors[PROXY_STATUS_COUNT] = {PROXY_STATUS_LIST(X)};
#undef X

static const struct metric_row rows[METRIC_COUNT] = {
    [HUBS] = {"warren_hubs", METRIC_GAUGE, "Hubs of the cluster that live, this one included"},
    [HUB_LINKS] = {"warren_hub_links", METRIC_GAUGE,
                   "Connections to other hubs that this one has dialled"},
    [HUB_LEASE] = {"warren_hub_lease_held", METRIC_GAUGE,
                   "1 while this hub's lease is renewed in time, else it takes nothing new"},
    [STREAMS_TURNED] = {"warren_streams_turned_total", METRIC_COUNTER,
                        "Client connections that another hub did not serve, or that were lost on "
                        "the way there, and were tried once more"},
    [AGENTS_ONLINE] = {"warren_agents_online", METRIC_GAUGE, "Agents that are logged in"},
    [REVERSE_CONNECTIONS] = {"warren_reverse_connections", METRIC_GAUGE,
                             "Connections that carry agents' streams"},
    [STREAM_MOVES] = {"warren_stream_moves_total", METRIC_COUNTER,
                      "Bulk streams that were moved to another connection of their agent"},
    [SHORTCUTS] = {"warren_shortcut_connections", METRIC_GAUGE,
                   "Connections of agents that are logged in at other hubs"},
    [SHORTCUTS_TAKEN] = {"warren_shortcuts_total", METRIC_COUNTER,
                         "Times that a stream by another hub was sent on over such a connection"},
    [LOGINS_REFUSED] = {"warren_agent_logins_refused_total", METRIC_COUNTER,
                        "Logins of agents that log in too often"},
    [TUNNELS] = {"warren_tunnels", METRIC_GAUGE, "Tunnel objects by phase",
                 .labels = {{"phase", phases, ARRAY_SIZE(phases)}}},
    [STREAMS_OPEN] = {"warren_streams_open", METRIC_GAUGE, "Client connections being relayed"},
    [STREAMS_TOTAL] = {"warren_streams_total", METRIC_COUNTER, "Client connections accepted"},
    [STREAM_BYTES] = {"warren_stream_bytes_total", METRIC_COUNTER,
                      "Bytes relayed; in: from clients to targets",
                      .labels = {{"direction", directions, ARRAY_SIZE(directions)}}},
    [DATAGRAMS] = {"warren_datagrams_total", METRIC_COUNTER,
                   "UDP datagrams; in: from clients; dropped: instead of being queued",
                   .labels = {{"what", datagrams, ARRAY_SIZE(datagrams)}}},
    [STREAMS_REFUSED] = {"warren_streams_refused_total", METRIC_COUNTER,
                         "Client connections refused because of a limit"},
    [BYTES_DELAYED] = {"warren_stream_bytes_delayed_total", METRIC_COUNTER,
                       "Bytes that waited because of a bandwidth limit, counted at each wait"},
    [DIAL_ERRORS] = {"warren_dial_errors_total", METRIC_COUNTER,
                     "Client connections whose target was not reached, by kind",
                     .labels = {{"error", dial_errors, PROXY_STATUS_COUNT}}},
    [LEASE_CHANGES] = {"warren_lease_changes_total", METRIC_COUNTER, "Leases taken and lost"},
    [LAN_SIGHTINGS] = {"warren_lan_sightings", METRIC_GAUGE,
                       "Agents heard on LANs, each counted once for each that hears it"},
    [LAN_BEACONS_REFUSED] = {"warren_lan_beacons_refused_total", METRIC_COUNTER,
                             "Beacons that agents refused; foreign: another tenant's, or forged",
                             .labels = {{"reason", beacon_refusals, ARRAY_SIZE(beacon_refusals)}}},
    [NETWORK_MERGES] = {"warren_network_merges_total", METRIC_COUNTER,
                        "Networks made part of another"},
    [AGENT_MOVES] = {"warren_agent_moves_total", METRIC_COUNTER,
                     "Agents that came into another network by themselves or by order"},
    [AGENT_CLONES] = {"warren_agent_clones_total", METRIC_COUNTER,
                      "Agents whose identity was found in use twice"},
    [LEASE_MOVES] = {"warren_lease_moves_total", METRIC_COUNTER,
                     "Leases that an agent began to hold, by why it got them",
                     .labels = {{"reason", lease_moves, TUNNEL_WHY_COUNT}}},
    [HANDSHAKES] = {"warren_handshakes_total", METRIC_COUNTER, "TLS handshakes by result",
                    .labels = {{"result", handshake_results, ARRAY_SIZE(handshake_results)}}},
    [HANDSHAKES_WAITING] = {"warren_handshakes_waiting", METRIC_GAUGE, "Unfinished handshakes"},
    [PROXY_HEADERS] = {"warren_proxy_headers_total", METRIC_COUNTER,
                       "Connections of trusted load balancers by what became of their header",
                       .labels = {{"result", header_results, ARRAY_SIZE(header_results)}}},
    [HTTP_REQUESTS] = {"warren_http_requests_total", METRIC_COUNTER, "HTTP answers by status",
                       .labels = {{"status", status_classes, ARRAY_SIZE(status_classes)}}},
    [HTTP_CONNECTIONS] = {"warren_http_connections", METRIC_GAUGE, "Open HTTP connections"},
    [WEB_REQUESTS] = {"warren_web_requests_total", METRIC_COUNTER,
                      "Answers to requests for tunnels by name, by status",
                      .labels = {{"status", status_classes, ARRAY_SIZE(status_classes)}}},
    [WEB_OPEN] = {"warren_web_requests_open", METRIC_GAUGE,
                  "Requests for tunnels by name that are being served"},
    [RPC_SESSIONS] = {"warren_control_sessions", METRIC_GAUGE, "Open control connections"},
    [RPC_CALLS] = {"warren_rpc_calls_total", METRIC_COUNTER, "Calls that agents made"},
    [STORE_TRANSACTIONS] = {"warren_store_transactions_total", METRIC_COUNTER,
                            "Database transactions by outcome",
                            .labels = {{"outcome", outcomes, ARRAY_SIZE(outcomes)}}},
    [STORE_WAITING] = {"warren_store_waiting", METRIC_GAUGE, "Transactions that wait"},
    [STORE_AVAILABLE] = {"warren_store_available", METRIC_GAUGE,
                         "1 while the database can be reached"},
    [STORE_LOSSES] = {"warren_store_losses_total", METRIC_COUNTER,
                      "How often the connection to the database was lost"},
    [FEED_POSITION] = {"warren_store_feed_position", METRIC_GAUGE,
                       "Newest change of a shared database that this hub knows"},
    [LOOP_LAG] = {"warren_loop_lag_seconds", METRIC_GAUGE,
                  "Longest turn of the main loop since the last scrape", .scale = 1e6},
    [MEMORY_BYTES] = {"warren_memory_bytes", METRIC_GAUGE, "Memory allocated by the process"},
    [MEMORY_PER_AGENT] = {"warren_memory_per_agent_bytes", METRIC_GAUGE,
                          "Allocated memory divided by the agents online"},
};

static void collect_tunnels(struct hub *h, struct metrics *m)
{
    struct tunnels_stats s;
    tunnels_stats(h->tunnels, &s);
    for (size_t i = 0; i < TUNNEL_PHASE_COUNT; i++)
        metric_set(m, TUNNELS, i, (int64_t)s.phases[i]);
    for (size_t i = 0; i < PROXY_STATUS_COUNT; i++)
        metric_add(m, DIAL_ERRORS, i, (int64_t)s.dial_errors[i]);
    metric_set(m, STREAMS_OPEN, 0, (int64_t)s.traffic.streams_open);
    metric_add(m, STREAMS_TOTAL, 0, (int64_t)s.traffic.streams_total);
    metric_add(m, STREAMS_REFUSED, 0, (int64_t)s.traffic.streams_refused);
    metric_add(m, BYTES_DELAYED, 0, (int64_t)s.traffic.bytes_delayed);
    metric_add(m, STREAM_BYTES, 0, (int64_t)s.traffic.bytes_in);
    metric_add(m, STREAM_BYTES, 1, (int64_t)s.traffic.bytes_out);
    metric_add(m, DATAGRAMS, 0, (int64_t)s.traffic.datagrams.in);
    metric_add(m, DATAGRAMS, 1, (int64_t)s.traffic.datagrams.out);
    metric_add(m, DATAGRAMS, 2, (int64_t)s.traffic.datagrams.dropped);
    metric_add(m, LEASE_CHANGES, 0, (int64_t)s.lease_changes);
    for (size_t i = 0; i < TUNNEL_WHY_COUNT; i++)
        metric_add(m, LEASE_MOVES, i, (int64_t)s.moves[i]);
}

static void collect_lans(struct hub *h, struct metrics *m)
{
    struct fleet_lan_stats s;
    fleet_lan_stats(h->fleet, &s);
    const uint64_t refused[] = {s.foreign, s.replayed, s.elsewhere, s.dropped};
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        metric_add(m, LAN_BEACONS_REFUSED, i, (int64_t)refused[i]);
    metric_set(m, LAN_SIGHTINGS, 0, (int64_t)s.sightings);
    metric_add(m, NETWORK_MERGES, 0, (int64_t)s.merges);
    metric_add(m, AGENT_MOVES, 0, (int64_t)s.moves);
    metric_add(m, AGENT_CLONES, 0, (int64_t)s.clones);
}

static void collect_web(struct hub *h, struct metrics *m)
{
    for (size_t i = 0; i < h->started_workers; i++) {
        const struct gateway_stats *s = worker_web_stats(h->workers[i]);
        for (size_t k = 0; s && k < ARRAY_SIZE(status_classes); k++)
            metric_add(m, WEB_REQUESTS, k, (int64_t)atomic_load(&s->status_class[k + 1]));
        if (s)
            metric_add(m, WEB_OPEN, 0, (int64_t)atomic_load(&s->exchanges));
    }
}

static void collect_connections(struct hub *h, struct metrics *m)
{
    struct http_stats http;
    struct fleet_stats fleet;
    struct rpc_stats rpc;
    for (size_t i = 0; i < h->started_workers; i++) {
        const struct server_stats *s = worker_stats(h->workers[i]);
        if (!s)
            continue;
        metric_add(m, HANDSHAKES, 0, (int64_t)atomic_load(&s->finished));
        metric_add(m, HANDSHAKES, 1, (int64_t)atomic_load(&s->failed));
        metric_add(m, HANDSHAKES, 2, (int64_t)atomic_load(&s->evicted));
        metric_add(m, HANDSHAKES, 3, (int64_t)atomic_load(&s->refused));
        metric_add(m, HANDSHAKES_WAITING, 0, (int64_t)atomic_load(&s->waiting));
    }
    collect_web(h, m);
    metric_add(m, PROXY_HEADERS, 0, (int64_t)atomic_load(&h->trust.accepted));
    metric_add(m, PROXY_HEADERS, 1, (int64_t)atomic_load(&h->trust.refused));
    http_server_stats(h->http, &http);
    for (size_t i = 0; i < ARRAY_SIZE(status_classes); i++)
        metric_add(m, HTTP_REQUESTS, i, (int64_t)http.status_class[i + 1]);
    metric_set(m, HTTP_CONNECTIONS, 0, http.conns);
    fleet_stats(h->fleet, &fleet);
    metric_set(m, REVERSE_CONNECTIONS, 0, (int64_t)fleet.links);
    metric_add(m, STREAM_MOVES, 0, (int64_t)fleet.moves);
    metric_set(m, SHORTCUTS, 0, (int64_t)fleet.shortcuts);
    metric_add(m, SHORTCUTS_TAKEN, 0, (int64_t)fleet.shortcuts_taken);
    metric_add(m, LOGINS_REFUSED, 0, (int64_t)fleet.logins_refused);
    rpc_server_stats(fleet_rpc(h->fleet), &rpc);
    metric_set(m, RPC_SESSIONS, 0, rpc.sessions);
    metric_add(m, RPC_CALLS, 0, (int64_t)rpc.calls);
}

static void collect_cluster(struct hub *h, struct metrics *m)
{
    struct peers_stats peers;
    struct tunnels_stats tunnels;
    peers_stats(h->peers, &peers);
    tunnels_stats(h->tunnels, &tunnels);
    metric_set(m, HUBS, 0, (int64_t)peers.hubs + 1);
    metric_set(m, HUB_LINKS, 0, (int64_t)peers.links);
    metric_set(m, HUB_LEASE, 0, peers.has_lease);
    metric_add(m, STREAMS_TURNED, 0, (int64_t)tunnels.turned);
}

static void collect_process(struct hub *h, struct metrics *m)
{
    struct store_stats store;
    store_stats(h->store, &store);
    metric_add(m, STORE_TRANSACTIONS, 0, (int64_t)store.done);
    metric_add(m, STORE_TRANSACTIONS, 1, (int64_t)store.failed);
    metric_add(m, STORE_TRANSACTIONS, 2, (int64_t)store.refused);
    metric_set(m, STORE_WAITING, 0, (int64_t)store.queued);
    metric_set(m, STORE_AVAILABLE, 0, !store.is_away);
    metric_add(m, STORE_LOSSES, 0, (int64_t)store.losses);
    metric_set(m, FEED_POSITION, 0, store.feed_seen);
    metric_set(m, LOOP_LAG, 0, (int64_t)loop_take_max_busy_us(h->loop));
    size_t online = fleet_online(h->fleet);
    struct mallinfo2 memory = mallinfo2();
    metric_set(m, AGENTS_ONLINE, 0, (int64_t)online);
    metric_set(m, MEMORY_BYTES, 0, (int64_t)(memory.uordblks + memory.hblkhd));
    metric_set(m, MEMORY_PER_AGENT, 0,
               online ? (int64_t)((memory.uordblks + memory.hblkhd) / online) : 0);
}

static bool may_read_metrics(struct hub *h, struct http_request *req, struct diag *d)
{
    struct addr loopback4, loopback6;
    struct identity_caller caller;
    const struct addr *peer = http_peer(req);
    addr_parse("127.0.0.1", 0, &loopback4);
    addr_parse("::1", 0, &loopback6);
    if (h->settings->metrics_access == METRICS_ACCESS_OPEN)
        return true;
    if (h->settings->metrics_access == METRICS_ACCESS_LOOPBACK &&
        (addr_equal_ip(peer, &loopback4) || addr_equal_ip(peer, &loopback6)))
        return true;
    if (identity_authenticate(h->identity, http_header(req, "authorization"), peer, &caller, d) < 0)
        return false;
    if (caller.role == IDENTITY_ADMIN)
        return true;
    diag_set(d, ERR_DENIED, "only an administrator's token may read the hub's metrics");
    return false;
}

static void get_metrics(struct http_request *req, void *ctx)
{
    struct hub *h = ctx;
    struct diag d = {0};
    if (!may_read_metrics(h, req, &d)) {
        http_respond_diag(req, &d);
        return;
    }
    struct metrics *m = metrics_new(rows, METRIC_COUNT);
    struct buf out = {0};
    collect_lans(h, m);
    collect_tunnels(h, m);
    collect_cluster(h, m);
    collect_connections(h, m);
    collect_process(h, m);
    metrics_render(&m, 1, &out);
    http_respond(req, 200, "text/plain; version=0.0.4; charset=utf-8", buf_text(&out), out.len);
    buf_done(&out);
    metrics_free(m);
}

static void get_healthz(struct http_request *req, void *ctx)
{
    http_respond_text(req, 200, "ok\n");
}

static void store_answered(void *arg, int err)
{
    struct http_request *req = arg;
    if (err < 0)
        http_respond_error(req, ERR_UNAVAILABLE, "the database does not answer: %s",
                           error_text(err));
    else
        http_respond_text(req, 200, "ready\n");
}

/* A shared database that is away is away for all hubs, and each serves what it has: a load balancer
 * that took them all out would make an outage of it. */
static void respond_shared(struct hub *h, struct http_request *req)
{
    struct store_stats store;
    store_stats(h->store, &store);
    http_respond_text(req, 200,
                      store.is_away ? "ready, but the database is away: what there is is served, "
                                      "changes are refused\n"
                                    : "ready\n");
}

static void get_readyz(struct http_request *req, void *ctx)
{
    struct hub *h = ctx;
    if (h->state == HUB_READY && fleet_is_draining(h->fleet))
        http_respond_error(req, ERR_UNAVAILABLE, "the hub is being drained");
    else if (h->state == HUB_READY && h->settings->db && store_is_shared(h->settings->db))
        respond_shared(h, req);
    else if (h->state == HUB_READY)
        store_follow(h->store, store_answered, req);
    else
        http_respond_error(req, ERR_UNAVAILABLE, "the hub %s",
                           h->state == HUB_STARTING ? "starts" : "is draining");
}

static const struct http_route routes[] = {
    {"GET", "/healthz", HTTP_PUBLIC, 0, get_healthz, "The process runs"},
    {"GET", "/readyz", HTTP_PUBLIC, 0, get_readyz, "The hub takes new work"},
    {"GET", "/metrics", HTTP_PUBLIC, 0, get_metrics, "Prometheus metrics"},
};

void hub_status_serve(struct hub *h)
{
    http_server_add(h->http, routes, ARRAY_SIZE(routes), h);
}
