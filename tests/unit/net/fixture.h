/* What the tests of net/ share: a throw-away CA, waiting, and TCP pairs. */
#pragma once

#include "base/addr.h"
#include "base/log.h"
#include "loop/loop.h"
#include "net/tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct test_identity {
    char *chain_pem; /* leaf and CA */
    struct secret key;
};

struct test_certs {
    char *ca_pem;
    uint8_t ca_pin[TLS_PIN_SIZE];
    struct test_identity server, client, expired, stranger; /* stranger: of another CA */
};

void test_certs_new(struct test_certs *c);
void test_certs_done(struct test_certs *c);

enum { LANE_HTTP, LANE_H2, LANE_AGENT, LANE_RENEW };
struct tls_server *test_tls_server(const struct test_certs *c,
                                   int (*verify)(void *, struct x509_st *), void *arg);
/* `id` may be NULL. */
struct tls_client *test_tls_client(const struct test_certs *c, const struct test_identity *id,
                                   const char *alpn);

/* Turns the loop until *done, or fails the test after 10 s. */
#define wait_for(loop, condition)                  \
    do {                                           \
        uint64_t end_ = test_deadline();           \
        while (!(condition)) {                     \
            test_turn(loop);                       \
            test_check_deadline(end_, #condition); \
        }                                          \
    } while (0)
uint64_t test_deadline(void);
void test_check_deadline(uint64_t end, const char *what);
void test_turn(struct loop *l);

/* A listening socket on 127.0.0.1. */
int test_listen(struct addr *ret);
/* Two connected non-blocking TCP sockets. */
void test_tcp_pair(int fds[2]);
