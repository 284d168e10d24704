/*
 * What a reverse proxy owes to both sides, as functions without I/O: which requests are refused,
 * which fields pass (RFC 9110 section 7.6), which are added (RFC 7239).
 */
#pragma once

#include "base/addr.h"
#include "base/arena.h"
#include "base/buf.h"
#include "wire/http_header.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The host of a Host field or an :authority: a name, without its port and in lower case. */
int gateway_host(const char *authority, char ret[HOST_SIZE]);

/* The origin-form ("/path?query", or "*") of a request target that may be in absolute-form, whose
 * host then must be `host`. ERR_INVALID. Points into `target`, or is "/". */
int gateway_target(const char *method, const char *target, const char *host, const char **ret);

/* The same for a forward proxy: "http://host[:port]/path" to the place to dial, the authority as
 * the client wrote it, and the origin-form. ERR_INVALID. */
int gateway_absolute(struct arena *a, const char *method, const char *target, struct host_port *ret,
                     const char **ret_authority, const char **ret_path);

/* Whether a request asks for a WebSocket (RFC 6455 section 4.1). */
bool gateway_wants_websocket(const char *method, const struct http_header *fields, size_t n);

struct gateway_head {
    const char *method, *target, *host; /* target in origin-form; host as the client wrote it */
    const struct http_header *fields;
    size_t n_fields;
    const struct addr *peer;
    bool is_websocket;
    bool needs_key;          /* a WebSocket asked for by HTTP/2: has no Sec-WebSocket-Key */
    bool drop_authorization; /* it was for us */
    const char *drop_cookie; /* the same; NULL: none */
    bool is_forward;         /* the target is not told who the client is */
    bool has_body;           /* of content_length, or chunked if that is negative */
    int64_t content_length;
};

/* The head of the HTTP/1.1 request that the target gets. */
void gateway_put_head(struct buf *out, const struct gateway_head *head);

/* The fields of a target's answer that pass, names in lower case, strings in the arena or borrowed;
 * `out` has room for `n`. Content-Length is left out. */
size_t gateway_answer_fields(struct arena *a, const struct http_header *fields, size_t n,
                             bool drop_accept, struct http_header *out);
