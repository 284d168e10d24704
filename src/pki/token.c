#include "pki/token.h"

#include "base/error.h"
#include "base/text.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#define PREFIX_LEN 4  /* "wbt_" */
#define ID_LEN     16 /* after the prefix */
#define B64_LEN    43 /* 32 bytes in base64url */
#define API_LEN    (PREFIX_LEN + ID_LEN + 1 + B64_LEN)
static_assert(API_LEN + 1 + B64_LEN == TOKEN_TEXT_MAX, "length of a bootstrap token");

bool token_field_is_plain(const uint8_t bytes[32])
{
    char text[BASE64_SIZE(32)];
    text_base64url(bytes, 32, text, sizeof(text));
    bool is_plain = !strchr(text, '_');
    OPENSSL_cleanse(text, sizeof(text));
    return is_plain;
}

void token_new(enum token_kind kind, const uint8_t *fingerprint, struct token *ret)
{
    *ret = (struct token){.kind = kind};
    id_new(ret->id, "tok");
    do /* every other one is plain; costs one bit of 256 */
        random_bytes(ret->secret, sizeof(ret->secret));
    while (!token_field_is_plain(ret->secret));
    if (kind == TOKEN_BOOTSTRAP)
        memcpy(ret->fingerprint, fingerprint, sizeof(ret->fingerprint));
}

void token_done(struct token *t)
{
    OPENSSL_cleanse(t, sizeof(*t));
}

static int decode(const char *s, uint8_t out[32])
{
    size_t len = 32;
    return text_unbase64url(s, B64_LEN, out, &len) == 0 && len == 32 ? 0 : ERR_INVALID;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int parse_fields(const char *s, struct token *t)
{
    snprintf(t->id, sizeof(t->id), "tok_%.*s", ID_LEN, s + PREFIX_LEN);
    if (!id_is(t->id, "tok") || s[PREFIX_LEN + ID_LEN] != '_')
        return ERR_INVALID;
    if (decode(s + PREFIX_LEN + ID_LEN + 1, t->secret))
        return ERR_INVALID;
    if (t->kind == TOKEN_BOOTSTRAP &&
        (s[API_LEN] != '_' || decode(s + API_LEN + 1, t->fingerprint)))
        return ERR_INVALID;
    return 0;
}

int token_parse(const char *s, size_t len, struct token *ret)
{
    while (len && is_space(s[len - 1]))
        len--;
    while (len && is_space(*s))
        s++, len--;
    struct token t = {0};
    if (len == TOKEN_TEXT_MAX && memcmp(s, "wbt_", PREFIX_LEN) == 0)
        t.kind = TOKEN_BOOTSTRAP;
    else if (len == API_LEN && memcmp(s, "wat_", PREFIX_LEN) == 0)
        t.kind = TOKEN_API;
    else
        return ERR_INVALID;
    int err = parse_fields(s, &t);
    if (!err)
        *ret = t;
    token_done(&t);
    return err;
}

void token_format(const struct token *t, struct secret *ret)
{
    char secret[BASE64_SIZE(32)], fingerprint[BASE64_SIZE(32)], text[TOKEN_TEXT_MAX + 1];
    text_base64url(t->secret, sizeof(t->secret), secret, sizeof(secret));
    int n = snprintf(text, sizeof(text), "%s_%s_%s", t->kind == TOKEN_API ? "wat" : "wbt",
                     t->id + strlen("tok_"), secret);
    if (t->kind == TOKEN_BOOTSTRAP) {
        text_base64url(t->fingerprint, sizeof(t->fingerprint), fingerprint, sizeof(fingerprint));
        n += snprintf(text + n, sizeof(text) - (size_t)n, "_%s", fingerprint);
    }
    secret_set(ret, text, (size_t)n);
    OPENSSL_cleanse(secret, sizeof(secret));
    OPENSSL_cleanse(text, sizeof(text));
}

void token_hash(const struct token *t, uint8_t out[TOKEN_HASH_SIZE])
{
    sha256(t->secret, sizeof(t->secret), out);
}

bool token_hash_equal(const uint8_t *a, const uint8_t *b)
{
    return CRYPTO_memcmp(a, b, TOKEN_HASH_SIZE) == 0;
}

void sha256(const void *data, size_t len, uint8_t out[32])
{
    SHA256(data, len, out);
}
