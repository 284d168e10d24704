/*
 * A reverse proxy: HTTP/1.1 and HTTP/2 on connections that arrive handshaked, towards targets that
 * speak HTTP/1.1. Bodies are streamed both ways with back-pressure; WebSockets pass (RFC 6455, and
 * RFC 8441 over HTTP/2). Who may do what, and where a request goes, its owner decides;
 * gateway_rules.h has the fields.
 *
 *   request's head ─► on_request … gateway_decide ─► an idle stream to the target, or dial …
 *        gateway_dialled only if it fails ─► the request goes out, the answer comes back
 *
 * A stream to a target is one end of a local socket: what is behind the other end the owner knows.
 * Streams are kept and used again for requests with the same key. Thread: the loop of the gateway.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "wire/http_header.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;
struct loop;
struct tls_client;
struct gateway;
struct gateway_exchange; /* one request and its answer */
struct gateway_stream;   /* one stream to a target */

/* The paths that never go to a target; their bodies are read before on_request, up to a limit. */
#define GATEWAY_OWN_PATH "/.warren/"

#define GATEWAY_KEY_SIZE 288 /* a host and port fit */

/* What a request asks; the strings live until gateway_decide. */
struct gateway_ask {
    const char *method, *path, *host;                     /* path with its query; host canonical */
    const char *authorization, *cookie, *origin, *accept; /* NULL: none */
    const char *body;                                     /* of a request to GATEWAY_OWN_PATH */
    struct addr peer;
    bool is_navigation; /* a browser that wants a page to show */
    /* Of a forward proxy only. */
    const char *proxy_authorization; /* NULL: none */
    const char *authority;           /* host:port of the target */
    struct addr own;                 /* where the client found us; len 0: unknown */
};

struct gateway_decision {
    /* Answered by us, if not 0. `headers` ends with a NULL name. All are copied. Without a
     * content_type the body is a reason, of which a page is made. */
    int status;
    const char *content_type, *body;
    const struct http_header *headers;
    /* Not 0: an error of proxy_status_format is the answer, with `body` as its reason. */
    int error;
    /* Else passed on. */
    /* Of streams that lead to the target as it is now: "TARGET GENERATION [CLIENT]". Idle streams
     * to the same target of another generation are closed. */
    char key[GATEWAY_KEY_SIZE];
    struct tls_client *tls; /* NULL: plain. Counted: taken */
    bool drop_authorization;
    const char *drop_cookie; /* static; NULL: none */
};

struct gateway_ops {
    /* gateway_decide follows, later, exactly once, also when the client is gone. */
    void (*on_request)(void *arg, struct gateway_exchange *x, const struct gateway_ask *ask);
    /* Opens a stream for the decision's key. `fd` is taken: what is written to it may come before
     * the target is reached. Returns what stands for it; gateway_dialled comes later unless `done`
     * is called first. */
    void *(*dial)(void *arg, struct gateway_stream *s, const char *key, int fd,
                  const struct addr *client);
    /* Our end of the stream is about to be closed: 0 after all was said properly. */
    void (*done)(void *arg, void *dialled, int err);
};

struct gateway_limits {      /* 0 takes the default */
    uint32_t exchanges;      /* 8192, at once */
    uint32_t idle_streams;   /* 256, of all keys */
    uint32_t answer_ms;      /* 60 s: until a target begins to answer */
    uint32_t silence_ms;     /* 5 min: while a body moves, neither way */
    uint32_t socket_ms;      /* 1 h: the same of a WebSocket */
    uint32_t idle_stream_ms; /* 15 s: a stream without a request */
};

struct gateway_config {
    struct loop *loop;
    const struct gateway_ops *ops;
    void *arg;
    struct gateway_limits limits;
    /* A forward proxy instead: requests are in absolute-form ("http://host/path"), nobody is told
     * who the client is, and the credentials are those for the proxy. */
    bool is_forward;
};

struct gateway *gateway_new(const struct gateway_config *cfg);
/* Serves a connection that is attached to the loop; owned from here. */
void gateway_take(struct gateway *g, struct conn *c);
/* Idle connections close, busy ones after their answers. */
void gateway_drain(struct gateway *g);
/* Aborts what is left. Exchanges that wait for gateway_decide stay valid until then. */
void gateway_free(struct gateway *g);

void gateway_decide(struct gateway_exchange *x, const struct gateway_decision *d);
/* Idle streams to the target of `key` that are of another generation are closed. */
void gateway_supersede(struct gateway *g, const char *key);
/* The end of a dialled stream: 0: both directions ended properly; else why the target was not
 * reached, or how the stream was cut. `reason` may be NULL. `done` is still called. */
void gateway_dialled(struct gateway_stream *s, int err, const char *reason);

struct gateway_stats { /* readable from any thread */
    _Atomic uint64_t requests, status_class[6];
    _Atomic uint32_t exchanges, idle_streams;
};
const struct gateway_stats *gateway_stats(const struct gateway *g);
