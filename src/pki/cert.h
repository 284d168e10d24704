/*
 * Certificates as we read them. The identity is taken from a leaf that the TLS layer has verified,
 * never from another certificate of the chain and never from the subject.
 */
#pragma once

#include "base/buf.h"
#include "base/diag.h"
#include "base/macro.h"
#include "pki/pkey.h"
#include "pki/spiffe.h"

#include <openssl/types.h>
#include <stdbool.h>
#include <stdint.h>

#define CERT_FINGERPRINT_SIZE 32
#define CERT_SERIAL_SIZE      41                 /* hex of at most 20 bytes, with its NUL */
#define CERT_PEM_MAX          ((size_t)64 << 10) /* largest PEM we read */

struct cert_times {
    int64_t not_before_ms, not_after_ms; /* Unix time */
};

void cert_free(X509 *cert);
DEFINE_CLEANUP(X509 *, cert_free)
X509 *cert_ref(X509 *cert); /* another reference */

/* SHA-256 of the DER. */
int cert_fingerprint(X509 *cert, uint8_t out[CERT_FINGERPRINT_SIZE]);

/* Lower-case hex; "" for a serial that no sane CA makes (negative, over 20 bytes). */
void cert_serial(X509 *cert, char out[CERT_SERIAL_SIZE]);
int cert_times(X509 *cert, struct cert_times *ret);

/* The agent named by the leaf's one and only URI SAN; ERR_INVALID when the leaf has none or several
 * URIs, a CA flag, no client-auth usage, or another trust domain than given. Thread-safe. */
int cert_identity(X509 *leaf, const char *trust_domain, struct spiffe *ret);

/* The hub named by the leaf's one and only URI SAN, of a certificate that is good for both ends of
 * a link between hubs; otherwise as cert_identity. */
int cert_hub_identity(X509 *leaf, const char *trust_domain, char ret[ID_SIZE]);

/* The trust domain a CA certificate speaks for (its URI SAN "spiffe://DOMAIN"). */
int cert_trust_domain(X509 *ca, char out[TRUST_DOMAIN_SIZE]);

/* The hash of the subject's public key, as pkey_hash. */
int cert_key_hash(X509 *cert, uint8_t out[PKEY_HASH_SIZE]);
bool cert_matches_key(X509 *cert, EVP_PKEY *key);

/* Whether `ca` signed it. Says nothing about times. */
bool cert_is_issued_by(X509 *cert, X509 *ca);

/* PEM: the first certificate of the text. Files as in pki/pkey.h, mode 0644. */
int cert_from_pem(const char *pem, size_t len, X509 **ret);
int cert_to_pem(X509 *cert, struct buf *out); /* appends */
int cert_to_der(X509 *cert, struct buf *out); /* appends */
int cert_load(const char *path, X509 **ret, struct diag *d);
int cert_save(X509 *cert, const char *path, struct diag *d);

/* PKCS#7 certs-only, as EST sends it (RFC 7030 §4.1.3, RFC 8951): base64 of the DER in lines of 64.
 * Appends to `out`. Reading takes at most `max` certificates; *ret_n is their number, each to be
 * freed by the caller. */
int cert_to_pkcs7(X509 *const *certs, size_t n, struct buf *out);
int cert_from_pkcs7(const char *base64, size_t len, X509 **ret, size_t max, size_t *ret_n);
