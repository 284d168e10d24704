#include "fleet/link.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet/internal.h"
#include "net/h2conn.h"
#include "pki/cert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define SETTINGS_MS 10000 /* for an agent to tell its session */
#define HUB_PING_MS 1000  /* of links to other hubs, which are near */
#define HUB_DEAD_MS 2000

void fleet_worker_name(char out[FLEET_WORKER_NAME_SIZE], uint32_t worker, const char *hub)
{
    snprintf(out, FLEET_WORKER_NAME_SIZE, "w%u.%s", worker, hub);
}

int fleet_worker_number(const char *name)
{
    size_t n = name[0] == 'w' ? strspn(name + 1, "0123456789") : 0;
    return n && n <= 3 && name[1 + n] == '.' ? (int)strtoul(name + 1, NULL, 10) : -1;
}

static bool is_to_hub(const struct fleet_pool *p)
{
    return p->ops && !p->is_shortcut;
}

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
    if (!p->ops || p->is_shortcut)
        fleet_peer_link_remove(p->fleet, p->agent);
    if (p->ops && !p->is_over)
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
    if (is_to_hub(l->pool) && !h2conn_is_ending(l->hc)) {
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
    bool is_hub = is_to_hub(l->pool);
    const struct h2conn_config cfg = {.h2 = {.stream_window_max = FLEET_STREAM_WINDOW_MAX,
                                             .bulk_window = is_hub ? FLEET_BULK_WINDOW : 0,
                                             .connection_window = FLEET_CONNECTION_WINDOW,
                                             .budget = &l->pool->budget},
                                      .ping_ms = is_hub ? HUB_PING_MS : 0,
                                      .dead_ms = is_hub ? HUB_DEAD_MS : 0};
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
    return a && strcmp(a->tenant, id.tenant) == 0 && fleet_agent_is_online(a) ? a : NULL;
}

/* NULL: it has enough. */
static struct fleet_pool *pool_for(struct fleet_agent *a, const struct conn *c)
{
    struct fleet_pool *p = NULL;
    if (!fleet_peer_link_add(a->fleet, a->id))
        return NULL;
    if (!a->call)
        p = fleet_shortcut_pool(a, fleet_worker_number(conn_server_name(c)));
    else if (!a->pool)
        p = a->pool = fleet_pool_new(a);
    else if (a->pool->n_members < FLEET_LINKS_MAX)
        p = a->pool;
    if (!p)
        fleet_peer_link_remove(a->fleet, a->id);
    return p;
}

void fleet_link_accept(struct fleet *f, struct conn *c)
{
    struct fleet_agent *a = agent_of(f, c);
    struct fleet_pool *p = a ? pool_for(a, c) : NULL;
    if (!p) {
        LOG_INFO("reverse connection refused", LOG_STR("agent", a ? a->id : "not logged in"));
        conn_abort(c, ERR_DENIED);
        return;
    }
    conn_detach(c);
    fleet_pool_add(p, c, 0);
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
