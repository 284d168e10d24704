#include "fleet/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/h2conn.h"
#include "pki/cert.h"

#include <stdio.h>
#include <utlist.h>

#define SETTINGS_MS 10000 /* for an agent to tell its session */

void fleet_link_use(struct fleet_link *l, struct link_user *u)
{
    DL_APPEND(l->users, u);
}

void fleet_link_unuse(struct fleet_link *l, struct link_user *u)
{
    if (u->prev)
        DL_DELETE(l->users, u);
    u->prev = u->next = NULL;
}

static void free_on_worker(void *arg)
{
    mem_free(arg);
}

static void left_on_main(void *arg)
{
    struct fleet_link *l = arg;
    fleet_link_left(l);
    loop_post(l->worker, free_on_worker, l);
}

static void born_on_main(void *arg)
{
    fleet_link_born(arg);
}

static void arrived_on_main(void *arg)
{
    fleet_link_arrived(arg);
}

static void on_deadline(struct timer *t)
{
    h2conn_abort(container_of(t, struct fleet_link, deadline)->hc, ERR_TIMEOUT);
}

static void on_settings(void *arg)
{
    struct fleet_link *l = arg;
    uint32_t epoch;
    timer_stop(&l->deadline);
    if (!h2_peer_setting(h2conn_session(l->hc), FLEET_SETTING_EPOCH, &epoch)) {
        LOG_WARN("reverse connection without a session epoch", LOG_STR("agent", l->agent));
        h2conn_abort(l->hc, ERR_PROTO);
        return;
    }
    l->epoch = epoch;
    loop_post(l->fleet->cfg.loop, arrived_on_main, l);
}

static void on_close(void *arg, int err)
{
    struct fleet_link *l = arg;
    LOG_DEBUG("reverse connection closed", LOG_STR("agent", l->agent), LOG_ERR(err));
    l->hc = NULL;
    timer_stop(&l->deadline);
    while (l->users) {
        struct link_user *u = l->users;
        fleet_link_unuse(l, u);
        u->on_gone(u);
    }
    loop_post(l->fleet->cfg.loop, left_on_main, l);
}

static const struct h2conn_ops link_ops = {.on_settings = on_settings, .on_close = on_close};

void fleet_link_accept(struct fleet *f, struct conn *c)
{
    struct spiffe id;
    if (cert_identity(conn_peer_cert(c), f->cfg.trust_domain, &id) < 0) {
        conn_abort(c, ERR_DENIED);
        return;
    }
    struct fleet_link *l = NEW(struct fleet_link);
    l->fleet = f;
    l->worker = conn_loop(c);
    snprintf(l->tenant, sizeof(l->tenant), "%s", id.tenant);
    snprintf(l->agent, sizeof(l->agent), "%s", id.agent);
    const struct h2conn_config cfg = {0};
    l->hc = h2conn_new(c, &cfg, &link_ops, l);
    timer_init(&l->deadline, l->worker, on_deadline);
    timer_start(&l->deadline, SETTINGS_MS);
    loop_post(f->cfg.loop, born_on_main, l);
}

static void cut_on_worker(void *arg)
{
    struct fleet_link *l = arg;
    if (l->hc)
        h2conn_abort(l->hc, ERR_CANCELED);
}

void fleet_link_cut(struct fleet_link *l)
{
    loop_post(l->worker, cut_on_worker, l);
}
