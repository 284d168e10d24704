/*
 * Settings of TLS. Which lane a client gets is decided in the ClientHello callback, because by the
 * time OpenSSL selects the ALPN it has decided already whether to ask for a certificate.
 */
#include "net/tls_internal.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/tls_names.h"
#include "wire/client_hello.h"

#include <assert.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define CIPHERSUITES     "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS           "X25519:P-256"
#define PEER_CHAIN_BYTES (32 << 10)
#define NAME_SIZE        256

struct tls_server {
    _Atomic uint32_t refs;
    pthread_mutex_t lock; /* guards ctx and names */
    SSL_CTX *ctx;
    struct tls_names *names; /* NULL: none */
    struct tls_lane lanes[TLS_LANES_MAX];
    size_t n_lanes;
    int (*verify)(void *arg, struct x509_st *leaf);
    void *verify_arg;
};

struct tls_client {
    _Atomic uint32_t refs;
    SSL_CTX *ctx;
    char server_name[NAME_SIZE];
    bool name_is_ip;
    uint8_t ca_pin[TLS_PIN_SIZE];
    char *alpn[TLS_LANES_MAX];
};

static int fail(struct diag *d, const char *what)
{
    const char *reason = tls_error_text(ERR_peek_last_error());
    int rc = diag_set(d, ERR_TLS, "%s: %s", what, reason ? reason : "unknown reason");
    ERR_clear_error();
    return rc;
}

static void bio_free_cleanup(BIO **bio)
{
    BIO_free(*bio);
}
#define CLEANUP_BIO __attribute__((cleanup(bio_free_cleanup)))

/* A server sends its root too, for clients that pin it; a client's would only cost the hub memory.
 */
static int use_chain(SSL_CTX *ctx, const char *pem, bool with_root, struct diag *d)
{
    CLEANUP_BIO BIO *bio = BIO_new_mem_buf(pem, -1);
    bool is_leaf = true;
    X509 *cert;
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        int ok = 1;
        if (is_leaf)
            ok = SSL_CTX_use_certificate(ctx, cert);
        else if (with_root || !X509_self_signed(cert, 0))
            ok = SSL_CTX_add1_chain_cert(ctx, cert);
        X509_free(cert);
        if (ok != 1)
            return fail(d, "certificate");
        is_leaf = false;
    }
    if (is_leaf)
        return fail(d, "certificate");
    ERR_clear_error(); /* the end of the text */
    return 0;
}

static int use_key(SSL_CTX *ctx, const struct secret *pem, struct diag *d)
{
    CLEANUP_BIO BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    int ok = key ? SSL_CTX_use_PrivateKey(ctx, key) : 0;
    EVP_PKEY_free(key);
    return ok == 1 ? 0 : fail(d, "private key");
}

static int trust(SSL_CTX *ctx, const char *pem, struct diag *d)
{
    CLEANUP_BIO BIO *bio = BIO_new_mem_buf(pem, -1);
    size_t n = 0;
    X509 *cert;
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        X509_check_purpose(cert, -1,
                           0); /* reads its extensions now, not when two threads need it */
        int ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), cert);
        X509_free(cert);
        if (ok != 1)
            return fail(d, "CA certificate");
        n++;
    }
    if (!n)
        return fail(d, "CA certificate");
    ERR_clear_error();
    return 0;
}

static int new_ctx(const SSL_METHOD *method, SSL_CTX **ret, struct diag *d)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return fail(d, "TLS");
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(ctx, PEER_CHAIN_BYTES);
    if (SSL_CTX_set_ciphersuites(ctx, CIPHERSUITES) != 1 ||
        SSL_CTX_set1_groups_list(ctx, GROUPS) != 1) {
        SSL_CTX_free(ctx);
        return fail(d, "TLS");
    }
    *ret = ctx;
    return 0;
}

/* Server */

static const struct tls_lane *lane_named(const struct tls_server *t, const uint8_t *name,
                                         size_t len)
{
    for (size_t i = 0; i < t->n_lanes; i++) {
        if (strlen(t->lanes[i].alpn) == len && memcmp(t->lanes[i].alpn, name, len) == 0)
            return &t->lanes[i];
    }
    return NULL;
}

/* The first lane, in the client's order, of a ProtocolNameList without its outer length. `at` is
 * where its name is in the list. */
static const struct tls_lane *lane_wanted(const struct tls_server *t, const uint8_t *list,
                                          size_t len, const uint8_t **at)
{
    for (size_t i = 0; i < len; i += 1u + list[i]) {
        if (!list[i] || i + 1 + list[i] > len)
            return NULL;
        const struct tls_lane *lane = lane_named(t, list + i + 1, list[i]);
        if (lane) {
            *at = list + i + 1;
            return lane;
        }
    }
    return NULL;
}

static int verify_client(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_session *session = SSL_get_app_data(ssl);
    const struct tls_server *t = session->server;
    if (X509_STORE_CTX_get_error_depth(store) != 0)
        return ok;
    if (!ok) {
        if (X509_STORE_CTX_get_error(store) != X509_V_ERR_CERT_HAS_EXPIRED ||
            !t->lanes[session->lane].expired_is_allowed)
            return 0;
        session->leaf_expired = true;
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    const struct tls_lane *lane = &t->lanes[session->lane];
    int (*verify)(void *arg, struct x509_st *leaf) = lane->verify ? lane->verify : t->verify;
    int rc = verify ? verify(t->verify_arg, X509_STORE_CTX_get_current_cert(store)) : 0;
    if (rc == 0)
        return 1;
    X509_STORE_CTX_set_error(store, rc == ERR_REVOKED ? X509_V_ERR_CERT_REVOKED
                                                      : X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
}

/* Agents and those who pin the CA get the server's own certificate always. */
static int choose_certificate(SSL *ssl, struct tls_server *t)
{
    const uint8_t *ext;
    size_t len;
    char host[HOST_SIZE];
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &len) ||
        !client_hello_sni(ext, len, host))
        return 0;
    pthread_mutex_lock(&t->lock);
    struct tls_names *names = tls_names_ref(t->names);
    pthread_mutex_unlock(&t->lock);
    int rc = names ? tls_names_use(names, host, ssl) : 0;
    tls_names_unref(names);
    return rc;
}

static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
    struct tls_session *session = SSL_get_app_data(ssl);
    struct tls_server *t = session->server;
    const uint8_t *ext, *at;
    size_t len;
    (void)alert;
    (void)arg;
    session->lane = 0;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &ext,
                                  &len) &&
        len > 2) {
        const struct tls_lane *lane = lane_wanted(t, ext + 2, len - 2, &at);
        session->lane = lane ? (size_t)(lane - t->lanes) : 0;
    }
    if (t->lanes[session->lane].client_cert)
        SSL_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify_client);
    else if (choose_certificate(ssl, t) < 0)
        return SSL_CLIENT_HELLO_ERROR;
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int on_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                   unsigned int in_len, void *arg)
{
    struct tls_session *session = SSL_get_app_data(ssl);
    const struct tls_lane *lane = lane_wanted(session->server, in, in_len, out);
    (void)arg;
    if (!lane)
        return SSL_TLSEXT_ERR_NOACK;
    *out_len = (uint8_t)strlen(lane->alpn);
    return SSL_TLSEXT_ERR_OK;
}

static int server_ctx(const char *chain_pem, const struct secret *key_pem,
                      const char *client_ca_pem, SSL_CTX **ret, struct diag *d)
{
    SSL_CTX *ctx;
    TRY(new_ctx(TLS_server_method(), &ctx, d));
    int rc = use_chain(ctx, chain_pem, true, d);
    if (rc == 0)
        rc = use_key(ctx, key_pem, d);
    if (rc == 0 && client_ca_pem)
        rc = trust(ctx, client_ca_pem, d);
    if (rc < 0) {
        SSL_CTX_free(ctx);
        return rc;
    }
    SSL_CTX_set_client_hello_cb(ctx, on_client_hello, NULL);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    *ret = ctx;
    return 0;
}

int tls_server_new(const struct tls_server_config *cfg, struct tls_server **ret, struct diag *d)
{
    assert(cfg->n_lanes > 0 && cfg->n_lanes <= TLS_LANES_MAX);
    struct tls_server *t = NEW(struct tls_server);
    t->refs = 1;
    memcpy(t->lanes, cfg->lanes, sizeof(t->lanes));
    t->n_lanes = cfg->n_lanes;
    t->verify = cfg->verify;
    t->verify_arg = cfg->verify_arg;
    pthread_mutex_init(&t->lock, NULL);
    int rc = server_ctx(cfg->chain_pem, cfg->key_pem, cfg->client_ca_pem, &t->ctx, d);
    if (rc < 0) {
        tls_server_unref(t);
        return rc;
    }
    *ret = t;
    return 0;
}

int tls_server_reload(struct tls_server *t, const char *chain_pem, const struct secret *key_pem,
                      const char *client_ca_pem, struct diag *d)
{
    SSL_CTX *ctx;
    TRY(server_ctx(chain_pem, key_pem, client_ca_pem, &ctx, d));
    pthread_mutex_lock(&t->lock);
    SSL_CTX *old = t->ctx;
    t->ctx = ctx;
    pthread_mutex_unlock(&t->lock);
    SSL_CTX_free(old);
    return 0;
}

void tls_server_set_names(struct tls_server *t, struct tls_names *n)
{
    pthread_mutex_lock(&t->lock);
    struct tls_names *old = t->names;
    t->names = n;
    pthread_mutex_unlock(&t->lock);
    tls_names_unref(old);
}

struct tls_server *tls_server_ref(struct tls_server *t)
{
    t->refs++;
    return t;
}

void tls_server_unref(struct tls_server *t)
{
    if (!t || --t->refs > 0)
        return;
    SSL_CTX_free(t->ctx);
    tls_names_unref(t->names);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

SSL *tls_server_session(struct tls_server *t, struct tls_session *session)
{
    pthread_mutex_lock(&t->lock);
    SSL *ssl = SSL_new(t->ctx);
    pthread_mutex_unlock(&t->lock);
    if (!ssl)
        return NULL;
    *session = (struct tls_session){.server = tls_server_ref(t)};
    SSL_set_app_data(ssl, session);
    SSL_set_accept_state(ssl);
    return ssl;
}

/* Client */

static int verify_by_pin(X509_STORE_CTX *store, void *arg)
{
    const struct tls_client *t = arg;
    STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(store);
    for (int i = 0; i < sk_X509_num(sent); i++) {
        X509 *cert = sk_X509_value(sent, i);
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned int len = 0;
        if (X509_digest(cert, EVP_sha256(), digest, &len) != 1 || len != TLS_PIN_SIZE ||
            memcmp(digest, t->ca_pin, TLS_PIN_SIZE) != 0)
            continue;
        STACK_OF(X509) *trusted = sk_X509_new_null();
        sk_X509_push(trusted, cert);
        X509_STORE_CTX_set0_trusted_stack(store, trusted);
        int ok = X509_verify_cert(store);
        X509_STORE_CTX_set0_trusted_stack(store, NULL);
        sk_X509_free(trusted);
        return ok;
    }
    X509_STORE_CTX_set_error(store, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
    return 0;
}

static int client_trust(struct tls_client *t, const struct tls_client_config *cfg, struct diag *d)
{
    SSL_CTX_set_verify(t->ctx, cfg->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (cfg->ca_pem)
        return trust(t->ctx, cfg->ca_pem, d);
    if (cfg->ca_pin) {
        memcpy(t->ca_pin, cfg->ca_pin, TLS_PIN_SIZE);
        SSL_CTX_set_cert_verify_callback(t->ctx, verify_by_pin, t);
        return 0;
    }
    if (!cfg->insecure && SSL_CTX_set_default_verify_paths(t->ctx) != 1)
        return fail(d, "the system's CA certificates");
    return 0;
}

static int client_alpn(struct tls_client *t, const struct tls_client_config *cfg)
{
    uint8_t list[TLS_LANES_MAX * 64];
    size_t len = 0;
    for (size_t i = 0; i < TLS_LANES_MAX && cfg->alpn[i]; i++) {
        size_t n = strlen(cfg->alpn[i]);
        assert(n < 64);
        list[len++] = (uint8_t)n;
        memcpy(list + len, cfg->alpn[i], n);
        len += n;
        t->alpn[i] = mem_strdup(cfg->alpn[i]);
    }
    return len && SSL_CTX_set_alpn_protos(t->ctx, list, (unsigned int)len) != 0 ? ERR_INVALID : 0;
}

int tls_client_new(const struct tls_client_config *cfg, struct tls_client **ret, struct diag *d)
{
    struct tls_client *t = NEW(struct tls_client);
    struct addr literal;
    t->refs = 1;
    int rc = new_ctx(TLS_client_method(), &t->ctx, d);
    if (rc == 0 && cfg->old_is_allowed)
        SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    if (rc == 0 && cfg->server_name && strlen(cfg->server_name) >= NAME_SIZE)
        rc = diag_set(d, ERR_INVALID, "the server's name is too long");
    if (rc == 0 && cfg->server_name) {
        snprintf(t->server_name, sizeof(t->server_name), "%s", cfg->server_name);
        t->name_is_ip = addr_parse(cfg->server_name, 0, &literal) == 0;
    }
    if (rc == 0)
        rc = client_trust(t, cfg, d);
    if (rc == 0 && cfg->chain_pem)
        rc = use_chain(t->ctx, cfg->chain_pem, false, d);
    if (rc == 0 && cfg->chain_pem)
        rc = use_key(t->ctx, cfg->key_pem, d);
    if (rc == 0)
        rc = client_alpn(t, cfg);
    if (rc < 0) {
        tls_client_unref(t);
        return rc;
    }
    *ret = t;
    return 0;
}

struct tls_client *tls_client_ref(struct tls_client *t)
{
    t->refs++;
    return t;
}

void tls_client_unref(struct tls_client *t)
{
    if (!t || --t->refs > 0)
        return;
    SSL_CTX_free(t->ctx);
    for (size_t i = 0; i < TLS_LANES_MAX; i++)
        mem_free(t->alpn[i]);
    mem_free(t);
}

SSL *tls_client_session(struct tls_client *t, struct tls_session *session)
{
    SSL *ssl = SSL_new(t->ctx);
    if (!ssl)
        return NULL;
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    int ok = 1;
    if (t->name_is_ip) {
        ok = X509_VERIFY_PARAM_set1_ip_asc(param, t->server_name);
    } else if (t->server_name[0]) {
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        ok = X509_VERIFY_PARAM_set1_host(param, t->server_name, 0) &&
             SSL_set_tlsext_host_name(ssl, t->server_name);
    }
    if (ok != 1) {
        SSL_free(ssl);
        return NULL;
    }
    *session = (struct tls_session){.client = tls_client_ref(t)};
    SSL_set_app_data(ssl, session);
    SSL_set_connect_state(ssl);
    return ssl;
}

const char *tls_session_alpn(const struct tls_session *session, const SSL *ssl)
{
    const struct tls_client *t = session->client;
    const uint8_t *name = NULL;
    unsigned int len = 0;
    SSL_get0_alpn_selected(ssl, &name, &len);
    if (!len)
        return "";
    if (session->server)
        return session->server->lanes[session->lane].alpn;
    for (size_t i = 0; i < TLS_LANES_MAX && t->alpn[i]; i++) {
        if (strlen(t->alpn[i]) == len && memcmp(t->alpn[i], name, len) == 0)
            return t->alpn[i];
    }
    return "";
}

void tls_session_done(struct tls_session *session)
{
    tls_server_unref(TAKE(session->server));
    tls_client_unref(TAKE(session->client));
}

/* What our own servers mean by it: verify_client. */
#define NOT_ADMITTED "; the other end does not know whom this certificate names"

static int code_of_alert(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return ERR_REVOKED;
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return ERR_EXPIRED;
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
        return ERR_DENIED;
    default:
        return ERR_TLS;
    }
}

int tls_diagnose(const SSL *ssl, struct diag *d)
{
    unsigned long e = ERR_peek_error();
    int reason = ERR_GET_REASON(e);
    const char *text = tls_error_text(e);
    long verified = SSL_get_verify_result(ssl);
    int rc;
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK) {
        int code = verified == X509_V_ERR_CERT_REVOKED       ? ERR_REVOKED
                   : verified == X509_V_ERR_CERT_HAS_EXPIRED ? ERR_EXPIRED
                                                             : ERR_TLS;
        rc = diag_set(d, code, "the peer's certificate: %s",
                      X509_verify_cert_error_string(verified));
    } else {
        rc = diag_set(d, code_of_alert(reason), "TLS: %s%s", text ? text : "unknown failure",
                      reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE ? NOT_ADMITTED : "");
    }
    ERR_clear_error();
    return rc;
}
