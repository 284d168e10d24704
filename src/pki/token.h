/*
 * The texts of tokens. A bootstrap token, "wbt_<id16>_<secret43>_<fingerprint43>", carries the
 * SHA-256 of the CA certificate, so that an agent can tell its hub from someone in between on first
 * contact. An API token is "wat_<id16>_<secret43>". Secret and fingerprint are 32 bytes in
 * base64url, drawn such that they have no '_' in it, so that a token splits into its fields at '_'
 * (which no parser here relies on). The stored object is "tok_<id16>"; of the secret only its
 * SHA-256 is stored.
 */
#pragma once

#include "base/id.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_SECRET_SIZE      32
#define TOKEN_HASH_SIZE        32
#define TOKEN_FINGERPRINT_SIZE 32
#define TOKEN_TEXT_MAX         108

enum token_kind { TOKEN_BOOTSTRAP, TOKEN_API };

struct token {
    enum token_kind kind;
    char id[ID_SIZE]; /* "tok_…" */
    uint8_t secret[TOKEN_SECRET_SIZE];
    uint8_t fingerprint[TOKEN_FINGERPRINT_SIZE]; /* bootstrap only */
};

/* Whether 32 bytes have no '_' in base64url. */
bool token_field_is_plain(const uint8_t bytes[32]);

/* A fresh random token; `fingerprint` is used for bootstrap tokens only. */
void token_new(enum token_kind kind, const uint8_t *fingerprint, struct token *ret);
void token_done(struct token *t); /* wipes */

/* Surrounding white space (of a file) is ignored; ERR_INVALID for anything else. */
int token_parse(const char *s, size_t len, struct token *ret);
void token_format(const struct token *t, struct secret *ret);

void token_hash(const struct token *t, uint8_t out[TOKEN_HASH_SIZE]);
bool token_hash_equal(const uint8_t *a, const uint8_t *b); /* in constant time */

/* SHA-256 of anything, so that callers need no OpenSSL of their own. */
void sha256(const void *data, size_t len, uint8_t out[32]);
