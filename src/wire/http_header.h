/*
 * Header fields and status codes, as HTTP/1.1, HTTP/2, servers and clients all have them (RFC
 * 9110).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct http_header {
    const char *name, *value;
};

const char *http_header_get(const struct http_header *fields, size_t n, const char *name);
/* Whether a comma-separated value holds `token`, in any case. */
bool http_value_has(const char *value, const char *token);
/* Printable ASCII, blanks and obs-text only: what may stand in a field value. */
bool http_value_is_safe(const char *value);
bool http_is_token(const char *s); /* RFC 9110 §5.6.2: methods and field names */

const char *http_reason(int status);
