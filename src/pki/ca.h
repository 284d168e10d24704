/*
 * The private CA of a deployment: a P-256 root of ten years whose key is a 0600 file in the hub's
 * data folder (ca.key, ca.pem), or sealed in the database of a cluster (identity_ca.c). It signs
 * agents' leaves and the hubs' own certificates, nothing else. Immutable after opening, so usable
 * from any thread.
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

#define CA_DERIVED_SIZE 32

/* Opens the CA in `dir`, or makes it for `trust_domain` when there is none. A key
 * without its certificate gets a new root certificate: what was issued stays valid (same key and
 * name), bootstrap tokens made before do not. A certificate without its key, or of another trust
 * domain, is an error. */
int ca_open(const char *dir, const char *trust_domain, int64_t now_ms, struct ca **ret,
            struct diag *d);
/* The same without files, for a CA that is kept elsewhere: makes one, or reads what
 * ca_export gave, of which `d` says what is wrong. */
int ca_make(const char *trust_domain, int64_t now_ms, struct ca **ret, struct diag *d);
int ca_import(const char *cert_pem, const struct secret *key_pem, const char *trust_domain,
              struct ca **ret, struct diag *d);
int ca_export(const struct ca *ca, struct secret *ret_key_pem); /* its certificate: ca_cert */
void ca_free(struct ca *ca);
DEFINE_CLEANUP(struct ca *, ca_free)

X509 *ca_cert(const struct ca *ca); /* borrowed */
const char *ca_trust_domain(const struct ca *ca);
const uint8_t *ca_fingerprint(const struct ca *ca); /* CERT_FINGERPRINT_SIZE bytes */

/* A client-auth leaf for an agent: URI SAN from `id`, a random 126-bit serial, no other names. */
int ca_issue_agent(const struct ca *ca, EVP_PKEY *key, const struct spiffe *id,
                   struct cert_times times, X509 **ret);

/* A hub's leaf, for its clients (server-auth) and for the other hubs, to which it is both: URI SAN
 * of `hub`, which is a DNS name of it too, by which other hubs know it. `names` are DNS names (a
 * leading "*." allowed) or IP literals; unusable ones are ERR_INVALID. At most 64. */
int ca_issue_hub(const struct ca *ca, EVP_PKEY *key, const char *hub, const char *const *names,
                 size_t n_names, struct cert_times times, X509 **ret);

/* The certificate of `next`'s key as `ca` signs it: the "new with old" of RFC 4210 §4.4,
 * self-issued since both have one name. By it, whoever trusts `ca` alone trusts what `next` issues.
 * It ends with the first of the two. */
int ca_cross_sign(const struct ca *ca, const struct ca *next, X509 **ret);

/* A secret that whoever has the CA's key can work out, and nobody else; another for each label. */
int ca_derive_key(const struct ca *ca, const char *label, uint8_t out[CA_DERIVED_SIZE]);
