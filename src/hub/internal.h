/* Shared by the files of this folder only. */
#pragma once

#include "base/metric.h"
#include "fleet/fleet.h"
#include "fleet/fleet_api.h"
#include "http/server.h"
#include "hub/settings.h"
#include "hub/worker.h"
#include "identity/identity.h"
#include "loop/notify.h"
#include "net/proxy_gate.h"
#include "store/store.h"
#include "tunnel/tunnel_hub.h"
#include "tunnel/tunnel_lane.h"

#define WORKERS_MAX 256

/* In the order of the TLS lanes. */
enum hub_lane {
    LANE_HTTP1,
    LANE_HTTP2,
    LANE_AGENT,
    LANE_REVERSE,
    LANE_RENEW,
    LANE_CLIENT,
    LANE_HUB,
    LANE_COUNT
};

enum hub_state { HUB_STARTING, HUB_READY, HUB_DRAINING, HUB_STOPPING };

struct hub {
    enum hub_state state;
    const struct conf_sources *sources;
    struct conf *conf;
    const struct hub_settings *settings;
    struct loop *loop;
    struct notify notify;
    int data_fd; /* holds the lock on the data folder; -1: not taken */
    struct store *store;
    struct store_hub row;
    struct secret passphrase; /* of the CA's seal, from the environment */
    struct identity *identity;
    struct tls_server *tls;
    struct proxy_trust trust;
    struct fleet *fleet;
    struct peers *peers;
    struct tunnels *tunnels;
    struct fleet_api *fleet_api;
    struct http_server *http;  /* REST, EST, health, metrics */
    struct http_server *renew; /* behind ALPN warren-renew/1 */
    struct worker *workers[WORKERS_MAX];
    size_t n_workers, started_workers;
    struct tunnel_lane *lanes[WORKERS_MAX]; /* one a worker */
    struct addr address;                    /* of the listener */
    char address_text[ADDR_TEXT_SIZE];
    char machine[256];
    struct timer certs_timer;
    struct tls_names *certs; /* those in use; NULL: none yet */
    uint64_t certs_digest;   /* of the files that they came from */
    struct timer drain_timer;
    uint64_t drain_ends;      /* loop time */
    bool has_to_move;         /* draining: agents, to other hubs, */
    uint64_t moved_ms;        /* ... and they have since then (loop time); 0: not yet */
    bool is_closed;           /* draining: no new connections any more */
    int64_t ordered_grace_ms; /* of the drain that the hub's row asks for */
    size_t closing;           /* parts that have not ended yet */
};

/* hub.c: ends it, whatever is open. */
void hub_stop(struct hub *h);

/* hub_drain.c */
void hub_drain_init(struct hub *h);
void hub_terminate(struct hub *h); /* as by SIGTERM */
void hub_follow_order(struct hub *h, const struct fleet_hub *self);

/* hub_cluster.c: the other hubs. Blocking; when all workers run. */
int hub_join_cluster(struct hub *h, struct diag *d);
bool hub_has_shared_ca(const struct hub *h); /* it is in the database, for every hub */
int hub_set_ticket_keys(struct hub *h);      /* as the CA's roots are now */

/* hub_data.c: the folder, its lock, and the hub's id in h->row (empty at the first start). */
int hub_data_open(struct hub *h, struct diag *d);
int hub_data_keep_id(struct hub *h, struct diag *d);
void hub_data_close(struct hub *h);

/* hub_certs.c: certificates for the names of tunnels, from files. Main loop. */
int hub_certs_open(struct hub *h, struct diag *d);
void hub_certs_reload(struct hub *h); /* the setting has changed */
void hub_certs_close(struct hub *h);

/* hub_status.c: /healthz, /readyz, /metrics. */
void hub_status_serve(struct hub *h);
