/*
 * First contact: `warren-agent enroll`.
 *
 * The bootstrap token carries the SHA-256 of the hub's CA certificate. The hub's chain includes
 * that certificate, so the TLS handshake itself is pinned to it: nothing, the token least of all,
 * is sent to a server that did not prove to belong to that CA.
 */
#include "identity/agent.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/client.h"
#include "pki/csr.h"
#include "pki/token.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REPLY_MAX ((size_t)64 << 10)

struct enroll {
    const struct agent_enroll_options *o;
    struct token token;
    EVP_PKEY *key;
    struct roots roots; /* that the hub told, the token's among them */
    X509 *leaf;
    struct agent_identity a;
};

/* ---- before anything is sent ---- */

static int check_folder(const struct agent_enroll_options *o, struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/agent.json", o->dir);
    if (mkdir(o->dir, 0700) < 0 && errno != EEXIST)
        return diag_set(d, error_from_errno(errno), "cannot make the folder %s: %s", o->dir,
                        strerror(errno));
    if (!o->force && access(path, F_OK) == 0)
        return diag_set(d, ERR_EXISTS, "%s already holds an enrolment; use --force to replace it",
                        o->dir);
    if (access(o->dir, W_OK | X_OK) < 0)
        return diag_set(d, error_from_errno(errno), "cannot write in %s: %s", o->dir,
                        strerror(errno));
    return 0;
}

static int take_allow(struct enroll *e, struct diag *d)
{
    const struct agent_enroll_options *o = e->o;
    if (o->n_allow > AGENT_ALLOW_MAX)
        return diag_set_field(d, ERR_LIMIT, "allow", "at most %d rules", AGENT_ALLOW_MAX);
    for (size_t n = 0; n < o->n_allow; n++) {
        struct addr_rule rule;
        TRY(addr_rule_parse(o->allow[n], &rule, d));
        e->a.allow[e->a.n_allow++] = mem_strdup(o->allow[n]);
    }
    return 0;
}

static int check_options(struct enroll *e, struct diag *d)
{
    TRY(agent_hub_url(e->o->hub, &e->a.hubs[0], d));
    e->a.n_hubs = 1;
    if (token_parse(e->o->token->data, e->o->token->len, &e->token) ||
        e->token.kind != TOKEN_BOOTSTRAP)
        return diag_set_field(d, ERR_INVALID, "token",
                              "this is not a bootstrap token (wbt_…); make one with: "
                              "warren token create");
    TRY(take_allow(e, d));
    return check_folder(e->o, d);
}

/* ---- talking to the hub ---- */

static int explain(struct diag *d, int err, const char *hub)
{
    struct diag why = *d;
    if (err == ERR_TLS)
        return diag_set(
            d, err,
            "%s did not prove to be the hub that issued the token (%.100s). Someone is "
            "in between, the token is of another hub or was made before the hub's CA was "
            "rotated (ask for a new one), or the hub's certificate does not bear this name "
            "(--public-name)",
            hub, diag_text(&why));
    return diag_set(d, err, "cannot reach %s: %.200s", hub, diag_text(&why));
}

static int ask(const struct enroll *e, const struct http_ask *what, struct http_reply *ret,
               struct diag *d)
{
    const struct http_client_config cfg = {
        .base_url = e->a.hubs[0], .ca_sha256 = e->token.fingerprint, .reply_max = REPLY_MAX};
    struct diag why = {0};
    int err = http_fetch(&cfg, what, ret, &why);
    if (err) {
        if (!why.code)
            why.code = err;
        err = explain(&why, err, e->a.hubs[0]);
        if (d)
            *d = why;
        return err;
    }
    if (ret->status != 200 && !(err = http_reply_diag(ret, &why)))
        err = diag_set(&why, ERR_PROTO, "it answered with status %d", ret->status);
    return err ? diag_set(d, err, "%s refused: %.300s", e->a.hubs[0], diag_text(&why)) : 0;
}

/* What comes over a connection that the token's root vouches for is as good as that one; so an
 * agent that enrols while the CA is rotated knows both roots. */
static int take_roots(struct enroll *e, X509 *const *certs, size_t n)
{
    uint8_t fingerprint[CERT_FINGERPRINT_SIZE];
    bool has_pinned = false;
    for (size_t i = 0; i < n && !has_pinned; i++)
        has_pinned = cert_fingerprint(certs[i], fingerprint) == 0 &&
                     memcmp(fingerprint, e->token.fingerprint, sizeof(fingerprint)) == 0 &&
                     cert_trust_domain(certs[i], e->a.trust_domain) == 0;
    for (size_t i = 0; i < n && has_pinned; i++) {
        if (roots_is_root(certs[i], e->a.trust_domain))
            TRY(roots_add(&e->roots, cert_ref(certs[i])));
    }
    e->a.roots_digest = roots_digest(&e->roots);
    return has_pinned ? 0 : ERR_PROTO;
}

static int fetch_ca(struct enroll *e, struct diag *d)
{
    const struct http_ask what = {.path = "/.well-known/est/cacerts"};
    struct http_reply reply = {0};
    X509 *certs[2 * ROOTS_MAX];
    size_t n = 0;
    TRY(ask(e, &what, &reply, d));
    int err = cert_from_pkcs7(buf_text(&reply.body), reply.body.len, certs, ARRAY_SIZE(certs), &n);
    if (!err)
        err = take_roots(e, certs, n);
    for (size_t i = 0; i < n; i++)
        cert_free(certs[i]);
    http_reply_done(&reply);
    return err ? diag_set(d, ERR_PROTO, "%s did not answer with the CA of the token", e->a.hubs[0])
               : 0;
}

static void host_name(char out[64])
{
    char host[HOST_SIZE] = "";
    size_t n = 0;
    gethostname(host, sizeof(host) - 1);
    for (const char *s = host; *s && *s != '.' && n < 63; s++)
        out[n++] = isalnum((unsigned char)*s) ? (char)tolower((unsigned char)*s) : '-';
    out[n] = '\0';
}

static char *authorization(const struct enroll *e)
{
    char host[64];
    struct buf plain = {0};
    const char *name = e->o->name;
    if (!name) {
        host_name(host);
        name = text_is_name(host) ? host : "";
    }
    struct secret token = {0};
    token_format(&e->token, &token);
    buf_printf(&plain, "%s:", name);
    buf_append(&plain, token.data, token.len);
    secret_done(&token);
    size_t size = BASE64_SIZE(plain.len);
    CLEANUP(mem_free) char *base64 = mem_new(size);
    text_base64(plain.data, plain.len, base64, size);
    char *header = mem_printf("Basic %s", base64);
    explicit_bzero(base64, size);
    explicit_bzero(plain.data, plain.cap);
    buf_done(&plain);
    return header;
}

static int fetch_certificate(struct enroll *e, struct diag *d)
{
    struct buf csr = {0};
    struct http_reply reply = {0};
    size_t n = 0;
    TRY(csr_make(e->key, "warren-agent", &csr));
    char *basic = authorization(e);
    char roots[ROOTS_TEXT_SIZE];
    roots_digest_text(e->a.roots_digest, roots);
    const struct http_header headers[] = {
        {"Authorization", basic}, {AGENT_ROOTS_HEADER, roots}, {NULL, NULL}};
    const struct http_ask what = {.method = "POST",
                                  .path = "/.well-known/est/simpleenroll",
                                  .content_type = "application/pkcs10",
                                  .body = csr.data,
                                  .body_len = csr.len,
                                  .headers = headers};
    int err = ask(e, &what, &reply, d);
    explicit_bzero(basic, strlen(basic));
    mem_free(basic);
    buf_done(&csr);
    if (!err && cert_from_pkcs7(buf_text(&reply.body), reply.body.len, &e->leaf, 1, &n))
        err = diag_set(d, ERR_PROTO, "%s did not answer with one certificate", e->a.hubs[0]);
    http_reply_done(&reply);
    return err;
}

static int check_certificate(struct enroll *e, struct diag *d)
{
    struct spiffe id;
    struct cert_times times;
    if (!cert_matches_key(e->leaf, e->key) || !roots_issuer(&e->roots, e->leaf) ||
        cert_identity(e->leaf, e->a.trust_domain, &id) || cert_times(e->leaf, &times))
        return diag_set(d, ERR_PROTO, "%s sent a certificate that is not for this agent",
                        e->a.hubs[0]);
    int64_t now = time_wall_ms();
    if (now < times.not_before_ms || now > times.not_after_ms)
        return diag_set(d, ERR_EXPIRED,
                        "the new certificate is not valid at this machine's time; set its clock");
    memcpy(e->a.id, id.agent, sizeof(e->a.id));
    memcpy(e->a.tenant, id.tenant, sizeof(e->a.tenant));
    return 0;
}

/* ---- afterwards ---- */

static int write_files(struct enroll *e, struct diag *d)
{
    CLEANUP(buf_done) struct buf roots = {0};
    const char *dir = e->o->dir;
    CLEANUP(mem_free) char *json = mem_printf("%s/agent.json", dir);
    CLEANUP(mem_free) char *key = mem_printf("%s/key.pem", dir);
    CLEANUP(mem_free) char *cert = mem_printf("%s/cert.pem", dir);
    CLEANUP(mem_free) char *ca = mem_printf("%s/ca.pem", dir);
    if (unlink(json) < 0 && errno != ENOENT)
        return diag_set(d, error_from_errno(errno), "cannot replace %s: %s", json, strerror(errno));
    TRY(pkey_save(e->key, key, d));
    TRY(cert_save(e->leaf, cert, d));
    TRY(roots_to_pem(&e->roots, &roots));
    TRY(file_write_atomic(ca, roots.data, roots.len, 0644, d));
    return agent_identity_save(dir, &e->a, d);
}

static int enroll(struct enroll *e, struct diag *d)
{
    TRY(check_options(e, d));
    TRY(fetch_ca(e, d));
    TRY(pkey_new(&e->key));
    TRY(fetch_certificate(e, d));
    TRY(check_certificate(e, d));
    return write_files(e, d);
}

int agent_enroll(const struct agent_enroll_options *options, struct agent_identity *ret,
                 struct diag *d)
{
    struct enroll e = {.o = options};
    int err = enroll(&e, d);
    token_done(&e.token);
    pkey_free(e.key);
    roots_done(&e.roots);
    cert_free(e.leaf);
    agent_identity_done(&e.a);
    return err ? err : agent_identity_load(options->dir, ret, d);
}
