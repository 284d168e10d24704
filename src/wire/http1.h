/*
 * HTTP/1.1 messages (RFC 9112), parsed and written without I/O. llhttp is the grammar; in front of
 * it stands a scanner that finds the end of the head, counts it against the limit, and refuses what
 * request smuggling lives on: bare CR, bare LF, folded lines, NUL. On top are the checks that a
 * server owes: one Host, no Transfer-Encoding beside Content-Length, nothing but "chunked".
 *
 * A parser stops after each message, so that pipelined requests are taken one by one.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "wire/http_header.h"

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http1_head {
    const char *method; /* requests */
    const char *target;
    int status; /* responses */
    int minor;  /* HTTP/1.minor */
    const struct http_header *fields;
    size_t n_fields;
    bool keep_alive;
    bool expect_continue;
    bool has_body;
    int64_t content_length; /* -1: not told (chunked, or until the end) */
};

struct http1;
struct http1_ops {
    /* A negative result of any of them ends parsing and is what http1_feed() returns. */
    int (*on_head)(struct http1 *p, const struct http1_head *head);
    int (*on_body)(struct http1 *p, const void *data, size_t len);
    int (*on_end)(struct http1 *p);
};

struct http1_limits {
    uint32_t head_bytes, field_count;
};

/* Embedded. */
struct http1 {
    const struct http1_ops *ops;
    struct http1_limits limits;
    llhttp_t parser;
    struct arena arena; /* of the present message's head */
    struct http1_head head;
    struct http_header *fields;
    struct buf name, value; /* of the field being read; `value` also gathers the target */
    int refused;            /* what an op or a check returned */
    int status;             /* the HTTP status that suits the last error */
    const char *reason;     /* and its text */

    uint32_t head_len, line_len, n_lines; /* the scanner */
    uint64_t body_len, framing_len;
    char last;
    bool in_head, in_message, ended, no_body, may_upgrade;
};

void http1_init_server(struct http1 *p, const struct http1_ops *ops, struct http1_limits limits);
void http1_init_client(struct http1 *p, const struct http1_ops *ops, struct http1_limits limits);
void http1_done(struct http1 *p);

/* Reads at most one message. Returns the bytes used, all of them unless a message ended (check
 * `ended`, call http1_next); or ERR_PROTO, ERR_TOO_LARGE, … with `status` and `reason`, after which
 * the parser is dead. */
int64_t http1_feed(struct http1 *p, const void *data, size_t len);
/* End of the connection: 0 when that ends the message properly or none was begun. */
int http1_finish(struct http1 *p);
/* Ready for the next message; the last one's strings die unless the arena was taken. */
void http1_next(struct http1 *p);
/* Client: the response to come answers HEAD, so it has no body. */
void http1_expect_no_body(struct http1 *p);
/* Client: the request asked to change the protocol, so a 101 is an answer: `ended` is set after its
 * head, and what follows is no HTTP. */
void http1_expect_upgrade(struct http1 *p);
/* The head's strings belong to the caller from now on. */
struct arena http1_take_arena(struct http1 *p);

/* "HTTP/1.1 200 OK" and the fields, without the empty line. */
int http1_put_status(struct buf *b, int status);
int http1_put_field(struct buf *b, const char *name, const char *value);
int http1_put_end(struct buf *b);
/* One chunk of a chunked body; len 0 writes the last one. */
int http1_put_chunk(struct buf *b, const void *data, size_t len);
