#include "identity/identity_store.h"

#include "base/error.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>

static void copy(char *out, size_t size, const char *in)
{
    snprintf(out, size, "%s", in ? in : "");
}

/* 0 in memory is NULL in the table. */
static struct store_value int_or_null(int64_t n)
{
    return n ? STORE_INT(n) : STORE_NULL;
}

static struct store_value text_or_null(const char *s)
{
    return s && *s ? STORE_TEXT(s) : STORE_NULL;
}

/* ---- tenants ---- */

#define TENANT_COLUMNS "id, name, version, created, limits"

static void take_tenant(const struct rows *rows, struct tenant_record *t)
{
    *t = (struct tenant_record){.version = row_int(rows, 2), .created = row_int(rows, 3)};
    copy(t->id, sizeof(t->id), row_text(rows, 0));
    copy(t->name, sizeof(t->name), row_text(rows, 1));
    limits_read(row_text(rows, 4), &t->limits);
}

int tenant_each(struct tx *tx, void (*fn)(void *arg, const struct tenant_record *t), void *arg)
{
    struct rows rows = tx_query(tx, "SELECT " TENANT_COLUMNS " FROM tenant ORDER BY created, id");
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        struct tenant_record t;
        take_tenant(&rows, &t);
        fn(arg, &t);
    }
    return rc;
}

int tenant_read(struct tx *tx, const char *id, struct tenant_record *ret)
{
    struct rows rows =
        tx_query(tx, "SELECT " TENANT_COLUMNS " FROM tenant WHERE id = $1", STORE_TEXT(id));
    if (!TRY(row_next(&rows)))
        return ERR_NOT_FOUND;
    take_tenant(&rows, ret);
    rows_done(&rows);
    return 0;
}

int tenant_insert(struct tx *tx, const struct tenant_record *t)
{
    TRY(tx_exec(tx, "INSERT INTO tenant (id, name, version, created) VALUES ($1, $2, $3, $4)",
                STORE_TEXT(t->id), STORE_TEXT(t->name), STORE_INT(t->version),
                STORE_INT(t->created)));
    return store_publish(tx, t->id, "tenant", t->id, STORE_PUT);
}

int tenant_delete(struct tx *tx, const char *id)
{
    int64_t networks;
    TRY(tx_query_int(tx, &networks, "SELECT COUNT(*) FROM network WHERE tenant = $1",
                     STORE_TEXT(id)));
    if (networks)
        return ERR_CONFLICT;
    TRY(tx_exec(tx, "DELETE FROM agent WHERE tenant = $1", STORE_TEXT(id)));
    TRY(tx_exec(tx, "DELETE FROM network_alias WHERE tenant = $1", STORE_TEXT(id)));
    TRY(tx_exec(tx, "DELETE FROM token WHERE tenant = $1", STORE_TEXT(id)));
    TRY(tx_exec(tx, "DELETE FROM applied WHERE tenant = $1", STORE_TEXT(id)));
    TRY(tx_exec(tx, "DELETE FROM audit WHERE tenant = $1", STORE_TEXT(id)));
    TRY(tx_exec(tx, "DELETE FROM tenant WHERE id = $1", STORE_TEXT(id)));
    return store_publish(tx, id, "tenant", id, STORE_DELETE);
}

/* ---- tokens ---- */

#define TOKEN_COLUMNS                                                                   \
    "id, tenant, kind, name, version, hash, network, role, uses_limit, uses, created, " \
    "expires, revoked, root"

static void take_token(const struct rows *rows, struct token_record *t)
{
    size_t len = 0;
    const void *hash = row_blob(rows, 5, &len);
    *t = (struct token_record){.kind = (enum token_kind)row_int(rows, 2),
                               .version = row_int(rows, 4),
                               .role = (enum identity_role)row_int(rows, 7),
                               .uses_limit = row_int(rows, 8),
                               .uses = row_int(rows, 9),
                               .created = row_int(rows, 10),
                               .expires = row_int(rows, 11),
                               .revoked = row_int(rows, 12),
                               .root = row_int(rows, 13)};
    copy(t->id, sizeof(t->id), row_text(rows, 0));
    copy(t->tenant, sizeof(t->tenant), row_text(rows, 1));
    copy(t->name, sizeof(t->name), row_text(rows, 3));
    copy(t->network, sizeof(t->network), row_text(rows, 6));
    if (len == sizeof(t->hash))
        memcpy(t->hash, hash, len);
    else
        t->revoked = t->created; /* not one of ours: it must open nothing */
}

int token_each(struct tx *tx, void (*fn)(void *arg, const struct token_record *t), void *arg)
{
    struct rows rows = tx_query(tx, "SELECT " TOKEN_COLUMNS " FROM token ORDER BY created, id");
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        struct token_record t;
        take_token(&rows, &t);
        fn(arg, &t);
    }
    return rc;
}

int token_read(struct tx *tx, const char *id, struct token_record *ret)
{
    struct rows rows =
        tx_query(tx, "SELECT " TOKEN_COLUMNS " FROM token WHERE id = $1", STORE_TEXT(id));
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    take_token(&rows, ret);
    rows_done(&rows);
    return 0;
}

int token_insert(struct tx *tx, const struct token_record *t)
{
    TRY(tx_exec(tx,
                "INSERT INTO token (" TOKEN_COLUMNS ") VALUES "
                "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                STORE_TEXT(t->id), STORE_TEXT(t->tenant), STORE_INT(t->kind), text_or_null(t->name),
                STORE_INT(t->version), STORE_BLOB(t->hash, sizeof(t->hash)),
                text_or_null(t->network), STORE_INT(t->role), int_or_null(t->uses_limit),
                STORE_INT(t->uses), STORE_INT(t->created), int_or_null(t->expires),
                int_or_null(t->revoked), STORE_INT(MAX(t->root, (int64_t)1))));
    return store_publish(tx, t->tenant, "token", t->id, STORE_PUT);
}

int token_revoke(struct tx *tx, const char *id, int64_t version, int64_t now_ms,
                 struct token_record *ret)
{
    struct token_record t;
    TRY(token_read(tx, id, &t));
    if (version && version != t.version)
        return ERR_STALE;
    if (!t.revoked) {
        TRY(tx_exec(tx, "UPDATE token SET revoked = $2, version = version + 1 WHERE id = $1",
                    STORE_TEXT(id), STORE_INT(now_ms)));
        TRY(store_publish(tx, t.tenant, "token", id, STORE_PUT));
    }
    return token_read(tx, id, ret);
}

int token_use(struct tx *tx, const char *id, int64_t now_ms, struct token_record *ret,
              struct diag *d)
{
    struct token_record t;
    TRY(token_read(tx, id, &t));
    TRY(token_check(&t, now_ms, d));
    TRY(tx_exec(tx, "UPDATE token SET uses = uses + 1, version = version + 1 WHERE id = $1",
                STORE_TEXT(id)));
    TRY(store_publish(tx, t.tenant, "token", id, STORE_PUT));
    return token_read(tx, id, ret);
}

/* ---- networks ---- */

int identity_network_find(struct tx *tx, const char *tenant, const char *ref, char ret[ID_SIZE])
{
    struct rows rows = tx_query(
        tx,
        "SELECT id, 0 AS rank FROM network WHERE tenant = $1 AND (id = $2 OR name = $2) UNION ALL "
        "SELECT network, 1 FROM network_alias WHERE tenant = $1 AND (id = $2 OR name = $2) "
        "ORDER BY rank LIMIT 1",
        STORE_TEXT(tenant), STORE_TEXT(ref));
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    copy(ret, ID_SIZE, row_text(&rows, 0));
    rows_done(&rows);
    return 0;
}

static int insert_network(struct tx *tx, const char *tenant, const char *id, const char *name,
                          int64_t now_ms, bool is_automatic)
{
    TRY(tx_exec(tx,
                "INSERT INTO network (id, tenant, name, version, created, automatic) "
                "VALUES ($1, $2, $3, 1, $4, $5)",
                STORE_TEXT(id), STORE_TEXT(tenant), STORE_TEXT(name), STORE_INT(now_ms),
                STORE_INT(is_automatic)));
    return store_publish(tx, tenant, "network", id, STORE_PUT);
}

int identity_network_create(struct tx *tx, const struct identity_caller *by, const char *id,
                            const char *name, int64_t now_ms, struct diag *d)
{
    TRY(limits_check(tx, by->tenant, LIMITS_NETWORKS, d));
    TRY(insert_network(tx, by->tenant, id, name, now_ms, false));
    return identity_audit_act(tx, by, "network.create", id, name);
}

int network_find_or_make(struct tx *tx, const char *tenant, const char *ref, int64_t now_ms,
                         char ret[ID_SIZE], struct diag *d)
{
    int err = *ref ? identity_network_find(tx, tenant, ref, ret) : ERR_NOT_FOUND;
    if (err != ERR_NOT_FOUND || id_is(ref, "net"))
        return err;
    char id[ID_SIZE], name[IDENTITY_NAME_SIZE];
    id_new(id, "net");
    snprintf(name, sizeof(name), "net-%.16s", id + strlen("net_"));
    if (*ref)
        TRY(limits_check(tx, tenant, LIMITS_NETWORKS, d));
    TRY(insert_network(tx, tenant, id, *ref ? ref : name, now_ms, *ref == '\0'));
    copy(ret, ID_SIZE, id);
    return 0;
}

/* ---- agents ---- */

int agent_each(struct tx *tx,
               void (*fn)(void *arg, const char *id, const char *tenant, bool is_revoked),
               void *arg)
{
    struct rows rows = tx_query(tx, "SELECT id, tenant, revoked FROM agent");
    int rc;
    while ((rc = row_next(&rows)) > 0)
        fn(arg, row_text(&rows, 0), row_text(&rows, 1), !row_is_null(&rows, 2));
    return rc;
}

static int try_insert(struct tx *tx, const struct agent_admission *a, int64_t now_ms)
{
    TRY(tx_exec(tx,
                "INSERT INTO agent (id, tenant, network, token, name, version, serial, key_hash, "
                "not_after, created, root, knows) "
                "VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, $10, $11) "
                "ON CONFLICT (tenant, name) DO NOTHING",
                STORE_TEXT(a->id), STORE_TEXT(a->tenant), STORE_TEXT(a->network),
                STORE_TEXT(a->token), STORE_TEXT(a->name), STORE_TEXT(a->certificate.serial),
                STORE_BLOB(a->certificate.key_hash, sizeof(a->certificate.key_hash)),
                STORE_INT(a->certificate.not_after), STORE_INT(now_ms),
                STORE_INT(a->certificate.root), STORE_INT(a->certificate.knows)));
    return tx_changed(tx) ? 0 : 1;
}

int agent_insert(struct tx *tx, struct agent_admission *a, int64_t now_ms)
{
    int taken = TRY(try_insert(tx, a, now_ms));
    if (taken) {
        agent_pick_other_name(a->id, a->name);
        if (TRY(try_insert(tx, a, now_ms)))
            return ERR_EXISTS;
    }
    return store_publish(tx, a->tenant, "agent", a->id, STORE_PUT);
}

int agent_read(struct tx *tx, const char *id, struct agent_facts *ret)
{
    struct rows rows =
        tx_query(tx,
                 "SELECT a.tenant, a.serial, a.version, a.revoked, a.pending, a.approved, "
                 "t.revoked FROM agent a LEFT JOIN token t ON t.id = a.token WHERE a.id = $1",
                 STORE_TEXT(id));
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    *ret = (struct agent_facts){.version = row_int(&rows, 2),
                                .revoked = row_int(&rows, 3),
                                .pending = row_int(&rows, 4),
                                .approved = row_int(&rows, 5),
                                .token_is_revoked = !row_is_null(&rows, 6)};
    copy(ret->tenant, sizeof(ret->tenant), row_text(&rows, 0));
    copy(ret->serial, sizeof(ret->serial), row_text(&rows, 1));
    rows_done(&rows);
    return 0;
}

int agent_renewed(struct tx *tx, const char *tenant, const char *id,
                  const struct agent_certificate *c)
{
    TRY(tx_exec(tx,
                "UPDATE agent SET serial = $2, key_hash = $3, not_after = $4, root = $5, "
                "knows = CASE WHEN knows < $6 THEN $6 ELSE knows END, pending = NULL, approved = "
                "NULL, version = version + 1 WHERE id = $1",
                STORE_TEXT(id), STORE_TEXT(c->serial), STORE_BLOB(c->key_hash, sizeof(c->key_hash)),
                STORE_INT(c->not_after), STORE_INT(c->root), STORE_INT(c->knows)));
    return store_publish(tx, tenant, "agent", id, STORE_PUT);
}

int agent_set_pending(struct tx *tx, const char *tenant, const char *id, int64_t now_ms)
{
    TRY(tx_exec(tx, "UPDATE agent SET pending = $2, version = version + 1 WHERE id = $1",
                STORE_TEXT(id), STORE_INT(now_ms)));
    return store_publish(tx, tenant, "agent", id, STORE_PUT);
}

int agent_set_approved(struct tx *tx, const char *tenant, const char *id, int64_t now_ms)
{
    TRY(tx_exec(tx,
                "UPDATE agent SET approved = $2, pending = NULL, version = version + 1 "
                "WHERE id = $1",
                STORE_TEXT(id), STORE_INT(now_ms)));
    return store_publish(tx, tenant, "agent", id, STORE_PUT);
}

int agent_set_draining(struct tx *tx, const char *tenant, const char *id, int64_t since,
                       int64_t grace_ms)
{
    TRY(tx_exec(tx,
                "UPDATE agent SET draining = $2, drain_grace = $3, version = version + 1 "
                "WHERE id = $1",
                STORE_TEXT(id), since ? STORE_INT(since) : STORE_NULL,
                since && grace_ms ? STORE_INT(grace_ms) : STORE_NULL));
    return store_publish(tx, tenant, "agent", id, STORE_PUT);
}

int agent_set_revoked(struct tx *tx, const char *tenant, const char *id, int64_t now_ms)
{
    TRY(tx_exec(tx,
                "UPDATE agent SET revoked = $2, pending = NULL, approved = NULL, "
                "version = version + 1 WHERE id = $1",
                STORE_TEXT(id), STORE_INT(now_ms)));
    return store_publish(tx, tenant, "agent", id, STORE_PUT);
}

/* ---- audit ---- */

int identity_audit(struct tx *tx, int64_t now_ms, const struct audit_entry *e)
{
    char id[ID_SIZE];
    id_new_at(id, "aud", now_ms);
    return tx_exec(tx,
                   "INSERT INTO audit (id, tenant, at, actor, address, action, object, outcome, "
                   "detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                   STORE_TEXT(id), STORE_TEXT(e->tenant), STORE_INT(now_ms), STORE_TEXT(e->actor),
                   text_or_null(e->address), STORE_TEXT(e->action), text_or_null(e->object),
                   STORE_INT(e->outcome), text_or_null(e->detail));
}

int identity_audit_act(struct tx *tx, const struct identity_caller *by, const char *action,
                       const char *object, const char *detail)
{
    return identity_audit(tx, time_wall_ms(),
                          &(struct audit_entry){.tenant = by->tenant,
                                                .actor = by->token,
                                                .address = by->address,
                                                .action = action,
                                                .object = object,
                                                .outcome = AUDIT_OK,
                                                .detail = detail});
}

int audit_each(struct tx *tx, const struct audit_filter *f,
               void (*fn)(void *arg, const struct audit_record *r), void *arg)
{
    struct rows rows =
        tx_query(tx,
                 "SELECT id, at, actor, address, action, object, outcome, detail FROM audit "
                 "WHERE tenant = $1 AND at <= $2 AND (at < $2 OR id < $3) AND at >= $4 "
                 "AND (CAST($5 AS BIGINT) IS NULL OR at < $5) "
                 "AND (CAST($6 AS TEXT) IS NULL OR action = $6) "
                 "AND (CAST($7 AS TEXT) IS NULL OR actor = $7) "
                 "AND (CAST($8 AS TEXT) IS NULL OR object = $8) ORDER BY at DESC, id DESC LIMIT $9",
                 STORE_TEXT(f->tenant), STORE_INT(f->before_at), STORE_TEXT(f->before_id),
                 STORE_INT(f->since), int_or_null(f->until), text_or_null(f->action),
                 text_or_null(f->actor), text_or_null(f->object), STORE_INT(f->limit));
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        int64_t outcome = row_int(&rows, 6);
        struct audit_record r = {.id = row_text(&rows, 0),
                                 .at = row_int(&rows, 1),
                                 .actor = row_text(&rows, 2),
                                 .address = row_text(&rows, 3),
                                 .action = row_text(&rows, 4),
                                 .object = row_text(&rows, 5),
                                 .outcome = outcome >= 0 && outcome < AUDIT_OUTCOME_COUNT
                                                ? (enum audit_outcome)outcome
                                                : AUDIT_FAILED,
                                 .detail = row_text(&rows, 7)};
        fn(arg, &r);
    }
    return rc;
}

/* ---- repeated requests ---- */

static int read_answer(struct tx *tx, const char *token, const char *key, struct stored_answer *ret)
{
    struct rows rows =
        tx_query(tx, "SELECT hash, status, body FROM idempotency WHERE token = $1 AND key = $2",
                 STORE_TEXT(token), STORE_TEXT(key));
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    size_t hash_len, body_len;
    const void *hash = row_blob(&rows, 0, &hash_len);
    if (hash_len == sizeof(ret->hash))
        memcpy(ret->hash, hash, hash_len);
    ret->status = row_int(&rows, 1);
    const void *body = row_blob(&rows, 2, &body_len);
    if (body_len)
        TRY(buf_append(&ret->body, body, body_len));
    rows_done(&rows);
    return 1;
}

int idempotency_reserve(struct tx *tx, const char *token, const char *key, const uint8_t hash[32],
                        int64_t now_ms, struct stored_answer *ret)
{
    TRY(tx_exec(tx,
                "INSERT INTO idempotency (token, key, hash, status, created) "
                "VALUES ($1, $2, $3, 0, $4) ON CONFLICT (token, key) DO NOTHING",
                STORE_TEXT(token), STORE_TEXT(key), STORE_BLOB(hash, 32), STORE_INT(now_ms)));
    return tx_changed(tx) ? 0 : read_answer(tx, token, key, ret);
}

int idempotency_store(struct tx *tx, const char *token, const char *key, int status,
                      const void *body, size_t len)
{
    return tx_exec(tx,
                   "UPDATE idempotency SET status = $3, body = $4 WHERE token = $1 AND key = $2",
                   STORE_TEXT(token), STORE_TEXT(key), STORE_INT(status), STORE_BLOB(body, len));
}

int idempotency_forget(struct tx *tx, const char *token, const char *key)
{
    return tx_exec(tx, "DELETE FROM idempotency WHERE token = $1 AND key = $2", STORE_TEXT(token),
                   STORE_TEXT(key));
}

int idempotency_trim(struct tx *tx, const char *token, int64_t keep)
{
    return tx_exec(tx,
                   "DELETE FROM idempotency WHERE token = $1 AND created < (SELECT created FROM "
                   "idempotency WHERE token = $1 ORDER BY created DESC LIMIT 1 OFFSET $2)",
                   STORE_TEXT(token), STORE_INT(keep - 1));
}

int identity_sweep(struct tx *tx, int64_t answers_before_ms, int64_t audit_before_ms)
{
    TRY(tx_exec(tx, "DELETE FROM idempotency WHERE created < $1", STORE_INT(answers_before_ms)));
    return tx_exec(tx, "DELETE FROM audit WHERE at < $1", STORE_INT(audit_before_ms));
}
