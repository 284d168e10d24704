/*
 * What a connection of HTTP/1.1 needs whoever answers: the server (h1_server.c) and the gateway
 * (gateway_h1.c). Shared by those only.
 */
#pragma once

#include "base/buf.h"
#include "http/internal.h"
#include "wire/http1.h"

#define HTTP_H1_LINGER_MS 1000

/* The first member of its owner. Output waits in `out`; a client that takes none of it for
 * HTTP_STALL_MS is cut off. */
struct http_h1_link {
    struct http_link link;
    struct http1 parser;
    struct buf out;
    size_t out_at;         /* sent of it */
    struct timer deadline; /* of the owner's state, and its function the owner's */
    struct timer stall;
    size_t lingered; /* bytes read over */
    bool close_after, is_paused, has_closed;
};

void http_h1_init(struct http_h1_link *l, struct http_server *s, struct conn *c,
                  const struct http_link_ops *link_ops, const struct http1_ops *parser_ops,
                  void (*on_deadline)(struct timer *t));
void http_h1_done(struct http_h1_link *l); /* the connection is closed, or somebody else's now */

size_t http_h1_unsent(const struct http_h1_link *l);
void http_h1_wake(struct http_h1_link *l); /* there is output */
/* For on_fill: how much it put there. `deadline` and state are the owner's affair when no more is
 * left. */
size_t http_h1_fill(struct http_h1_link *l, uint8_t *out, size_t cap);

void http_h1_pause(struct http_h1_link *l);
void http_h1_resume(struct http_h1_link *l);
/* Bytes after a request that was refused: read over, so that the answer is not lost to a reset, up
 * to a bound. */
void http_h1_read_over(struct http_h1_link *l, size_t len);

void http_h1_close(struct http_h1_link *l);
void http_h1_abort(struct http_h1_link *l, int err);
void http_h1_link_abort(struct http_link *link); /* for http_link_ops */
