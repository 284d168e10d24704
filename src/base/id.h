/*
 * Random object ids: a type prefix, "_", and 16 characters of Crockford base32 (80 random bits),
 * such as "tun_4x0v9m2k7c1qz8ta". Lower case; safe in URLs, file names and SQL.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_SIZE 32 /* longest id with its NUL */

void id_new(char out[ID_SIZE], const char *prefix);

/* Of a row of a log: its first nine characters are the time (RFC 9562, section 6.11 has why), so
 * that rows written together stand together in the index, and in order; the rest is random. */
void id_new_at(char out[ID_SIZE], const char *prefix, int64_t wall_ms);

/* Whether `s` has the shape of an id of that type. */
bool id_is(const char *s, const char *prefix);

/* Fills `out` from the kernel's random source; aborts if there is none. */
void random_bytes(void *out, size_t len);
uint32_t random_below(uint32_t n); /* 0 if `n` is 0 */
uint32_t random_number(void);      /* as good, for who needs many: calls to the kernel are shared */
