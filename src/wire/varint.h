/*
 * Integers of one to eight bytes (RFC 9000 section 16), as capsules have them.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define VARINT_SIZE 8 /* bytes at most */
#define VARINT_MAX  ((UINT64_C(1) << 62) - 1)

/* Bytes used; 0: more are needed. */
size_t varint_read(const uint8_t *p, size_t n, uint64_t *ret);
/* Bytes written, as few as it takes. `v` is at most VARINT_MAX. */
size_t varint_write(uint8_t *out, uint64_t v);
