/*
 * The CA that a context pins, kept up to date: a hub says in each answer which roots are trusted
 * (header Warren-Roots). When they are other ones than the context has, they are fetched over the
 * connection that the old ones vouch for, so that a login outlives a rotation of the hub's CA.
 */
#pragma once

#include "base/diag.h"
#include "http/client.h"
#include "pki/roots.h"

/* The roots in an answer of /.well-known/est/cacerts. ERR_PROTO. */
int context_ca_read(const struct http_reply *reply, struct roots *ret, struct diag *d);

/* If `reply` tells of other roots than `http` trusts, asks for them by it and keeps them in the
 * context; their PEM, heap. NULL: they are the same, or no, which is no news: the next call tries
 * again. A context whose CA is not a hub's own is left alone. */
char *context_ca_renew(const char *context, const struct http_client_config *http,
                       const struct http_reply *reply);
