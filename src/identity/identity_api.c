/* REST rows of tokens and tenants. */
#include "identity/internal.h"

#include "base/mem.h"
#include "http/rest.h"
#include "http/watch.h"

#include <stdio.h>
#include <string.h>

static int not_found(struct diag *d, const char *kind, const char *ref)
{
    return diag_set(d, ERR_NOT_FOUND, "no %s is called \"%.70s\"", kind, ref);
}

/* The tenant that the request is about: the caller's, or ?tenant= for an administrator. */
static int asked_tenant(struct identity *i, struct http_request *req, const char **ret,
                        struct diag *d)
{
    const struct identity_caller *by = identity_caller(req);
    const char *ref = http_query(req, "tenant");
    *ret = by->tenant;
    if (!ref)
        return 0;
    const struct tenant_record *t = view_tenant(i, ref);
    if (t && strcmp(t->id, by->tenant) == 0)
        return 0;
    if (by->role != IDENTITY_ADMIN)
        return diag_set_field(d, ERR_DENIED, "tenant",
                              "only an administrator sees other tenants' tokens");
    if (!t)
        return not_found(d, "tenant", ref);
    *ret = t->id;
    return 0;
}

/* ---- watching ---- */

/* What the caller of ?watch=1 may see. */
struct scope {
    struct identity *i;
    char tenant[ID_SIZE]; /* empty: all */
    char kind[16];        /* of tokens; empty: any */
};

static void scope_free(void *ctx)
{
    mem_free(ctx);
}

static bool token_fits(const struct token_record *r, const char *tenant, const char *kind)
{
    return strcmp(r->tenant, tenant) == 0 &&
           (!kind || !*kind || (r->kind == TOKEN_API) == (strcmp(kind, "api") == 0));
}

static json_t *render_token(void *ctx, const char *id)
{
    const struct scope *s = ctx;
    const struct token_record *r = view_token(s->i, id);
    return r && token_fits(r, s->tenant, s->kind) ? token_json(r) : NULL;
}

static void each_token(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    const struct scope *s = ctx;
    for (struct token_view *t = s->i->tokens; t; t = t->hh.next)
        fn(arg, t->r.id);
}

static json_t *render_tenant(void *ctx, const char *id)
{
    const struct scope *s = ctx;
    const struct tenant_record *t = view_tenant(s->i, id);
    bool is_visible = t && (!s->tenant[0] || strcmp(t->id, s->tenant) == 0);
    return is_visible ? tenant_json(t) : NULL;
}

static void each_tenant(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    const struct scope *s = ctx;
    for (struct tenant_view *t = s->i->tenants; t; t = t->hh.next)
        fn(arg, t->r.id);
}

/* `kind` of tokens, or NULL for tenants; `tenant` "": of all. */
static void watch(struct identity *i, struct http_request *req, const char *tenant,
                  const char *kind, const char *only, int64_t after)
{
    struct scope *s = NEW(struct scope);
    struct watch_source source = {.store = i->cfg.store,
                                  .kind = kind ? "token" : "tenant",
                                  .tenant = *tenant ? tenant : NULL,
                                  .only = only,
                                  .render = kind ? render_token : render_tenant,
                                  .each = kind ? each_token : each_tenant,
                                  .done = scope_free,
                                  .ctx = s};
    s->i = i;
    snprintf(s->tenant, sizeof(s->tenant), "%s", tenant);
    snprintf(s->kind, sizeof(s->kind), "%s", kind ? kind : "");
    watch_start(req, &source, after);
}

/* ---- tokens ---- */

static json_t *token_entry_json(void *ctx, void *token)
{
    return token_json(&((struct token_view *)token)->r);
}

static void list_tokens(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    struct diag d = {0};
    const char *tenant, *kind = http_query(req, "kind");
    if (kind && strcmp(kind, "bootstrap") != 0 && strcmp(kind, "api") != 0)
        diag_set_field(&d, ERR_INVALID, "kind", "\"%.40s\" is not one of bootstrap, api", kind);
    bool is_watch = false;
    int64_t after = -1;
    if (d.code || asked_tenant(i, req, &tenant, &d) || rest_watch(req, &is_watch, &after, &d)) {
        http_respond_diag(req, &d);
        return;
    }
    if (is_watch) {
        watch(i, req, tenant, kind ? kind : "", NULL, after);
        return;
    }
    struct rest_entry *list = mem_new(HASH_COUNT(i->tokens) * sizeof(*list));
    size_t n = 0;
    for (struct token_view *t = i->tokens; t; t = t->hh.next) {
        if (token_fits(&t->r, tenant, kind))
            list[n++] = (struct rest_entry){t->r.created, t->r.id, t};
    }
    rest_respond_list(req, list, n, token_entry_json, NULL);
}

static int find_token(struct identity *i, struct http_request *req, const struct token_record **ret,
                      struct diag *d)
{
    const struct identity_caller *by = identity_caller(req);
    const char *ref = http_param(req, "token");
    *ret =
        strcmp(ref, "self") == 0 ? view_token(i, by->token) : view_token_by_ref(i, by->tenant, ref);
    const struct token_record *other = view_token(i, ref);
    if (!*ret && other && by->role == IDENTITY_ADMIN)
        *ret = other;
    return *ret ? 0 : not_found(d, "token", ref);
}

static void get_token(struct http_request *req, void *ctx)
{
    const struct token_record *r;
    struct diag d = {0};
    bool is_watch = false;
    int64_t after = -1;
    if (find_token(ctx, req, &r, &d) || rest_watch(req, &is_watch, &after, &d))
        http_respond_diag(req, &d);
    else if (is_watch)
        watch(ctx, req, r->tenant, "", r->id, after);
    else
        http_respond_json(req, 200, token_json(r), (uint64_t)r->version);
}

struct token_act {
    struct identity *i;
    struct http_request *req;
    struct identity_caller by;
    struct token_record r;
    struct token token; /* the secret of a new one */
    char network[IDENTITY_NAME_SIZE];
    int64_t version, now_ms;
    struct diag d;
};

static struct token_act *token_act_new(struct identity *i, struct http_request *req)
{
    struct token_act *a = NEW(struct token_act);
    a->i = i;
    a->req = req;
    a->by = *identity_caller(req);
    a->now_ms = identity_now(i);
    return a;
}

static void token_act_free(struct token_act *a)
{
    token_done(&a->token);
    mem_free(a);
}

static int create_token_work(struct tx *tx, void *arg)
{
    struct token_act *a = arg;
    struct token_record *r = &a->r;
    if (r->kind == TOKEN_BOOTSTRAP && a->network[0]) {
        int err = network_find_or_make(tx, r->tenant, a->network, a->now_ms, r->network, &a->d);
        if (err == ERR_NOT_FOUND)
            return diag_set_field(&a->d, err, "network", "no network is called \"%s\"", a->network);
        if (err)
            return err;
    }
    TRY(limits_check(tx, r->tenant, LIMITS_TOKENS, &a->d));
    int err = token_insert(tx, r);
    if (err == ERR_EXISTS)
        return diag_set_field(&a->d, err, "name", "a token is already called \"%s\"", r->name);
    if (err)
        return err;
    return identity_audit_act(tx, &a->by, "token.create", r->id,
                              r->kind == TOKEN_API ? "api" : "bootstrap");
}

static void create_token_done(void *arg, int err)
{
    struct token_act *a = arg;
    a->d.code = err;
    if (err) {
        http_respond_diag(a->req, &a->d);
    } else {
        __attribute__((cleanup(secret_done_cleanup))) struct secret text = {0};
        view_put_token(a->i, &a->r);
        token_format(&a->token, &text);
        json_t *body = token_json(&a->r);
        json_object_set_new(body, "token", json_stringn(text.data, text.len));
        http_respond_json(a->req, 201, body, (uint64_t)a->r.version);
    }
    token_act_free(a);
}

static int read_token_request(struct token_act *a, struct diag *d)
{
    json_t *body;
    struct token_request q;
    TRY(rest_body(a->req, &body, d));
    TRY(token_request_parse(body, &q, d));
    const struct tenant_record *t = view_tenant(a->i, *q.tenant ? q.tenant : a->by.tenant);
    if (!t && a->by.role == IDENTITY_ADMIN)
        return diag_set_field(d, ERR_NOT_FOUND, "tenant", "no tenant is called \"%s\"", q.tenant);
    TRY(token_request_check(&q, &a->by, t ? t->id : "", d));

    struct token_record *r = &a->r;
    token_new(q.kind, ca_fingerprint(a->i->ca), &a->token);
    *r = (struct token_record){.kind = q.kind,
                               .role = q.role,
                               .version = 1,
                               .uses_limit = q.uses_limit,
                               .created = a->now_ms,
                               .root = ca_roots_signing(&a->i->roots)->id,
                               .expires = q.ttl_ms ? a->now_ms + q.ttl_ms : 0};
    snprintf(r->id, sizeof(r->id), "%s", a->token.id);
    snprintf(r->tenant, sizeof(r->tenant), "%s", t->id);
    snprintf(r->name, sizeof(r->name), "%s", q.name);
    snprintf(a->network, sizeof(a->network), "%s", q.network);
    token_hash(&a->token, r->hash);
    return 0;
}

static void create_token(struct http_request *req, void *ctx)
{
    struct token_act *a = token_act_new(ctx, req);
    struct diag d = {0};
    if (read_token_request(a, &d)) {
        http_respond_diag(req, &d);
        token_act_free(a);
        return;
    }
    store_run(a->i->cfg.store, STORE_WRITE, create_token_work, create_token_done, a);
}

static int revoke_token_work(struct tx *tx, void *arg)
{
    struct token_act *a = arg;
    bool was_revoked = a->r.revoked != 0;
    int err = token_revoke(tx, a->r.id, a->version, a->now_ms, &a->r);
    if (err == ERR_STALE)
        return diag_set(&a->d, err, "the token has changed since");
    if (err)
        return err;
    return was_revoked ? 0 : identity_audit_act(tx, &a->by, "token.revoke", a->r.id, NULL);
}

static void revoke_token_done(void *arg, int err)
{
    struct token_act *a = arg;
    a->d.code = err;
    if (err) {
        http_respond_diag(a->req, &a->d);
    } else {
        view_put_token(a->i, &a->r);
        http_respond_json(a->req, 200, token_json(&a->r), (uint64_t)a->r.version);
    }
    token_act_free(a);
}

/* Whoever may not make such a token may not end it. */
static int may_revoke(const struct identity_caller *by, const struct token_record *r,
                      struct diag *d)
{
    if (r->kind == TOKEN_API && r->role == IDENTITY_ADMIN && by->role != IDENTITY_ADMIN)
        return diag_set(d, ERR_DENIED, "only an administrator ends an administrator's token");
    return 0;
}

static void revoke_token(struct http_request *req, void *ctx)
{
    const struct token_record *r;
    struct diag d = {0};
    uint64_t version;
    if (find_token(ctx, req, &r, &d) || may_revoke(identity_caller(req), r, &d) ||
        rest_if_match(req, false, &version, &d)) {
        http_respond_diag(req, &d);
        return;
    }
    struct token_act *a = token_act_new(ctx, req);
    a->r = *r;
    a->version = (int64_t)version;
    store_run(a->i->cfg.store, STORE_WRITE, revoke_token_work, revoke_token_done, a);
}

/* ---- tenants ---- */

static json_t *tenant_entry_json(void *ctx, void *tenant)
{
    return tenant_json(&((struct tenant_view *)tenant)->r);
}

static void list_tenants(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    const struct identity_caller *by = identity_caller(req);
    struct diag d = {0};
    bool is_watch = false;
    int64_t after = -1;
    if (rest_watch(req, &is_watch, &after, &d)) {
        http_respond_diag(req, &d);
        return;
    }
    if (is_watch) {
        watch(i, req, by->role == IDENTITY_ADMIN ? "" : by->tenant, NULL, NULL, after);
        return;
    }
    struct rest_entry *list = mem_new(HASH_COUNT(i->tenants) * sizeof(*list));
    size_t n = 0;
    for (struct tenant_view *t = i->tenants; t; t = t->hh.next) {
        if (by->role == IDENTITY_ADMIN || strcmp(t->r.id, by->tenant) == 0)
            list[n++] = (struct rest_entry){t->r.created, t->r.id, t};
    }
    rest_respond_list(req, list, n, tenant_entry_json, NULL);
}

static int find_tenant(struct identity *i, struct http_request *req,
                       const struct tenant_record **ret, struct diag *d)
{
    const struct identity_caller *by = identity_caller(req);
    const char *ref = http_param(req, "tenant");
    const struct tenant_record *t = view_tenant(i, ref);
    if (!t || (by->role != IDENTITY_ADMIN && strcmp(t->id, by->tenant) != 0))
        return not_found(d, "tenant", ref);
    *ret = t;
    return 0;
}

static void get_tenant(struct http_request *req, void *ctx)
{
    const struct tenant_record *t = NULL;
    struct diag d = {0};
    if (find_tenant(ctx, req, &t, &d))
        http_respond_diag(req, &d);
    else
        http_respond_json(req, 200, tenant_json(t), (uint64_t)t->version);
}

struct tenant_act {
    struct identity *i;
    struct http_request *req;
    struct identity_caller by;
    struct tenant_record r;
    struct diag d;
};

static int create_tenant_work(struct tx *tx, void *arg)
{
    struct tenant_act *a = arg;
    int err = tenant_insert(tx, &a->r);
    if (err == ERR_EXISTS)
        return diag_set_field(&a->d, err, "name", "a tenant is already called \"%s\"", a->r.name);
    if (err)
        return err;
    return identity_audit_act(tx, &a->by, "tenant.create", a->r.id, a->r.name);
}

static void create_tenant_done(void *arg, int err)
{
    struct tenant_act *a = arg;
    a->d.code = err;
    if (err) {
        http_respond_diag(a->req, &a->d);
    } else {
        view_put_tenant(a->i, &a->r);
        http_respond_json(a->req, 201, tenant_json(&a->r), (uint64_t)a->r.version);
    }
    mem_free(a);
}

static struct tenant_act *tenant_act_new(struct identity *i, struct http_request *req)
{
    struct tenant_act *a = NEW(struct tenant_act);
    a->i = i;
    a->req = req;
    a->by = *identity_caller(req);
    return a;
}

static void create_tenant(struct http_request *req, void *ctx)
{
    static const char *const members[] = {"name", NULL};
    struct identity *i = ctx;
    struct diag d = {0};
    json_t *body;
    const char *name;
    if (rest_body(req, &body, &d) || rest_only(body, "", members, &d) ||
        rest_name(body, "name", true, &name, &d)) {
        http_respond_diag(req, &d);
        return;
    }
    struct tenant_act *a = tenant_act_new(i, req);
    a->r = (struct tenant_record){.version = 1, .created = identity_now(i)};
    id_new(a->r.id, "ten");
    snprintf(a->r.name, sizeof(a->r.name), "%s", name);
    store_run(i->cfg.store, STORE_WRITE, create_tenant_work, create_tenant_done, a);
}

static int delete_tenant_work(struct tx *tx, void *arg)
{
    struct tenant_act *a = arg;
    int err = tenant_delete(tx, a->r.id);
    if (err == ERR_CONFLICT)
        return diag_set(&a->d, err, "the tenant still has networks; delete them first");
    if (err)
        return err;
    return identity_audit_act(tx, &a->by, "tenant.delete", a->r.id, a->r.name);
}

static void delete_tenant_done(void *arg, int err)
{
    struct tenant_act *a = arg;
    a->d.code = err;
    if (err) {
        http_respond_diag(a->req, &a->d);
    } else {
        view_remove_tenant(a->i, a->r.id);
        http_respond_empty(a->req, 204);
    }
    mem_free(a);
}

static void delete_tenant(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    const struct tenant_record *t = NULL;
    struct diag d = {0};
    uint64_t version;
    int err = find_tenant(i, req, &t, &d);
    if (!err)
        err = rest_if_match(req, false, &version, &d);
    if (!err && version && version != (uint64_t)t->version)
        err = diag_set(&d, ERR_STALE, "the tenant has changed since");
    if (!err && strcmp(t->id, identity_caller(req)->tenant) == 0)
        err = diag_set(&d, ERR_CONFLICT, "the tenant that runs the hub cannot be deleted");
    if (err) {
        http_respond_diag(req, &d);
        return;
    }
    struct tenant_act *a = tenant_act_new(i, req);
    a->r = *t;
    store_run(i->cfg.store, STORE_WRITE, delete_tenant_work, delete_tenant_done, a);
}

/* ---- rows ---- */

static const struct http_route routes[] = {
    {"GET", "/api/v1/tokens", HTTP_VIEWER, 0, list_tokens, "Lists tokens, without their secrets"},
    {"POST", "/api/v1/tokens", HTTP_OPERATOR, REST_BODY_MAX, create_token,
     "Creates a token; the only answer that has its secret"},
    {"GET", "/api/v1/tokens/{token}", HTTP_VIEWER, 0, get_token,
     "Shows a token, without its secret"},
    {"POST", "/api/v1/tokens/{token}:revoke", HTTP_OPERATOR, REST_BODY_MAX, revoke_token,
     "Ends a token for good"},
    {"GET", "/api/v1/tenants", HTTP_VIEWER, 0, list_tenants,
     "Lists tenants (role admin; others see their own)"},
    {"POST", "/api/v1/tenants", HTTP_ADMIN, REST_BODY_MAX, create_tenant,
     "Creates a tenant (role admin)"},
    {"GET", "/api/v1/tenants/{tenant}", HTTP_VIEWER, 0, get_tenant, "Shows a tenant"},
    {"DELETE", "/api/v1/tenants/{tenant}", HTTP_ADMIN, 0, delete_tenant,
     "Deletes a tenant that has no networks any more (role admin)"},
};

void identity_add_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, routes, ARRAY_SIZE(routes), i);
    limits_add_routes(i, s);
    applied_add_routes(i, s);
    audit_add_routes(i, s);
    est_add_routes(i, s);
}
