/*
 * Passwords of people, kept as Argon2id hashes (RFC 9106) in the usual text form,
 * "$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH". Both functions take tens of milliseconds and 19 MiB:
 * never on a loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PASSWORD_HASH_SIZE 128
#define PASSWORD_MAX       128 /* bytes */

int password_hash(const char *password, char ret[PASSWORD_HASH_SIZE]); /* ERR_LIMIT: no memory */
bool password_fits(const char *hash, const char *password);

/* Whether a hash that somebody else has made is one, and costs no more than we would spend. */
bool password_hash_is_usable(const char *hash);

/* A keyed digest (BLAKE2b): of what was found to fit, and to sign what a client keeps for us.
 * Quick.
 */
#define MAC_KEY_SIZE 32
#define MAC_SIZE     32
void mac_make(const uint8_t key[MAC_KEY_SIZE], const char *text, uint8_t ret[MAC_SIZE]);
bool mac_equal(const uint8_t a[MAC_SIZE], const uint8_t b[MAC_SIZE]); /* in constant time */
