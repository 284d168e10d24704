/*
 * Enrolment and renewal as EST has them (RFC 7030): cacerts, simpleenroll with a bootstrap token as
 * HTTP Basic password, and simplereenroll, which is only served behind ALPN "warren-renew/1", where
 * the TLS layer has verified the agent's certificate but tolerates that it has ended.
 *
 * Certificates are signed on the main loop before the transaction and thrown away when that fails,
 * so that the row and the certificate's serial are written together.
 */
#include "identity/internal.h"

#include "base/mem.h"
#include "net/conn.h"
#include "pki/csr.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define BACKDATE_MS      INT64_C(300000)
#define APPROVAL_RETRY_S 10

static void respond_certs(struct http_request *req, X509 *cert)
{
    struct buf body = {0};
    if (cert_to_pkcs7(&cert, 1, &body)) {
        http_respond_error(req, ERR_BUG, "the certificate cannot be encoded");
    } else {
        http_add_header(req, "Content-Transfer-Encoding", "base64");
        http_respond(req, 200, "application/pkcs7-mime; smime-type=certs-only", body.data,
                     body.len);
    }
    buf_done(&body);
}

static void get_cacerts(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    http_add_header(req, "Content-Transfer-Encoding", "base64");
    http_respond(req, 200, "application/pkcs7-mime", i->cacerts.data, i->cacerts.len);
}

/* ---- common to both ---- */

static bool is_within_rate(struct identity *i, struct http_request *req)
{
    char text[24];
    uint64_t wait_ms = rate_take(i->rate, http_peer(req), loop_now_ms(i->cfg.loop));
    if (!wait_ms)
        return true;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)(wait_ms + 999) / 1000);
    http_add_header(req, "Retry-After", text);
    http_respond_error(req, ERR_RATE, "too many attempts from this address; try again in %s s",
                       text);
    return false;
}

/* A diag of this code is answered with 415. */
#define ERR_MEDIA_TYPE ERR_USAGE

static int check_media_type(struct http_request *req, struct diag *d)
{
    static const char want[] = "application/pkcs10";
    const char *type = http_header(req, "content-type");
    /* Parameters may follow. */
    if (type && strncasecmp(type, want, strlen(want)) == 0 && strchr("; \t", type[strlen(want)]))
        return 0;
    return diag_set_field(d, ERR_MEDIA_TYPE, "Content-Type",
                          "the request must be application/pkcs10");
}

static void refuse(struct http_request *req, const struct diag *d)
{
    if (d->code == ERR_UNAUTHENTICATED)
        http_add_header(req, "WWW-Authenticate", "Basic realm=\"warren\"");
    if (d->code == ERR_MEDIA_TYPE)
        http_respond_problem(req, 415, d);
    else
        http_respond_diag(req, d);
}

static int read_csr(struct http_request *req, EVP_PKEY **ret, struct diag *d)
{
    size_t len;
    const char *body = http_body(req, &len);
    TRY(check_media_type(req, d));
    int err = csr_parse(body, len, ret);
    switch (err) {
    case ERR_DENIED:
        return diag_set(d, ERR_INVALID, "the CSR's signature does not fit its key");
    case ERR_USAGE:
        return diag_set(d, ERR_INVALID,
                        "the CSR's key must be P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits");
    case ERR_INVALID:
        return diag_set(d, ERR_INVALID, "the body is not a PKCS#10 request in base64");
    default:
        return err ? diag_set(d, err, "the CSR cannot be used: %s", error_text(err)) : 0;
    }
}

/* By which root a certificate is made: the one that signs, for an agent that says that it trusts
 * the roots as they are now; otherwise `known`, which it does trust. */
static const struct ca_root *choose_root(struct identity *i, struct http_request *req,
                                         const struct ca_root *known, int64_t *ret_knows)
{
    const char *told = http_header(req, IDENTITY_ROOTS_HEADER);
    bool knows_all = told && strcmp(told, i->roots_text) == 0;
    *ret_knows = knows_all ? identity_newest_root(i) : known->id;
    return knows_all ? ca_roots_signing(&i->roots) : known;
}

/* Whose fingerprint the token carries; NULL: it is not trusted any more. */
static const struct ca_root *root_of_token(const struct identity *i, const struct token_record *t)
{
    for (size_t n = 0; n < i->roots.n; n++) {
        if (i->roots.list[n].id == t->root)
            return &i->roots.list[n];
    }
    return NULL;
}

static const struct ca_root *root_of_leaf(const struct identity *i, X509 *leaf)
{
    for (size_t n = 0; n < i->roots.n; n++) {
        if (cert_is_issued_by(leaf, ca_cert(i->roots.list[n].ca)))
            return &i->roots.list[n];
    }
    return ca_roots_signing(&i->roots);
}

static int issue(struct identity *i, const struct ca_root *root, EVP_PKEY *key, const char *tenant,
                 const char *agent, X509 **ret_cert, struct agent_certificate *ret, struct diag *d)
{
    CLEANUP(cert_free) X509 *cert = NULL;
    int64_t now = identity_now(i);
    struct cert_times times = {now - BACKDATE_MS, now + i->cfg.policy.cert_life_ms};
    struct spiffe id = {0};
    snprintf(id.trust_domain, sizeof(id.trust_domain), "%s", i->trust_domain);
    snprintf(id.tenant, sizeof(id.tenant), "%s", tenant);
    snprintf(id.agent, sizeof(id.agent), "%s", agent);
    int err = ca_issue_agent(root->ca, key, &id, times, &cert);
    if (!err)
        err = cert_key_hash(cert, ret->key_hash);
    if (!err)
        err = cert_times(cert, &times);
    if (err)
        return diag_set(d, err, "the certificate cannot be made");
    cert_serial(cert, ret->serial);
    ret->not_after = times.not_after_ms;
    ret->root = root->id;
    *ret_cert = TAKE(cert);
    return 0;
}

/* ---- simpleenroll ---- */

struct enrolment {
    struct identity *i;
    struct http_request *req;
    X509 *cert;
    struct agent_admission a;
    struct token_record token;
    char address[ADDR_TEXT_SIZE];
    int64_t now_ms;
    struct diag d;
};

static int enroll_work(struct tx *tx, void *arg)
{
    struct enrolment *e = arg;
    TRY(token_use(tx, e->a.token, e->now_ms, &e->token, &e->d));
    /* As it is now: networks merge. Without one, the agent's LAN decides (docs/networks.md). */
    snprintf(e->a.network, sizeof(e->a.network), "%s", e->token.network);
    if (!e->a.network[0])
        TRY(network_find_or_make(tx, e->a.tenant, "", e->now_ms, e->a.network, &e->d));
    TRY(limits_check(tx, e->a.tenant, LIMITS_AGENTS, &e->d));
    int err = agent_insert(tx, &e->a, e->now_ms);
    if (err == ERR_CONFLICT)
        return diag_set(&e->d, ERR_NOT_FOUND, "the network of this token was deleted");
    if (err)
        return err;
    return identity_audit(tx, e->now_ms,
                          &(struct audit_entry){.tenant = e->a.tenant,
                                                .actor = e->a.token,
                                                .address = e->address,
                                                .action = "agent.enroll",
                                                .object = e->a.id,
                                                .detail = e->a.name});
}

/* Who holds a token's secret and is refused nevertheless, is worth a row. */
struct refusal {
    char tenant[ID_SIZE], token[ID_SIZE], address[ADDR_TEXT_SIZE];
    int64_t now_ms;
    struct diag why;
};

static int refusal_work(struct tx *tx, void *arg)
{
    const struct refusal *r = arg;
    return identity_audit(tx, r->now_ms,
                          &(struct audit_entry){.tenant = r->tenant,
                                                .actor = r->token,
                                                .address = r->address,
                                                .action = "agent.enroll",
                                                .outcome = AUDIT_DENIED,
                                                .detail = diag_text(&r->why)});
}

static void refusal_done(void *arg, int err)
{
    mem_free(arg);
}

static void audit_refusal(const struct enrolment *e, const struct diag *why)
{
    enum error_category category = error_category(why->code);
    if (!e->a.token[0] || (category != ERROR_DENIED && category != ERROR_CONFLICT))
        return;
    struct refusal *r = NEW(struct refusal);
    memcpy(r->tenant, e->a.tenant, sizeof(r->tenant));
    memcpy(r->token, e->a.token, sizeof(r->token));
    memcpy(r->address, e->address, sizeof(r->address));
    r->now_ms = e->now_ms;
    r->why = *why;
    store_run(e->i->cfg.store, STORE_WRITE, refusal_work, refusal_done, r);
}

static void enroll_done(void *arg, int err)
{
    struct enrolment *e = arg;
    e->d.code = err;
    if (err) {
        LOG_WARN("enrolment refused", LOG_STR("token", e->a.token), LOG_STR("from", e->address),
                 LOG_STR("why", diag_text(&e->d)));
        audit_refusal(e, &e->d);
        http_respond_diag(e->req, &e->d);
    } else {
        view_put_token(e->i, &e->token);
        view_put_agent(e->i, e->a.id, e->a.tenant, false);
        LOG_INFO("agent enrolled", LOG_STR("agent", e->a.id), LOG_STR("name", e->a.name),
                 LOG_STR("network", e->a.network), LOG_STR("from", e->address));
        respond_certs(e->req, e->cert);
    }
    cert_free(e->cert);
    mem_free(e);
}

/* The bootstrap token whose secret is in the request. */
static int read_token(struct identity *i, struct http_request *req, char name[IDENTITY_NAME_SIZE],
                      const struct token_record **ret, struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret password = {0};
    const char *authorization = http_header(req, "authorization");
    struct token t;
    if (!authorization)
        return diag_set(d, ERR_UNAUTHENTICATED, "a bootstrap token is needed as Basic password");
    if (basic_parse(authorization, name, &password) || token_parse(password.data, password.len, &t))
        return diag_set(d, ERR_UNAUTHENTICATED, "the Basic password is not a bootstrap token");
    int err = t.kind == TOKEN_BOOTSTRAP ? view_check_secret(i, &t, ret) : ERR_UNAUTHENTICATED;
    token_done(&t);
    if (err)
        return diag_set(d, err, "the bootstrap token is not known to this hub");
    return 0;
}

static int prepare_enrolment(struct enrolment *e, struct diag *d)
{
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    const struct token_record *token;
    char wanted[IDENTITY_NAME_SIZE];
    TRY(read_token(e->i, e->req, wanted, &token, d));
    snprintf(e->a.tenant, sizeof(e->a.tenant), "%s", token->tenant);
    snprintf(e->a.token, sizeof(e->a.token), "%s", token->id);
    TRY(token_check(token, e->now_ms, d));
    TRY(read_csr(e->req, &key, d));
    id_new(e->a.id, "agt");
    agent_pick_name(wanted, e->a.id, e->a.name);
    const struct ca_root *root =
        choose_root(e->i, e->req, root_of_token(e->i, token), &e->a.certificate.knows);
    return issue(e->i, root, key, e->a.tenant, e->a.id, &e->cert, &e->a.certificate, d);
}

static void post_simpleenroll(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    struct diag d = {0};
    if (!is_within_rate(i, req))
        return;
    struct enrolment *e = NEW(struct enrolment);
    e->i = i;
    e->req = req;
    e->now_ms = identity_now(i);
    addr_format_ip(http_peer(req), e->address, sizeof(e->address));
    int err = prepare_enrolment(e, &d);
    if (!err) {
        store_run(i->cfg.store, STORE_WRITE, enroll_work, enroll_done, e);
        return;
    }
    LOG_WARN("enrolment refused", LOG_STR("from", e->address), LOG_STR("why", diag_text(&d)));
    audit_refusal(e, &d);
    refuse(req, &d);
    cert_free(e->cert);
    mem_free(e);
}

/* ---- simplereenroll ---- */

struct reenrolment {
    struct identity *i;
    struct http_request *req;
    struct spiffe id;
    char serial[CERT_SERIAL_SIZE]; /* of the presented certificate */
    int64_t presented_not_after;
    X509 *cert; /* the new one */
    struct agent_certificate certificate;
    char address[ADDR_TEXT_SIZE];
    int64_t now_ms;
    int verdict;
    struct diag d;
};

static int ask_for_approval(struct tx *tx, struct reenrolment *r, const struct agent_facts *facts)
{
    if (facts->pending)
        return 0;
    TRY(agent_set_pending(tx, r->id.tenant, r->id.agent, r->now_ms));
    return identity_audit(tx, r->now_ms,
                          &(struct audit_entry){.tenant = r->id.tenant,
                                                .actor = r->id.agent,
                                                .address = r->address,
                                                .action = "agent.ask_renewal",
                                                .object = r->id.agent});
}

static int reenroll_work(struct tx *tx, void *arg)
{
    struct reenrolment *r = arg;
    struct agent_facts facts;
    int err = agent_read(tx, r->id.agent, &facts);
    if (err == ERR_NOT_FOUND || (!err && strcmp(facts.tenant, r->id.tenant) != 0))
        return diag_set(&r->d, ERR_DENIED, "this hub does not know the agent; enrol it again");
    if (err)
        return err;
    struct renewal renewal = {.agent_is_revoked = facts.revoked != 0,
                              .token_is_revoked = facts.token_is_revoked,
                              .is_newest = strcmp(facts.serial, r->serial) == 0,
                              .is_approved = facts.approved != 0,
                              .not_after = r->presented_not_after};
    r->verdict = TRY(renewal_judge(&renewal, &r->i->cfg.policy, r->now_ms, &r->d));
    if (r->verdict == RENEWAL_PENDING)
        return ask_for_approval(tx, r, &facts);
    return agent_renewed(tx, r->id.tenant, r->id.agent, &r->certificate);
}

static void reenroll_done(void *arg, int err)
{
    struct reenrolment *r = arg;
    char retry[16];
    r->d.code = err;
    if (err) {
        LOG_WARN("renewal refused", LOG_STR("agent", r->id.agent), LOG_STR("from", r->address),
                 LOG_STR("why", diag_text(&r->d)));
        http_respond_diag(r->req, &r->d);
    } else if (r->verdict == RENEWAL_PENDING) {
        LOG_INFO("renewal awaits approval", LOG_STR("agent", r->id.agent));
        snprintf(retry, sizeof(retry), "%d", APPROVAL_RETRY_S);
        http_add_header(r->req, "Retry-After", retry);
        http_respond_empty(r->req, 202);
    } else {
        LOG_INFO("certificate renewed", LOG_STR("agent", r->id.agent),
                 LOG_STR("serial", r->certificate.serial));
        respond_certs(r->req, r->cert);
    }
    cert_free(r->cert);
    mem_free(r);
}

static int prepare_reenrolment(struct reenrolment *r, struct diag *d)
{
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct conn *c = http_conn(r->req);
    X509 *leaf = c ? conn_peer_cert(c) : NULL;
    struct cert_times times;
    if (!leaf || cert_identity(leaf, r->i->trust_domain, &r->id) || cert_times(leaf, &times))
        return diag_set(d, ERR_UNAUTHENTICATED, "the connection bears no agent's certificate");
    cert_serial(leaf, r->serial);
    r->presented_not_after = times.not_after_ms;
    TRY(read_csr(r->req, &key, d));
    const struct ca_root *root =
        choose_root(r->i, r->req, root_of_leaf(r->i, leaf), &r->certificate.knows);
    return issue(r->i, root, key, r->id.tenant, r->id.agent, &r->cert, &r->certificate, d);
}

static void post_simplereenroll(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    struct diag d = {0};
    if (!is_within_rate(i, req))
        return;
    struct reenrolment *r = NEW(struct reenrolment);
    r->i = i;
    r->req = req;
    r->now_ms = identity_now(i);
    addr_format_ip(http_peer(req), r->address, sizeof(r->address));
    if (prepare_reenrolment(r, &d)) {
        refuse(req, &d);
        mem_free(r);
        return;
    }
    store_run(i->cfg.store, STORE_WRITE, reenroll_work, reenroll_done, r);
}

/* ---- rows ---- */

static const struct http_route est_routes[] = {
    {"GET", "/.well-known/est/cacerts", HTTP_PUBLIC, 0, get_cacerts, "The hub's CA certificate"},
    {"POST", "/.well-known/est/simpleenroll", HTTP_PUBLIC, CSR_BODY_MAX, post_simpleenroll,
     "Admits an agent"},
};

static const struct http_route renew_routes[] = {
    {"POST", "/.well-known/est/simplereenroll", HTTP_PUBLIC, CSR_BODY_MAX, post_simplereenroll,
     "Renews the certificate of the connection"},
};

void est_add_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, est_routes, ARRAY_SIZE(est_routes), i);
}

void identity_add_renew_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, renew_routes, ARRAY_SIZE(renew_routes), i);
}
