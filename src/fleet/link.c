#include "fleet/link.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet/internal.h"
#include "net/h2conn.h"
#include "pki/cert.h"

#include <string.h>
#include <utlist.h>

#define SETTINGS_MS 10000 /* for an agent to tell its session */
#define HUB_PING_MS 1000  /* of links to other hubs, which are near */
#define HUB_DEAD_MS 2000

/* ---- the end ---- */

static void free_on_worker(void *arg)
{
    mem_free(arg);
}

static void left_on_main(void *arg)
{
    struct fleet_link *l = arg;
    struct fleet_pool *p = l->pool;
    DL_DELETE2(p->members, l, member_prev, member_next);
    p->n_members--;
    if (!p->ops)
        fleet_peer_link_remove(p->fleet, p->agent);
    else if (!p->is_over)
        p->ops->on_link_gone(p->arg, p, l->far_worker);
    loop_post(p->worker, free_on_worker, l);
    fleet_pool_free_if_over(p);
}

static void on_close(void *arg, int err)
{
    struct fleet_link *l = arg;
    LOG_DEBUG("reverse connection closed", LOG_STR("agent", l->pool->agent), LOG_ERR(err));
    l->hc = NULL;
    timer_stop(&l->deadline);
    fleet_pool_leave(l);
    loop_post(l->pool->fleet->cfg.loop, left_on_main, l);
}

static void cut_on_worker(void *arg)
{
    struct fleet_link *l = arg;
    if (!l->hc)
        return;
    h2conn_abort(l->hc, ERR_CANCELED);
    fleet_pool_leave(l);
}

void fleet_link_cut(struct fleet_link *l)
{
    if (l->is_cut)
        return;
    l->is_cut = true;
    loop_post(l->pool->worker, cut_on_worker, l);
}

/* ---- the beginning ---- */

static void on_deadline(struct timer *t)
{
    h2conn_abort(container_of(t, struct fleet_link, deadline)->hc, ERR_TIMEOUT);
}

static void on_settings(void *arg)
{
    struct fleet_link *l = arg;
    uint32_t epoch = 0;
    timer_stop(&l->deadline);
    if (l->pool->ops && !h2conn_is_ending(l->hc)) {
        fleet_pool_join(l);
        return;
    }
    bool is_told = h2_peer_setting(h2conn_session(l->hc), FLEET_SETTING_EPOCH, &epoch);
    if (is_told && epoch == (uint32_t)l->pool->epoch && !h2conn_is_ending(l->hc)) {
        h2_peer_setting(h2conn_session(l->hc), FLEET_SETTING_NUMBER, &l->number);
        fleet_pool_join(l);
        return;
    }
    LOG_INFO("reverse connection refused", LOG_STR("agent", l->pool->agent),
             LOG_INT("epoch", epoch), LOG_INT("newest", l->pool->epoch));
    h2conn_abort(l->hc, is_told ? ERR_STALE : ERR_PROTO);
}

static const struct h2conn_ops link_ops = {.on_settings = on_settings, .on_close = on_close};

struct arrival {
    struct fleet_link *link;
    struct conn *conn;
};

static void arrive_on_worker(void *arg)
{
    CLEANUP(mem_free) struct arrival *a = arg;
    struct fleet_link *l = a->link;
    const struct h2conn_config cfg = {.h2 = {.stream_window_max = FLEET_STREAM_WINDOW_MAX,
                                             .bulk_window = l->pool->ops ? FLEET_BULK_WINDOW : 0,
                                             .connection_window = FLEET_CONNECTION_WINDOW,
                                             .budget = &l->pool->budget},
                                      .ping_ms = l->pool->ops ? HUB_PING_MS : 0,
                                      .dead_ms = l->pool->ops ? HUB_DEAD_MS : 0};
    timer_init(&l->deadline, l->pool->worker, on_deadline);
    timer_start(&l->deadline, SETTINGS_MS);
    l->hc = h2conn_attach(a->conn, l->pool->worker, &cfg, &link_ops, l);
}

/* The agent whose live session this connection may belong to. */
static struct fleet_agent *agent_of(struct fleet *f, struct conn *c)
{
    struct spiffe id;
    if (f->is_stopping || !conn_is_open(c) ||
        cert_identity(conn_peer_cert(c), f->cfg.trust_domain, &id) < 0)
        return NULL;
    struct fleet_agent *a = fleet_agent_find(f, id.agent);
    return a && strcmp(a->tenant, id.tenant) == 0 && a->call ? a : NULL;
}

void fleet_link_accept(struct fleet *f, struct conn *c)
{
    struct fleet_agent *a = agent_of(f, c);
    if (!a || (a->pool && a->pool->n_members >= FLEET_LINKS_MAX) ||
        !fleet_peer_link_add(f, a->id)) {
        LOG_INFO("reverse connection refused", LOG_STR("agent", a ? a->id : "not logged in"));
        conn_abort(c, ERR_DENIED);
        return;
    }
    if (!a->pool)
        a->pool = fleet_pool_new(a);
    conn_detach(c);
    fleet_pool_add(a->pool, c, 0);
}

void fleet_pool_add(struct fleet_pool *p, struct conn *c, uint32_t far_worker)
{
    struct fleet_link *l = NEW(struct fleet_link);
    struct arrival *arrival = NEW(struct arrival);
    l->pool = p;
    l->far_worker = far_worker;
    DL_APPEND2(p->members, l, member_prev, member_next);
    p->n_members++;
    *arrival = (struct arrival){l, c};
    loop_post(p->worker, arrive_on_worker, arrival);
}
