#include "pki/seal_key.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"
#include "pki/token.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define KIB        65536u
#define PASSES     3u
#define KIB_MAX    (1u << 20) /* of what a database asks for */
#define PASSES_MAX 16u
#define SALT_SIZE  crypto_pwhash_SALTBYTES
#define CHECK_SIZE 4

static_assert(SEAL_KEY_SIZE == 32, "a SHA-256 is a key");

void seal_key_done(struct seal_key *k)
{
    explicit_bzero(k, sizeof(*k));
}

static void check_text(const uint8_t key[SEAL_KEY_SIZE], char out[2 * CHECK_SIZE + 1])
{
    struct {
        char label[16];
        uint8_t key[SEAL_KEY_SIZE];
    } input = {.label = "warren seal key"};
    uint8_t hash[32];
    memcpy(input.key, key, sizeof(input.key));
    sha256(&input, sizeof(input), hash);
    explicit_bzero(&input, sizeof(input));
    text_hex(hash, CHECK_SIZE, out);
}

int seal_key_of_file(const void *bytes, size_t len, struct seal_key *ret)
{
    char check[2 * CHECK_SIZE + 1];
    if (len < SEAL_FILE_MIN)
        return ERR_INVALID;
    sha256(bytes, len, ret->key);
    check_text(ret->key, check);
    snprintf(ret->text, sizeof(ret->text), "key-file:%s", check);
    return 0;
}

bool seal_text_is_passphrase(const char *text)
{
    return strncmp(text, "argon2id:", strlen("argon2id:")) == 0;
}

struct cost {
    unsigned kib, passes;
    uint8_t salt[SALT_SIZE];
};

static int read_cost(const char *text, struct cost *ret)
{
    char salt[2 * SALT_SIZE + 1];
    size_t len = 0;
    struct cost c;
    if (sscanf(text, "argon2id:%8u:%8u:%32[0-9a-f]:", &c.kib, &c.passes, salt) != 3 || c.kib < 8 ||
        c.kib > KIB_MAX || c.passes < 1 || c.passes > PASSES_MAX ||
        sodium_hex2bin(c.salt, sizeof(c.salt), salt, strlen(salt), NULL, &len, NULL) != 0 ||
        len != sizeof(c.salt))
        return ERR_INVALID;
    *ret = c;
    return 0;
}

int seal_key_of_passphrase(const void *phrase, size_t len, const char *text, struct seal_key *ret)
{
    struct cost c = {.kib = KIB, .passes = PASSES};
    char salt[2 * SALT_SIZE + 1], check[2 * CHECK_SIZE + 1];
    if (len < SEAL_PHRASE_MIN)
        return ERR_INVALID;
    if (sodium_init() < 0)
        return ERR_LIMIT;
    if (text)
        TRY(read_cost(text, &c));
    else
        randombytes_buf(c.salt, sizeof(c.salt));
    if (crypto_pwhash(ret->key, sizeof(ret->key), phrase, len, c.salt, c.passes,
                      (size_t)c.kib * 1024, crypto_pwhash_ALG_ARGON2ID13) != 0)
        return ERR_LIMIT;
    text_hex(c.salt, sizeof(c.salt), salt);
    check_text(ret->key, check);
    snprintf(ret->text, sizeof(ret->text), "argon2id:%u:%u:%s:%s", c.kib, c.passes, salt, check);
    return 0;
}
