/*
 * How a failure to reach a target travels in HTTP: a status and a Proxy-Status field (RFC 9209)
 * "warren; error=connection_refused", and back to the same error code on the other side.
 */
#pragma once

#include "wire/icmp_cause.h"

#include <stddef.h>

#define PROXY_STATUS_SIZE 128

/* The status (such as 502) for an error code; `field` gets the Proxy-Status value. */
int proxy_status_format(int error, char field[PROXY_STATUS_SIZE]);

/* The error code for an answer; `field` may be NULL. 0 for a 2xx status. */
int proxy_status_parse(int status, const char *field);

/* The ICMP error behind it, if there was one (version 0: none), as a parameter of our own,
 * icmp="3.13 10.0.0.1": added to a field, and read from one (NULL is fine; none is left as none).
 */
void proxy_status_add_cause(char field[PROXY_STATUS_SIZE], const struct icmp_cause *c);
void proxy_status_cause(const char *field, struct icmp_cause *ret);

/* The error's token (RFC 9209 section 2.3) alone, a static text; any code has one. */
const char *proxy_status_token(int error);

/* The error code of such a token; ERR_IO for others. */
int proxy_status_error(const char *token);

/* The error's place in the list below, for counting by kind. */
size_t proxy_status_index(int error);

/* Error code, status, token. The first row of an error or token is the one used to translate it; an
 * error that has none is the last. */
#define PROXY_STATUS_LIST(X)                             \
    X(ERR_REFUSED, 502, "connection_refused")            \
    X(ERR_TIMEOUT, 504, "connection_timeout")            \
    X(ERR_UNREACHABLE, 502, "destination_ip_unroutable") \
    X(ERR_DNS, 502, "dns_error")                         \
    X(ERR_DENIED, 403, "destination_ip_prohibited")      \
    X(ERR_LIMIT, 503, "connection_limit_reached")        \
    X(ERR_RATE, 429, "connection_rate_exceeded")         \
    X(ERR_STALE, 409, "http_request_denied")             \
    X(ERR_RESET, 502, "connection_terminated")           \
    X(ERR_UNAVAILABLE, 503, "destination_unavailable")   \
    X(ERR_NOT_FOUND, 404, "destination_not_found")       \
    X(ERR_INVALID, 400, "http_request_error")            \
    X(ERR_IO, 502, "proxy_internal_error")

enum {
#define X(error, status, token) PROXY_STATUS_##error,
    PROXY_STATUS_LIST(X)
#undef X
        PROXY_STATUS_COUNT
};
