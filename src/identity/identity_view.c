/*
 * What is held in memory. Tenants and tokens belong to the main loop. Agents are also asked for by
 * handshakes on other threads, so they are behind a lock; only the main loop writes.
 *
 * The list of agents is one of those admitted, not of those revoked: a certificate of an agent the
 * database doesn't know (another deployment's backup, a deleted tenant) opens nothing.
 */
#include "identity/internal.h"

#include "base/mem.h"

#include <string.h>

/* ---- tenants ---- */

void view_put_tenant(struct identity *i, const struct tenant_record *r)
{
    struct tenant_view *t;
    HASH_FIND_STR(i->tenants, r->id, t);
    if (t) {
        t->r = *r;
        return;
    }
    t = NEW(struct tenant_view);
    t->r = *r;
    HASH_ADD_STR(i->tenants, r.id, t);
}

const struct tenant_record *view_tenant(struct identity *i, const char *ref)
{
    struct tenant_view *t;
    HASH_FIND_STR(i->tenants, ref, t);
    if (t)
        return &t->r;
    for (t = i->tenants; t; t = t->hh.next) {
        if (strcmp(t->r.name, ref) == 0)
            return &t->r;
    }
    return NULL;
}

static void remove_tokens_of(struct identity *i, const char *tenant)
{
    struct token_view *t, *next;
    HASH_ITER (hh, i->tokens, t, next) {
        if (!tenant || strcmp(t->r.tenant, tenant) == 0) {
            HASH_DEL(i->tokens, t);
            mem_free(t);
        }
    }
}

static void remove_agents_of(struct identity *i, const char *tenant)
{
    struct agent_view *a, *next;
    pthread_rwlock_wrlock(&i->lock);
    HASH_ITER (hh, i->agents, a, next) {
        if (!tenant || strcmp(a->tenant, tenant) == 0) {
            HASH_DEL(i->agents, a);
            mem_free(a);
        }
    }
    pthread_rwlock_unlock(&i->lock);
}

void view_remove_tenant(struct identity *i, const char *id)
{
    struct tenant_view *t;
    remove_tokens_of(i, id);
    remove_agents_of(i, id);
    HASH_FIND_STR(i->tenants, id, t);
    if (t) {
        HASH_DEL(i->tenants, t);
        mem_free(t);
    }
}

/* ---- tokens ---- */

void view_put_token(struct identity *i, const struct token_record *r)
{
    struct token_view *t;
    HASH_FIND_STR(i->tokens, r->id, t);
    if (t) {
        bool is_over = !t->r.revoked && r->revoked;
        if (r->version < t->r.version)
            return;
        t->r = *r;
        if (is_over && i->cfg.on_token_revoked)
            i->cfg.on_token_revoked(i->cfg.arg, r->id);
        return;
    }
    t = NEW(struct token_view);
    t->r = *r;
    HASH_ADD_STR(i->tokens, r.id, t);
    expiry_of(i, r);
}

void view_remove_token(struct identity *i, const char *id)
{
    struct token_view *t;
    HASH_FIND_STR(i->tokens, id, t);
    if (t) {
        HASH_DEL(i->tokens, t);
        mem_free(t);
    }
}

const struct token_record *view_token(struct identity *i, const char *id)
{
    struct token_view *t;
    HASH_FIND_STR(i->tokens, id, t);
    return t ? &t->r : NULL;
}

const struct token_record *view_token_by_ref(struct identity *i, const char *tenant,
                                             const char *ref)
{
    const struct token_record *r = view_token(i, ref);
    if (r)
        return strcmp(r->tenant, tenant) == 0 ? r : NULL;
    for (struct token_view *t = i->tokens; t && *ref; t = t->hh.next) {
        if (strcmp(t->r.name, ref) == 0 && strcmp(t->r.tenant, tenant) == 0)
            return &t->r;
    }
    return NULL;
}

bool view_count_repeat(struct identity *i, const char *token)
{
    struct token_view *t;
    HASH_FIND_STR(i->tokens, token, t);
    if (!t || ++t->n_repeats < REPEATS_TRIM)
        return false;
    t->n_repeats = 0;
    return true;
}

int view_check_secret(struct identity *i, const struct token *t, const struct token_record **ret)
{
    uint8_t hash[TOKEN_HASH_SIZE];
    const struct token_record *r = view_token(i, t->id);
    token_hash(t, hash);
    if (!r || r->kind != t->kind || !token_hash_equal(hash, r->hash))
        return ERR_UNAUTHENTICATED;
    *ret = r;
    return 0;
}

/* ---- agents ---- */

void view_put_agent(struct identity *i, const char *id, const char *tenant, bool is_revoked)
{
    struct agent_view *a;
    pthread_rwlock_wrlock(&i->lock);
    HASH_FIND_STR(i->agents, id, a);
    if (!a) {
        a = NEW(struct agent_view);
        snprintf(a->id, sizeof(a->id), "%s", id);
        snprintf(a->tenant, sizeof(a->tenant), "%s", tenant);
        HASH_ADD_STR(i->agents, id, a);
    }
    a->is_revoked |= is_revoked; /* there is no way back */
    pthread_rwlock_unlock(&i->lock);
}

int identity_agent_status(struct identity *i, const char *tenant, const char *agent)
{
    struct agent_view *a;
    pthread_rwlock_rdlock(&i->lock);
    HASH_FIND_STR(i->agents, agent, a);
    int err = !a || strcmp(a->tenant, tenant) != 0 ? ERR_DENIED : a->is_revoked ? ERR_REVOKED : 0;
    pthread_rwlock_unlock(&i->lock);
    return err;
}

int identity_verify_leaf(void *identity, struct x509_st *leaf)
{
    struct identity *i = identity;
    struct spiffe id;
    if (cert_identity(leaf, i->trust_domain, &id))
        return ERR_DENIED;
    return identity_agent_status(i, id.tenant, id.agent);
}

int identity_verify_hub(void *identity, struct x509_st *leaf)
{
    const struct identity *i = identity;
    char hub[ID_SIZE];
    return cert_hub_identity(leaf, i->trust_domain, hub) < 0 ? ERR_DENIED : 0;
}

/* ---- loading ---- */

static void load_tenant(void *arg, const struct tenant_record *r)
{
    view_put_tenant(arg, r);
}

static void load_token(void *arg, const struct token_record *r)
{
    view_put_token(arg, r);
}

static void load_agent(void *arg, const char *id, const char *tenant, bool is_revoked)
{
    view_put_agent(arg, id, tenant, is_revoked);
}

int view_load(struct identity *i, struct tx *tx)
{
    TRY(tenant_each(tx, load_tenant, i));
    TRY(token_each(tx, load_token, i));
    return agent_each(tx, load_agent, i);
}

void view_free(struct identity *i)
{
    struct tenant_view *t, *next;
    remove_tokens_of(i, NULL);
    remove_agents_of(i, NULL);
    HASH_ITER (hh, i->tenants, t, next) {
        HASH_DEL(i->tenants, t);
        mem_free(t);
    }
}
