/*
 * Strict conversions between text and values. Parsers take the whole string or fail with
 * ERR_INVALID; outputs are untouched on failure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int text_to_u64(const char *s, uint64_t max, uint64_t *ret);
int text_to_bool(const char *s, bool *ret); /* true|false|yes|no|on|off|1|0 */

/* "250ms", "30s", "15m", "24h", "7d"; a plain number is an error. */
int text_to_duration_ms(const char *s, int64_t *ret_ms);
void text_from_duration_ms(int64_t ms, char *out, size_t size); /* the largest exact unit */

/* "64KiB", "8MiB", "1GiB", "4096". */
int text_to_bytes(const char *s, uint64_t *ret);

/* Object names: 1 to 63 of [a-z0-9-], starting and ending with a letter or digit (RFC 1123). */
bool text_is_name(const char *s);

/* RFC 4648: base64 with padding (padded) or base64url without. `out` is NUL-terminated. The
 * decoders accept either alphabet's own characters only; `*len` is room on entry, size on return.
 */
void text_base64(const void *data, size_t len, char *out, size_t size);
void text_base64url(const void *data, size_t len, char *out, size_t size);
int text_unbase64(const char *s, size_t s_len, void *out, size_t *len);
int text_unbase64url(const char *s, size_t s_len, void *out, size_t *len);
void text_hex(const void *data, size_t len, char *out); /* 2 * len + 1 bytes, lower case */
int text_hex_value(char c);                             /* -1: not a hexadecimal digit */

#define BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1)
