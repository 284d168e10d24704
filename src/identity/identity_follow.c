/*
 * Tenants, tokens and agents that other hubs of the same database wrote, into this hub's view. What
 * this hub writes itself is in the view when its transaction is answered; but for the roots of the
 * CA, which each hub reads alike.
 */
#include "identity/internal.h"

#include "base/log.h"
#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum followed { FOLLOWED_TENANT, FOLLOWED_TOKEN, FOLLOWED_AGENT, FOLLOWED_COUNT };
static const char *const kinds[] = {"tenant", "token", "agent"};
static_assert(ARRAY_SIZE(kinds) == FOLLOWED_COUNT, "a name for each");

struct change {
    struct identity *i;
    enum followed kind;
    bool is_undone;
    char id[ID_SIZE];
    struct tenant_record tenant;
    struct token_record token;
    struct agent_facts agent;
};

static int read_changed(struct tx *tx, void *arg)
{
    struct change *c = arg;
    switch (c->kind) {
    case FOLLOWED_TENANT:
        return tenant_read(tx, c->id, &c->tenant);
    case FOLLOWED_TOKEN:
        return token_read(tx, c->id, &c->token);
    default:
        return agent_read(tx, c->id, &c->agent);
    }
}

static void take_agent(struct change *c)
{
    bool was_admitted = identity_agent_status(c->i, c->agent.tenant, c->id) == 0;
    view_put_agent(c->i, c->id, c->agent.tenant, c->agent.revoked != 0);
    if (was_admitted && c->agent.revoked && c->i->cfg.on_agent_revoked)
        c->i->cfg.on_agent_revoked(c->i->cfg.arg, c->id);
}

/* It is deleted, or what was known of it was never to be. A revoked agent stays so in this hub. */
static void forget(struct change *c)
{
    if (c->kind == FOLLOWED_TOKEN)
        view_remove_token(c->i, c->id);
    else if (c->kind == FOLLOWED_TENANT && !c->tenant.id[0])
        view_remove_tenant(c->i, c->id);
}

static void changed_read(void *arg, int err)
{
    CLEANUP(mem_free) struct change *c = arg;
    if (err == ERR_NOT_FOUND || c->is_undone)
        forget(c);
    if (err == ERR_NOT_FOUND)
        return;
    if (err < 0)
        LOG_ERROR("cannot follow what another hub changed", LOG_STR("id", c->id), LOG_ERR(err));
    else if (c->kind == FOLLOWED_TENANT)
        view_put_tenant(c->i, &c->tenant);
    else if (c->kind == FOLLOWED_TOKEN)
        view_put_token(c->i, &c->token);
    else
        take_agent(c);
}

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    struct identity *i = container_of(sub, struct identity, feed);
    int kind = 0;
    if (strcmp(change->kind, "ca") == 0) {
        identity_reread_ca(i);
        return;
    }
    while (kind < FOLLOWED_COUNT && strcmp(change->kind, kinds[kind]) != 0)
        kind++;
    if (!change->is_elsewhere || kind == FOLLOWED_COUNT || change->op == STORE_STATE)
        return;
    if (change->op == STORE_DELETE) {
        if (kind == FOLLOWED_TENANT)
            view_remove_tenant(i, change->id);
        return;
    }
    struct change *c = NEW(struct change);
    c->i = i;
    c->kind = (enum followed)kind;
    c->is_undone = change->is_undone;
    snprintf(c->id, sizeof(c->id), "%s", change->id);
    store_reread(i->cfg.store, read_changed, changed_read, c);
}

void identity_follow(struct identity *i)
{
    i->feed.fn = on_change;
    store_subscribe(i->cfg.store, &i->feed);
}
