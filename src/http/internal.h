/* Shared by the files of this folder only. */
#pragma once

#include "base/buf.h"
#include "http/server.h"
#include "loop/loop.h"
#include "wire/http_header.h"

#include <uthash.h>

#define HTTP_PARAMS_MAX    8
#define HTTP_OUT_MAX       16    /* headers that a handler may add */
#define HTTP_IN_FLIGHT_MAX 8192  /* requests of all connections that are not answered yet */
#define HTTP_STALL_MS      60000 /* the kernel's buffers hide a slow reader's progress for a while */
#define HTTP_HEARTBEAT_MS  15000

/* An answer ready to be written; names are in lower case. */
struct http_answer {
    int status;
    const struct http_header *headers;
    size_t n_headers;
    const void *body;
    size_t len;
};

/* What HTTP/1.1 and HTTP/2 do differently for one request. `req->side` is theirs. Each of answer,
 * finish and cut ends the side's interest in the request, by http_request_leave. */
struct http_side_ops {
    void (*answer)(struct http_request *req, const struct http_answer *a);
    void (*begin)(struct http_request *req, const struct http_answer *a); /* a body follows */
    /* More of it; returns the bytes that wait to be sent. */
    size_t (*send)(struct http_request *req, const void *data, size_t len);
    void (*finish)(struct http_request *req);
    void (*cut)(struct http_request *req);
    struct conn *(*take)(struct http_request *req); /* NULL: not possible, as of now or ever */
};

/* One address that has connections here. */
struct http_source {
    uint8_t ip[16];
    uint32_t conns, in_flight;
    UT_hash_handle hh;
};

/* The common part of a connection. The server's pointer is NULL once the server is gone. */
struct http_link {
    struct http_server *server;
    struct conn *conn;
    struct http_source *source;
    struct addr peer;
    const struct http_link_ops *ops;
    struct http_link *prev, *next;
};

struct http_link_ops {
    void (*drain)(struct http_link *link); /* idle: close; busy: close after the answers */
    void (*abort)(struct http_link *link);
};

struct http_table {
    const struct http_route *rows;
    size_t n;
    void *ctx;
    struct http_table *next;
};

struct http_server {
    struct loop *loop;
    struct http_hooks hooks;
    struct http_limits limits;
    struct http_table *tables;
    struct http_route connect; /* handler NULL: none */
    void *connect_ctx;
    void (*on_connect_stream)(void *ctx, struct h2_stream *s, const struct h2_headers *h);
    void *connect_stream_ctx;
    void (*on_forward)(void *ctx, struct conn *c);
    void *forward_ctx;
    bool (*is_elsewhere)(void *arg, const char *host); /* may be NULL */
    void *is_elsewhere_arg;
    struct http_link *links;
    struct http_request *requests;
    struct http_source *sources; /* uthash */
    struct http_stats stats;
    bool is_draining;
    void (*on_drained)(void *arg);
    void *on_drained_arg;
};

struct json_t;

struct http_sse {
    void (*on_close)(void *arg); /* NULL once called */
    void *arg;
    struct timer heartbeat;
    void (*on_room)(void *arg); /* NULL: not wanted */
    size_t waiting;             /* bytes, after the last send */
    struct defer tell, room, check;
    bool is_counted;
};

enum http_step {
    HTTP_STEP_BODY, /* still arriving */
    HTTP_STEP_AUTHENTICATE,
    HTTP_STEP_BEFORE,
    HTTP_STEP_HANDLE,
    HTTP_STEP_HELD,   /* by its handler */
    HTTP_STEP_STREAM, /* answered by an event stream */
};

struct http_request {
    struct http_server *server; /* NULL once the server is gone */
    struct loop *loop;
    const struct http_side_ops *ops;
    void *side;             /* NULL: nobody waits for the answer */
    struct http_link *link; /* NULL together with `side` */

    struct arena arena;
    const char *method, *path, *query;
    const struct http_header *fields;
    size_t n_fields;
    struct addr peer;
    struct buf body;
    struct json_t *json; /* the parsed body */

    const struct http_route *route;
    void *ctx;
    struct http_header params[HTTP_PARAMS_MAX];
    size_t n_params;

    enum http_step step;
    bool is_head, is_absolute, passed_before; /* is_absolute: the target, or that of a CONNECT */
    void *caller, *hook_data;
    void (*on_gone)(void *arg);
    void *on_gone_arg;

    struct http_header out[HTTP_OUT_MAX];
    size_t n_out;
    struct { /* an answer that the hook `after` holds back */
        int status;
        const char *content_type;
        char *body;
        size_t len;
    } held;
    struct http_sse sse;
    struct http_request *prev, *next;
};

/* server.c. Whether there is room for another connection; else it is aborted. */
bool http_server_admit(struct http_server *s, struct conn *c);
void http_link_add(struct http_link *link, struct http_server *s, struct conn *c,
                   const struct http_link_ops *ops);
void http_link_remove(struct http_link *link); /* the connection is closed */

/* Structures of nothing but uint32_t: where one is 0 the default is taken. */
void http_fill_limits(void *limits, const void *defaults, size_t size);

/* h1_server.c, h2_server.c: take over a connection. */
void http_h1_take(struct http_server *s, struct conn *c);
void http_h2_take(struct http_server *s, struct conn *c);

/* request.c. Takes the arena, in which the strings live; finds the route. */
struct http_request *http_request_new(struct http_link *link, const struct http_side_ops *ops,
                                      void *side, struct arena arena, const char *method,
                                      const char *target, const struct http_header *fields,
                                      size_t n_fields);
/* Whether the head is acceptable: 0, or the status to refuse it with and why. */
int http_request_admit(struct http_request *req, bool has_body, int64_t content_length,
                       struct diag *d);
int http_request_body(struct http_request *req, const void *data, size_t len); /* ERR_TOO_LARGE */
void http_request_run(struct http_request *req);                               /* body complete */
/* The other side has gone: forgets a request nobody holds yet, tells the holder otherwise. */
void http_request_gone(struct http_request *req);
/* The side has nothing more to do with it; returns the side. */
void *http_request_leave(struct http_request *req);
void http_request_free(struct http_request *req);

/* route.c. Fills in route, ctx and params: 0, 404 or 405 (then Allow is added). */
int http_route_find(struct http_server *s, struct http_request *req);
/* Percent-decoding into `out` (room for strlen + 1); ERR_INVALID for a bad escape or a NUL. */
int http_unescape(const char *s, size_t len, bool plus_is_space, char *out);

/* respond.c. `out` needs HTTP_ANSWER_HEADERS places. */
#define HTTP_ANSWER_HEADERS (HTTP_OUT_MAX + 8)
struct http_answer http_answer_make(struct http_request *req, int status, const char *content_type,
                                    const void *body, size_t len, struct http_header *out);
/* For a connection whose request could not even be read. */
void http_problem_write(struct buf *body, int status, const struct diag *d);
const char *http_date(struct loop *l, char out[40]);

/* sse.c */
void http_sse_lost(struct http_request *req);
void http_sse_drain(struct http_request *req);
void http_sse_sent(struct http_request *req); /* a side has handed over all it had */
