#include "net/tls_names.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/tls_internal.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct cert {
    char *source;
    X509 *leaf;
    EVP_PKEY *key;
    STACK_OF(X509) * chain;
    struct cert *next;
};

/* "a.example", or "*.example" as ".example". */
struct name {
    char *text;
    const struct cert *cert; /* NULL: the server's own */
    UT_hash_handle hh;
};

struct tls_names {
    _Atomic uint32_t refs;
    struct cert *certs;
    struct name *names;
};

struct tls_names *tls_names_new(void)
{
    struct tls_names *n = NEW(struct tls_names);
    n->refs = 1;
    return n;
}

struct tls_names *tls_names_ref(struct tls_names *n)
{
    if (n)
        n->refs++;
    return n;
}

static void cert_free(struct cert *c)
{
    X509_free(c->leaf);
    EVP_PKEY_free(c->key);
    sk_X509_pop_free(c->chain, X509_free);
    mem_free(c->source);
    mem_free(c);
}

void tls_names_unref(struct tls_names *n)
{
    struct name *name, *next_name;
    struct cert *c, *next;
    if (!n || --n->refs > 0)
        return;
    HASH_ITER (hh, n->names, name, next_name) {
        HASH_DEL(n->names, name);
        mem_free(name->text);
        mem_free(name);
    }
    LL_FOREACH_SAFE (n->certs, c, next)
        cert_free(c);
    mem_free(n);
}

static struct name *find(const struct tls_names *n, const char *text)
{
    struct name *name;
    HASH_FIND_STR(n->names, text, name);
    return name;
}

static struct name *get(struct tls_names *n, const char *text)
{
    struct name *name = find(n, text);
    if (name)
        return name;
    name = NEW(struct name);
    name->text = mem_strdup(text);
    HASH_ADD_KEYPTR(hh, n->names, name->text, strlen(name->text), name);
    return name;
}

void tls_names_exclude(struct tls_names *n, const char *name)
{
    char host[HOST_SIZE];
    if (host_name_parse(name, host) == 0)
        get(n, host)->cert = NULL;
}

/* ---- filling ---- */

static int fail(struct diag *d, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    int rc = diag_set(d, ERR_TLS, "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
    ERR_clear_error();
    return rc;
}

static int read_chain(struct cert *c, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert;
    c->chain = sk_X509_new_null();
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        if (!c->leaf)
            c->leaf = cert;
        else
            sk_X509_push(c->chain, cert);
    }
    BIO_free(bio);
    ERR_clear_error(); /* the end of the text */
    return c->leaf ? 0 : ERR_TLS;
}

static int read_key(struct cert *c, const struct secret *pem)
{
    BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
    c->key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    BIO_free(bio);
    return c->key ? 0 : ERR_TLS;
}

static bool ends_later(const struct cert *a, const struct cert *b)
{
    return ASN1_TIME_compare(X509_get0_notAfter(a->leaf), X509_get0_notAfter(b->leaf)) > 0;
}

static void add_name(struct tls_names *n, const char *text, const struct cert *c)
{
    char host[HOST_SIZE + 1] = "";
    bool is_wildcard = strncmp(text, "*.", 2) == 0;
    char *at = is_wildcard ? host + 1 : host;
    if (host_name_parse(is_wildcard ? text + 2 : text, at) < 0)
        return;
    if (is_wildcard)
        host[0] = '.';
    struct name *there = find(n, host);
    if (there && (!there->cert || ends_later(there->cert, c)))
        return;
    get(n, host)->cert = c;
}

static size_t add_names(struct tls_names *n, const struct cert *c)
{
    GENERAL_NAMES *alt = X509_get_ext_d2i(c->leaf, NID_subject_alt_name, NULL, NULL);
    size_t count = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(alt); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(alt, i);
        if (g->type != GEN_DNS)
            continue;
        const char *text = (const char *)ASN1_STRING_get0_data(g->d.dNSName);
        if (strlen(text) != (size_t)ASN1_STRING_length(g->d.dNSName))
            continue;
        add_name(n, text, c);
        count++;
    }
    GENERAL_NAMES_free(alt);
    return count;
}

int tls_names_add(struct tls_names *n, const char *source, const char *chain_pem,
                  const struct secret *key_pem, struct diag *d)
{
    struct cert *c = NEW(struct cert);
    int rc = 0;
    c->source = mem_strdup(source);
    if (read_chain(c, chain_pem) < 0)
        rc = fail(d, "there is no certificate in it");
    else if (read_key(c, key_pem) < 0)
        rc = fail(d, "the private key cannot be read");
    else if (X509_check_private_key(c->leaf, c->key) != 1)
        rc = fail(d, "certificate and private key do not belong together");
    else if (add_names(n, c) == 0)
        rc = diag_set(d, ERR_TLS, "the certificate has no DNS name");
    if (rc < 0) {
        cert_free(c);
        return rc;
    }
    LL_PREPEND(n->certs, c);
    return 0;
}

void tls_names_keep(struct tls_names *n, const struct tls_names *old, const char *source)
{
    const struct cert *was;
    LL_FOREACH (old->certs, was) {
        if (strcmp(was->source, source) != 0)
            continue;
        struct cert *c = NEW(struct cert);
        c->source = mem_strdup(source);
        X509_up_ref(was->leaf);
        EVP_PKEY_up_ref(was->key);
        c->leaf = was->leaf;
        c->key = was->key;
        c->chain = X509_chain_up_ref(was->chain);
        add_names(n, c);
        LL_PREPEND(n->certs, c);
        return;
    }
}

size_t tls_names_count(const struct tls_names *n)
{
    const struct cert *c;
    size_t count = 0;
    LL_COUNT(n->certs, c, count);
    return count;
}

/* ---- handshakes ---- */

int tls_names_use(const struct tls_names *n, const char *host, SSL *ssl)
{
    const char *parent = strchr(host, '.');
    const struct name *name = find(n, host);
    if (!name && parent)
        name = find(n, parent);
    if (!name || !name->cert)
        return 0;
    const struct cert *c = name->cert;
    return SSL_use_cert_and_key(ssl, c->leaf, c->key, c->chain, 1) == 1 ? 0 : ERR_TLS;
}
