#include "pki/ca.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "pki/internal.h"
#include "pki/token.h"

#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ROOT_LIFE_DAYS   3653
#define BACKDATE_MS      ((int64_t)25 * 3600 * 1000) /* for agents whose clock is behind */
#define DAY_MS           ((int64_t)24 * 3600 * 1000)
#define SERIAL_BYTES     16
#define SERVER_NAMES_MAX 64

struct ca {
    EVP_PKEY *key;
    X509 *cert;
    char trust_domain[TRUST_DOMAIN_SIZE];
    uint8_t fingerprint[CERT_FINGERPRINT_SIZE];
};

void ca_free(struct ca *ca)
{
    if (!ca)
        return;
    pkey_free(ca->key);
    cert_free(ca->cert);
    mem_free(ca);
}

X509 *ca_cert(const struct ca *ca)
{
    return ca->cert;
}

const char *ca_trust_domain(const struct ca *ca)
{
    return ca->trust_domain;
}

const uint8_t *ca_fingerprint(const struct ca *ca)
{
    return ca->fingerprint;
}

/* Random and positive, so unique without a counter (RFC 5280 §4.1.2.2: at most 20 octets). */
static bool set_serial(X509 *cert)
{
    uint8_t random[SERIAL_BYTES];
    random_bytes(random, sizeof(random));
    random[0] = (uint8_t)((random[0] & 0x3f) | 0x40);
    BIGNUM *bn = BN_bin2bn(random, sizeof(random), NULL);
    bool ok = bn && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert));
    BN_free(bn);
    return ok;
}

static bool set_times(X509 *cert, struct cert_times times)
{
    return ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)(times.not_before_ms / 1000)) &&
           ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)(times.not_after_ms / 1000));
}

static bool set_name(X509_NAME *name, const char *common_name)
{
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const unsigned char *)"Warren", -1,
                                      -1, 0) &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name,
                                      -1, -1, 0);
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext && X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static bool add_extensions(X509 *cert, X509 *issuer, const char *const values[][2])
{
    for (; (*values)[0]; values++) {
        if (!add_extension(cert, issuer, OBJ_sn2nid((*values)[0]), (*values)[1]))
            return false;
    }
    return true;
}

static int sign(X509 *cert, EVP_PKEY *key)
{
    return X509_sign(cert, key, EVP_sha256()) > 0 ? 0 : pki_fail(ERR_BUG);
}

/* `issuer` NULL: by its own key. Both are roots of the same name. */
static int make_root(EVP_PKEY *key, const char *trust_domain, struct cert_times times,
                     const struct ca *issuer, X509 **ret)
{
    CLEANUP(cert_free) X509 *cert = X509_new();
    char uri[TRUST_DOMAIN_SIZE + 16];
    snprintf(uri, sizeof(uri), "URI:spiffe://%s", trust_domain);
    const char *const extensions[][2] = {{"basicConstraints", "critical,CA:TRUE,pathlen:0"},
                                         {"keyUsage", "critical,keyCertSign,cRLSign"},
                                         {"subjectKeyIdentifier", "hash"},
                                         {"subjectAltName", uri},
                                         {issuer ? "authorityKeyIdentifier" : NULL, "keyid"},
                                         {NULL, NULL}};
    if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
        !set_times(cert, times) || !set_name(X509_get_subject_name(cert), "Warren root CA") ||
        !X509_set_issuer_name(cert, X509_get_subject_name(cert)) || !X509_set_pubkey(cert, key) ||
        !add_extensions(cert, issuer ? issuer->cert : cert, extensions))
        return pki_fail(ERR_BUG);
    TRY(sign(cert, issuer ? issuer->key : key));
    *ret = TAKE(cert);
    return 0;
}

/* Bootstrap tokens carry the fingerprint as a field between '_': one that has none is drawn. */
static int make_root_for_tokens(struct ca *ca, const char *trust_domain, int64_t now_ms)
{
    struct cert_times times = {now_ms - BACKDATE_MS, now_ms + ROOT_LIFE_DAYS * DAY_MS};
    do {
        cert_free(TAKE(ca->cert));
        TRY(make_root(ca->key, trust_domain, times, NULL, &ca->cert));
        TRY(cert_fingerprint(ca->cert, ca->fingerprint));
    } while (!token_field_is_plain(ca->fingerprint));
    return 0;
}

static int check_trust_domain(const char *trust_domain, struct diag *d)
{
    if (trust_domain_is_valid(trust_domain))
        return 0;
    return diag_set_field(d, ERR_INVALID, "trust_domain",
                          "the trust domain \"%s\" is not of letters a-z, digits, '.', '-', '_'",
                          trust_domain);
}

static int create(struct ca *ca, const char *key_path, bool has_key, const char *cert_path,
                  const char *trust_domain, int64_t now_ms, struct diag *d)
{
    TRY(check_trust_domain(trust_domain, d));
    int err = has_key ? pkey_load(key_path, &ca->key, d) : pkey_new(&ca->key);
    if (err && has_key)
        return err;
    if (!err)
        err = make_root_for_tokens(ca, trust_domain, now_ms);
    if (err)
        return diag_set(d, err, "cannot make the CA's key and certificate");
    /* The key first: a crash in between leaves a key alone, which the next start completes. */
    if (!has_key)
        TRY(pkey_save(ca->key, key_path, d));
    return cert_save(ca->cert, cert_path, d);
}

/* Of a CA that was read from `where`. */
static int check(const struct ca *ca, const char *where, const char *trust_domain, struct diag *d)
{
    char found[TRUST_DOMAIN_SIZE];
    if (!cert_matches_key(ca->cert, ca->key))
        return diag_set(d, ERR_CONFLICT, "the key is not that of the certificate in %s", where);
    if (cert_trust_domain(ca->cert, found))
        return diag_set(d, ERR_INVALID, "%s names no trust domain", where);
    if (strcmp(found, trust_domain) != 0)
        return diag_set_field(d, ERR_CONFLICT, "trust_domain",
                              "the CA in %s is of trust domain \"%s\", the settings say \"%s\"",
                              where, found, trust_domain);
    return 0;
}

static int load(struct ca *ca, const char *key_path, const char *cert_path,
                const char *trust_domain, struct diag *d)
{
    TRY(pkey_load(key_path, &ca->key, d));
    TRY(cert_load(cert_path, &ca->cert, d));
    return check(ca, cert_path, trust_domain, d);
}

static int open_files(struct ca *ca, const char *dir, const char *trust_domain, int64_t now_ms,
                      struct diag *d)
{
    CLEANUP(mem_free) char *key_path = mem_printf("%s/ca.key", dir);
    CLEANUP(mem_free) char *cert_path = mem_printf("%s/ca.pem", dir);
    bool has_key = access(key_path, F_OK) == 0, has_cert = access(cert_path, F_OK) == 0;
    if (has_cert && !has_key)
        return diag_set(d, ERR_NOT_FOUND,
                        "%s is there but its key %s is missing; restore it from a backup",
                        cert_path, key_path);
    if (has_cert)
        TRY(load(ca, key_path, cert_path, trust_domain, d));
    else
        TRY(create(ca, key_path, has_key, cert_path, trust_domain, now_ms, d));
    snprintf(ca->trust_domain, sizeof(ca->trust_domain), "%s", trust_domain);
    return cert_fingerprint(ca->cert, ca->fingerprint);
}

int ca_make(const char *trust_domain, int64_t now_ms, struct ca **ret, struct diag *d)
{
    CLEANUP(ca_free) struct ca *ca = NEW(struct ca);
    TRY(check_trust_domain(trust_domain, d));
    int err = pkey_new(&ca->key);
    if (!err)
        err = make_root_for_tokens(ca, trust_domain, now_ms);
    if (err)
        return diag_set(d, err, "cannot make the CA's key and certificate");
    snprintf(ca->trust_domain, sizeof(ca->trust_domain), "%s", trust_domain);
    *ret = TAKE(ca);
    return 0;
}

int ca_import(const char *cert_pem, const struct secret *key_pem, const char *trust_domain,
              struct ca **ret, struct diag *d)
{
    CLEANUP(ca_free) struct ca *ca = NEW(struct ca);
    if (cert_from_pem(cert_pem, strlen(cert_pem), &ca->cert) < 0 ||
        pkey_from_pem(key_pem->data, key_pem->len, &ca->key) < 0)
        return diag_set(d, ERR_INVALID, "the CA cannot be read");
    TRY(check(ca, "the CA", trust_domain, d));
    snprintf(ca->trust_domain, sizeof(ca->trust_domain), "%s", trust_domain);
    TRY(cert_fingerprint(ca->cert, ca->fingerprint));
    *ret = TAKE(ca);
    return 0;
}

int ca_export(const struct ca *ca, struct secret *ret_key_pem)
{
    return pkey_to_pem(ca->key, ret_key_pem);
}

int ca_open(const char *dir, const char *trust_domain, int64_t now_ms, struct ca **ret,
            struct diag *d)
{
    CLEANUP(ca_free) struct ca *ca = NEW(struct ca);
    TRY(open_files(ca, dir, trust_domain, now_ms, d));
    *ret = TAKE(ca);
    return 0;
}

static int issue(const struct ca *ca, EVP_PKEY *key, const char *common_name,
                 const char *const extensions[][2], GENERAL_NAMES *names, struct cert_times times,
                 X509 **ret)
{
    CLEANUP(cert_free) X509 *cert = X509_new();
    if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
        !set_times(cert, times) || !set_name(X509_get_subject_name(cert), common_name) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(ca->cert)) ||
        !X509_set_pubkey(cert, key) || !add_extensions(cert, ca->cert, extensions) ||
        !X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0))
        return pki_fail(ERR_INVALID);
    TRY(sign(cert, ca->key));
    *ret = TAKE(cert);
    return 0;
}

/* Takes ownership of `value` whether it succeeds or not. */
static bool add_name(GENERAL_NAMES *names, int type, ASN1_STRING *value)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    if (!name || !value) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return false;
    }
    GENERAL_NAME_set0_value(name, type, value);
    if (sk_GENERAL_NAME_push(names, name) > 0)
        return true;
    GENERAL_NAME_free(name);
    return false;
}

static ASN1_STRING *ia5(const char *s)
{
    ASN1_STRING *string = ASN1_IA5STRING_new();
    if (string)
        ASN1_STRING_set(string, s, -1);
    return string;
}

int ca_issue_agent(const struct ca *ca, EVP_PKEY *key, const struct spiffe *id,
                   struct cert_times times, X509 **ret)
{
    static const char *const extensions[][2] = {
        {"basicConstraints", "critical,CA:FALSE"}, {"keyUsage", "critical,digitalSignature"},
        {"extendedKeyUsage", "clientAuth"},        {"subjectKeyIdentifier", "hash"},
        {"authorityKeyIdentifier", "keyid"},       {NULL, NULL}};
    char uri[SPIFFE_SIZE];
    spiffe_format(id, uri);
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    int err = names && add_name(names, GEN_URI, ia5(uri)) ? 0 : pki_fail(ERR_BUG);
    if (!err)
        err = issue(ca, key, id->agent, extensions, names, times, ret);
    GENERAL_NAMES_free(names);
    return err;
}

static bool is_dns_name(const char *s)
{
    if (strncmp(s, "*.", 2) == 0)
        s += 2;
    size_t len = strlen(s);
    return len >= 1 && len <= 253 && s[0] != '.' && s[0] != '-' &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == len;
}

static bool add_server_name(GENERAL_NAMES *names, const char *s)
{
    struct addr a;
    if (addr_parse(s, 0, &a) == 0) {
        bool is_v4 = a.sa.sa_family == AF_INET;
        ASN1_STRING *ip = ASN1_OCTET_STRING_new();
        if (ip)
            ASN1_STRING_set(ip,
                            is_v4 ? (const void *)&a.in4.sin_addr : (const void *)&a.in6.sin6_addr,
                            is_v4 ? 4 : 16);
        return add_name(names, GEN_IPADD, ip);
    }
    return is_dns_name(s) && add_name(names, GEN_DNS, ia5(s));
}

int ca_issue_hub(const struct ca *ca, EVP_PKEY *key, const char *hub, const char *const *names,
                 size_t n_names, struct cert_times times, X509 **ret)
{
    static const char *const extensions[][2] = {{"basicConstraints", "critical,CA:FALSE"},
                                                {"keyUsage", "critical,digitalSignature"},
                                                {"extendedKeyUsage", "serverAuth, clientAuth"},
                                                {"subjectKeyIdentifier", "hash"},
                                                {"authorityKeyIdentifier", "keyid"},
                                                {NULL, NULL}};
    struct spiffe_hub id = {0};
    char uri[SPIFFE_SIZE];
    if (n_names == 0 || n_names > SERVER_NAMES_MAX || !id_is(hub, "hub"))
        return ERR_INVALID;
    snprintf(id.trust_domain, sizeof(id.trust_domain), "%s", ca->trust_domain);
    snprintf(id.hub, sizeof(id.hub), "%s", hub);
    spiffe_hub_format(&id, uri);
    GENERAL_NAMES *alt = GENERAL_NAMES_new();
    int err = alt && add_name(alt, GEN_URI, ia5(uri)) ? 0 : pki_fail(ERR_BUG);
    for (size_t i = 0; i < n_names && !err; i++)
        err = add_server_name(alt, names[i]) ? 0 : ERR_INVALID;
    if (!err)
        err = add_server_name(alt, hub) ? 0 : ERR_BUG;
    if (!err)
        err = issue(ca, key, "Warren hub", extensions, alt, times, ret);
    GENERAL_NAMES_free(alt);
    return pki_fail(err);
}

int ca_cross_sign(const struct ca *ca, const struct ca *next, X509 **ret)
{
    struct cert_times own, times;
    TRY(cert_times(ca->cert, &own));
    TRY(cert_times(next->cert, &times));
    times.not_after_ms = MIN(times.not_after_ms, own.not_after_ms);
    return make_root(next->key, ca->trust_domain, times, ca, ret);
}

int ca_derive_key(const struct ca *ca, const char *label, uint8_t out[CA_DERIVED_SIZE])
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    unsigned len = 0;
    TRY(pkey_to_pem(ca->key, &pem));
    if (!HMAC(EVP_sha256(), pem.data, (int)pem.len, (const uint8_t *)label, strlen(label), out,
              &len))
        return pki_fail(ERR_BUG);
    return 0;
}
