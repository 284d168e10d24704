/* Shared by the files of this folder only. */
#pragma once

#include "base/error.h"
#include "pki/cert.h"
#include "pki/pkey.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

static inline void bio_free_cleanup(BIO **b)
{
    BIO_free_all(*b);
}

/* OpenSSL keeps a queue of errors per thread; what we do not report must not stay in it for the
 * next user of the thread (a TLS connection would take it for its own). */
static inline int pki_fail(int code)
{
    ERR_clear_error();
    return code;
}

/* Appends what a memory BIO holds. */
static inline int bio_drain(BIO *bio, struct buf *out)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    return len > 0 ? buf_append(out, data, (size_t)len) : ERR_BUG;
}

/* Base64 in lines of 64 (RFC 7030 §4 as PEM bodies). */
int pki_base64_lines(const void *data, size_t len, struct buf *out);
