/*
 * The HTTPS client: HTTP/1.1 (RFC 9112) on a loop, one connection a call. The CLI and enrolment use
 * http_fetch(), which runs a private loop until the answer is there. No redirects, no cookies.
 *
 * The server must prove itself: by a given CA, by the system's CAs, or by a pinned CA fingerprint.
 * The name in the URL, or its IP address, must be in the certificate.
 */
#pragma once

#include "base/buf.h"
#include "base/diag.h"
#include "http/events.h"
#include "wire/http_header.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;
struct loop;
struct http_client;
struct http_exchange;

struct http_client_config {
    const char *base_url; /* "https://hub.example:8443"; a path in it is put before every path */
    const char *ca_file;  /* PEM; NULL: see ca_pem */
    const char *ca_pem;   /* PEM text; both NULL: the system's CAs, unless pinned */
    const uint8_t *ca_sha256; /* 32 bytes: a CA in the server's chain must have this DER hash */
    bool insecure; /* whoever answers: to fetch a CA that is then compared by its fingerprint */
    const char *cert_file, *key_file; /* client certificate, or NULL */
    const char *alpn;                 /* NULL: "http/1.1" */
    const char *bearer;               /* Authorization: Bearer …, or NULL */
    uint32_t connect_ms;              /* 0: 10 s, for name, connection and handshake */
    uint32_t timeout_ms; /* 0: 30 s for the whole answer; streams: silence longer than this */
    size_t reply_max;    /* 0: 16 MiB */
};

struct http_ask {
    const char *method; /* NULL: GET, or POST with a body */
    const char *path;   /* "/api/v1/tunnels?page_size=10", already escaped; CONNECT: host:port */
    const char *content_type;
    const void *body;
    size_t body_len;
    const struct http_header *headers; /* more headers; ends with a NULL name */
};

struct http_reply {
    int status;
    struct buf body;             /* empty when streamed */
    struct http_header *headers; /* ends with a NULL name */
};
const char *http_reply_header(const struct http_reply *r, const char *name); /* NULL: none */
void http_reply_done(struct http_reply *r);
/* Negative code and text for a status of 400 and above, from problem+json when it is one. */
int http_reply_diag(const struct http_reply *r, struct diag *d);

/* Copies what it needs; reads the files now. ERR_INVALID for a bad URL, ERR_TLS for bad files. */
int http_client_new(struct loop *l, const struct http_client_config *cfg, struct http_client **ret,
                    struct diag *d);
void http_client_free(struct http_client *c); /* cancels what runs; no callback follows */
/* Nothing of it is on the loop any more, no closing connection either. */
bool http_client_is_idle(const struct http_client *c);

/* For other protocols on the hub's port (`alpn`): a connection to the same address, verified by the
 * same rules; `on_done` as of net/dialer.h. */
struct dial;
struct dial_result;
struct dial *http_client_dial(struct http_client *c,
                              void (*on_done)(void *arg, const struct dial_result *r), void *arg);
const char *http_client_authority(const struct http_client *c); /* "hub.example:8443" */

struct http_exchange_ops {
    /* Both may be NULL. With on_data the body is not gathered. on_head comes first. A negative
     * result cancels the exchange and is its result. */
    int (*on_head)(void *arg, const struct http_reply *head);
    int (*on_data)(void *arg, const void *data, size_t len);
    /* Exactly once, unless cancelled. On failure `d` says why (ERR_DNS, ERR_REFUSED, ERR_TLS,
     * ERR_TIMEOUT, ERR_PROTO, …) and `reply` is NULL. `reply` may be emptied by the callee. */
    void (*done)(void *arg, struct http_reply *reply, const struct diag *d);
    /* CONNECT answered by 2xx: instead of `done`. The connection is the callee's, who starts it
     * anew (conn_start); it is paused, with what came after the answer's head unread. */
    void (*on_tunnel)(void *arg, struct conn *c);
};
/* Copies the ask. The callbacks come later, never from inside this call. */
struct http_exchange *http_client_start(struct http_client *c, const struct http_ask *ask,
                                        const struct http_exchange_ops *ops, void *arg);
void http_exchange_cancel(struct http_exchange *x);

/* Blocking: for the CLI and enrolment, on a thread with no loop running. 0 with any status. */
int http_fetch(const struct http_client_config *cfg, const struct http_ask *ask,
               struct http_reply *ret, struct diag *d);

/* Blocking server-sent events. `on_event` returns non-zero to stop (and is the result). 0 when the
 * server ended the stream. A status other than 200 is given in `d` by http_reply_diag. */
int http_watch(const struct http_client_config *cfg, const struct http_ask *ask,
               int (*on_event)(void *arg, const struct http_event *e), void *arg, struct diag *d);
