/*
 * Certificates of a TLS server beside its own, chosen by the name that a client asks for (SNI).
 * A set is filled once, then only read: by any thread. A renewal makes a new set.
 */
#pragma once

#include "base/diag.h"
#include "base/log.h"

#include <stddef.h>

struct tls_names;
struct tls_server;

struct tls_names *tls_names_new(void);
void tls_names_unref(struct tls_names *n);

/* This name always gets the server's own certificate. */
void tls_names_exclude(struct tls_names *n, const char *name);

/* `chain_pem`: the leaf, then what signs it. The names are those of the leaf's subjectAltName,
 * wildcards of one whole label included; of two certificates for a name the one that ends later
 * wins. `source` says where it came from. ERR_TLS: unusable, or the key is of another. */
int tls_names_add(struct tls_names *n, const char *source, const char *chain_pem,
                  const struct secret *key_pem, struct diag *d);
/* The certificate that an older set has of the same source, if any. */
void tls_names_keep(struct tls_names *n, const struct tls_names *old, const char *source);
size_t tls_names_count(const struct tls_names *n); /* certificates */

/* For handshakes that begin afterwards. Takes the set. */
void tls_server_set_names(struct tls_server *t, struct tls_names *n);
