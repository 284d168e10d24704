/*
 * The one list of negative error codes. Functions return 0, one of these, or a positive code that
 * their header documents. A category says what kind of trouble it is, a code what exactly.
 */
#pragma once

enum error_category {
    ERROR_IO,
    ERROR_CLOSED,
    ERROR_REFUSED,
    ERROR_TIMEOUT,
    ERROR_PROTO,
    ERROR_LIMIT,
    ERROR_DENIED,
    ERROR_CONFLICT,
    ERROR_USAGE,
    ERROR_BUG,
    ERROR_CATEGORY_COUNT
};

/*      code               name                 category        text for people */
#define ERROR_LIST(X)                                                               \
    X(ERR_IO, "io", ERROR_IO, "input/output error")                                 \
    X(ERR_UNREACHABLE, "unreachable", ERROR_IO, "no route to the destination")      \
    X(ERR_DNS, "dns", ERROR_IO, "the name cannot be resolved")                      \
    X(ERR_NO_SPACE, "no_space", ERROR_IO, "no space left")                          \
    X(ERR_CLOSED, "closed", ERROR_CLOSED, "the connection was closed")              \
    X(ERR_RESET, "reset", ERROR_CLOSED, "the connection was reset")                 \
    X(ERR_CANCELED, "canceled", ERROR_CLOSED, "canceled")                           \
    X(ERR_UNAVAILABLE, "unavailable", ERROR_CLOSED, "not available now")            \
    X(ERR_IN_DOUBT, "in_doubt", ERROR_CLOSED,                                       \
      "the database did not answer in time: it may or may not have taken effect")   \
    X(ERR_REFUSED, "refused", ERROR_REFUSED, "connection refused")                  \
    X(ERR_TIMEOUT, "timeout", ERROR_TIMEOUT, "timed out")                           \
    X(ERR_PROTO, "protocol", ERROR_PROTO, "protocol violation")                     \
    X(ERR_TLS, "tls", ERROR_PROTO, "TLS failure")                                   \
    X(ERR_LIMIT, "limit", ERROR_LIMIT, "a limit was reached")                       \
    X(ERR_TOO_LARGE, "too_large", ERROR_LIMIT, "too large")                         \
    X(ERR_RATE, "rate", ERROR_LIMIT, "too many attempts")                           \
    X(ERR_DENIED, "denied", ERROR_DENIED, "not permitted")                          \
    X(ERR_UNAUTHENTICATED, "unauthenticated", ERROR_DENIED, "not authenticated")    \
    X(ERR_EXPIRED, "expired", ERROR_DENIED, "expired")                              \
    X(ERR_REVOKED, "revoked", ERROR_DENIED, "revoked")                              \
    X(ERR_CONFLICT, "conflict", ERROR_CONFLICT, "conflicts with the present state") \
    X(ERR_EXISTS, "exists", ERROR_CONFLICT, "exists already")                       \
    X(ERR_STALE, "stale", ERROR_CONFLICT, "superseded by a newer one")              \
    X(ERR_NOT_FOUND, "not_found", ERROR_USAGE, "not found")                         \
    X(ERR_INVALID, "invalid", ERROR_USAGE, "invalid value")                         \
    X(ERR_USAGE, "usage", ERROR_USAGE, "wrong usage")                               \
    X(ERR_PRECONDITION, "precondition", ERROR_USAGE, "a condition is required")     \
    X(ERR_UNSUPPORTED, "unsupported", ERROR_USAGE, "not supported")                 \
    X(ERR_BUG, "bug", ERROR_BUG, "internal error")

enum error_index {
#define X(code, name, category, text) code##_INDEX,
    ERROR_LIST(X)
#undef X
        ERROR_INDEX_COUNT
};

enum error {
#define X(code, name, category, text) code = -1 - (int)code##_INDEX,
    ERROR_LIST(X)
#undef X
};

/* All three accept any int; an unknown code is described as a bug. error_name(0) is "ok". */
const char *error_name(int code);
const char *error_text(int code);
enum error_category error_category(int code);

/* The code for a (positive) errno value. */
int error_from_errno(int errnum);
