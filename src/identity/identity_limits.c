/*
 * What a tenant may use, set by an administrator: a JSON column of the tenant, checked in the
 * transactions that make tunnels and agents, and followed by tunnel/ for what flows.
 */
#include "identity/internal.h"

#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct limit_row {
    const char *name;
    size_t offset;
    int64_t least, most;
} rows_of_limits[] = {
    {"tunnels", offsetof(struct identity_limits, tunnels), 1, 1000000},
    {"agents", offsetof(struct identity_limits, agents), 1, 1000000},
    {"networks", offsetof(struct identity_limits, networks), 1, 1000000},
    {"tokens", offsetof(struct identity_limits, tokens), 1, 1000000},
    {"streams", offsetof(struct identity_limits, streams), 1, 10000000},
    {"bandwidth", offsetof(struct identity_limits, bandwidth), 1024, INT64_C(1000000000000)},
};

#define HOSTS_MAX 16

static int64_t *limit_at(struct identity_limits *l, const struct limit_row *row)
{
    return (int64_t *)((char *)l + row->offset);
}

/* ---- domains of public names ---- */

bool identity_host_is_in(const char *hosts, const char *name)
{
    size_t len = strlen(name), n;
    for (const char *at = hosts; *at; at += n + (at[n] == ' ')) {
        n = strcspn(at, " ");
        if (len >= n && strncmp(name + len - n, at, n) == 0 &&
            (len == n || name[len - n - 1] == '.'))
            return true;
    }
    return false;
}

static json_t *hosts_json(const char *hosts)
{
    json_t *list = json_array();
    size_t n;
    for (const char *at = hosts; *at; at += n + (at[n] == ' ')) {
        n = strcspn(at, " ");
        json_array_append_new(list, json_stringn(at, n));
    }
    return list;
}

static int add_host(char hosts[IDENTITY_HOSTS_SIZE], const char *domain)
{
    char host[HOST_SIZE];
    size_t len = strlen(hosts);
    TRY(domain ? host_name_parse(domain, host) : ERR_INVALID);
    if (len + strlen(host) + 2 > IDENTITY_HOSTS_SIZE)
        return ERR_LIMIT;
    snprintf(hosts + len, IDENTITY_HOSTS_SIZE - len, "%s%s", len ? " " : "", host);
    return 0;
}

static int patch_hosts(json_t *patch, char hosts[IDENTITY_HOSTS_SIZE], struct diag *d)
{
    json_t *list = NULL, *domain;
    size_t i;
    bool is_null = rest_is_null(patch, "limits.hosts");
    if (!is_null)
        TRY(rest_array(patch, "limits.hosts", HOSTS_MAX, false, &list, d));
    if (is_null || list)
        hosts[0] = '\0';
    json_array_foreach (list, i, domain) {
        int rc = add_host(hosts, json_string_value(domain));
        if (rc == ERR_LIMIT)
            return diag_set_field(d, ERR_INVALID, "limits.hosts",
                                  "all together may have %d characters", IDENTITY_HOSTS_SIZE);
        if (rc < 0)
            return diag_set_field(d, rc, "limits.hosts", "member %zu is no domain", i);
    }
    return 0;
}

/* ---- all limits ---- */

json_t *limits_json(const struct identity_limits *limits)
{
    json_t *json = json_object();
    struct identity_limits l = *limits;
    for (size_t i = 0; i < ARRAY_SIZE(rows_of_limits); i++) {
        int64_t limit = *limit_at(&l, &rows_of_limits[i]);
        json_object_set_new(json, rows_of_limits[i].name,
                            limit ? json_integer(limit) : json_null());
    }
    json_object_set_new(json, "hosts", l.hosts[0] ? hosts_json(l.hosts) : json_null());
    return json;
}

/* A merge patch: members that are there change, null lifts a limit. */
static int patch_limits(json_t *patch, struct identity_limits *l, struct diag *d)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows_of_limits); i++) {
        const struct limit_row *row = &rows_of_limits[i];
        char path[64];
        snprintf(path, sizeof(path), "limits.%s", row->name);
        if (rest_is_null(patch, path))
            *limit_at(l, row) = 0;
        TRY(rest_int(patch, path, row->least, row->most, false, limit_at(l, row), d));
    }
    return patch_hosts(patch, l->hosts, d);
}

void limits_read(const char *text, struct identity_limits *ret)
{
    json_t *json = text ? json_loads(text, 0, NULL) : NULL, *domain;
    size_t i;
    *ret = (struct identity_limits){0};
    for (i = 0; json && i < ARRAY_SIZE(rows_of_limits); i++)
        *limit_at(ret, &rows_of_limits[i]) =
            json_integer_value(json_object_get(json, rows_of_limits[i].name));
    json_array_foreach (json_object_get(json, "hosts"), i, domain)
        (void)add_host(ret->hosts, json_string_value(domain));
    json_decref(json);
}

/* ---- in transactions ---- */

int identity_limits_each(struct tx *tx, const char *tenant,
                         void (*fn)(void *arg, const char *tenant, const struct identity_limits *l),
                         void *arg)
{
    struct identity_limits l;
    int rc;
    struct rows rows =
        tx_query(tx, "SELECT id, limits FROM tenant WHERE CAST($1 AS TEXT) IS NULL OR id = $1",
                 STORE_TEXT(tenant));
    while ((rc = row_next(&rows)) > 0) {
        limits_read(row_text(&rows, 1), &l);
        fn(arg, row_text(&rows, 0), &l);
    }
    return rc;
}

static void take(void *arg, const char *tenant, const struct identity_limits *l)
{
    *(struct identity_limits *)arg = *l;
}

int identity_limits_of(struct tx *tx, const char *tenant, struct identity_limits *ret)
{
    *ret = (struct identity_limits){0};
    return identity_limits_each(tx, tenant, take, ret);
}

static const struct kind_row {
    const char *name, *remedy;
    size_t offset;
    const char *count; /* $1: the tenant, $2: now */
    size_t n_values;
} kinds[] = {
    [LIMITS_AGENTS] = {"agents", "revoke one", offsetof(struct identity_limits, agents),
                       "SELECT COUNT(*) FROM agent WHERE tenant = $1 AND revoked IS NULL", 1},
    [LIMITS_NETWORKS] = {"networks", "delete one", offsetof(struct identity_limits, networks),
                         "SELECT COUNT(*) FROM network WHERE tenant = $1 AND automatic = 0", 1},
    [LIMITS_TOKENS] = {"tokens", "revoke one", offsetof(struct identity_limits, tokens),
                       "SELECT COUNT(*) FROM token WHERE tenant = $1 AND revoked IS NULL AND "
                       "(expires IS NULL OR expires > $2) AND "
                       "(uses_limit IS NULL OR uses < uses_limit)",
                       2},
};

int limits_check(struct tx *tx, const char *tenant, enum limits_kind kind, struct diag *d)
{
    const struct kind_row *row = &kinds[kind];
    struct identity_limits l;
    int64_t n;
    TRY(identity_limits_of(tx, tenant, &l));
    int64_t most = *(const int64_t *)((const char *)&l + row->offset);
    if (!most)
        return 0;
    const struct store_value values[] = {STORE_TEXT(tenant), STORE_INT(time_wall_ms())};
    TRY(tx_query_int_values(tx, &n, row->count, values, row->n_values));
    if (n < most)
        return 0;
    return diag_set(d, ERR_CONFLICT,
                    "the tenant has %" PRId64 " %s of %" PRId64
                    " that it may have; %s, or ask the hub's administrator for more",
                    n, row->name, most, row->remedy);
}

/* ---- PATCH /api/v1/tenants/{tenant} ---- */

struct limits_act {
    struct identity *i;
    struct http_request *req;
    struct identity_caller by;
    struct tenant_record r;
};

static int write_limits(struct tx *tx, void *arg)
{
    struct limits_act *a = arg;
    json_t *json = limits_json(&a->r.limits);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    int rc = tx_exec(tx,
                     "UPDATE tenant SET limits = $1, version = version + 1 "
                     "WHERE id = $2 AND version = $3",
                     STORE_TEXT(text), STORE_TEXT(a->r.id), STORE_INT(a->r.version));
    if (rc == 0 && tx_changed(tx) == 0)
        rc = ERR_STALE;
    if (rc == 0)
        rc = identity_audit_act(tx, &a->by, "tenant.update", a->r.id, text);
    free(text);
    return rc < 0 ? rc : store_publish(tx, a->r.id, "tenant", a->r.id, STORE_PUT);
}

static void limits_written(void *arg, int err)
{
    CLEANUP(mem_free) struct limits_act *a = arg;
    if (err < 0) {
        http_respond_error(a->req, err, "the tenant was not changed: %s", error_text(err));
        return;
    }
    a->r.version++;
    view_put_tenant(a->i, &a->r);
    http_respond_json(a->req, 200, tenant_json(&a->r), (uint64_t)a->r.version);
}

static int read_patch(struct limits_act *a, struct diag *d)
{
    static const char *const members[] = {"limits", NULL};
    static const char *const limit_members[] = {"tunnels", "agents",    "networks", "tokens",
                                                "streams", "bandwidth", "hosts",    NULL};
    const char *ref = http_param(a->req, "tenant");
    const struct tenant_record *t = view_tenant(a->i, ref);
    uint64_t version;
    json_t *body;
    if (!t)
        return diag_set(d, ERR_NOT_FOUND, "no tenant is called \"%.70s\"", ref);
    TRY(rest_body(a->req, &body, d));
    TRY(rest_only(body, "", members, d));
    TRY(rest_only(body, "limits", limit_members, d));
    TRY(rest_if_match(a->req, false, &version, d));
    if (version && version != (uint64_t)t->version)
        return diag_set(d, ERR_STALE, "the tenant has changed since");
    a->r = *t;
    return patch_limits(body, &a->r.limits, d);
}

static void patch_tenant(struct http_request *req, void *ctx)
{
    struct limits_act *a = NEW(struct limits_act);
    struct diag d = {0};
    *a = (struct limits_act){.i = ctx, .req = req, .by = *identity_caller(req)};
    if (read_patch(a, &d) < 0) {
        http_respond_diag(req, &d);
        mem_free(a);
        return;
    }
    store_run(a->i->cfg.store, STORE_WRITE, write_limits, limits_written, a);
}

static const struct http_route routes[] = {
    {"PATCH", "/api/v1/tenants/{tenant}", HTTP_ADMIN, REST_BODY_MAX, patch_tenant,
     "Sets what a tenant may use (role admin)"},
};

void limits_add_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, routes, ARRAY_SIZE(routes), i);
}
