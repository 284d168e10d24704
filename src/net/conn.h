/*
 * A non-blocking byte connection on a loop: TLS, or plain TCP.
 *
 * It is pumped at most once a turn: one large recv(), decrypt, `on_data` once with all of it; then
 * `on_fill` until it has nothing or the batch is full, encrypt, one send(). The large buffers
 * belong to the thread; a connection owns bytes only while its peer does not take them.
 *
 * Lifetime: from conn_new_* until `on_close`, which is called exactly once, always from the loop
 * and never from within a call of this header, and is the last callback; then the connection is
 * freed. A connection not yet started is given up by conn_abort too.
 *
 * Thread: that of its loop. conn_detach takes it off its loop with all undelivered bytes, after
 * which conn_attach may be called on any other thread.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "loop/loop.h"
#include "net/tls.h"

struct conn;

struct conn_ops {
    /* The handshake is done (plain: at once). May be NULL. */
    void (*on_open)(void *arg);
    /* Returns how many bytes it took. Less than `len` only after conn_pause or conn_detach; the
     * rest comes again later. The bytes stay valid until on_data returns. */
    size_t (*on_data)(void *arg, const uint8_t *data, size_t len);
    /* The peer will send no more (close_notify or FIN). NULL: conn_close is called. */
    void (*on_end)(void *arg);
    /* Writes up to `cap` (at least 16 KiB) bytes to `out`; 0: nothing now, ask again after
     * conn_wake. */
    size_t (*on_fill)(void *arg, uint8_t *out, size_t cap);
    /* 0 after conn_close, else why: ERR_CLOSED, ERR_RESET, ERR_TLS, ERR_TIMEOUT (handshake),
     * ERR_CANCELED (conn_abort)... conn_diag has the text, during this call still. */
    void (*on_close)(void *arg, int err);
};

/* All take the descriptor, also on failure. `peer` may be NULL: asked from the kernel. */
int conn_new_plain(struct loop *l, int fd, const struct addr *peer, struct conn **ret);
int conn_new_server(struct loop *l, int fd, const struct addr *peer, struct tls_server *t,
                    struct conn **ret);
int conn_new_client(struct loop *l, int fd, const struct addr *peer, struct tls_client *t,
                    struct conn **ret);

/* Two that are each other's peer, without a socket between them: what one's on_fill gives is the
 * other's on_data at once. On one loop, never to be detached; conn_fd is -1. */
void conn_new_pair(struct loop *l, struct conn *ret[2]);

/* Sets the callbacks and begins (the handshake first, with a deadline of 10 s). May be called
 * again, from a callback too, to hand the connection to another owner on the same loop; on_open is
 * called only if the handshake is not done yet. */
void conn_start(struct conn *c, const struct conn_ops *ops, void *arg);

/* Client: asks for this name, while the certificate must bear that of the tls_client; before
 * conn_start. */
void conn_set_server_name(struct conn *c, const char *name);

/* Another deadline for the handshake than 10 s; before conn_start. */
void conn_set_handshake_ms(struct conn *c, uint32_t ms);

/* Off the loop and back on one. Between the two nothing happens to it; on_close will not come. A
 * new owner is told again of an end (on_end) that the old one knows of. */
void conn_detach(struct conn *c);
void conn_attach(struct conn *c, struct loop *l, const struct conn_ops *ops, void *arg);

void conn_wake(struct conn *c); /* on_fill has something */
/* From within on_data of another connection of the loop: asks on_fill and sends now, not at the end
 * of the turn, while what that one has received is in place. Unless it cannot be done now. */
void conn_push(struct conn *c);
void conn_pause(struct conn *c); /* no more on_data or on_end until conn_resume */
void conn_resume(struct conn *c);

/* Half-close: what is buffered is sent, then the end (close_notify and FIN); reading goes on.
 * on_fill must have nothing left and is not called again. When both sides have ended: conn_close.
 */
void conn_shut(struct conn *c);

/* Sends what on_fill still gives and what is buffered, says goodbye, then on_close(0); at most 5 s.
 * No on_data or on_end any more. */
void conn_close(struct conn *c);
/* Drops everything (`err`: what on_close gets; a TCP reset goes out if err is ERR_RESET). */
void conn_abort(struct conn *c, int err);

bool conn_is_open(const struct conn *c); /* handshake done and not closing */
struct loop *conn_loop(const struct conn *c);
const struct addr *conn_peer_addr(const struct conn *c);
int conn_fd(const struct conn *c);
const char *conn_alpn(const struct conn *c);        /* "" if none was agreed */
size_t conn_lane(const struct conn *c);             /* server: index in tls_server_config.lanes */
const char *conn_server_name(const struct conn *c); /* server: the SNI, or "" */
/* Server: whether the certificate that the client was shown is good for this host, too. */
bool conn_cert_covers(const struct conn *c, const char *host);
/* The verified certificate of the peer, borrowed; NULL if none was asked for. */
struct x509_st *conn_peer_cert(const struct conn *c);
bool conn_peer_cert_expired(const struct conn *c); /* only where the lane allows it */
const struct diag *conn_diag(const struct conn *c);

uint64_t conn_last_input_ms(const struct conn *c); /* loop time of the last byte received */
bool conn_has_unread(const struct conn *c);        /* the kernel has bytes for it */
uint64_t conn_bytes_in(const struct conn *c);      /* of the socket */
uint64_t conn_bytes_out(const struct conn *c);

/* The largest plaintext batch of one pump: 64 KiB unless set (up to 256 KiB). */
#define CONN_BATCH     (64u << 10)
#define CONN_BATCH_MAX (256u << 10)
void conn_set_batch(struct conn *c, size_t bytes);
/* From within on_data: so many bytes more belong together. The next batch is them, if they fit one,
 * and not also the beginning of what follows. 0: not known. */
void conn_expect(struct conn *c, size_t bytes);
/* Lets the kernel queue at most about this many bytes that it cannot send yet, so that what on_fill
 * gives next is soon on its way (TCP_NOTSENT_LOWAT). 0: no limit. */
void conn_set_unsent_max(struct conn *c, uint32_t bytes);
/* A single packet that is lost goes out again after the round trip and 50 ms instead of 200
 * (Linux 6.15; both ends should). For connections on which somebody waits for small messages. */
void conn_set_prompt(struct conn *c);
