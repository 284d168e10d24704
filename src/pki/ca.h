/*
 * The private CA of a deployment: a P-256 root of ten years whose key is a 0600 file in the hub's
 * data folder (ca.key, ca.pem). It signs agents' leaves and the hub's own server certificate,
 * nothing else. Immutable after opening, so usable from any thread.
 */
#pragma once

#include "base/diag.h"
#include "base/macro.h"
#include "pki/cert.h"
#include "pki/pkey.h"
#include "pki/spiffe.h"

#include <openssl/types.h>
#include <stddef.h>
#include <stdint.h>

struct ca;

/* Opens the CA in `dir`, or makes it for `trust_domain` when there is none. A key
 * without its certificate gets a new root certificate: what was issued stays valid (same key and
 * name), bootstrap tokens made before do not. A certificate without its key, or of another trust
 * domain, is an error. */
int ca_open(const char *dir, const char *trust_domain, int64_t now_ms, struct ca **ret,
            struct diag *d);
void ca_free(struct ca *ca);
DEFINE_CLEANUP(struct ca *, ca_free)

X509 *ca_cert(const struct ca *ca); /* borrowed */
const char *ca_trust_domain(const struct ca *ca);
const uint8_t *ca_fingerprint(const struct ca *ca); /* CERT_FINGERPRINT_SIZE bytes */

/* A client-auth leaf for an agent: URI SAN from `id`, a random 126-bit serial, no other names. */
int ca_issue_agent(const struct ca *ca, EVP_PKEY *key, const struct spiffe *id,
                   struct cert_times times, X509 **ret);

/* A server-auth leaf. `names` are DNS names (a leading "*." allowed) or IP literals; unusable ones
 * are ERR_INVALID. At most 64. */
int ca_issue_server(const struct ca *ca, EVP_PKEY *key, const char *const *names, size_t n_names,
                    struct cert_times times, X509 **ret);
