#include "pki/roots.h"

#include "pki/internal.h"
#include "pki/token.h"

#include <inttypes.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>

void roots_done(struct roots *r)
{
    for (size_t i = 0; i < r->n; i++)
        cert_free(r->certs[i]);
    *r = (struct roots){0};
}

int roots_add(struct roots *r, X509 *cert)
{
    bool is_known = false;
    for (size_t i = 0; i < r->n; i++)
        is_known |= X509_cmp(r->certs[i], cert) == 0;
    if (is_known || r->n == ROOTS_MAX) {
        cert_free(cert);
        return is_known ? 0 : ERR_LIMIT;
    }
    r->certs[r->n++] = cert;
    return 0;
}

int roots_from_pem(const char *pem, size_t len, struct roots *ret)
{
    if (len > CERT_PEM_MAX)
        return ERR_TOO_LARGE;
    CLEANUP(bio_free) BIO *bio = BIO_new_mem_buf(pem, (int)len);
    CLEANUP(roots_done) struct roots r = {0};
    X509 *cert;
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
        TRY(roots_add(&r, cert));
    ERR_clear_error();
    if (!r.n)
        return ERR_INVALID;
    *ret = r;
    r.n = 0;
    return 0;
}

int roots_to_pem(const struct roots *r, struct buf *out)
{
    for (size_t i = 0; i < r->n; i++)
        TRY(cert_to_pem(r->certs[i], out));
    return 0;
}

bool roots_is_root(X509 *cert, const char *trust_domain)
{
    char domain[TRUST_DOMAIN_SIZE];
    bool is = X509_check_ca(cert) == 1 && X509_self_signed(cert, 1) == 1 &&
              cert_trust_domain(cert, domain) == 0 && strcmp(domain, trust_domain) == 0;
    ERR_clear_error();
    return is;
}

int roots_add_der(struct roots *r, const void *der, size_t len, const char *trust_domain)
{
    const uint8_t *at = der;
    if (len > CERT_PEM_MAX)
        return ERR_TOO_LARGE;
    X509 *cert = d2i_X509(NULL, &at, (long)len);
    if (!cert || at != (const uint8_t *)der + len || !roots_is_root(cert, trust_domain)) {
        cert_free(cert);
        return pki_fail(ERR_INVALID);
    }
    return roots_add(r, cert);
}

X509 *roots_issuer(const struct roots *r, X509 *leaf)
{
    for (size_t i = 0; i < r->n; i++) {
        if (cert_is_issued_by(leaf, r->certs[i]))
            return r->certs[i];
    }
    return NULL;
}

uint64_t roots_digest(const struct roots *r)
{
    uint8_t all[ROOTS_MAX][CERT_FINGERPRINT_SIZE], hash[32];
    uint64_t digest = 0;
    for (size_t i = 0; i < r->n; i++)
        cert_fingerprint(r->certs[i], all[i]);
    sha256(all, r->n * CERT_FINGERPRINT_SIZE, hash);
    for (size_t i = 0; i < sizeof(digest); i++)
        digest = digest << 8 | hash[i];
    return digest ? digest : 1;
}

void roots_digest_text(uint64_t digest, char out[ROOTS_TEXT_SIZE])
{
    snprintf(out, ROOTS_TEXT_SIZE, "%016" PRIx64, digest);
}
