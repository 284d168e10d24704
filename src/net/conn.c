/*
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
#include "net/conn.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/buffers.h"
#include "net/tls_internal.h"
#include "wire/h2.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

#define HANDSHAKE_MS 10000
#define CLOSE_MS     5000
#define FILL_MIN     H2_OUTPUT_MIN
#define RECORD_MAX   (16u << 10)
#define UNSENT_MAX   (1u << 20) /* beyond a batch only if a peer makes TLS itself talk */

enum conn_state { CONN_HANDSHAKE, CONN_OPEN, CONN_CLOSING, CONN_LINGER, CONN_DEAD };

struct conn {
    struct io io;
    struct loop *loop; /* NULL: detached */
    const struct conn_ops *ops;
    void *arg;
    SSL *ssl; /* NULL: plain */
    struct tls_session session;
    struct defer pump;
    struct timer timer; /* handshake, close */
    enum conn_state state;
    int err;
    bool is_paused, got_end, end_told, is_draining;
    bool *gone; /* set while pumping: told when a callback detaches the connection */

    const uint8_t *in; /* ciphertext to decrypt, only inside the pump */
    size_t in_len;
    bool in_is_kept;
    uint8_t *out; /* where ciphertext goes, only inside the pump */
    size_t out_len;
    struct buf kept_in, kept_plain, unsent;

    uint32_t batch, handshake_ms;
    uint64_t last_input_ms, bytes_in, bytes_out;
    struct addr peer;
    struct diag *diag;
};

static void wake_pump(struct conn *c)
{
    if (c->loop)
        loop_defer(c->loop, &c->pump);
}

static void die(struct conn *c, int err)
{
    if (c->state == CONN_DEAD)
        return;
    c->state = CONN_DEAD;
    c->err = err;
    wake_pump(c);
}

/* OpenSSL's view of the socket: two spans of memory. */

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

static int attach_bio(struct conn *c)
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

/* Sending */

static void send_failed(struct conn *c)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        c->io.writable = false;
    else
        die(c, error_from_errno(errno));
}

static size_t send_some(struct conn *c, const void *data, size_t len)
{
    if (!c->io.writable)
        return 0;
    ssize_t n = send(c->io.fd, data, len, MSG_NOSIGNAL);
    if (n < 0) {
        send_failed(c);
        return 0;
    }
    if ((size_t)n < len)
        c->io.writable = false;
    c->bytes_out += (uint64_t)n;
    return (size_t)n;
}

/* One send() for what the pump made; the rest is kept. */
static void flush(struct conn *c)
{
    size_t sent = 0;
    if (c->unsent.len) {
        buf_consume(&c->unsent, send_some(c, c->unsent.data, c->unsent.len));
        if (!c->unsent.len)
            buf_done(&c->unsent);
    }
    if (c->out_len && !c->unsent.len && c->state != CONN_DEAD)
        sent = send_some(c, c->out, c->out_len);
    if (sent < c->out_len && c->state != CONN_DEAD) {
        c->unsent.limit = UNSENT_MAX;
        if (buf_append(&c->unsent, c->out + sent, c->out_len - sent) < 0)
            die(c, ERR_LIMIT);
    }
    c->out_len = 0;
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
    flush(c); /* the alert */
    return err;
}

/* Plaintext in plain_out[0, len) to ciphertext in out. */
static void encrypt(struct conn *c, const uint8_t *plain, size_t len)
{
    if (!c->ssl) {
        c->out = (uint8_t *)plain; /* plain_out itself is what is sent */
        c->out_len = len;
        return;
    }
    int rc = SSL_write(c->ssl, plain, (int)len);
    int err = rc > 0 ? 0 : tls_error(c, rc);
    if (err < 0)
        die(c, err);
}

static bool write_side(struct conn *c)
{
    struct buffers *b = buffers_of_thread();
    size_t len = 0;
    if (c->unsent.len || !c->io.writable)
        return false;
    while (len < c->batch) {
        size_t n = c->ops->on_fill(c->arg, b->plain_out + len, c->batch - len + FILL_MIN - 1);
        if (!n)
            break;
        len += n;
    }
    if (len && c->state != CONN_DEAD)
        encrypt(c, b->plain_out, len);
    return len >= c->batch;
}

/* Receiving */

static void keep_rest(struct conn *c)
{
    if (c->in_is_kept)
        buf_consume(&c->kept_in, c->kept_in.len - c->in_len);
    else if (c->in_len)
        (void)buf_append(&c->kept_in, c->in, c->in_len); /* at most a batch: no limit to meet */
    if (!c->kept_in.len)
        buf_done(&c->kept_in);
    c->in = NULL;
    c->in_len = 0;
    c->in_is_kept = false;
}

/* What is there, else what was kept, else one recv(). */
static void fetch(struct conn *c)
{
    if (c->in_len)
        return; /* came together with the end of the handshake */
    if (c->kept_in.len) {
        c->in = (const uint8_t *)c->kept_in.data;
        c->in_len = c->kept_in.len;
        c->in_is_kept = true;
        return;
    }
    if (!c->io.readable || c->got_end)
        return;
    struct buffers *b = buffers_of_thread();
    size_t cap = MIN((size_t)c->batch, BUFFERS_CIPHER);
    ssize_t n = recv(c->io.fd, b->cipher_in, cap, 0);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            c->io.readable = errno == EINTR;
        else
            die(c, error_from_errno(errno));
        return;
    }
    if (n == 0) {
        c->got_end = true;
        return;
    }
    if ((size_t)n < cap && !c->io.hup)
        c->io.readable = false;
    c->bytes_in += (uint64_t)n;
    c->last_input_ms = loop_now_ms(c->loop);
    c->in = b->cipher_in;
    c->in_len = (size_t)n;
}

/* All of `in` that makes whole records. An error comes after the bytes before it. */
static int decrypt(struct conn *c, const uint8_t **ret_plain, size_t *ret_len)
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
    while (*ret_len + RECORD_MAX <= BUFFERS_PLAIN) {
        int n = SSL_read(c->ssl, b->plain_in + *ret_len, (int)(BUFFERS_PLAIN - *ret_len));
        if (n <= 0)
            return tls_error(c, n);
        *ret_len += (size_t)n;
    }
    return 0;
}

static void deliver(struct conn *c, const uint8_t *data, size_t len)
{
    bool is_kept = c->kept_plain.len > 0;
    size_t taken = c->state == CONN_OPEN ? c->ops->on_data(c->arg, data, len) : len;
    assert(taken == len || c->is_paused || c->state != CONN_OPEN);
    if (is_kept)
        buf_consume(&c->kept_plain, taken);
    else if (taken < len)
        (void)buf_append(&c->kept_plain, data + taken, len - taken);
    if (!c->kept_plain.len)
        buf_done(&c->kept_plain);
}

/* Returns whether there is more to read at once. */
static bool read_side(struct conn *c)
{
    const uint8_t *plain;
    size_t len;
    if (c->kept_plain.len)
        deliver(c, (const uint8_t *)c->kept_plain.data, c->kept_plain.len);
    if (c->is_paused || c->state != CONN_OPEN)
        return false;
    fetch(c);
    if (c->state != CONN_OPEN)
        return false;
    int err = decrypt(c, &plain, &len);
    if (len)
        deliver(c, plain, len);
    if (err < 0)
        die(c, err);
    return c->in_len || (c->io.readable && !c->got_end);
}

static void tell_end(struct conn *c)
{
    if (!c->got_end || c->end_told || c->is_paused || c->kept_plain.len || c->in_len ||
        c->state != CONN_OPEN)
        return;
    c->end_told = true;
    if (c->ops->on_end)
        c->ops->on_end(c->arg);
    else
        conn_close(c);
}

/* Closing */

static void say_goodbye(struct conn *c)
{
    if (c->unsent.len || !c->io.writable)
        return;
    if (c->ssl) {
        SSL_shutdown(c->ssl);
        ERR_clear_error();
        flush(c);
        if (c->unsent.len)
            return; /* SSL_shutdown does not repeat it */
    }
    if (c->state == CONN_DEAD)
        return;
    shutdown(c->io.fd, SHUT_WR);
    c->state = CONN_LINGER;
}

static void linger(struct conn *c)
{
    struct buffers *b = buffers_of_thread();
    while (!c->got_end && c->io.readable) {
        ssize_t n = recv(c->io.fd, b->cipher_in, BUFFERS_CIPHER, 0);
        if (n > 0) {
            wake_pump(c); /* one batch a turn here too */
            return;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            c->io.readable = errno == EINTR;
        else
            c->got_end = true;
    }
    if (c->got_end)
        die(c, 0);
}

static void on_timer(struct timer *t)
{
    struct conn *c = container_of(t, struct conn, timer);
    die(c, c->state == CONN_HANDSHAKE ? ERR_TIMEOUT : c->err);
}

static void conn_free(struct conn *c)
{
    if (c->loop) {
        loop_defer_cancel(&c->pump);
        timer_stop(&c->timer);
        io_close(&c->io);
    } else {
        close(c->io.fd);
    }
    SSL_free(c->ssl);
    tls_session_done(&c->session);
    buf_done(&c->kept_in);
    buf_done(&c->kept_plain);
    buf_done(&c->unsent);
    mem_free(c->diag);
    mem_free(c);
}

static void bury(struct conn *c)
{
    const struct conn_ops *ops = c->ops;
    io_stop(&c->io);
    if (c->err == ERR_RESET) {
        struct linger zero = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->io.fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    }
    timer_stop(&c->timer);
    loop_defer_cancel(&c->pump);
    if (ops->on_close)
        ops->on_close(c->arg, c->err);
    close(c->io.fd);
    c->io.fd = -1;
    conn_free(c);
}

/* The pump */

static void shake_hands(struct conn *c)
{
    fetch(c);
    if (c->state == CONN_DEAD)
        return;
    int rc = c->ssl ? SSL_do_handshake(c->ssl) : 1;
    if (rc != 1) {
        int err = tls_error(c, rc);
        if (err < 0 || c->got_end)
            die(c, err < 0 ? err : ERR_CLOSED);
        return;
    }
    flush(c);
    if (c->state == CONN_DEAD)
        return;
    timer_stop(&c->timer);
    c->state = CONN_OPEN;
    if (c->ops->on_open)
        c->ops->on_open(c->arg);
}

/* Returns whether to go on in the next turn; for the rest an event will come. */
static bool pump_open(struct conn *c, const bool *gone)
{
    bool more_in = false, more_out = false;
    if (c->state == CONN_OPEN && c->ops) {
        more_in = read_side(c);
        if (!*gone)
            tell_end(c);
    }
    if (*gone)
        return false;
    if (c->state == CONN_OPEN || c->state == CONN_CLOSING) {
        flush(c);
        if (c->state != CONN_DEAD && c->ops)
            more_out = write_side(c);
        flush(c);
    }
    if (c->state == CONN_CLOSING && !c->unsent.len && !more_out)
        say_goodbye(c);
    if (c->state == CONN_LINGER)
        linger(c);
    return (more_in && !c->is_paused) || (more_out && !c->unsent.len);
}

static void pump(struct defer *d)
{
    struct conn *c = container_of(d, struct conn, pump);
    bool gone = false, more = false;
    c->gone = &gone;
    c->out = buffers_of_thread()->cipher_out;
    c->out_len = 0;
    if (c->state == CONN_HANDSHAKE && c->ops) {
        shake_hands(c);
        if (!gone && c->state == CONN_HANDSHAKE) {
            flush(c);
            more = c->io.readable && !c->got_end;
        }
    }
    if (!gone && c->state != CONN_HANDSHAKE && c->state != CONN_DEAD)
        more = pump_open(c, &gone);
    if (gone)
        return;
    c->gone = NULL;
    keep_rest(c);
    if (c->state == CONN_DEAD && c->ops) {
        bury(c);
        return;
    }
    if (more)
        wake_pump(c);
}

static void on_event(struct io *io)
{
    struct conn *c = container_of(io, struct conn, io);
    if (io->hup && c->is_paused) { /* nobody reads: a reset would go unseen */
        int err = 0;
        socklen_t len = sizeof(err);
        if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err)
            die(c, error_from_errno(err));
    }
    wake_pump(c);
}

/* Making and owning */

static int conn_new(struct loop *l, int fd, const struct addr *peer, struct conn **ret)
{
    struct conn *c = NEW(struct conn);
    c->batch = CONN_BATCH;
    c->handshake_ms = HANDSHAKE_MS;
    c->pump.fn = pump;
    c->last_input_ms = loop_now_ms(l);
    if (peer) {
        c->peer = *peer;
    } else {
        c->peer.len = sizeof(c->peer.in6);
        if (getpeername(fd, &c->peer.sa, &c->peer.len) < 0)
            c->peer.len = 0;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    timer_init(&c->timer, l, on_timer);
    int rc = io_start(&c->io, l, fd, on_event);
    if (rc < 0) {
        close(fd);
        mem_free(c);
        return rc;
    }
    c->loop = l;
    *ret = c;
    return 0;
}

int conn_new_plain(struct loop *l, int fd, const struct addr *peer, struct conn **ret)
{
    return conn_new(l, fd, peer, ret);
}

static int finish_tls(struct conn *c, SSL *ssl, struct conn **ret)
{
    c->ssl = ssl;
    if (!ssl || attach_bio(c) < 0) {
        ERR_clear_error();
        conn_free(c);
        return ERR_TLS;
    }
    *ret = c;
    return 0;
}

int conn_new_server(struct loop *l, int fd, const struct addr *peer, struct tls_server *t,
                    struct conn **ret)
{
    struct conn *c;
    TRY(conn_new(l, fd, peer, &c));
    return finish_tls(c, tls_server_session(t, &c->session), ret);
}

int conn_new_client(struct loop *l, int fd, const struct addr *peer, struct tls_client *t,
                    struct conn **ret)
{
    struct conn *c;
    TRY(conn_new(l, fd, peer, &c));
    return finish_tls(c, tls_client_session(t, &c->session), ret);
}

void conn_start(struct conn *c, const struct conn_ops *ops, void *arg)
{
    assert(c->loop);
    c->ops = ops;
    c->arg = arg;
    if (c->state == CONN_HANDSHAKE && !timer_is_running(&c->timer))
        timer_start(&c->timer, c->handshake_ms);
    wake_pump(c);
}

void conn_set_handshake_ms(struct conn *c, uint32_t ms)
{
    c->handshake_ms = ms;
}

void conn_detach(struct conn *c)
{
    assert(c->state == CONN_OPEN && c->loop);
    keep_rest(c);
    if (c->gone)
        *c->gone = true;
    c->gone = NULL;
    loop_defer_cancel(&c->pump);
    timer_stop(&c->timer);
    io_stop(&c->io);
    c->ops = NULL;
    c->loop = NULL;
}

void conn_attach(struct conn *c, struct loop *l, const struct conn_ops *ops, void *arg)
{
    assert(!c->loop);
    int fd = c->io.fd;
    c->loop = l;
    c->last_input_ms = loop_now_ms(l);
    c->is_paused = false;
    timer_init(&c->timer, l, on_timer);
    int rc = io_start(&c->io, l, fd, on_event);
    if (rc < 0) {
        c->io.fd = fd;
        die(c, rc);
    }
    conn_start(c, ops, arg);
}

void conn_wake(struct conn *c)
{
    wake_pump(c);
}

void conn_pause(struct conn *c)
{
    c->is_paused = true;
}

void conn_resume(struct conn *c)
{
    if (!c->is_paused)
        return;
    c->is_paused = false;
    wake_pump(c);
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_HANDSHAKE)
        die(c, 0);
    if (c->state != CONN_OPEN)
        return;
    assert(c->ops);
    c->state = CONN_CLOSING;
    timer_start(&c->timer, CLOSE_MS);
    wake_pump(c);
}

void conn_abort(struct conn *c, int err)
{
    static const struct conn_ops nobody;
    if (!c->loop) {
        conn_free(c);
        return;
    }
    if (!c->ops)
        c->ops = &nobody;
    die(c, err);
    wake_pump(c);
}

bool conn_is_open(const struct conn *c)
{
    return c->state == CONN_OPEN;
}

struct loop *conn_loop(const struct conn *c)
{
    return c->loop;
}

const struct addr *conn_peer_addr(const struct conn *c)
{
    return &c->peer;
}

int conn_fd(const struct conn *c)
{
    return c->io.fd;
}

const char *conn_alpn(const struct conn *c)
{
    return c->ssl ? tls_session_alpn(&c->session, c->ssl) : "";
}

size_t conn_lane(const struct conn *c)
{
    return c->session.lane;
}

const char *conn_server_name(const struct conn *c)
{
    const char *name = c->ssl ? SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
    return name ? name : "";
}

struct x509_st *conn_peer_cert(const struct conn *c)
{
    return c->ssl ? SSL_get0_peer_certificate(c->ssl) : NULL;
}

bool conn_peer_cert_expired(const struct conn *c)
{
    return c->session.leaf_expired;
}

const struct diag *conn_diag(const struct conn *c)
{
    static const struct diag none;
    return c->diag ? c->diag : &none;
}

uint64_t conn_last_input_ms(const struct conn *c)
{
    return c->last_input_ms;
}

uint64_t conn_bytes_in(const struct conn *c)
{
    return c->bytes_in;
}

uint64_t conn_bytes_out(const struct conn *c)
{
    return c->bytes_out;
}

void conn_set_unsent_max(struct conn *c, uint32_t bytes)
{
    uint32_t limit = bytes ? bytes : UINT32_MAX;
    if (c->io.fd >= 0)
        setsockopt(c->io.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &limit, sizeof(limit));
}

void conn_set_batch(struct conn *c, size_t bytes)
{
    c->batch = (uint32_t)MIN(bytes, (size_t)CONN_BATCH_MAX);
}
