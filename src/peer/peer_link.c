#include "peer/peer_link.h"

#include "base/backoff.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet/link.h"
#include "identity/identity.h"
#include "net/dialer.h"
#include "net/tls.h"
#include "peer/peers.h"

#include <stdio.h>
#include <string.h>

#define DIAL_MS      5000
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 3000

#define SLOTS_MAX (PEER_WORKERS_MAX * PEER_LINKS)

/* The connections of one worker to one hub. A slot is open, being dialled, or waits for the timer.
 */
struct lane {
    struct peer *peer;
    struct fleet_pool *pool;
    size_t n_open[PEER_WORKERS_MAX]; /* by worker of the other hub */
    struct dial *dials[SLOTS_MAX];
    struct backoff backoff;
    struct timer retry;
};

struct dialling {
    struct lane *lane;
    size_t slot;
    char name[FLEET_WORKER_NAME_SIZE];
};

struct peer {
    struct peer_links *links;
    char id[ID_SIZE];
    struct host_port address;
    struct tls_client *tls; /* of the dials that are under way */
    struct lane *lanes;
    size_t n_lanes, n_workers; /* of ours; of the other hub, it is taken */
    struct dialling *dialling; /* SLOTS_MAX a lane */
    UT_hash_handle hh;
};

struct peer_links {
    struct peer_links_config cfg;
    struct peer *peers;
    bool is_ended;
};

/* ---- which worker ---- */

static uint32_t worker_of(size_t slot)
{
    return (uint32_t)(slot / PEER_LINKS);
}

/* ---- dialling ---- */

static void retry_later(struct lane *lane)
{
    if (!timer_is_running(&lane->retry))
        timer_start(&lane->retry, backoff_next(&lane->backoff));
}

static void on_dialled(void *arg, const struct dial_result *res)
{
    const struct dialling *d = arg;
    struct lane *lane = d->lane;
    lane->dials[d->slot] = NULL;
    if (res->err < 0) {
        LOG_DEBUG("hub not reached", LOG_STR("hub", lane->peer->id),
                  LOG_STR("why", diag_text(&res->diag)));
        retry_later(lane);
        return;
    }
    lane->n_open[worker_of(d->slot)]++;
    conn_detach(res->conn);
    fleet_pool_add(lane->pool, res->conn, worker_of(d->slot));
}

static size_t count_dials(const struct lane *lane)
{
    size_t n = 0;
    for (size_t i = 0; i < SLOTS_MAX; i++)
        n += lane->dials[i] != NULL;
    return n;
}

/* With this hub's certificate as it is now; not while a dial uses the last one. */
static bool make_tls(struct peer *peer)
{
    struct identity *i = peer->links->cfg.identity;
    struct diag d = {0};
    const struct tls_client_config cfg = {.ca_pem = identity_ca_pem(i),
                                          .chain_pem = identity_server_chain(i),
                                          .key_pem = identity_server_key(i),
                                          .server_name = peer->id,
                                          .alpn = {PEER_ALPN}};
    for (size_t k = 0; k < peer->n_lanes; k++) {
        if (count_dials(&peer->lanes[k]))
            return true;
    }
    tls_client_unref(TAKE(peer->tls));
    if (tls_client_new(&cfg, &peer->tls, &d) == 0)
        return true;
    LOG_ERROR("other hubs cannot be dialled", LOG_STR("why", diag_text(&d)));
    return false;
}

static size_t count_missing(const struct lane *lane, uint32_t worker)
{
    size_t n = lane->n_open[worker];
    for (size_t i = 0; i < SLOTS_MAX; i++)
        n += lane->dials[i] && worker_of(i) == worker;
    return PEER_LINKS - MIN(n, (size_t)PEER_LINKS);
}

static void dial(struct lane *lane, size_t slot)
{
    struct peer *peer = lane->peer;
    struct dialling *d = &peer->dialling[(size_t)(lane - peer->lanes) * SLOTS_MAX + slot];
    *d = (struct dialling){.lane = lane, .slot = slot};
    fleet_worker_name(d->name, worker_of(slot), peer->id);
    const struct dial_params params = {.target = peer->address,
                                       .deadline_ms = DIAL_MS,
                                       .tls = peer->tls,
                                       .ask_for = d->name,
                                       .on_done = on_dialled,
                                       .arg = d};
    lane->dials[slot] = dial_start(peer->links->cfg.loop, &params);
}

static void fill(struct lane *lane)
{
    for (uint32_t w = 0; w < lane->peer->n_workers; w++) {
        size_t missing = count_missing(lane, w);
        if (!missing || timer_is_running(&lane->retry) || !make_tls(lane->peer))
            continue;
        for (size_t i = w * PEER_LINKS; missing; i++) {
            if (lane->dials[i])
                continue;
            dial(lane, i);
            missing--;
        }
    }
}

static void on_retry(struct timer *t)
{
    fill(container_of(t, struct lane, retry));
}

/* ---- pools ---- */

static void on_up(void *arg, struct fleet_pool *p)
{
    struct lane *lane = arg;
    backoff_reset(&lane->backoff);
    lane->peer->links->cfg.on_pool_up(lane->peer->links->cfg.arg, p);
}

static void on_down(void *arg, struct fleet_pool *p)
{
    const struct lane *lane = arg;
    lane->peer->links->cfg.on_pool_down(lane->peer->links->cfg.arg, p);
}

static void on_link_gone(void *arg, struct fleet_pool *p, uint32_t worker)
{
    struct lane *lane = arg;
    lane->n_open[worker]--;
    retry_later(lane);
}

static const struct fleet_pool_ops pool_ops = {on_up, on_down, on_link_gone};

/* ---- peers ---- */

static struct peer *find(const struct peer_links *ls, const char *hub)
{
    struct peer *peer;
    HASH_FIND_STR(ls->peers, hub, peer);
    return peer;
}

static struct peer *peer_new(struct peer_links *ls, struct fleet *f, const char *hub)
{
    struct peer *peer = NEW(struct peer);
    peer->links = ls;
    snprintf(peer->id, sizeof(peer->id), "%s", hub);
    peer->n_lanes = fleet_n_workers(f);
    peer->lanes = mem_new(peer->n_lanes * sizeof(struct lane));
    peer->n_workers = MIN(peer->n_lanes, (size_t)PEER_WORKERS_MAX);
    peer->dialling = mem_new(peer->n_lanes * SLOTS_MAX * sizeof(struct dialling));
    HASH_ADD_STR(ls->peers, id, peer);
    for (size_t i = 0; i < peer->n_lanes; i++) {
        struct lane *lane = &peer->lanes[i];
        lane->peer = peer;
        lane->backoff = (struct backoff){RETRY_MIN_MS, RETRY_MAX_MS, 0};
        timer_init(&lane->retry, ls->cfg.loop, on_retry);
        lane->pool = fleet_pool_new_to_hub(f, hub, i, &pool_ops, lane);
    }
    return peer;
}

void peer_links_want(struct peer_links *ls, struct fleet *f, const struct fleet_hub *h)
{
    struct host_port address;
    struct diag d = {0};
    if (ls->is_ended)
        return;
    if (host_port_parse(h->address, false, &address, &d) < 0) {
        LOG_ERROR("a hub's address cannot be read", LOG_STR("hub", h->id),
                  LOG_STR("address", h->address), LOG_STR("why", diag_text(&d)));
        return;
    }
    struct peer *peer = find(ls, h->id);
    if (!peer)
        peer = peer_new(ls, f, h->id);
    peer->address = address;
    for (size_t i = 0; i < peer->n_lanes; i++)
        fill(&peer->lanes[i]);
}

static void drop(struct peer *peer)
{
    struct peer_links *ls = peer->links;
    HASH_DEL(ls->peers, peer);
    for (size_t i = 0; i < peer->n_lanes; i++) {
        struct lane *lane = &peer->lanes[i];
        timer_stop(&lane->retry);
        for (size_t k = 0; k < SLOTS_MAX; k++) {
            if (lane->dials[k])
                dial_cancel(lane->dials[k]);
        }
        fleet_pool_end(lane->pool);
    }
    tls_client_unref(peer->tls);
    mem_free(peer->lanes);
    mem_free(peer->dialling);
    mem_free(peer);
}

void peer_links_drop(struct peer_links *ls, const char *hub)
{
    struct peer *peer = find(ls, hub);
    if (peer)
        drop(peer);
}

struct peer_links *peer_links_new(const struct peer_links_config *cfg)
{
    struct peer_links *ls = NEW(struct peer_links);
    ls->cfg = *cfg;
    return ls;
}

void peer_links_end(struct peer_links *ls)
{
    ls->is_ended = true;
    while (ls->peers)
        drop(ls->peers);
}

void peer_links_free(struct peer_links *ls)
{
    peer_links_end(ls);
    mem_free(ls);
}

/* ---- using them ---- */

bool peer_links_any(const struct peer_links *ls, const char *hub)
{
    const struct peer *peer = find(ls, hub);
    for (size_t i = 0; peer && i < peer->n_lanes; i++) {
        if (peer->lanes[i].pool->is_up)
            return true;
    }
    return false;
}

static size_t hash_of(const char *s)
{
    size_t h = 5381;
    for (; *s; s++)
        h = h * 33 + (unsigned char)*s;
    return h;
}

struct fleet_pool *peer_links_pool(const struct peer_links *ls, const char *hub, const char *tunnel)
{
    const struct peer *peer = find(ls, hub);
    if (!peer || !peer->n_lanes)
        return NULL;
    struct fleet_pool *pool = peer->lanes[hash_of(tunnel) % peer->n_lanes].pool;
    return pool->is_up ? pool : NULL;
}

size_t peer_links_count(const struct peer_links *ls)
{
    size_t n = 0;
    for (const struct peer *peer = ls->peers; peer; peer = peer->hh.next) {
        for (size_t i = 0; i < peer->n_lanes; i++)
            n += peer->lanes[i].pool->n_members;
    }
    return n;
}
