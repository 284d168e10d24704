/*
 * Small texts kept in the database that only the holder of a key can read (AES-256-GCM, a random
 * nonce in front, the tag behind).
 */
#pragma once

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

#define SEAL_KEY_SIZE 32

/* Appends to `out`. */
int seal(const uint8_t key[SEAL_KEY_SIZE], const void *data, size_t len, struct buf *out);
/* ERR_DENIED when the key is another or the bytes were changed. */
int unseal(const uint8_t key[SEAL_KEY_SIZE], const void *data, size_t len, struct buf *out);
