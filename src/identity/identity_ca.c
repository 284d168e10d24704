/*
 * The roots of the CA in memory, and what follows from them: what is trusted, told and signed with.
 *
 *   rows of `ca` ─ start, feed ─► ca_store_read (store's thread) ─► roots_put (main loop)
 *                                              │
 *      trusted list (ca_pem, cacerts, digest) ─┴─ this hub's certificate, by the root that signs
 *
 * This hub's chain is its leaf, then the root's key signed by the root before: so whoever has not
 * learned the new root yet trusts the leaf as well, a login that was not used since the rotation
 * too. The roots themselves follow, for clients that pin one that is still trusted.
 */
#include "identity/internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* ---- what they make ---- */

static int put_pem(const char *pem, X509 **list, size_t *n)
{
    TRY(cert_from_pem(pem, strlen(pem), &list[*n]));
    ++*n;
    return 0;
}

/* PKCS#7 of the trusted roots, in their order, and of those signed by an elder one. */
static int make_cacerts(const struct ca_roots *r, const struct roots *trusted, struct buf *out)
{
    X509 *certs[2 * CA_ROOTS_MAX];
    size_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < trusted->n; i++)
        certs[n++] = cert_ref(trusted->certs[i]);
    for (size_t i = 0; i < r->n && rc == 0; i++) {
        if (r->list[i].crossed)
            rc = put_pem(r->list[i].crossed, certs, &n);
    }
    if (rc == 0)
        rc = cert_to_pkcs7(certs, n, out);
    while (n)
        cert_free(certs[--n]);
    return rc;
}

/* What follows the leaf in this hub's chain. */
static int make_chain(const struct ca_roots *r, struct buf *out)
{
    size_t at = (size_t)(ca_roots_signing(r) - r->list);
    for (size_t i = at + 1; i-- > 0;) {
        if (r->list[i].crossed)
            TRY(buf_puts(out, r->list[i].crossed));
    }
    for (size_t i = at + 1; i-- > 0;)
        TRY(cert_to_pem(ca_cert(r->list[i].ca), out));
    return 0;
}

/* Takes `r`. On failure all stays as it was. */
static int roots_put(struct identity *i, struct ca_roots *r)
{
    CLEANUP(buf_done) struct buf pem = {0}, cacerts = {0}, chain = {0};
    CLEANUP(roots_done) struct roots trusted = {0};
    int rc = ca_roots_to_pem(r, &pem);
    if (rc == 0)
        rc = roots_from_pem(buf_text(&pem), pem.len, &trusted);
    if (rc == 0)
        rc = make_cacerts(r, &trusted, &cacerts);
    if (rc == 0)
        rc = make_chain(r, &chain);
    if (rc < 0) {
        ca_roots_done(r);
        return rc;
    }
    ca_roots_done(&i->roots);
    i->roots = *r;
    i->ca = ca_roots_signing(&i->roots)->ca;
    roots_done(&i->trusted);
    i->trusted = trusted;
    trusted.n = 0;
    i->roots_digest = roots_digest(&i->trusted);
    roots_digest_text(i->roots_digest, i->roots_text);
    mem_free(i->ca_pem);
    i->ca_pem = buf_take(&pem);
    mem_free(i->ca_chain);
    i->ca_chain = buf_take(&chain);
    buf_done(&i->cacerts);
    i->cacerts = cacerts;
    cacerts = (struct buf){0};
    return 0;
}

/* ---- start ---- */

struct opening {
    struct identity *i;
    struct ca_roots roots;
};

static int open_work(struct tx *tx, void *arg)
{
    struct opening *o = arg;
    return ca_store_open(tx, &o->i->keeper, identity_now(o->i), &o->roots);
}

int identity_open_ca(struct identity *i, struct diag *d)
{
    struct opening o = {.i = i};
    i->keeper = (struct ca_keeper){
        .data_dir = i->data_dir, .trust_domain = i->trust_domain, .source = i->cfg.ca_source};
    int rc = store_run_wait(i->cfg.store, STORE_WRITE, open_work, &o);
    if (rc < 0 && i->keeper.d.code)
        *d = i->keeper.d;
    if (rc < 0)
        return d->code ? rc : diag_set(d, rc, "cannot read the CA: %s", error_text(rc));
    rc = roots_put(i, &o.roots);
    return rc < 0 ? diag_set(d, rc, "cannot use the CA: %s", error_text(rc)) : 0;
}

void identity_close_ca(struct identity *i)
{
    ca_roots_done(&i->roots);
    roots_done(&i->trusted);
    seal_key_done(&i->keeper.seal);
    mem_free(i->ca_chain);
}

/* ---- changes, of whichever hub ---- */

struct reading {
    struct identity *i;
    struct ca_keeper keeper;
    struct ca_roots roots;
};

static int read_work(struct tx *tx, void *arg)
{
    struct reading *r = arg;
    ca_roots_done(&r->roots);
    return ca_store_read(tx, &r->keeper, &r->roots);
}

static void roots_read(void *arg, int err)
{
    struct reading *r = arg;
    struct identity *i = r->i;
    struct diag d = {0};
    if (err == 0 && r->roots.n)
        err = roots_put(i, &r->roots);
    if (err < 0) {
        LOG_ERROR("cannot follow the CA's rotation",
                  LOG_STR("why", r->keeper.d.code ? diag_text(&r->keeper.d) : error_text(err)));
    } else {
        LOG_INFO("the CA's roots have changed", LOG_INT("trusted", i->roots.n),
                 LOG_INT("signing", ca_roots_signing(&i->roots)->id));
        if (identity_renew_server_cert(i, &d))
            LOG_ERROR("cannot renew the hub's certificate", LOG_STR("why", diag_text(&d)));
        if (i->cfg.on_roots)
            i->cfg.on_roots(i->cfg.arg);
    }
    seal_key_done(&r->keeper.seal);
    mem_free(r);
}

void identity_reread_ca(struct identity *i)
{
    struct reading *r = NEW(struct reading);
    r->i = i;
    r->keeper = i->keeper;
    store_reread(i->cfg.store, read_work, roots_read, r);
}

/* ---- asked by others ---- */

const char *identity_ca_pem(const struct identity *i)
{
    return i->ca_pem;
}

const struct ca *identity_ca(const struct identity *i)
{
    return i->ca;
}

const struct roots *identity_roots(const struct identity *i)
{
    return &i->trusted;
}

uint64_t identity_roots_digest(const struct identity *i)
{
    return i->roots_digest;
}

int64_t identity_newest_root(const struct identity *i)
{
    return i->roots.list[i->roots.n - 1].id;
}

bool identity_is_moving(const struct identity *i)
{
    return i->roots.n > 1 && i->roots.list[i->roots.n - 1].signs;
}

int identity_derive_keys(const struct identity *i, const char *label,
                         uint8_t out[][CA_DERIVED_SIZE], size_t max, size_t *ret_n)
{
    size_t n = 0;
    for (; n < i->roots.n && n < max; n++)
        TRY(ca_derive_key(i->roots.list[n].ca, label, out[n]));
    *ret_n = n;
    return 0;
}

int identity_agent_knows(struct tx *tx, const char *agent, int64_t root)
{
    return tx_exec(tx, "UPDATE agent SET knows = $1 WHERE id = $2 AND knows <> $1", STORE_INT(root),
                   STORE_TEXT(agent));
}

/* ---- a rotation's steps ---- */

struct step {
    struct identity *i;
    struct identity_caller by;
    struct ca_keeper keeper;
    enum identity_ca_step step;
    struct identity_policy policy;
    int64_t now_ms;
    bool is_forced;
    struct diag d;
    identity_done *done;
    void *arg;
};

static const char *const step_names[] = {"start", "sign", "finish", "cancel", NULL};

/* Agents whose newest certificate is by an older root than `newest` and that would still be let in,
 * or renew late. */
#define WOULD_BE_CUT                                                                   \
    "FROM agent a WHERE a.revoked IS NULL AND a.root < $1 AND (a.not_after > $2 "      \
    "OR (a.not_after > $3 AND NOT EXISTS (SELECT 1 FROM token t WHERE t.id = a.token " \
    "AND t.revoked IS NOT NULL)))"

static int64_t late_since(const struct identity_policy *p, int64_t now_ms)
{
    return p->late_renewal == IDENTITY_LATE_DENY      ? now_ms
           : p->late_renewal == IDENTITY_LATE_APPROVE ? 0
                                                      : now_ms - p->late_grace_ms;
}

static int name_some(struct tx *tx, const struct step *s, int64_t newest, struct buf *out)
{
    int rc;
    struct rows rows =
        tx_query(tx, "SELECT a.name " WOULD_BE_CUT " ORDER BY a.name LIMIT 5", STORE_INT(newest),
                 STORE_INT(s->now_ms), STORE_INT(late_since(&s->policy, s->now_ms)));
    while ((rc = row_next(&rows)) > 0)
        TRY(buf_printf(out, "%s%s", out->len ? ", " : "", row_text(&rows, 0)));
    return rc;
}

static int check_finish(struct tx *tx, struct step *s)
{
    CLEANUP(buf_done) struct buf names = {0};
    int64_t newest, n;
    TRY(tx_query_int(tx, &newest,
                     "SELECT COALESCE(MAX(id), 0) FROM ca WHERE signs IS NOT NULL AND "
                     "retired IS NULL"));
    TRY(tx_query_int(tx, &n, "SELECT COUNT(*) " WOULD_BE_CUT, STORE_INT(newest),
                     STORE_INT(s->now_ms), STORE_INT(late_since(&s->policy, s->now_ms))));
    if (!n || s->is_forced)
        return 0;
    TRY(name_some(tx, s, newest, &names));
    return diag_set_field(&s->keeper.d, ERR_CONFLICT, "agents",
                          "%lld agents still have certificates of the old root and would be cut "
                          "off: %.200s%s",
                          (long long)n, buf_text(&names), n > 5 ? ", ..." : "");
}

static int step_work(struct tx *tx, void *arg)
{
    struct step *s = arg;
    s->keeper.d = (struct diag){0};
    switch (s->step) {
    case IDENTITY_CA_START:
        TRY(ca_store_start(tx, &s->keeper, s->now_ms));
        break;
    case IDENTITY_CA_SIGN:
        TRY(ca_store_sign(tx, &s->keeper, s->now_ms));
        break;
    case IDENTITY_CA_FINISH:
        TRY(check_finish(tx, s));
        TRY(ca_store_finish(tx, &s->keeper, s->now_ms));
        break;
    default:
        TRY(ca_store_cancel(tx, &s->keeper, s->now_ms));
    }
    TRY(identity_audit_act(tx, &s->by, "ca.rotate", NULL, step_names[s->step]));
    return store_publish(tx, s->by.tenant, "ca", "ca", STORE_PUT);
}

/* What the step changed was read before this: the feed has told of it first. */
static void step_seen(void *arg, int err)
{
    struct step *s = arg;
    s->done(s->arg, &s->d);
    seal_key_done(&s->keeper.seal);
    mem_free(s);
}

static int nothing(struct tx *tx, void *arg)
{
    return 0;
}

static void step_done(void *arg, int err)
{
    struct step *s = arg;
    s->d = s->keeper.d;
    s->d.code = err;
    if (!err)
        LOG_INFO("step of the CA's rotation", LOG_STR("step", step_names[s->step]),
                 LOG_STR("by", s->by.token));
    store_reread(s->i->cfg.store, nothing, step_seen, s);
}

void identity_ca_rotate(struct identity *i, const struct identity_caller *by,
                        enum identity_ca_step step, bool is_forced, identity_done *done, void *arg)
{
    struct step *s = NEW(struct step);
    *s = (struct step){.i = i,
                       .by = *by,
                       .keeper = i->keeper,
                       .step = step,
                       .policy = i->cfg.policy,
                       .now_ms = identity_now(i),
                       .is_forced = is_forced,
                       .done = done,
                       .arg = arg};
    store_run(i->cfg.store, STORE_WRITE, step_work, step_done, s);
}

/* ---- what is shown ---- */

const char *const *identity_ca_steps(void)
{
    return step_names;
}
