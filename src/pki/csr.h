/*
 * Certificate signing requests (PKCS#10, RFC 2986). Only the key of a request is ever used; who it
 * is for is decided by whoever issues.
 */
#pragma once

#include "base/buf.h"
#include "base/macro.h"
#include "pki/pkey.h"

#include <openssl/types.h>

#define CSR_BODY_MAX ((size_t)16 << 10) /* base64, as posted */

/* A request for `key` with subject CN=`common_name`, as base64 lines without PEM armour. */
int csr_make(EVP_PKEY *key, const char *common_name, struct buf *ret_base64);

/* Parses what simpleenroll gets: base64 of the DER, line breaks allowed, PEM armour tolerated, or
 * raw DER. Checks the self-signature and the kind of key; yields the key.
 * ERR_TOO_LARGE over CSR_BODY_MAX; ERR_INVALID not a request; ERR_DENIED signature wrong;
 * ERR_USAGE kind or size of key not acceptable. */
int csr_parse(const char *body, size_t len, EVP_PKEY **ret_key);
