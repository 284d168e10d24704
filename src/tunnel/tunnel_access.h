/*
 * Who may come in by a tunnel's public name or port: the members "auth", "users" and "sources" of
 * spec.access. Pure functions, no I/O.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum tunnel_auth {
    TUNNEL_AUTH_PUBLIC,
    TUNNEL_AUTH_BASIC,
    TUNNEL_AUTH_API_TOKEN,
    TUNNEL_AUTH_TENANT_LOGIN,
    TUNNEL_AUTH_COUNT
};
const char *tunnel_auth_name(enum tunnel_auth auth);

#define TUNNEL_USERS_MAX   8
#define TUNNEL_SOURCES_MAX 16
#define TUNNEL_USER_SIZE   64
#define TUNNEL_SECRET_SIZE 136

struct tunnel_user {
    char name[TUNNEL_USER_SIZE];
    char secret[TUNNEL_SECRET_SIZE]; /* a hash; while a request is handled: "" or, */
    bool is_plain;                   /* the password itself, to be hashed */
};

struct tunnel_source { /* an addr_rule without ports */
    uint8_t ip[16];
    uint8_t prefix;
};

struct tunnel_access {
    enum tunnel_auth auth;
    uint8_t n_users, n_sources;
    struct tunnel_user users[TUNNEL_USERS_MAX];
    struct tunnel_source sources[TUNNEL_SOURCES_MAX]; /* none: from everywhere */
};

/* Reads the three members of `access`; others are not looked at. */
int tunnel_access_parse(const json_t *access, struct tunnel_access *ret, struct diag *d);
/* Adds them. `with_hashes`: for the database; else nothing of a password is in it. */
void tunnel_access_json(const struct tunnel_access *a, bool with_hashes, json_t *access);

/* A user without a password keeps the one that `old` (may be NULL) has for that name. Who then
 * still has none is an error. */
int tunnel_access_keep(struct tunnel_access *a, const struct tunnel_access *old, struct diag *d);
/* Whether some user gets another password than `old` has for him; those who get the same keep its
 * hash. Takes long where passwords are plain: not on a loop. */
bool tunnel_access_has_news(struct tunnel_access *a, const struct tunnel_access *old);
/* Makes hashes of passwords. Takes long: not on a loop. */
int tunnel_access_hash(struct tunnel_access *a);

bool tunnel_access_admits(const struct tunnel_access *a, const struct addr *from);
const struct tunnel_user *tunnel_access_user(const struct tunnel_access *a, const char *name);

/* "10.0.0.0/8", "2001:db8::1". */
int tunnel_source_parse(const char *s, struct tunnel_source *ret, struct diag *d);
