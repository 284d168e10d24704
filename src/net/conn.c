#include "net/conn_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define HANDSHAKE_MS 10000
#define CLOSE_MS     5000

#ifndef TCP_RTO_MIN_US /* of Linux 6.15; harmless before */
#define TCP_RTO_MIN_US 45
#endif
#ifndef TCP_DELACK_MAX_US
#define TCP_DELACK_MAX_US 46
#endif

static struct conn *make(struct loop *l)
{
    struct conn *c = NEW(struct conn);
    c->batch = CONN_BATCH;
    c->handshake_ms = HANDSHAKE_MS;
    c->pump.fn = conn_pump;
    c->last_input_ms = loop_now_ms(l);
    timer_init(&c->timer, l, conn_on_timer);
    return c;
}

void conn_new_pair(struct loop *l, struct conn *ret[2])
{
    for (int i = 0; i < 2; i++) {
        ret[i] = make(l);
        ret[i]->io = (struct io){.fd = -1, .writable = true};
        ret[i]->loop = l;
    }
    ret[0]->twin = ret[1];
    ret[1]->twin = ret[0];
}

static int conn_new(struct loop *l, int fd, const struct addr *peer, struct conn **ret)
{
    struct conn *c = make(l);
    if (peer) {
        c->peer = *peer;
    } else {
        c->peer.len = sizeof(c->peer.in6);
        if (getpeername(fd, &c->peer.sa, &c->peer.len) < 0)
            c->peer.len = 0;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int rc = io_start(&c->io, l, fd, conn_on_event);
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
    if (!ssl || conn_tls_attach(c) < 0) {
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
    conn_wake(c);
}

void conn_set_handshake_ms(struct conn *c, uint32_t ms)
{
    c->handshake_ms = ms;
}

void conn_set_server_name(struct conn *c, const char *name)
{
    if (c->ssl)
        SSL_set_tlsext_host_name(c->ssl, name);
}

void conn_detach(struct conn *c)
{
    assert(c->state == CONN_OPEN && c->loop && c->io.fd >= 0);
    conn_keep_rest(c);
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
    c->end_told = false;
    timer_init(&c->timer, l, conn_on_timer);
    int rc = io_start(&c->io, l, fd, conn_on_event);
    if (rc < 0) {
        c->io.fd = fd;
        conn_die(c, rc);
    }
    conn_start(c, ops, arg);
}

void conn_wake(struct conn *c)
{
    if (c->loop)
        loop_defer(c->loop, &c->pump);
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
    conn_wake(c);
}

void conn_shut(struct conn *c)
{
    if (c->state != CONN_OPEN || c->is_ending)
        return;
    c->is_ending = true;
    conn_wake(c);
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_HANDSHAKE)
        conn_die(c, 0);
    if (c->state != CONN_OPEN)
        return;
    assert(c->ops);
    c->state = CONN_CLOSING;
    timer_start(&c->timer, CLOSE_MS);
    conn_wake(c);
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
    conn_die(c, err);
    conn_wake(c);
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

bool conn_cert_covers(const struct conn *c, const char *host)
{
    X509 *cert = c->ssl ? SSL_get_certificate(c->ssl) : NULL;
    return cert && X509_check_host(cert, host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
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

bool conn_has_unread(const struct conn *c)
{
    int unread = 0;
    return ioctl(conn_fd(c), FIONREAD, &unread) == 0 && unread > 0;
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

void conn_expect(struct conn *c, size_t bytes)
{
    c->expected = bytes;
}

void conn_set_batch(struct conn *c, size_t bytes)
{
    c->batch = (uint32_t)MIN(bytes, (size_t)CONN_BATCH_MAX);
}

void conn_set_prompt(struct conn *c)
{
    int rto_min_us = 50000, delayed_ack_us = 25000;
    setsockopt(c->io.fd, IPPROTO_TCP, TCP_RTO_MIN_US, &rto_min_us, sizeof(rto_min_us));
    setsockopt(c->io.fd, IPPROTO_TCP, TCP_DELACK_MAX_US, &delayed_ack_us, sizeof(delayed_ack_us));
}
