/*
 * Who the members of a swarm are. Each has a key and a certificate of its own, as if its machine
 * had enrolled. They come from enrolment by EST, or from a file that was made beforehand with the
 * CA's key: 100,000 enrolments are minutes of a hub's time, and the same ones serve every run.
 */
#pragma once

#include "base/id.h"

#include <openssl/types.h>
#include <stddef.h>
#include <stdint.h>

#define IDENTITY_BYTES 1024 /* of one in a file */

/* DER of both, one after the other. */
struct identity_der {
    uint16_t key_len, cert_len;
    uint8_t data[IDENTITY_BYTES - 2 * sizeof(uint16_t)];
};

/* ERR_TOO_LARGE when they do not fit. */
int identity_der_make(EVP_PKEY *key, X509 *cert, struct identity_der *ret);
/* Gives the connection that key and certificate; before its handshake. */
int identity_der_use(const struct identity_der *id, SSL *ssl);

/* `n` of the file from number `first` on. */
const struct identity_der *identity_file_read(const char *path, size_t first, size_t n);

struct identity_issue {
    const char *ca_dir, *trust_domain, *tenant;
    size_t agents, networks; /* agents are dealt out over them in turn */
    const char *rows;        /* is written: rows of the table agent, for COPY */
    const char *identities;  /* is written: see identity_file_read */
};
/* Makes them by the CA of a hub's data folder. Prints what one cost; ends the process on errors. */
void identity_issue(const struct identity_issue *i);
