/* Shared by net/tls.c and net/conn*.c only. */
#pragma once

#include "net/tls.h"

#include <openssl/ssl.h>

/* What the TLS callbacks note about one connection; lives in its struct conn. */
struct tls_session {
    struct tls_server *server; /* one of the two, counted */
    struct tls_client *client;
    size_t lane;
    bool leaf_expired;
};

/* A new SSL that belongs to `session` and is set up up to the handshake, without BIOs. */
SSL *tls_server_session(struct tls_server *t, struct tls_session *session);
SSL *tls_client_session(struct tls_client *t, struct tls_session *session);
const char *tls_session_alpn(const struct tls_session *session, const SSL *ssl);
void tls_session_done(struct tls_session *session);

/* tls_names.c */
struct tls_names;
struct tls_names *tls_names_ref(struct tls_names *n);
/* Gives `ssl` the certificate for `host`, if there is one. */
int tls_names_use(const struct tls_names *n, const char *host, SSL *ssl);

/* Turns OpenSSL's error queue and verification result into a code and a text; empties the queue. */
int tls_diagnose(const SSL *ssl, struct diag *d);

/* OpenSSL's text for an error code, or NULL. Any thread. */
const char *tls_error_text(unsigned long e);
