/*
 * The HTTP server: HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113) on connections that arrive already
 * handshaked. One server is one set of route tables on one loop; the hub has two (the REST side,
 * and the narrow one behind ALPN "warren-renew/1"). Everything here belongs to the loop's thread.
 *
 * A request reaches its handler when its body is complete. The path is: route → authenticate →
 * before → handler → http_respond_*() → after. Whoever holds a request must answer it exactly once,
 * now or later; the answer ends it (the pointer is dead). A client that disconnects in between
 * changes nothing for the holder: the request stays valid and its answer goes nowhere.
 *
 * Every refusal is problem+json (RFC 9457). What a peer can use is capped: see http_limits.
 */
#pragma once

#include "base/addr.h"
#include "base/arena.h"
#include "base/diag.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;
struct loop;
struct http_server;
struct http_request;

/* The least a caller must be. Only HTTP_PUBLIC means something here; the rest is judged by the
 * authenticate hook. */
enum http_role { HTTP_PUBLIC, HTTP_VIEWER, HTTP_OPERATOR, HTTP_ADMIN };

struct http_route {
    const char *method; /* "GET" also serves HEAD */
    const char *path;   /* "/api/v1/tunnels/{id}": a {param} is one whole segment */
    enum http_role role;
    size_t body_max; /* bytes; 0: a request with a body is refused */
    void (*handler)(struct http_request *req, void *ctx);
    const char *summary;
};

/* What a hook returns when it has not decided yet (http_request_continue follows) or has itself
 * answered the request. */
#define HTTP_LATER 1

struct http_hooks {
    /* Finds out who calls (http_set_caller) and whether the route's role allows it; not called for
     * HTTP_PUBLIC. 0, ERR_UNAUTHENTICATED, ERR_DENIED, … (the diag becomes the answer), or
     * HTTP_LATER. Without this hook nobody is let in to a route that is not public. */
    int (*authenticate)(struct http_request *req, struct diag *d, void *arg);

    /* Idempotency-Key: 0 to go on, or HTTP_LATER when it looks the key up (and then either answers
     * from storage or continues). NULL: none. */
    int (*before)(struct http_request *req, struct diag *d, void *arg);

    /* Told of each answer that a handler gave to a request which went through `before`. 0: it goes
     * out now; HTTP_LATER: it is kept until http_request_release. */
    int (*after)(struct http_request *req, int status, const void *body, size_t len, void *arg);

    /* Whether the caller that `authenticate` found may still be told things: asked again and again
     * while an event stream runs. NULL: yes. */
    bool (*is_still_welcome)(const struct http_request *req, void *arg);
    void *arg;
};

struct http_limits {            /* 0 takes the default */
    uint32_t conns;             /* 4096 */
    uint32_t conns_per_addr;    /* 256 */
    uint32_t requests_per_conn; /* 64 unanswered at once (HTTP/1.1 pipelining: read one by one) */
    uint32_t requests_per_addr; /* 2048 unanswered at once, of all its connections */
    uint32_t header_bytes;      /* 16 KiB, request line included */
    uint32_t header_count;      /* 100 */
    uint32_t header_ms;         /* 10 s for the whole head */
    uint32_t body_ms;           /* 30 s for the whole body */
    uint32_t idle_ms;           /* 60 s between requests */
    uint32_t sse_backlog;       /* 1 MiB unsent per event stream; a slower reader is cut off */
};

struct http_server_config {
    struct loop *loop;
    struct http_hooks hooks;
    struct http_limits limits;
};

int http_server_new(const struct http_server_config *cfg, struct http_server **ret);
/* `rows` and `ctx` outlive the server. Of two routes that fit, the one with a literal segment where
 * the other has a {param} wins. */
void http_server_add(struct http_server *s, const struct http_route *rows, size_t n, void *ctx);
/* Serves a handshaked connection that is attached to the server's loop; the server owns it from
 * here. ALPN "h2" is HTTP/2, everything else HTTP/1.1. Over the caps it is closed at once. */
void http_server_take(struct http_server *s, struct conn *c);
/* No new requests: idle connections close, busy ones after their answers, event streams end.
 * `done` is called when none is left (maybe at once). */
void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg);
/* Aborts what is left. Requests still held stay valid until answered; hooks aren't called again. */
void http_server_free(struct http_server *s);

struct http_stats {
    uint64_t requests, refused; /* refused: answered before a handler saw it */
    uint64_t status_class[6];   /* [2]: 2xx … */
    uint32_t conns, in_flight, streams;
};
void http_server_stats(const struct http_server *s, struct http_stats *ret);

/* --- a request -------------------------------------------------------------------------------- */
/* All strings live as long as the request. */

const struct http_route *http_route(const struct http_request *req);
const char *http_method(const struct http_request *req);
const char *http_path(const struct http_request *req);                     /* as sent, no query */
const char *http_query_text(const struct http_request *req);               /* as sent; "" */
const char *http_param(const struct http_request *req, const char *name);  /* percent-decoded */
const char *http_query(const struct http_request *req, const char *name);  /* decoded; NULL: none */
const char *http_header(const struct http_request *req, const char *name); /* any case; NULL */
const void *http_body(const struct http_request *req,
                      size_t *ret_len); /* NUL follows; never NULL */
struct arena *http_arena(struct http_request *req);
const struct addr *http_peer(const struct http_request *req);
/* The connection, for what net/conn.h tells about it (peer certificate); NULL once it is gone, so
 * look at it in the handler, not later. */
struct conn *http_conn(const struct http_request *req);
bool http_request_is_gone(const struct http_request *req);
/* Called at most once, when the client disconnects before the answer. The request must still be
 * answered. */
void http_request_on_gone(struct http_request *req, void (*fn)(void *arg), void *arg);

void http_set_caller(struct http_request *req, void *caller); /* set by the authenticate hook */
void *http_caller(const struct http_request *req);
/* A second slot for the `before`/`after` pair. */
void http_set_hook_data(struct http_request *req, void *data);
void *http_hook_data(const struct http_request *req);
/* After HTTP_LATER: goes on with the next step, or answers with `d` if its code is not 0. */
void http_request_continue(struct http_request *req, const struct diag *d);
/* After HTTP_LATER from `after`: the answer goes out, the request is over. */
void http_request_release(struct http_request *req);

/* --- CONNECT (RFC 9110 section 9.3.6) ----------------------------------------------------------
 */

/* Serves CONNECT: http_path is the authority that the client asked for; and what in HTTP/1.1 stands
 * for extended CONNECT with connect-udp, a GET that offers to upgrade to it (RFC 9298 section 3.2).
 * The route is public: the handler itself judges Proxy-Authorization. Without one CONNECT is
 * refused. */
void http_server_on_connect(struct http_server *s,
                            void (*handler)(struct http_request *req, void *ctx), void *ctx);

/* The same for HTTP/2, where it is a stream that the handler takes: h2_stream_set and h2_respond
 * are its affair, and whether the client may. NULL: as any other method. */
struct h2_stream;
struct h2_headers;
void http_server_on_connect_stream(struct http_server *s,
                                   void (*handler)(void *ctx, struct h2_stream *stream,
                                                   const struct h2_headers *h),
                                   void *ctx);

/* Connections over HTTP/1.1 whose next request is in absolute-form with "http://" (RFC 9112 section
 * 3.2.2): they are for a proxy. The handler gets them off the loop, with that request unread. NULL:
 * they are served like any other. */
void http_server_on_forward(struct http_server *s, void (*handler)(void *ctx, struct conn *c),
                            void *ctx);

/* Ends a CONNECT request without an answer and yields its connection, off its loop, with every
 * byte that has arrived after the head. NULL, and the request is still to be answered: the client
 * is gone, or the connection is HTTP/2. Not from within the handler: later. */
struct conn *http_take_conn(struct http_request *req);

/* Requests (but CONNECT, and those in absolute-form) whose Host is one that `is_elsewhere` knows
 * are refused with 421. `host` is canonical. */
void http_server_on_host(struct http_server *s, bool (*is_elsewhere)(void *arg, const char *host),
                         void *arg);

/* --- answers ---------------------------------------------------------------------------------- */

/* Adds a header to the answer that will be given. CR, LF and NUL in the value are a bug. */
void http_add_header(struct http_request *req, const char *name, const char *value);
/* The bytes are copied. `content_type` NULL: none. */
void http_respond(struct http_request *req, int status, const char *content_type, const void *body,
                  size_t len);
void http_respond_text(struct http_request *req, int status, const char *text);
void http_respond_empty(struct http_request *req, int status); /* 204, 202, … */
/* problem+json with the status that the code maps to; or with one of the caller's choice. */
void http_respond_diag(struct http_request *req, const struct diag *d);
void http_respond_problem(struct http_request *req, int status, const struct diag *d);
void http_respond_error(struct http_request *req, int code, const char *format, ...)
    PRINTF_LIKE(3, 4);
int http_status_of(int code); /* ERR_* → status, one table */

/* --- server-sent events ----------------------------------------------------------------------- */

struct http_sse;

/* Turns the request into an event stream (this is its answer). A comment goes out every 15 s.
 * `on_close` is called at most once, when the client is gone, too slow or the server drains; then,
 * or whenever the owner is finished, it calls http_sse_end() exactly once. */
struct http_sse *http_sse_start(struct http_request *req, void (*on_close)(void *arg), void *arg);
/* `id` and `event` may be NULL; `data` may have several lines. ERR_CLOSED when the client is gone,
 * ERR_LIMIT when this one would pass the backlog: the stream is cut and on_close follows. */
int http_sse_send(struct http_sse *sse, const char *id, const char *event, const char *data);
void http_sse_end(struct http_sse *sse);
/* Callers' rights have changed: asks `is_still_welcome` soon, rather than with the next comment,
 * and ends the stream if not (on_close follows). */
void http_sse_check(struct http_sse *sse);
/* For a sender that has more than the backlog takes: the bytes that waited after the last send, and
 * a callback, from the loop, each time that none waits any more. */
size_t http_sse_waiting(const struct http_sse *sse);
void http_sse_on_room(struct http_sse *sse, void (*fn)(void *arg));
