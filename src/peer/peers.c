#include "peer/peers.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"
#include "identity/identity.h"
#include "peer/peer_link.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define RENEW_RETRY_MS 1000
#define FORGET_MS      3600000 /* after its lease has ended */
#define SURE_MS        9000    /* after a renewal was asked for: the lease lasts longer */
#define AWAKE_MS       3000    /* while LATE: others take no link for dead sooner */
#define AWAKE_TICK_MS  500

struct peer_clock {
    _Atomic int64_t ahead_ms; /* the database's clock before our monotonic one */
};

struct peers {
    struct peers_config cfg;
    char address[FLEET_HUB_ADDRESS_SIZE], agent_address[FLEET_HUB_ADDRESS_SIZE];
    char name[FLEET_NAME_SIZE];
    struct store_hub hub;
    struct hub_lease lease;
    struct store_subscriber feed;
    bool could_claim, is_stopping;
    bool is_renewing, is_again; /* with what has come up meanwhile */
    struct timer timer;         /* the next renewal */
    struct timer late_timer;    /* when the lease is LATE, and while it is */
    uint64_t sure_until_ms;     /* see fleet_is_sure */
    uint64_t renewed_mono_ms;   /* after a sleep, when that was asked for */
    bool is_catching_up, has_slept;
    struct peer_clock clock;
    struct peer_links *links;
    int64_t drained; /* wall ms: since when this hub is; 0: no */
    int64_t started; /* wall ms */
    uint64_t renewals, failed;
};

int64_t peer_clock_now(const struct peer_clock *c)
{
    return (int64_t)time_mono_ms() + atomic_load_explicit(&c->ahead_ms, memory_order_relaxed);
}

const struct peer_clock *peers_clock(const struct peers *p)
{
    return &p->clock;
}

static bool holds_lease(const struct peers *p)
{
    return !p->cfg.is_shared ||
           hub_lease_state(&p->lease, loop_now_ms(p->cfg.loop)) == HUB_LEASE_HELD;
}

bool peers_may_claim(const struct peers *p)
{
    bool is_leaving = fleet_is_draining(p->cfg.fleet) && fleet_has_other_hub(p->cfg.fleet);
    return holds_lease(p) && !is_leaving;
}

/* ---- the transaction ---- */

struct row {
    char id[ID_SIZE], address[FLEET_HUB_ADDRESS_SIZE], agent_address[FLEET_HUB_ADDRESS_SIZE];
    char name[FLEET_NAME_SIZE], software[FLEET_NAME_SIZE];
    int64_t epoch, expires, started, roots, draining, drain_grace_ms, drained;
};

struct renewal {
    struct peers *peers;
    struct store_hub hub;
    char address[FLEET_HUB_ADDRESS_SIZE], agent_address[FLEET_HUB_ADDRESS_SIZE];
    char name[FLEET_NAME_SIZE];
    bool is_first, is_shared;
    bool is_after_sleep; /* its own change in the feed comes after all that was missed */
    int64_t started;     /* wall ms */
    int64_t roots;       /* the newest root of the CA that this hub trusts */
    uint64_t asked_ms, asked_mono_ms;
    int64_t drained; /* wall ms: this hub is; 0: no */
    int64_t now_ms;  /* the database's */
    struct row *rows;
    size_t n_rows;
};

static int write_first(struct tx *tx, const struct renewal *r, int64_t expires)
{
    TRY(tx_exec(tx, "DELETE FROM hub_lease WHERE hub <> $1 AND expires < $2", STORE_TEXT(r->hub.id),
                STORE_INT(r->now_ms - 86400000)));
    TRY(tx_exec(tx,
                "INSERT INTO hub_lease (hub, epoch, address, expires, name, software, started, "
                "agent_address, roots) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
                "ON CONFLICT (hub) DO UPDATE SET epoch = excluded.epoch, "
                "address = excluded.address, expires = excluded.expires, "
                "name = excluded.name, software = excluded.software, "
                "started = excluded.started, agent_address = excluded.agent_address, "
                "roots = excluded.roots, draining = 0, drain_grace = 0, drained = 0",
                STORE_TEXT(r->hub.id), STORE_INT(r->hub.epoch), STORE_TEXT(r->address),
                STORE_INT(expires), STORE_TEXT(r->name), STORE_TEXT(WARREN_VERSION),
                STORE_INT(r->started), STORE_TEXT(r->agent_address), STORE_INT(r->roots)));
    return store_publish(tx, "", "hub", r->hub.id, STORE_PUT);
}

static void copy(char *out, size_t size, const char *in)
{
    snprintf(out, size, "%s", in);
}

static int read_rows(struct tx *tx, struct renewal *r)
{
    int rc;
    struct rows rows =
        tx_query(tx, "SELECT hub, epoch, address, expires, name, software, started, "
                     "agent_address, draining, drain_grace, drained, roots FROM hub_lease");
    r->n_rows = 0;
    while ((rc = row_next(&rows)) > 0) {
        r->rows = mem_grow(r->rows, (r->n_rows + 1) * sizeof(*r->rows));
        struct row *row = &r->rows[r->n_rows++];
        *row = (struct row){.epoch = row_int(&rows, 1),
                            .expires = row_int(&rows, 3),
                            .started = row_int(&rows, 6),
                            .draining = row_int(&rows, 8),
                            .drain_grace_ms = row_int(&rows, 9),
                            .drained = row_int(&rows, 10),
                            .roots = row_int(&rows, 11)};
        copy(row->id, sizeof(row->id), row_text(&rows, 0));
        copy(row->address, sizeof(row->address), row_text(&rows, 2));
        copy(row->name, sizeof(row->name), row_text(&rows, 4));
        copy(row->software, sizeof(row->software), row_text(&rows, 5));
        copy(row->agent_address, sizeof(row->agent_address), row_text(&rows, 7));
    }
    return rc;
}

/* The row is not this start's: a later one has begun, or a fail-over of the database has lost what
 * this one wrote when it began. */
static int write_again(struct tx *tx, const struct renewal *r, int64_t expires)
{
    int64_t epoch = 0;
    int rc = tx_query_int(tx, &epoch, "SELECT epoch FROM hub_lease WHERE hub = $1",
                          STORE_TEXT(r->hub.id));
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return rc;
    return epoch > r->hub.epoch ? ERR_STALE : write_first(tx, r, expires);
}

static int write_renewal(struct tx *tx, void *arg)
{
    struct renewal *r = arg;
    TRY(tx_now_ms(tx, &r->now_ms));
    int64_t expires = r->is_shared ? r->now_ms + HUB_LEASE_LIFE_MS : INT64_MAX;
    if (r->is_first) {
        TRY(write_first(tx, r, expires));
    } else {
        TRY(tx_exec(tx,
                    "UPDATE hub_lease SET expires = $1, drained = $4, roots = $5 "
                    "WHERE hub = $2 AND epoch = $3",
                    STORE_INT(expires), STORE_TEXT(r->hub.id), STORE_INT(r->hub.epoch),
                    STORE_INT(r->drained), STORE_INT(r->roots)));
        if (tx_changed(tx) == 0)
            TRY(write_again(tx, r, expires));
    }
    if (r->is_after_sleep)
        TRY(store_publish(tx, "", "hub", r->hub.id, STORE_PUT));
    return read_rows(tx, r);
}

/* ---- sleep ---- */

static void set_sure_until(struct peers *p, uint64_t mono_ms)
{
    p->sure_until_ms = MAX(p->sure_until_ms, mono_ms);
    if (p->cfg.is_shared)
        fleet_set_sure_until(p->cfg.fleet, p->sure_until_ms);
}

/* What others have done since it fell asleep is told, and rows that they changed are read. */
static void on_caught_up(void *arg, int err)
{
    struct peers *p = arg;
    p->is_catching_up = false;
    if (p->is_stopping || err < 0)
        return;
    set_sure_until(p, p->renewed_mono_ms + SURE_MS);
    if (!fleet_is_sure(p->cfg.fleet))
        return;
    p->has_slept = false;
    LOG_INFO("this hub knows again who serves its tunnels");
    p->cfg.on_claims(p->cfg.arg);
}

/* Now and then while the lease is LATE. */
static void note_awake(struct peers *p)
{
    if (fleet_is_sure(p->cfg.fleet)) {
        set_sure_until(p, time_mono_ms() + AWAKE_MS);
    } else if (!p->has_slept) {
        p->has_slept = true;
        LOG_WARN("this hub has slept past its lease: clients wait until it knows who serves its "
                 "tunnels now");
    }
}

/* ---- what it says ---- */

static void take_shown(struct fleet_hub *h, const struct row *row)
{
    h->started = row->started;
    h->draining = row->draining;
    h->drain_grace_ms = row->drain_grace_ms;
    h->drained = row->drained;
    h->roots = row->roots;
    copy(h->address, sizeof(h->address), row->address);
    copy(h->agent_address, sizeof(h->agent_address), row->agent_address);
    copy(h->name, sizeof(h->name), row->name);
    copy(h->software, sizeof(h->software), row->software);
}

static bool is_own(const struct peers *p, const struct row *row)
{
    return strcmp(row->id, p->hub.id) == 0;
}

static void take_row(struct peers *p, const struct renewal *r, const struct row *row)
{
    if (is_own(p, row)) {
        take_shown(fleet_hub_self(p->cfg.fleet), row);
        return;
    }
    bool is_new = !fleet_hub_find(p->cfg.fleet, row->id);
    struct fleet_hub *h = fleet_hub_put(p->cfg.fleet, row->id);
    int64_t left = MIN(row->expires - r->now_ms, (int64_t)HUB_LEASE_LIFE_MS);
    bool is_renewed = is_new || row->expires != h->expires;
    h->epoch = (uint64_t)row->epoch;
    h->expires = row->expires;
    if (is_new) /* it may only be cut from the database: we shall see whether it answers */
        left = MAX(left, (int64_t)HUB_LEASE_DOUBT_MS);
    if (left > 0 && is_renewed) /* else a fail-over may have turned the database's clock back */
        h->ends_ms = r->asked_ms + (uint64_t)left;
    take_shown(h, row);
    if (left > -FORGET_MS)
        peer_links_want(p->links, p->cfg.fleet, h);
}

static bool is_listed(const struct renewal *r, const char *id)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        if (strcmp(r->rows[i].id, id) == 0)
            return true;
    }
    return false;
}

/* Those whose rows are gone, or ended long ago. */
static void forget_gone(struct peers *p, const struct renewal *r)
{
    uint64_t now = loop_now_ms(p->cfg.loop);
    struct fleet_hub *h, *next;
    for (h = fleet_hubs(p->cfg.fleet); h; h = next) {
        next = h->hh.next;
        if (h->is_linked || (is_listed(r, h->id) && h->ends_ms + FORGET_MS > now))
            continue;
        peer_links_drop(p->links, h->id);
        fleet_hub_remove(p->cfg.fleet, h);
    }
}

static void take_renewal(struct peers *p, const struct renewal *r)
{
    p->renewals++;
    atomic_store_explicit(&p->clock.ahead_ms, r->now_ms - (int64_t)r->asked_mono_ms,
                          memory_order_relaxed);
    hub_lease_renewed(&p->lease, r->asked_ms);
    if (fleet_is_sure(p->cfg.fleet)) {
        set_sure_until(p, r->asked_mono_ms + SURE_MS);
    } else if (r->is_after_sleep) {
        p->renewed_mono_ms = r->asked_mono_ms;
        store_follow(p->cfg.store, on_caught_up, p);
    }
    for (size_t i = 0; i < r->n_rows; i++)
        take_row(p, r, &r->rows[i]);
    forget_gone(p, r);
    timer_start(&p->late_timer, hub_lease_left_ms(&p->lease, loop_now_ms(p->cfg.loop)) + 1);
}

static void on_late(struct timer *t)
{
    struct peers *p = container_of(t, struct peers, late_timer);
    if (holds_lease(p))
        return;
    note_awake(p);
    timer_start(t, AWAKE_TICK_MS);
    if (!p->could_claim)
        return;
    p->could_claim = false;
    LOG_WARN("this hub's lease was not renewed in time: it keeps what it serves, and takes nothing "
             "new");
}

static void note_claims(struct peers *p)
{
    if (p->could_claim)
        return;
    p->could_claim = true;
    LOG_INFO("this hub's lease is renewed again");
    p->cfg.on_claims(p->cfg.arg);
}

static void renewed(void *arg, int err)
{
    CLEANUP(mem_free) struct renewal *r = arg;
    CLEANUP(mem_free) struct row *rows = r->rows;
    struct peers *p = r->peers;
    p->is_renewing = false;
    if (p->is_stopping)
        return;
    if (err == ERR_STALE) {
        hub_lease_superseded(&p->lease);
        LOG_ERROR("another process has started as this hub: this one ends",
                  LOG_STR("hub", p->hub.id));
        p->cfg.on_lost(p->cfg.arg);
        return;
    }
    if (err < 0) {
        p->is_catching_up &= !r->is_after_sleep;
        p->failed++;
        timer_start(&p->timer, RENEW_RETRY_MS);
        return;
    }
    take_renewal(p, r);
    timer_start(&p->timer, TAKE(p->is_again) ? 0 : HUB_LEASE_RENEW_MS);
    fleet_hubs_changed(p->cfg.fleet);
    p->cfg.on_self(p->cfg.arg, fleet_hub_self(p->cfg.fleet));
    note_claims(p);
}

static struct renewal *renewal_new(struct peers *p)
{
    struct renewal *r = NEW(struct renewal);
    r->peers = p;
    r->hub = p->hub;
    r->is_shared = p->cfg.is_shared;
    r->roots = identity_newest_root(p->cfg.identity);
    r->asked_ms = loop_now_ms(p->cfg.loop);
    r->asked_mono_ms = time_mono_ms();
    r->drained = p->drained;
    r->started = p->started;
    r->is_after_sleep = !p->is_catching_up && !fleet_is_sure(p->cfg.fleet);
    p->is_catching_up |= r->is_after_sleep;
    copy(r->address, sizeof(r->address), p->address);
    copy(r->agent_address, sizeof(r->agent_address), p->agent_address);
    copy(r->name, sizeof(r->name), p->name);
    return r;
}

static void renew(struct peers *p)
{
    p->is_renewing = true;
    store_run_first(p->cfg.store, write_renewal, renewed, renewal_new(p));
}

static void on_timer(struct timer *t)
{
    renew(container_of(t, struct peers, timer));
}

void peers_renew_now(struct peers *p)
{
    if (p->is_stopping || !p->cfg.is_shared)
        return;
    if (p->is_renewing)
        p->is_again = true;
    else
        timer_start(&p->timer, 0);
}

/* A hub has started or ended, or is to be drained: the renewal reads it. */
static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    if (strcmp(change->kind, "hub") == 0)
        peers_renew_now(container_of(sub, struct peers, feed));
}

void peers_set_drained(struct peers *p, bool is_drained)
{
    if ((p->drained != 0) == is_drained)
        return;
    p->drained = is_drained ? time_wall_ms() : 0;
    fleet_hub_self(p->cfg.fleet)->drained = p->drained;
    peers_renew_now(p);
}

/* ---- links ---- */

static void on_pool_up(void *arg, struct fleet_pool *pool)
{
    struct peers *p = arg;
    struct fleet_hub *h = fleet_hub_find(p->cfg.fleet, pool->agent);
    if (h)
        h->is_linked = true;
    LOG_INFO("hub linked", LOG_STR("hub", pool->agent), LOG_STR("address", h ? h->address : ""));
    p->cfg.on_pool_up(p->cfg.arg, pool);
}

static void on_pool_down(void *arg, struct fleet_pool *pool)
{
    struct peers *p = arg;
    struct fleet_hub *h = fleet_hub_find(p->cfg.fleet, pool->agent);
    if (h)
        h->is_linked = peer_links_any(p->links, pool->agent);
    if (!p->is_stopping)
        LOG_INFO("hub not linked", LOG_STR("hub", pool->agent));
    p->cfg.on_pool_down(p->cfg.arg, pool);
    if (h && !h->is_linked && !p->is_stopping)
        fleet_hubs_changed(p->cfg.fleet);
}

struct fleet_pool *peers_pool(const struct peers *p, const char *hub, const char *tunnel)
{
    return peer_links_pool(p->links, hub, tunnel);
}

/* ---- its life ---- */

static size_t count_live(const struct renewal *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_rows; i++)
        n += r->rows[i].expires > r->now_ms && strcmp(r->rows[i].id, r->hub.id) != 0;
    return n;
}

static int start(struct peers *p, struct diag *d)
{
    CLEANUP(mem_free) struct renewal *r = renewal_new(p);
    r->is_first = true;
    int rc = store_run_wait(p->cfg.store, STORE_WRITE, write_renewal, r);
    if (rc == 0 && !p->cfg.has_shared_ca && count_live(r)) {
        mem_free(r->rows);
        return diag_set_field(d, ERR_CONFLICT, "ca_key_file",
                              "other hubs use this database: start each with the same "
                              "--ca-key-file, so that they have one CA");
    }
    if (rc == 0)
        take_renewal(p, r);
    mem_free(r->rows);
    return rc < 0 ? diag_set(d, rc, "cannot take this hub's lease: %s", error_text(rc)) : 0;
}

int peers_new(const struct peers_config *cfg, struct peers **ret, struct diag *d)
{
    struct peers *p = NEW(struct peers);
    p->cfg = *cfg;
    p->hub = *fleet_hub(cfg->fleet);
    p->could_claim = true;
    p->started = time_wall_ms();
    copy(p->address, sizeof(p->address), cfg->address);
    copy(p->agent_address, sizeof(p->agent_address), cfg->agent_address);
    p->feed.fn = on_change;
    copy(p->name, sizeof(p->name), cfg->name);
    timer_init(&p->timer, cfg->loop, on_timer);
    timer_init(&p->late_timer, cfg->loop, on_late);
    const struct peer_links_config links = {.loop = cfg->loop,
                                            .identity = cfg->identity,
                                            .on_pool_up = on_pool_up,
                                            .on_pool_down = on_pool_down,
                                            .arg = p};
    p->links = peer_links_new(&links);
    int rc = start(p, d);
    if (rc < 0) {
        peers_free(p);
        return rc;
    }
    if (cfg->is_shared)
        timer_start(&p->timer, HUB_LEASE_RENEW_MS);
    else
        timer_stop(&p->late_timer);
    store_subscribe(cfg->store, &p->feed);
    *ret = p;
    return 0;
}

static int write_end(struct tx *tx, void *arg)
{
    const struct store_hub *hub = arg;
    TRY(tx_exec(tx, "UPDATE hub_lease SET expires = 0 WHERE hub = $1 AND epoch = $2",
                STORE_TEXT(hub->id), STORE_INT(hub->epoch)));
    return store_publish(tx, "", "hub", hub->id, STORE_PUT);
}

static void end_written(void *arg, int err)
{
    mem_free(arg);
}

void peers_stop(struct peers *p)
{
    p->is_stopping = true;
    timer_stop(&p->timer);
    timer_stop(&p->late_timer);
    store_run(p->cfg.store, STORE_WRITE, write_end, end_written, mem_dup(&p->hub, sizeof(p->hub)));
    peer_links_end(p->links);
}

void peers_free(struct peers *p)
{
    if (!p)
        return;
    timer_stop(&p->timer);
    timer_stop(&p->late_timer);
    if (p->feed.store)
        store_unsubscribe(&p->feed);
    peer_links_free(p->links);
    mem_free(p);
}

void peers_stats(const struct peers *p, struct peers_stats *ret)
{
    *ret = (struct peers_stats){.renewals = p->renewals,
                                .failed = p->failed,
                                .links = peer_links_count(p->links),
                                .has_lease = holds_lease(p),
                                .state = hub_lease_state(&p->lease, loop_now_ms(p->cfg.loop))};
    for (const struct fleet_hub *h = fleet_hubs(p->cfg.fleet); h; h = h->hh.next)
        ret->hubs += fleet_hub_is_live(p->cfg.fleet, h->id, h->epoch);
}
