/*
 * TLS settings of a server or a client: TLS 1.3 only, AES-128-GCM preferred, P-256 and X25519, no
 * session tickets. Beside pki/ the only place that sees OpenSSL.
 *
 * A server is divided into lanes by ALPN: each says whether a client certificate is asked for. A
 * client that offers no known ALPN gets lane 0. Objects are safe to use from any thread and are
 * counted: a connection holds what it needs.
 */
#pragma once

#include "base/diag.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct x509_st; /* OpenSSL's X509 */
struct tls_server;
struct tls_client;

#define TLS_LANES_MAX 8
#define TLS_PIN_SIZE  32

struct tls_lane {
    const char *alpn;        /* static; "http/1.1" */
    bool client_cert;        /* ask for one, and fail the handshake without */
    bool expired_is_allowed; /* a leaf past its end is let in and marked: conn_peer_cert_expired */
    /* In place of the server's; with the same argument. */
    int (*verify)(void *arg, struct x509_st *leaf);
};

struct tls_server_config {
    const char *chain_pem; /* leaf first, then the rest up to and with the CA (agents pin it) */
    const struct secret *key_pem;
    const char *client_ca_pem; /* who signs client certificates */
    struct tls_lane lanes[TLS_LANES_MAX];
    size_t n_lanes;
    /* Called for a client leaf whose chain verified, on any thread, during the handshake.
     * 0, or ERR_REVOKED / ERR_DENIED to refuse. May be NULL. */
    int (*verify)(void *arg, struct x509_st *leaf);
    void *verify_arg;
};

int tls_server_new(const struct tls_server_config *cfg, struct tls_server **ret, struct diag *d);
/* Takes effect for handshakes that begin afterwards; on failure all stays as it was. Main loop. */
int tls_server_reload(struct tls_server *t, const char *chain_pem, const struct secret *key_pem,
                      const char *client_ca_pem, struct diag *d);
struct tls_server *tls_server_ref(struct tls_server *t);
void tls_server_unref(struct tls_server *t);

struct tls_client_config {
    const char *ca_pem; /* trusted; NULL with a pin, or for the system's store */
    /* SHA-256 of the CA's certificate (DER): it must be in the server's chain and is trusted. For
     * the first contact, before ca_pem is there. */
    const uint8_t *ca_pin;
    const char *chain_pem; /* own certificate, may be NULL */
    const struct secret *key_pem;
    const char *server_name; /* what the server's certificate must carry: DNS name or IP text */
    const char *alpn[TLS_LANES_MAX]; /* offered, in this order; ends with NULL */
    bool old_is_allowed;             /* TLS 1.2: for devices that know no better */
    bool insecure;                   /* no verification at all: only for tools that say so */
};

/* For a small process, before anything else of TLS: the texts of its errors are loaded when the
 * first of them is needed. */
void tls_load_texts_late(void);

int tls_client_new(const struct tls_client_config *cfg, struct tls_client **ret, struct diag *d);
struct tls_client *tls_client_ref(struct tls_client *t);
void tls_client_unref(struct tls_client *t);
