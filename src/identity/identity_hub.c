/*
 * The hub's identity object: its start (CA, first tenant, administrator's token), the hub's own
 * certificate, who calls, and acts on agents.
 *
 * The key of the server certificate is made anew at each start and lives in memory only; agents
 * trust the CA, not the key.
 */
#include "identity/internal.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/time.h"
#include "pki/seal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BACKDATE_MS      INT64_C(90000000) /* 25 h: for agents whose clock is behind */
#define DAY_MS           (INT64_C(24) * 3600 * 1000)
#define SERVER_LIFE_MS   (90 * DAY_MS)
#define HOUSEKEEPING_MS  (3600 * 1000)
#define ANSWERS_KEEP_MS  DAY_MS
#define AUDIT_KEEP_MS    (400 * DAY_MS)
#define PUBLIC_NAMES_MAX 60

/* ---- the hub's own certificate ---- */

static void add_public_name(struct identity *i, const char *name)
{
    for (size_t n = 0; n < i->n_public_names; n++) {
        if (strcmp(i->public_names[n], name) == 0)
            return;
    }
    if (!*name || i->n_public_names >= PUBLIC_NAMES_MAX)
        return;
    i->public_names[i->n_public_names++] = mem_strdup(name);
}

static void gather_public_names(struct identity *i)
{
    char host[HOST_SIZE] = "";
    i->public_names = mem_new(PUBLIC_NAMES_MAX * sizeof(*i->public_names));
    for (size_t n = 0; n < i->cfg.n_public_names; n++)
        add_public_name(i, i->cfg.public_names[n]);
    add_public_name(i, "localhost");
    add_public_name(i, "127.0.0.1");
    add_public_name(i, "::1");
    if (gethostname(host, sizeof(host) - 1) == 0 &&
        strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") ==
            strlen(host))
        add_public_name(i, host);
}

static int issue_server_cert(struct identity *i, struct diag *d)
{
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    CLEANUP(cert_free) X509 *cert = NULL;
    struct buf chain = {0};
    int64_t now = identity_now(i);
    struct cert_times times = {now - BACKDATE_MS, now + SERVER_LIFE_MS};
    int err = pkey_new(&key);
    if (!err)
        err = ca_issue_hub(i->ca, key, i->hub, (const char *const *)i->public_names,
                           i->n_public_names, times, &cert);
    if (err)
        return diag_set_field(
            d, err, "public_name",
            "cannot make the hub's certificate; is each public name a DNS name or "
            "an IP address?");
    TRY(cert_to_pem(cert, &chain));
    TRY(buf_puts(&chain, i->ca_chain));
    TRY(pkey_to_pem(key, &i->server_key_pem));
    mem_free(i->server_chain);
    i->server_chain = buf_take(&chain);
    i->server_renew_at = now + SERVER_LIFE_MS / 3 * 2;
    return 0;
}

const char *identity_server_chain(const struct identity *i)
{
    return i->server_chain;
}

const struct secret *identity_server_key(const struct identity *i)
{
    return &i->server_key_pem;
}

int identity_renew_server_cert(struct identity *i, struct diag *d)
{
    TRY(issue_server_cert(i, d));
    if (i->cfg.on_server_cert)
        i->cfg.on_server_cert(i->cfg.arg);
    return 0;
}

/* ---- housekeeping ---- */

struct sweep {
    int64_t now_ms;
};

static int sweep_work(struct tx *tx, void *arg)
{
    const struct sweep *s = arg;
    return identity_sweep(tx, s->now_ms - ANSWERS_KEEP_MS, s->now_ms - AUDIT_KEEP_MS);
}

static void sweep_done(void *arg, int err)
{
    if (err)
        LOG_WARN("cannot drop old audit rows", LOG_ERR(err));
    mem_free(arg);
}

static void keep_house(struct timer *t)
{
    struct identity *i = container_of(t, struct identity, housekeeping);
    struct sweep *s = NEW(struct sweep);
    s->now_ms = identity_now(i);
    store_run(i->cfg.store, STORE_WRITE, sweep_work, sweep_done, s);
    if (s->now_ms >= i->server_renew_at) {
        struct diag d = {0};
        if (identity_renew_server_cert(i, &d))
            LOG_ERROR("cannot renew the hub's certificate", LOG_STR("why", diag_text(&d)));
    }
    timer_start(t, HOUSEKEEPING_MS);
}

/* ---- start ---- */

/* `why` says who and how; `ret`: the token's text. */
static int make_admin_token(struct tx *tx, const char *tenant, const char *name, int64_t now_ms,
                            const struct audit_entry *why, struct secret *ret)
{
    struct token t;
    token_new(TOKEN_API, NULL, &t);
    token_format(&t, ret);
    struct token_record r = {
        .kind = TOKEN_API, .role = IDENTITY_ADMIN, .version = 1, .created = now_ms};
    snprintf(r.id, sizeof(r.id), "%s", t.id);
    snprintf(r.tenant, sizeof(r.tenant), "%s", tenant);
    snprintf(r.name, sizeof(r.name), "%s", name);
    token_hash(&t, r.hash);
    token_done(&t);
    struct audit_entry entry = *why;
    entry.tenant = tenant;
    entry.action = "token.create";
    entry.object = r.id;
    TRY(token_insert(tx, &r));
    return identity_audit(tx, now_ms, &entry);
}

static int write_admin_token(struct identity *i, struct tx *tx, const char *tenant, struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret text = {0}, line = {0};
    CLEANUP(mem_free) char *path = mem_printf("%s/admin.token", i->data_dir);
    const struct audit_entry why = {.actor = "hub", .detail = "the administrator's first token"};
    TRY(make_admin_token(tx, tenant, "admin", identity_now(i), &why, &text));
    secret_set(&line, text.data, text.len + 1);
    line.data[text.len] = '\n';
    /* Before the commit: should we die in between, the next start finds no tenant and does both
     * again. */
    return file_write_atomic(path, line.data, line.len, 0600, d);
}

int identity_add_admin(struct tx *tx, int64_t now_ms, struct secret *ret)
{
    const struct audit_entry why = {.actor = "warren", .detail = "by who has the database"};
    char tenant[ID_SIZE];
    struct rows rows =
        tx_query(tx, "SELECT id FROM tenant WHERE name = $1", STORE_TEXT(TENANT_DEFAULT));
    if (TRY(row_next(&rows)) == 0)
        return ERR_NOT_FOUND;
    snprintf(tenant, sizeof(tenant), "%s", row_text(&rows, 0));
    rows_done(&rows);
    return make_admin_token(tx, tenant, "", now_ms, &why, ret);
}

static int make_first_tenant(struct identity *i, struct tx *tx, struct diag *d)
{
    struct tenant_record t = {.name = TENANT_DEFAULT, .version = 1, .created = identity_now(i)};
    id_new(t.id, "ten");
    TRY(tenant_insert(tx, &t));
    return write_admin_token(i, tx, t.id, d);
}

struct start {
    struct identity *i;
    struct diag *d;
    bool is_first;
};

static int start_work(struct tx *tx, void *arg)
{
    struct start *s = arg;
    int64_t tenants;
    TRY(tx_query_int(tx, &tenants, "SELECT COUNT(*) FROM tenant"));
    s->is_first = tenants == 0;
    if (s->is_first)
        TRY(make_first_tenant(s->i, tx, s->d));
    return 0;
}

static int load_work(struct tx *tx, void *arg)
{
    return view_load(arg, tx);
}

static int load(struct identity *i, struct diag *d)
{
    struct start s = {.i = i, .d = d};
    int err = store_run_wait(i->cfg.store, STORE_WRITE, start_work, &s);
    if (!err)
        err = store_run_wait(i->cfg.store, STORE_READ, load_work, i);
    if (err)
        return d && d->code ? err : diag_set(d, err, "cannot read tenants and tokens");
    if (s.is_first)
        LOG_INFO("first start: administrator's token written", LOG_STR("dir", i->data_dir));
    return 0;
}

static int start(struct identity *i, struct diag *d)
{
    TRY(identity_open_ca(i, d));
    gather_public_names(i);
    TRY(issue_server_cert(i, d));
    return load(i, d);
}

int identity_open(const struct identity_config *cfg, struct identity **ret, struct diag *d)
{
    struct identity *i = NEW(struct identity);
    i->cfg = *cfg;
    if (!i->cfg.now_ms)
        i->cfg.now_ms = time_wall_ms;
    i->data_dir = mem_strdup(cfg->data_dir);
    i->trust_domain = mem_strdup(cfg->trust_domain);
    snprintf(i->hub, sizeof(i->hub), "%s", cfg->hub ? cfg->hub : "");
    i->rate = rate_new(cfg->policy.enroll_per_minute, RATE_ADDRESSES_MAX);
    pthread_rwlock_init(&i->lock, NULL);
    timer_init(&i->housekeeping, cfg->loop, keep_house);
    int err = start(i, d);
    if (err) {
        identity_close(i);
        return err;
    }
    i->cfg.public_names = NULL; /* the caller's, copied by now */
    timer_start(&i->housekeeping, HOUSEKEEPING_MS);
    expiry_start(i);
    identity_follow(i);
    *ret = i;
    return 0;
}

void identity_close(struct identity *i)
{
    if (!i)
        return;
    timer_stop(&i->housekeeping);
    timer_stop(&i->expiry);
    store_unsubscribe(&i->feed);
    view_free(i);
    rate_free(i->rate);
    identity_close_ca(i);
    for (size_t n = 0; n < i->n_public_names; n++)
        mem_free(i->public_names[n]);
    mem_free(i->public_names);
    mem_free(i->data_dir);
    mem_free(i->trust_domain);
    mem_free(i->ca_pem);
    mem_free(i->server_chain);
    secret_done(&i->server_key_pem);
    buf_done(&i->cacerts);
    pthread_rwlock_destroy(&i->lock);
    mem_free(i);
}

void identity_set_policy(struct identity *i, const struct identity_policy *policy)
{
    i->cfg.policy = *policy;
    rate_set(i->rate, policy->enroll_per_minute);
}

/* ---- who calls ---- */

static void derive_seal_key(const struct token *t, uint8_t out[SEAL_KEY_SIZE])
{
    struct {
        char label[16];
        uint8_t secret[TOKEN_SECRET_SIZE];
    } input = {.label = "warren answers"};
    memcpy(input.secret, t->secret, sizeof(input.secret));
    sha256(&input, sizeof(input), out);
    explicit_bzero(&input, sizeof(input));
}

int identity_authenticate(struct identity *i, const char *authorization, const struct addr *peer,
                          struct identity_caller *ret, struct diag *d)
{
    struct token t;
    const struct token_record *r;
    if (!authorization)
        return diag_set(d, ERR_UNAUTHENTICATED,
                        "an API token is needed: Authorization: Bearer wat_…");
    if (bearer_parse(authorization, &t))
        return diag_set(d, ERR_UNAUTHENTICATED,
                        "the Authorization header does not hold an API token");
    int err = view_check_secret(i, &t, &r);
    if (!err && token_check(r, identity_now(i), NULL))
        err = ERR_UNAUTHENTICATED;
    if (err) {
        token_done(&t);
        return diag_set(d, err, "the API token is not known here, has expired or was revoked");
    }
    *ret = (struct identity_caller){.role = r->role};
    snprintf(ret->tenant, sizeof(ret->tenant), "%s", r->tenant);
    snprintf(ret->token, sizeof(ret->token), "%s", r->id);
    addr_format_ip(peer, ret->address, sizeof(ret->address));
    derive_seal_key(&t, ret->seal_key);
    token_done(&t);
    return 0;
}

bool identity_token_is_valid(struct identity *i, const char *tenant, const char *token)
{
    const struct token_record *r = view_token(i, token);
    return r && r->kind == TOKEN_API && strcmp(r->tenant, tenant) == 0 &&
           token_check(r, identity_now(i), NULL) == 0;
}

static int authenticate_hook(struct http_request *req, struct diag *d, void *arg)
{
    struct identity_caller *caller = arena_alloc(http_arena(req), sizeof(*caller));
    int err =
        identity_authenticate(arg, http_header(req, "authorization"), http_peer(req), caller, d);
    if (err) {
        http_add_header(req, "WWW-Authenticate", "Bearer");
        return err;
    }
    http_add_header(req, IDENTITY_ROOTS_HEADER, ((struct identity *)arg)->roots_text);
    if (http_route(req)->role == HTTP_ADMIN && caller->role != IDENTITY_ADMIN)
        return diag_set(d, ERR_DENIED, "this needs an administrator's token");
    http_set_caller(req, caller);
    return 0;
}

static bool is_still_welcome(const struct http_request *req, void *arg)
{
    const struct identity_caller *by = identity_caller(req);
    return identity_token_is_valid(arg, by->tenant, by->token);
}

struct http_hooks identity_http_hooks(struct identity *i)
{
    return (struct http_hooks){.authenticate = authenticate_hook,
                               .before = repeat_before,
                               .after = repeat_after,
                               .is_still_welcome = is_still_welcome,
                               .arg = i};
}

const struct identity_caller *identity_caller(const struct http_request *req)
{
    return http_caller(req);
}

/* ---- acts on agents ---- */

enum act { ACT_REVOKE, ACT_APPROVE, ACT_DRAIN, ACT_UNDRAIN, ACT_COUNT };
static const char *const act_names[] = {"agent.revoke", "agent.approve", "agent.drain",
                                        "agent.undrain"};
static_assert(ARRAY_SIZE(act_names) == ACT_COUNT, "a name for each act");

struct agent_act {
    struct identity *i;
    struct identity_caller by;
    char agent[ID_SIZE];
    int64_t version, now_ms, grace_ms;
    enum act act;
    struct diag d;
    identity_done *done;
    void *arg;
};

/* 1: nothing is to be done. */
static int do_act(struct tx *tx, struct agent_act *a, const struct agent_facts *facts)
{
    const char *tenant = a->by.tenant;
    switch (a->act) {
    case ACT_REVOKE:
        return facts->revoked ? 1 : agent_set_revoked(tx, tenant, a->agent, a->now_ms);
    case ACT_APPROVE:
        if (!facts->pending || facts->revoked)
            return diag_set(&a->d, ERR_CONFLICT, "the agent is not waiting for approval");
        return agent_set_approved(tx, tenant, a->agent, a->now_ms);
    case ACT_DRAIN:
        if (facts->revoked)
            return diag_set(&a->d, ERR_CONFLICT, "the agent was revoked");
        return agent_set_draining(tx, tenant, a->agent, a->now_ms, a->grace_ms);
    default:
        return agent_set_draining(tx, tenant, a->agent, 0, 0);
    }
}

static int act_work(struct tx *tx, void *arg)
{
    struct agent_act *a = arg;
    struct agent_facts facts;
    int err = agent_read(tx, a->agent, &facts);
    if (err == ERR_NOT_FOUND || (!err && strcmp(facts.tenant, a->by.tenant) != 0))
        return diag_set(&a->d, ERR_NOT_FOUND, "no agent is called \"%s\"", a->agent);
    if (err)
        return err;
    if (a->version && a->version != facts.version)
        return diag_set(&a->d, ERR_STALE, "the agent has changed since (its version is %lld)",
                        (long long)facts.version);
    int rc = TRY(do_act(tx, a, &facts));
    return rc ? 0 : identity_audit_act(tx, &a->by, act_names[a->act], a->agent, NULL);
}

static void act_done(void *arg, int err)
{
    struct agent_act *a = arg;
    a->d.code = err;
    if (!err && a->act == ACT_REVOKE) {
        view_put_agent(a->i, a->agent, a->by.tenant, true);
        LOG_INFO("agent revoked", LOG_STR("agent", a->agent), LOG_STR("by", a->by.token));
        if (a->i->cfg.on_agent_revoked)
            a->i->cfg.on_agent_revoked(a->i->cfg.arg, a->agent);
    }
    a->done(a->arg, &a->d);
    mem_free(a);
}

static void act_on_agent(struct identity *i, const struct identity_caller *by, const char *agent,
                         uint64_t version, enum act act, int64_t grace_ms, identity_done *done,
                         void *arg)
{
    struct agent_act *a = NEW(struct agent_act);
    a->i = i;
    a->by = *by;
    snprintf(a->agent, sizeof(a->agent), "%s", agent);
    a->version = (int64_t)version;
    a->now_ms = identity_now(i);
    a->act = act;
    a->grace_ms = grace_ms;
    a->done = done;
    a->arg = arg;
    store_run(i->cfg.store, STORE_WRITE, act_work, act_done, a);
}

void identity_agent_revoke(struct identity *i, const struct identity_caller *by, const char *agent,
                           uint64_t version, identity_done *done, void *arg)
{
    act_on_agent(i, by, agent, version, ACT_REVOKE, 0, done, arg);
}

void identity_agent_approve(struct identity *i, const struct identity_caller *by, const char *agent,
                            uint64_t version, identity_done *done, void *arg)
{
    act_on_agent(i, by, agent, version, ACT_APPROVE, 0, done, arg);
}

void identity_agent_drain(struct identity *i, const struct identity_caller *by, const char *agent,
                          uint64_t version, int64_t grace_ms, identity_done *done, void *arg)
{
    act_on_agent(i, by, agent, version, ACT_DRAIN, grace_ms, done, arg);
}

void identity_agent_undrain(struct identity *i, const struct identity_caller *by, const char *agent,
                            uint64_t version, identity_done *done, void *arg)
{
    act_on_agent(i, by, agent, version, ACT_UNDRAIN, 0, done, arg);
}
