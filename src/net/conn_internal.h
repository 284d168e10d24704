/*
 * Shared by net/conn*.c only: conn.c (what others call), conn_pump.c (moving bytes), conn_tls.c
 * (OpenSSL's part).
 *
 * Theory of operation. Events set flags and defer the pump; the pump does, once a turn:
 *
 *     recv() -> cipher_in -> SSL_read ... -> plain_in -> on_data
 *     on_fill -> plain_out -> SSL_write -> cipher_out -> send()
 *
 * on the buffers of the thread (net/buffers.h). A connection keeps bytes of its own in three cases
 * only: ciphertext that arrived and was not decrypted because reading is paused or the connection
 * was handed over (kept_in), plaintext its owner did not take (kept_plain), and ciphertext the
 * socket refused (unsent). While `unsent` is not empty nothing more is asked of on_fill.
 *
 *     HANDSHAKE -> OPEN -> CLOSING -> LINGER -> DEAD        (any -> DEAD)
 *
 * CLOSING sends what is left, LINGER waits for the peer's FIN so that a reset cannot destroy what
 * is still on its way. DEAD is only ever left by being freed, in the pump.
 */
#pragma once

#include "base/buf.h"
#include "loop/io.h"
#include "net/conn.h"
#include "net/tls_internal.h"

#define CONN_RECORD          (16u << 10) /* of TLS: the most plaintext */
#define CONN_RECORD_OVERHEAD 22          /* header, type, tag: TLS 1.3 with AEAD */

enum conn_state { CONN_HANDSHAKE, CONN_OPEN, CONN_CLOSING, CONN_LINGER, CONN_DEAD };

struct conn {
    struct io io;
    struct loop *loop; /* NULL: detached */
    const struct conn_ops *ops;
    void *arg;
    SSL *ssl;          /* NULL: plain */
    struct conn *twin; /* of conn_new_pair, until it is gone */
    struct tls_session session;
    struct defer pump;
    struct timer timer; /* handshake, close */
    enum conn_state state;
    int err;
    bool is_paused, got_end, end_told;
    bool is_ending, has_ended; /* conn_shut: asked for, done */
    bool *gone;                /* set while pumping: told when a callback detaches the connection */

    const uint8_t *in; /* ciphertext to decrypt, only inside the pump */
    size_t in_len;
    bool in_is_kept;
    uint8_t *out; /* where ciphertext goes, only inside the pump */
    size_t out_len;
    struct buf kept_in, kept_plain, unsent;

    uint32_t batch, handshake_ms;
    size_t expected; /* plaintext; see conn_expect */
    size_t partial;  /* ciphertext that SSL has of a record whose end has not come */
    uint64_t last_input_ms, bytes_in, bytes_out;
    struct addr peer;
    struct diag *diag;
};

/* conn_pump.c */
void conn_pump(struct defer *d);
void conn_on_event(struct io *io);
void conn_on_timer(struct timer *t);
void conn_die(struct conn *c, int err); /* the pump buries it */
void conn_flush(struct conn *c);        /* sends `out`, keeps the rest */
void conn_keep_rest(struct conn *c);    /* what is left of `in` */
void conn_free(struct conn *c);

/* conn_tls.c. Calls of a plain connection pass the bytes through. */
int conn_tls_attach(struct conn *c);
int conn_tls_handshake(struct conn *c); /* 1: wants more bytes */
/* Plaintext in plain_out[0, len) to ciphertext in `out`. */
int conn_encrypt(struct conn *c, const uint8_t *plain, size_t len);
/* All of `in` that makes whole records. An error comes after the bytes before it. */
int conn_decrypt(struct conn *c, const uint8_t **ret_plain, size_t *ret_len);
void conn_tls_goodbye(struct conn *c); /* close_notify to `out` */
