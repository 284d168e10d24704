/*
 * OpenSSL's part of a connection. It sees the socket as two spans of memory, and must not be misled
 * by errors that others left in this thread's queue.
 */
#include "net/conn_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/buffers.h"

#include <assert.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

static int bio_read(BIO *bio, char *data, int len)
{
    struct conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (!c->in_len) {
        if (!c->got_end)
            BIO_set_retry_read(bio);
        return c->got_end ? 0 : -1;
    }
    size_t n = MIN(c->in_len, (size_t)len);
    memcpy(data, c->in, n);
    c->in += n;
    c->in_len -= n;
    return (int)n;
}

static int bio_write(BIO *bio, const char *data, int len)
{
    struct conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (c->out_len + (size_t)len > BUFFERS_CIPHER)
        return -1;
    memcpy(c->out + c->out_len, data, (size_t)len);
    c->out_len += (size_t)len;
    return len;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    const struct conn *c = BIO_get_data(bio);
    (void)num;
    (void)ptr;
    switch (cmd) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return c->got_end && !c->in_len;
    default:
        return 0;
    }
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_bio_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "warren conn");
    assert(bio_method);
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

int conn_tls_attach(struct conn *c)
{
    pthread_once(&bio_once, make_bio_method);
    BIO *bio = BIO_new(bio_method);
    if (!bio)
        return ERR_LIMIT;
    BIO_set_data(bio, c);
    BIO_set_init(bio, 1);
    SSL_set_bio(c->ssl, bio, bio);
    return 0;
}

/* What a TLS call that returned `rc` <= 0 means: 0 if it only wants more bytes. */
static int tls_error(struct conn *c, int rc)
{
    int why = SSL_get_error(c->ssl, rc);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return 0;
    if (why == SSL_ERROR_ZERO_RETURN) { /* close_notify: whatever follows is ignored */
        c->got_end = true;
        c->in_len = 0;
        return 0;
    }
    bool is_end = ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (why == SSL_ERROR_SYSCALL || is_end) {
        ERR_clear_error();
        return ERR_CLOSED;
    }
    if (!c->diag)
        c->diag = NEW(struct diag);
    int err = tls_diagnose(c->ssl, c->diag);
    conn_flush(c); /* the alert */
    return err;
}

int conn_tls_handshake(struct conn *c)
{
    ERR_clear_error();
    int rc = c->ssl ? SSL_do_handshake(c->ssl) : 1;
    if (rc == 1)
        return 0;
    int err = tls_error(c, rc);
    if (err == 0 && c->got_end)
        err = ERR_CLOSED;
    return err < 0 ? err : 1;
}

int conn_encrypt(struct conn *c, const uint8_t *plain, size_t len)
{
    if (!c->ssl) {
        c->out = (uint8_t *)plain; /* plain_out itself is what is sent */
        c->out_len = len;
        return 0;
    }
    ERR_clear_error();
    int rc = SSL_write(c->ssl, plain, (int)len);
    return rc > 0 ? 0 : tls_error(c, rc);
}

/* To ask in vain costs SSL a buffer, made and freed. */
static bool has_input(const struct conn *c)
{
    return c->in_len || c->got_end || SSL_pending(c->ssl);
}

int conn_decrypt(struct conn *c, const uint8_t **ret_plain, size_t *ret_len)
{
    struct buffers *b = buffers_of_thread();
    *ret_len = 0;
    if (!c->ssl) {
        *ret_plain = c->in;
        *ret_len = c->in_len;
        c->in_len = 0;
        return 0;
    }
    *ret_plain = b->plain_in;
    ERR_clear_error();
    size_t before = c->partial + c->in_len, records = 0;
    int n = 1;
    while (n > 0 && has_input(c) && *ret_len + CONN_RECORD <= BUFFERS_PLAIN) {
        n = SSL_read(c->ssl, b->plain_in + *ret_len, (int)(BUFFERS_PLAIN - *ret_len));
        *ret_len += n > 0 ? (size_t)n : 0;
        records += n > 0;
    }
    size_t taken = *ret_len + records * CONN_RECORD_OVERHEAD;
    c->partial = SSL_has_pending(c->ssl) ? before - MIN(before, taken + c->in_len) : 0;
    return n > 0 ? 0 : tls_error(c, n);
}

void conn_tls_goodbye(struct conn *c)
{
    if (!c->ssl)
        return;
    ERR_clear_error();
    SSL_shutdown(c->ssl);
    ERR_clear_error();
}
