#include "pki/password.h"

#include "base/error.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define MEMORY_BYTES (19456ull * 1024) /* OWASP's second choice of parameters */
#define PASSES       2
#define MEMORY_MAX   65536 /* KiB */
#define PASSES_MAX   8

static_assert(PASSWORD_HASH_SIZE >= crypto_pwhash_STRBYTES, "a hash fits");

int password_hash(const char *password, char ret[PASSWORD_HASH_SIZE])
{
    char hash[crypto_pwhash_STRBYTES];
    if (sodium_init() < 0 || crypto_pwhash_str_alg(hash, password, strlen(password), PASSES,
                                                   MEMORY_BYTES, crypto_pwhash_ALG_ARGON2ID13) != 0)
        return ERR_LIMIT;
    memcpy(ret, hash, sizeof(hash));
    return 0;
}

bool password_fits(const char *hash, const char *password)
{
    char text[crypto_pwhash_STRBYTES] = {0};
    if (strlen(hash) >= sizeof(text) || sodium_init() < 0)
        return false;
    memcpy(text, hash, strlen(hash));
    return crypto_pwhash_str_verify(text, password, strlen(password)) == 0;
}

bool password_hash_is_usable(const char *hash)
{
    unsigned memory, passes, lanes;
    int at = 0;
    size_t len = strlen(hash);
    if (len >= crypto_pwhash_STRBYTES ||
        sscanf(hash, "$argon2id$v=19$m=%8u,t=%8u,p=%8u$%n", &memory, &passes, &lanes, &at) != 3 ||
        at == 0)
        return false;
    const char *salt = hash + at, *digest = strchr(salt, '$');
    return memory >= 8 && memory <= MEMORY_MAX && passes >= 1 && passes <= PASSES_MAX &&
           lanes == 1 && digest && digest - salt >= 11 && strlen(digest) > 16 &&
           strspn(digest + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") ==
               strlen(digest + 1);
}

void mac_make(const uint8_t key[MAC_KEY_SIZE], const char *text, uint8_t ret[MAC_SIZE])
{
    crypto_generichash(ret, MAC_SIZE, (const unsigned char *)text, strlen(text), key, MAC_KEY_SIZE);
}

bool mac_equal(const uint8_t a[MAC_SIZE], const uint8_t b[MAC_SIZE])
{
    return sodium_memcmp(a, b, MAC_SIZE) == 0;
}
