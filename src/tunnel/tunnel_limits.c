/*
 * Meters: each tunnel has one, set by its spec, and each tenant has one, set by its administrator
 * and shared by all of its tunnels. Workers use both (expose.c); the main loop sets them. And what
 * else an administrator limits.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "identity/identity.h"

#include <stdio.h>
#include <string.h>

struct tenant_limits {
    char tenant[ID_SIZE];
    struct meter meter;
    char hosts[IDENTITY_HOSTS_SIZE];
    UT_hash_handle hh;
};

/* They stay until the end: as many as there were tenants. */
static struct tenant_limits *limits_of(struct tunnels *ts, const char *tenant)
{
    struct tenant_limits *t;
    HASH_FIND_STR(ts->tenant_limits, tenant, t);
    if (!t) {
        t = NEW(struct tenant_limits);
        snprintf(t->tenant, sizeof(t->tenant), "%s", tenant);
        meter_init(&t->meter);
        HASH_ADD_STR(ts->tenant_limits, tenant, t);
    }
    return t;
}

void tunnel_limits_begin(struct tunnel_object *o)
{
    meter_init(&o->meter);
    meter_set(&o->meter, &o->t.spec.limits);
    o->tenant_meter = &limits_of(o->owner, o->t.tenant)->meter;
}

static void take_limits(void *arg, const char *tenant, const struct identity_limits *l)
{
    const struct meter_limits limits = {.bandwidth = (uint64_t)l->bandwidth,
                                        .streams = (uint32_t)l->streams};
    struct tenant_limits *t = limits_of(arg, tenant);
    meter_set(&t->meter, &limits);
    memcpy(t->hosts, l->hosts, sizeof(t->hosts));
}

/* ---- following the tenants ---- */

struct follow {
    struct tunnels *tunnels;
    char tenant[ID_SIZE];
    struct identity_limits limits;
};

static int read_limits(struct tx *tx, void *arg)
{
    struct follow *f = arg;
    return identity_limits_of(tx, f->tenant, &f->limits);
}

static void limits_read(void *arg, int err)
{
    CLEANUP(mem_free) struct follow *f = arg;
    if (err < 0)
        LOG_ERROR("cannot read a tenant's limits", LOG_STR("tenant", f->tenant), LOG_ERR(err));
    else
        take_limits(f->tunnels, f->tenant, &f->limits);
}

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    struct tunnels *ts = container_of(sub, struct tunnels, tenant_feed);
    if (strcmp(change->kind, "tenant") != 0 || change->op == STORE_DELETE)
        return;
    struct follow *f = NEW(struct follow);
    f->tunnels = ts;
    snprintf(f->tenant, sizeof(f->tenant), "%s", change->id);
    store_reread(ts->store, read_limits, limits_read, f);
}

static int read_all(struct tx *tx, void *arg)
{
    return identity_limits_each(tx, NULL, take_limits, arg);
}

int tunnel_limits_init(struct tunnels *ts)
{
    TRY(store_run_wait(ts->store, STORE_READ, read_all, ts));
    ts->tenant_feed.fn = on_change;
    store_subscribe(ts->store, &ts->tenant_feed);
    return 0;
}

void tunnel_limits_free(struct tunnels *ts)
{
    struct tenant_limits *t, *next;
    if (ts->tenant_feed.store)
        store_unsubscribe(&ts->tenant_feed);
    HASH_ITER (hh, ts->tenant_limits, t, next) {
        HASH_DEL(ts->tenant_limits, t);
        meter_done(&t->meter);
        mem_free(t);
    }
}

/* ---- quotas ---- */

int tunnel_check_quota(struct tx *tx, const char *tenant)
{
    struct identity_limits l;
    int64_t n;
    TRY(identity_limits_of(tx, tenant, &l));
    if (!l.tunnels)
        return 0;
    TRY(tx_query_int(tx, &n, "SELECT COUNT(*) FROM tunnel WHERE tenant = $1", STORE_TEXT(tenant)));
    return n < l.tunnels ? 0 : ERR_LIMIT;
}

int tunnel_quota_diag(struct diag *d)
{
    return diag_set(d, ERR_CONFLICT,
                    "the tenant has as many tunnels as it may have; delete one, or ask the hub's "
                    "administrator for more (\"warren tenant get\" shows the limit)");
}

int tunnel_check_room(struct tunnels *ts, const char *tenant, const char *network, struct diag *d)
{
    const struct fleet_network *there = fleet_network_lookup(ts->fleet, tenant, network);
    const struct tunnel_network *n = there ? tunnel_network_of(ts, there->id) : NULL;
    if (n && n->count >= TUNNELS_PER_NETWORK)
        return diag_set_field(d, ERR_LIMIT, "spec.target.network",
                              "the network has %d tunnels, no more fit; delete one",
                              TUNNELS_PER_NETWORK);
    return 0;
}

int tunnel_check_domain(struct tunnels *ts, const char *tenant, const char *host, const char *field,
                        struct diag *d)
{
    const struct tenant_limits *t = limits_of(ts, tenant);
    if (!t->hosts[0] || identity_host_is_in(t->hosts, host))
        return 0;
    return diag_set_field(d, ERR_DENIED, field,
                          "'%.100s' is in none of the tenant's domains (%.100s); ask the hub's "
                          "administrator for it",
                          host, t->hosts);
}

/* ---- counting ---- */

void tunnel_limits_count(const struct tunnel_object *o, struct tunnel_traffic *sum)
{
    for (int why = METER_OK + 1; why < METER_REFUSAL_COUNT; why++)
        sum->streams_refused += atomic_load_explicit(&o->meter.refused[why], memory_order_relaxed);
    sum->bytes_delayed += atomic_load_explicit(&o->meter.delayed, memory_order_relaxed);
}
