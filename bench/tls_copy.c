/*
 * The least that a relay can do whose connections are TLS: as plain_copy.c, but what comes by TLS
 * is decrypted, and what goes by TLS is encrypted, 256 KiB to a system call. What a pair of these,
 * or three, makes of two cores no relay that decrypts and encrypts can better.
 *
 *     tls-copy [tls:][ADDRESS:]PORT [tls:][ADDRESS:]TARGET-PORT
 *
 * A thread for each client, which copies one way while the other is silent: for measurements that
 * send one way at a time. Keys are made at the start, and nobody's is checked.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH (256 << 10)

struct place {
    struct sockaddr_in at;
    bool is_tls;
};

struct leg {
    int fd;
    SSL *ssl; /* NULL: plain */
};

struct pair {
    struct leg legs[2];
    char bytes[BATCH];
};

static SSL_CTX *server, *client;
static struct place target;

static void fail(const char *what)
{
    fprintf(stderr, "tls-copy: %s\n", what);
    exit(1);
}

static void make_key(SSL_CTX *ctx)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    if (!X509_sign(cert, key, EVP_sha256()) || SSL_CTX_use_certificate(ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey(ctx, key) != 1)
        fail("key");
    X509_free(cert);
    EVP_PKEY_free(key);
}

static SSL_CTX *make_ctx(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx || SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") != 1)
        fail("TLS");
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, BATCH);
    return ctx;
}

static struct leg leg_of(int fd, SSL_CTX *ctx)
{
    struct leg leg = {.fd = fd};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (!ctx)
        return leg;
    BIO *out = BIO_new(BIO_f_buffer());
    BIO_set_write_buffer_size(out, BATCH + (BATCH >> 4));
    leg.ssl = SSL_new(ctx);
    SSL_set_bio(leg.ssl, BIO_new_socket(fd, BIO_NOCLOSE),
                BIO_push(out, BIO_new_socket(fd, BIO_NOCLOSE)));
    return leg;
}

/* What is there, waiting for the first of it; 0: the end. */
static int leg_read(struct leg *leg, char *out, int cap)
{
    if (!leg->ssl)
        return (int)read(leg->fd, out, (size_t)cap);
    int n = SSL_read(leg->ssl, out, cap), more = n;
    while (more > 0 && n < cap && SSL_has_pending(leg->ssl)) {
        more = SSL_read(leg->ssl, out + n, cap - n);
        n += more > 0 ? more : 0;
    }
    return n;
}

static bool leg_write(struct leg *leg, const char *bytes, int n)
{
    if (leg->ssl)
        return SSL_write(leg->ssl, bytes, n) == n && BIO_flush(SSL_get_wbio(leg->ssl)) == 1;
    for (ssize_t sent; n > 0; n -= (int)sent, bytes += sent) {
        sent = write(leg->fd, bytes, (size_t)n);
        if (sent < 0)
            return false;
    }
    return true;
}

static bool copy_some(struct pair *p, int from)
{
    struct leg *in = &p->legs[from], *out = &p->legs[!from];
    int n = leg_read(in, p->bytes, BATCH);
    return n > 0 && leg_write(out, p->bytes, n);
}

/* Read ahead, behind a handshake too. */
static bool has_pending(const struct leg *leg)
{
    return leg->ssl && SSL_has_pending(leg->ssl);
}

static void *run(void *arg)
{
    struct pair *p = arg;
    struct pollfd polls[2] = {{p->legs[0].fd, POLLIN, 0}, {p->legs[1].fd, POLLIN, 0}};
    bool goes_on = true;
    for (int i = 0; i < 2 && goes_on; i++)
        goes_on = !p->legs[i].ssl || SSL_do_handshake(p->legs[i].ssl) == 1;
    while (goes_on) {
        bool is_pending = has_pending(&p->legs[0]) || has_pending(&p->legs[1]);
        poll(polls, 2, is_pending ? 0 : -1);
        for (int i = 0; i < 2 && goes_on; i++) {
            if (polls[i].revents || has_pending(&p->legs[i]))
                goes_on = copy_some(p, i);
        }
    }
    for (int i = 0; i < 2; i++) {
        SSL_free(p->legs[i].ssl);
        close(p->legs[i].fd);
    }
    free(p);
    return NULL;
}

/* The next one may still be making its key. */
static int dial(void)
{
    for (int tries = 0; tries < 500; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&target.at, sizeof(target.at)) == 0)
            return fd;
        close(fd);
        poll(NULL, 0, 10);
    }
    fail("connect");
    return -1;
}

static void take(int fd, bool is_tls)
{
    int service = dial();
    struct pair *p = malloc(sizeof(*p));
    pthread_t thread;
    if (!p)
        fail("memory");
    p->legs[0] = leg_of(fd, is_tls ? server : NULL);
    p->legs[1] = leg_of(service, target.is_tls ? client : NULL);
    if (is_tls)
        SSL_set_accept_state(p->legs[0].ssl);
    if (target.is_tls)
        SSL_set_connect_state(p->legs[1].ssl);
    if (pthread_create(&thread, NULL, run, p))
        fail("no more threads");
    pthread_detach(thread);
}

static struct place place_of(char *text)
{
    struct place p = {.at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    p.is_tls = strncmp(text, "tls:", 4) == 0;
    text += p.is_tls ? 4 : 0;
    char *colon = strchr(text, ':');
    if (colon) {
        *colon = '\0';
        p.at.sin_addr.s_addr = inet_addr(text);
    }
    p.at.sin_port = htons((uint16_t)strtoul(colon ? colon + 1 : text, NULL, 10));
    return p;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: tls-copy [tls:][ADDRESS:]PORT [tls:][ADDRESS:]TARGET-PORT\n");
        return 2;
    }
    struct place here = place_of(argv[1]);
    target = place_of(argv[2]);
    signal(SIGPIPE, SIG_IGN);
    server = make_ctx(TLS_server_method());
    client = make_ctx(TLS_client_method());
    make_key(server);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&here.at, sizeof(here.at)) < 0 ||
        listen(listener, 512) < 0)
        fail("listen");
    while (true) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            fail("accept");
        take(fd, here.is_tls);
    }
}
