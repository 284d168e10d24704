#include "pki/cert.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "pki/internal.h"
#include "pki/token.h"

#include <openssl/pem.h>
#include <string.h>
#include <time.h>

void cert_free(X509 *cert)
{
    X509_free(cert);
}

X509 *cert_ref(X509 *cert)
{
    X509_up_ref(cert);
    return cert;
}

int cert_fingerprint(X509 *cert, uint8_t out[CERT_FINGERPRINT_SIZE])
{
    unsigned int len = 0;
    return X509_digest(cert, EVP_sha256(), out, &len) == 1 ? 0 : pki_fail(ERR_INVALID);
}

void cert_serial(X509 *cert, char out[CERT_SERIAL_SIZE])
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    int len = serial ? ASN1_STRING_length(serial) : 0;
    out[0] = '\0';
    if (len > 0 && len <= 20 && ASN1_STRING_type(serial) == V_ASN1_INTEGER)
        text_hex(ASN1_STRING_get0_data(serial), (size_t)len, out);
}

static int asn1_time_ms(const ASN1_TIME *t, int64_t *ret)
{
    struct tm tm;
    if (!t || !ASN1_TIME_to_tm(t, &tm))
        return pki_fail(ERR_INVALID);
    *ret = (int64_t)timegm(&tm) * 1000;
    return 0;
}

int cert_times(X509 *cert, struct cert_times *ret)
{
    struct cert_times t;
    TRY(asn1_time_ms(X509_get0_notBefore(cert), &t.not_before_ms));
    TRY(asn1_time_ms(X509_get0_notAfter(cert), &t.not_after_ms));
    *ret = t;
    return 0;
}

static void names_free_cleanup(GENERAL_NAMES **names)
{
    GENERAL_NAMES_free(*names);
}

/* The only URI among the subject alternative names. */
static int only_uri(GENERAL_NAMES *names, const char **ret, size_t *ret_len)
{
    const ASN1_IA5STRING *uri = NULL;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        if (uri)
            return ERR_INVALID;
        uri = name->d.uniformResourceIdentifier;
    }
    if (!uri)
        return ERR_INVALID;
    *ret = (const char *)ASN1_STRING_get0_data(uri);
    *ret_len = (size_t)ASN1_STRING_length(uri);
    return 0;
}

/* Whether it is a leaf that may be used for all of `usage`. */
static bool is_leaf_for(X509 *leaf, uint32_t usage)
{
    uint32_t flags = X509_get_extension_flags(leaf);
    return !(flags & (EXFLAG_CA | EXFLAG_INVALID)) && flags & EXFLAG_XKUSAGE &&
           (X509_get_extended_key_usage(leaf) & usage) == usage;
}

int cert_identity(X509 *leaf, const char *trust_domain, struct spiffe *ret)
{
    CLEANUP(names_free)
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    const char *uri;
    size_t len;
    struct spiffe id;
    if (!is_leaf_for(leaf, XKU_SSL_CLIENT) || !names || only_uri(names, &uri, &len) ||
        spiffe_parse(uri, len, &id) || strcmp(id.trust_domain, trust_domain) != 0)
        return pki_fail(ERR_INVALID);
    *ret = id;
    return 0;
}

int cert_hub_identity(X509 *leaf, const char *trust_domain, char ret[ID_SIZE])
{
    CLEANUP(names_free)
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    const char *uri;
    size_t len;
    struct spiffe_hub id;
    if (!is_leaf_for(leaf, XKU_SSL_CLIENT | XKU_SSL_SERVER) || !names ||
        only_uri(names, &uri, &len) || spiffe_hub_parse(uri, len, &id) ||
        strcmp(id.trust_domain, trust_domain) != 0)
        return pki_fail(ERR_INVALID);
    memcpy(ret, id.hub, sizeof(id.hub));
    return 0;
}

int cert_trust_domain(X509 *ca, char out[TRUST_DOMAIN_SIZE])
{
    static const char scheme[] = "spiffe://";
    CLEANUP(names_free)
    GENERAL_NAMES *names = X509_get_ext_d2i(ca, NID_subject_alt_name, NULL, NULL);
    const char *uri;
    size_t len, skip = strlen(scheme);
    if (!names || only_uri(names, &uri, &len) || len <= skip || len - skip >= TRUST_DOMAIN_SIZE ||
        memcmp(uri, scheme, skip) != 0 || memchr(uri, '\0', len))
        return pki_fail(ERR_INVALID);
    char domain[TRUST_DOMAIN_SIZE] = {0};
    memcpy(domain, uri + skip, len - skip);
    if (!trust_domain_is_valid(domain))
        return ERR_INVALID;
    memcpy(out, domain, sizeof(domain));
    return 0;
}

int cert_key_hash(X509 *cert, uint8_t out[PKEY_HASH_SIZE])
{
    EVP_PKEY *key = X509_get0_pubkey(cert);
    return key ? pkey_hash(key, out) : pki_fail(ERR_INVALID);
}

bool cert_matches_key(X509 *cert, EVP_PKEY *key)
{
    bool matches = X509_check_private_key(cert, key) == 1;
    ERR_clear_error();
    return matches;
}

bool cert_is_issued_by(X509 *cert, X509 *ca)
{
    EVP_PKEY *key = X509_get0_pubkey(ca);
    bool is = key && X509_check_issued(ca, cert) == X509_V_OK && X509_verify(cert, key) == 1;
    ERR_clear_error();
    return is;
}

int cert_from_pem(const char *pem, size_t len, X509 **ret)
{
    if (len > CERT_PEM_MAX)
        return ERR_TOO_LARGE;
    CLEANUP(bio_free) BIO *bio = BIO_new_mem_buf(pem, (int)len);
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    ERR_clear_error();
    if (!cert)
        return ERR_INVALID;
    *ret = cert;
    return 0;
}

int cert_to_pem(X509 *cert, struct buf *out)
{
    CLEANUP(bio_free) BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_X509(bio, cert) != 1)
        return pki_fail(ERR_BUG);
    return bio_drain(bio, out);
}

int cert_to_der(X509 *cert, struct buf *out)
{
    uint8_t *der = NULL;
    int len = i2d_X509(cert, &der);
    int rc = len > 0 ? buf_append(out, der, (size_t)len) : pki_fail(ERR_BUG);
    OPENSSL_free(der);
    return rc;
}

int cert_load(const char *path, X509 **ret, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf pem = {0};
    TRY(file_read(path, CERT_PEM_MAX, false, &pem, d));
    int err = cert_from_pem(buf_text(&pem), pem.len, ret);
    return err ? diag_set(d, err, "%s does not hold a PEM certificate", path) : 0;
}

int cert_save(X509 *cert, const char *path, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf pem = {0};
    int err = cert_to_pem(cert, &pem);
    if (err)
        return diag_set(d, err, "cannot encode the certificate for %s", path);
    return file_write_atomic(path, pem.data, pem.len, 0644, d);
}
