/*
 * Private keys and their files. Keys made here are P-256; keys of others that we accept (in CSRs)
 * are judged by pkey_is_acceptable. Error texts never contain key material.
 */
#pragma once

#include "base/diag.h"
#include "base/log.h"
#include "base/macro.h"

#include <openssl/types.h>
#include <stdbool.h>
#include <stdint.h>

#define PKEY_HASH_SIZE 32

int pkey_new(EVP_PKEY **ret); /* P-256 */
void pkey_free(EVP_PKEY *key);
DEFINE_CLEANUP(EVP_PKEY *, pkey_free)

/* P-256, P-384, Ed25519, or RSA with 2048 to 8192 bits. */
bool pkey_is_acceptable(EVP_PKEY *key);

/* SHA-256 of the DER SubjectPublicKeyInfo: tells whether two certificates have the same key. */
int pkey_hash(EVP_PKEY *key, uint8_t out[PKEY_HASH_SIZE]);

/* Unencrypted PKCS#8 PEM. */
int pkey_to_pem(EVP_PKEY *key, struct secret *ret);
int pkey_from_pem(const char *pem, size_t len, EVP_PKEY **ret);

/* Files. Saving is atomic (temporary file, fsync, rename, fsync of the folder) with mode 0600.
 * Loading refuses a file that others may read or write (ERR_DENIED) and gives ERR_NOT_FOUND when
 * there is none. */
int pkey_save(EVP_PKEY *key, const char *path, struct diag *d);
int pkey_load(const char *path, EVP_PKEY **ret, struct diag *d);
