#include "fixture.h"

#include "base/mem.h"
#include "base/time.h"
#include "net/listener.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(e);
    X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
}

static X509 *make_cert(EVP_PKEY *key, const char *name, X509 *ca, EVP_PKEY *ca_key, long end_s)
{
    static long serial = 1;
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), -7200);
    X509_gmtime_adj(X509_getm_notAfter(cert), end_s);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8,
                               (const uint8_t *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(ca ? ca : cert));
    if (ca)
        add_extension(cert, ca, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    else
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
    X509_sign(cert, ca_key, EVP_sha256());
    return cert;
}

static char *pem_of(X509 *a, X509 *b)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    PEM_write_bio_X509(bio, a);
    if (b)
        PEM_write_bio_X509(bio, b);
    long len = BIO_get_mem_data(bio, &data);
    char *text = mem_strndup(data, (size_t)len);
    BIO_free(bio);
    return text;
}

static void make_identity(struct test_identity *id, X509 *ca, EVP_PKEY *ca_key, long end_s)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = make_cert(key, "leaf", ca, ca_key, end_s);
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    id->chain_pem = pem_of(cert, ca);
    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    long len = BIO_get_mem_data(bio, &data);
    secret_set(&id->key, data, (size_t)len);
    BIO_free(bio);
    X509_free(cert);
    EVP_PKEY_free(key);
}

void test_certs_new(struct test_certs *c)
{
    unsigned int len = 0;
    EVP_PKEY *key = EVP_EC_gen("P-256"), *other_key = EVP_EC_gen("P-256");
    X509 *ca = make_cert(key, "test CA", NULL, key, 86400);
    X509 *other = make_cert(other_key, "other CA", NULL, other_key, 86400);
    memset(c, 0, sizeof(*c));
    c->ca_pem = pem_of(ca, NULL);
    X509_digest(ca, EVP_sha256(), c->ca_pin, &len);
    make_identity(&c->server, ca, key, 3600);
    make_identity(&c->client, ca, key, 3600);
    make_identity(&c->expired, ca, key, -3600);
    make_identity(&c->stranger, other, other_key, 3600);
    X509_free(ca);
    X509_free(other);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other_key);
}

void test_certs_done(struct test_certs *c)
{
    struct test_identity *all[] = {&c->server, &c->client, &c->expired, &c->stranger};
    for (size_t i = 0; i < 4; i++) {
        mem_free(all[i]->chain_pem);
        secret_done(&all[i]->key);
    }
    mem_free(c->ca_pem);
}

struct tls_server *test_tls_server(const struct test_certs *c,
                                   int (*verify)(void *, struct x509_st *), void *arg)
{
    struct tls_server *t;
    struct tls_server_config cfg = {.chain_pem = c->server.chain_pem,
                                    .key_pem = &c->server.key,
                                    .client_ca_pem = c->ca_pem,
                                    .lanes = {[LANE_HTTP] = {"http/1.1", false, false},
                                              [LANE_H2] = {"h2", false, false},
                                              [LANE_AGENT] = {"warren-agent/1", true, false},
                                              [LANE_RENEW] = {"warren-renew/1", true, true}},
                                    .n_lanes = 4,
                                    .verify = verify,
                                    .verify_arg = arg};
    assert_int_equal(tls_server_new(&cfg, &t, NULL), 0);
    return t;
}

struct tls_client *test_tls_client(const struct test_certs *c, const struct test_identity *id,
                                   const char *alpn)
{
    struct tls_client *t;
    struct tls_client_config cfg = {.ca_pem = c->ca_pem,
                                    .chain_pem = id ? id->chain_pem : NULL,
                                    .key_pem = id ? &id->key : NULL,
                                    .server_name = "localhost",
                                    .alpn = {alpn}};
    assert_int_equal(tls_client_new(&cfg, &t, NULL), 0);
    return t;
}

uint64_t test_deadline(void)
{
    return time_mono_ms() + 60000;
}

void test_check_deadline(uint64_t end, const char *what)
{
    if (time_mono_ms() > end)
        fail_msg("waited in vain for: %s", what);
}

static void on_tick(struct timer *t)
{
    (void)t;
}

/* Never longer than a few milliseconds, so that conditions outside the loop are seen. */
void test_turn(struct loop *l)
{
    struct timer tick;
    loop_turn(l, false); /* its clock may be old: the tick would be over before the wait */
    timer_init(&tick, l, on_tick);
    timer_start(&tick, 2);
    loop_turn(l, true);
    timer_stop(&tick);
}

int test_listen(struct addr *ret)
{
    struct addr any;
    int fd;
    assert_int_equal(addr_parse("127.0.0.1", 0, &any), 0);
    assert_int_equal(listener_bind(&any, false, &fd, ret, NULL), 0);
    return fd;
}

void test_tcp_pair(int fds[2])
{
    struct addr a;
    int listening = test_listen(&a);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], &a.sa, a.len), 0);
    struct pollfd p = {listening, POLLIN, 0};
    assert_int_equal(poll(&p, 1, 5000), 1);
    fds[1] = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fds[1] >= 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    close(listening);
}
