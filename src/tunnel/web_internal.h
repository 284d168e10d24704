/* Shared by tunnel_web.c (main loop), tunnel_gate.c (who may come in), tunnel_gateway.c (workers)
 * and tunnel_forward.c only. */
#pragma once

#include "base/arena.h"
#include "http/gateway.h"
#include "pki/password.h"
#include "tunnel/internal.h"
#include "tunnel/tunnel_web.h"

#include <stdatomic.h>

#define WEB_HEADERS_MAX 6

/* A request while it is judged: made on a worker, filled in on the main loop, ended on the worker.
 */
struct web_ask {
    struct tunnels *tunnels;
    struct loop *worker;
    struct gateway_exchange *x;
    struct arena arena; /* of all strings */
    struct gateway_ask q;
    struct gateway_decision d;
    struct http_header headers[WEB_HEADERS_MAX + 1];
    size_t n_headers;
    struct { /* a password that is being checked */
        char hash[TUNNEL_SECRET_SIZE];
        const char *password;
        bool may_fit, fits;
        char tunnel[ID_SIZE];
        uint64_t version;
        uint8_t mac[MAC_SIZE];
        struct web_ask *prev, *next;
    } check;
};

/* A stream that a gateway has asked for. Two threads share it: each message holds a reference. */
struct web_dial {
    _Atomic uint32_t refs;
    struct tunnels *tunnels;
    struct loop *worker;
    struct gateway_stream *stream; /* the worker's; NULL: it is done */
    char tunnel[ID_SIZE];
    struct exposure_goal goal; /* whose token it is; the target is the tunnel's */
    int fd;                    /* until it is dialled */
    struct addr client;
    struct exposure_dial *dialled; /* the main loop's */
    struct timer timer;
    bool is_waiting;
    int err; /* of a message */
    char reason[128];
    struct web_dial *prev, *next;
};

#define WEB_KEYS_MAX 4

struct web_memory; /* of passwords that fitted */

struct tunnel_web {
    struct tunnels *tunnels;
    struct identity *identity;
    uint8_t keys[WEB_KEYS_MAX][MAC_KEY_SIZE]; /* of cookies; the first makes them, all are good */
    size_t n_keys;
    bool shares_keys;                /* with other hubs */
    struct tls_client *tls;          /* for targets of protocol https */
    struct tunnel_gateway *gateways; /* of workers that take messages */
    struct web_dial *waiting;
    struct defer retry;
    struct web_ask *checks; /* running and waiting ones */
    size_t n_checks, n_running;
    struct web_memory *memory;
    size_t n_memory;
};

/* tunnel_web.c: on the main loop. */
void web_judge(struct web_ask *a);   /* web_decided follows, now or later */
void web_dial_start(void *web_dial); /* posted */
void web_dial_done(struct web_dial *wd, int err);
void web_pass(struct tunnels *ts, int fd, const struct addr *peer, const char *name);
/* What is answered instead of passing the request on. Strings are copied. */
void web_answer(struct web_ask *a, int status, const char *content_type, const char *body);
void web_header(struct web_ask *a, const char *name, const char *value);
void web_let_in(struct web_ask *a, const struct tunnel_object *o);

/* tunnel_gate.c: true: it may pass; false: it was, or will be, answered. */
bool web_gate(struct web_ask *a, struct tunnel_object *o);
void web_gate_free(struct tunnel_web *w);

/* tunnel_login.c */
bool web_login_gate(struct web_ask *a, struct tunnel_object *o);

/* tunnel_gateway.c: main loop. Idle streams to the target of `key`, of another generation, end. */
void web_gateways_tell(struct tunnel_web *w, const char *key);
/* Any thread. */
void web_decided(struct web_ask *a);
/* On the worker, for gateway_ops: the key begins with the tunnel's id. `token`: see exposure_goal.
 */
struct web_dial *web_dial_new(struct tunnels *ts, struct loop *worker, struct gateway_stream *s,
                              const char *key, int fd, const struct addr *client,
                              const char *token);
void web_dial_end(struct web_dial *wd, int err);
void web_dial_tell(struct web_dial *wd, int err, const char *reason);
void web_dial_unref(struct web_dial *wd);
