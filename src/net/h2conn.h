/*
 * HTTP/2 on a connection: struct h2 driven by a struct conn, with keepalive and graceful end.
 *
 * Keepalive: after 5 s without a byte from the peer a PING is sent; after 10 s more without a byte,
 * and with none that lies unread, the connection is dead (on_close with ERR_TIMEOUT). Anything
 * submitted to the h2 session wakes the connection by itself.
 */
#pragma once

#include "net/conn.h"
#include "wire/h2.h"

struct h2conn;

struct h2conn_config {
    struct h2_config h2;
    uint32_t ping_ms; /* idle time before a ping; 0: 5 s */
    uint32_t dead_ms; /* silence after the ping; 0: 10 s */
};

struct h2conn_ops {
    void (*on_request)(void *arg, struct h2_stream *s, const struct h2_headers *h); /* server */
    void (*on_settings)(void *arg); /* the peer's first SETTINGS arrived */
    void (*on_goaway)(void *arg, uint32_t error);
    /* Last call, from the loop; all streams' on_close came before. Then the h2conn is freed. */
    void (*on_close)(void *arg, int err);
};

/* Takes over an open connection (from server's on_conn, dial_result.conn, or conn_attach). */
struct h2conn *h2conn_new(struct conn *c, const struct h2conn_config *cfg,
                          const struct h2conn_ops *ops, void *arg);
/* The same for one that was detached from another loop. */
struct h2conn *h2conn_attach(struct conn *c, struct loop *l, const struct h2conn_config *cfg,
                             const struct h2conn_ops *ops, void *arg);

struct h2 *h2conn_session(const struct h2conn *hc);
struct conn *h2conn_conn(const struct h2conn *hc);
struct loop *h2conn_loop(const struct h2conn *hc);
void *h2conn_arg(const struct h2conn *hc);
struct h2conn *h2conn_of(const struct h2_stream *s);

/* Client: whether the server takes extended CONNECT (RFC 8441 section 3). */
bool h2conn_takes_protocols(const struct h2conn *hc);

bool h2conn_is_ending(const struct h2conn *hc); /* lost, or being closed: no new streams */

/* Work gathered while a batch of input is taken apart, done once at its end, while the bytes of all
 * on_data calls are still valid. Embedded in its owner, pending at most once. */
struct h2conn_batch {
    void (*fn)(struct h2conn_batch *b);
    struct h2conn *hc; /* NULL while not pending */
    struct h2conn_batch *prev, *next;
};
void h2conn_at_batch_end(struct h2conn *hc, struct h2conn_batch *b);
void h2conn_batch_cancel(struct h2conn_batch *b);
/* Another connection of the loop sends what its streams have as soon as what is gathered so far is
 * done, so that they may pass on bytes of this batch without keeping them. It may send less. */
void h2conn_push_at_batch_end(struct h2conn *hc, struct h2conn *other);

/* GOAWAY; closes when the last stream has ended, at the latest after `grace_ms`. */
void h2conn_shutdown(struct h2conn *hc, uint32_t grace_ms);
void h2conn_abort(struct h2conn *hc, int err); /* at once; on_close(err) follows from the loop */
