/*
 * The identity that a certificate carries: spiffe://TRUST-DOMAIN/tenant/T/agent/A, where T and A
 * are object ids ("ten_…", "agt_…"), or that of a hub. Strict: one spelling per identity, no query,
 * no escapes. SPIFFE-ID specification §2.
 */
#pragma once

#include "base/id.h"

#include <stdbool.h>
#include <stddef.h>

#define TRUST_DOMAIN_SIZE 128
#define SPIFFE_SIZE       256 /* longest text we make, with its NUL */

struct spiffe {
    char trust_domain[TRUST_DOMAIN_SIZE];
    char tenant[ID_SIZE];
    char agent[ID_SIZE];
};

/* `s` need not be terminated. ERR_INVALID; `ret` is then untouched. */
int spiffe_parse(const char *s, size_t len, struct spiffe *ret);
void spiffe_format(const struct spiffe *id, char out[SPIFFE_SIZE]);

/* A hub's identity, of whose cluster it is: spiffe://TRUST-DOMAIN/hub/H. */
struct spiffe_hub {
    char trust_domain[TRUST_DOMAIN_SIZE];
    char hub[ID_SIZE];
};
int spiffe_hub_parse(const char *s, size_t len, struct spiffe_hub *ret); /* as spiffe_parse */
void spiffe_hub_format(const struct spiffe_hub *id, char out[SPIFFE_SIZE]);

/* Lower-case letters, digits, '.', '-' and '_'; 1 to 127 characters. */
bool trust_domain_is_valid(const char *s);
