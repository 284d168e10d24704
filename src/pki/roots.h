/*
 * What an agent or a client trusts: the root certificates of its hubs, the one that signs first.
 * Two while the CA is being rotated. No I/O.
 */
#pragma once

#include "base/buf.h"
#include "base/macro.h"

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROOTS_MAX       8
#define ROOTS_TEXT_SIZE 17

struct roots {
    X509 *certs[ROOTS_MAX];
    size_t n;
};

void roots_done(struct roots *r);
static inline void roots_done_cleanup(struct roots *r)
{
    roots_done(r);
}

/* Takes `cert`, whatever it returns. One that is there already is dropped. ERR_LIMIT. */
int roots_add(struct roots *r, X509 *cert);

/* Every certificate of a PEM text. ERR_INVALID: there is none; ERR_LIMIT. */
int roots_from_pem(const char *pem, size_t len, struct roots *ret);
int roots_to_pem(const struct roots *r, struct buf *out); /* appends */

/* DER, as the hub tells it. ERR_INVALID unless it is a root of that trust domain; ERR_LIMIT. */
int roots_add_der(struct roots *r, const void *der, size_t len, const char *trust_domain);
/* Whether `cert` is one: self-signed, a CA, of that trust domain. */
bool roots_is_root(X509 *cert, const char *trust_domain);

/* The one that signed `leaf`; NULL: none. Borrowed. */
X509 *roots_issuer(const struct roots *r, X509 *leaf);

/* Tells two lists apart, their order too; never 0. As text: 16 hexadecimal digits. */
uint64_t roots_digest(const struct roots *r);
void roots_digest_text(uint64_t digest, char out[ROOTS_TEXT_SIZE]);
