/*
 * Keys for pki/seal.h, of what people have: a file of random bytes, or a passphrase. `text` says
 * how the key was made, so that the same one can be made again: the passphrase's salt and cost, and
 * a check by which another key is told from this one. It is stored beside what is sealed and is no
 * secret.
 *
 *   key-file:CHECK
 *   argon2id:KIB:PASSES:SALT:CHECK       salt and check in hexadecimal
 */
#pragma once

#include "pki/seal.h"

#include <stdbool.h>

#define SEAL_TEXT_SIZE  128
#define SEAL_FILE_MIN   32 /* bytes of a key file */
#define SEAL_PHRASE_MIN 12 /* characters of a passphrase */

struct seal_key {
    uint8_t key[SEAL_KEY_SIZE];
    char text[SEAL_TEXT_SIZE];
};
void seal_key_done(struct seal_key *k); /* wipes */

/* ERR_INVALID: too short. */
int seal_key_of_file(const void *bytes, size_t len, struct seal_key *ret);

/* Argon2id: takes a tenth of a second and 64 MiB. `text`: of the key that is to be made again;
 * NULL: a new salt. ERR_INVALID: too short, or no such text; ERR_LIMIT: no memory. */
int seal_key_of_passphrase(const void *phrase, size_t len, const char *text, struct seal_key *ret);

/* Whether a stored text is of a passphrase. */
bool seal_text_is_passphrase(const char *text);
