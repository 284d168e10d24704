/*
 * The rules: values in, verdicts out. No I/O, no clock.
 */
#pragma once

#include "base/diag.h"
#include "base/id.h"
#include "identity/identity.h"
#include "pki/token.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The name under which the hub's own tenant is made; its administrators run the hub. */
#define TENANT_DEFAULT "default"

struct tenant_record {
    char id[ID_SIZE];
    char name[IDENTITY_NAME_SIZE];
    int64_t version, created;
    struct identity_limits limits;
};

/* A stored token. Times are wall clock in ms, 0: none. */
struct token_record {
    char id[ID_SIZE], tenant[ID_SIZE];
    char name[IDENTITY_NAME_SIZE]; /* empty: none */
    char network[ID_SIZE];         /* bootstrap; empty: each agent's LAN decides */
    enum token_kind kind;
    enum identity_role role; /* api */
    uint8_t hash[TOKEN_HASH_SIZE];
    int64_t version;
    int64_t uses_limit; /* 0: any number */
    int64_t uses;
    int64_t created, expires, revoked;
    int64_t root; /* bootstrap: ca_root.id whose fingerprint it carries */
};

/* What is asked of POST /tokens, defaults filled in. */
struct token_request {
    enum token_kind kind;
    enum identity_role role;
    char name[IDENTITY_NAME_SIZE];
    char tenant[IDENTITY_NAME_SIZE];  /* id or name; empty: the caller's */
    char network[IDENTITY_NAME_SIZE]; /* id or name; empty: each agent's LAN decides */
    int64_t uses_limit;               /* 0: any number */
    int64_t ttl_ms;                   /* 0: never expires */
};

#define TOKEN_TTL_DEFAULT_MS (INT64_C(24) * 3600 * 1000)
#define TOKEN_TTL_MAX_MS     (INT64_C(3660) * 24 * 3600 * 1000)
#define TOKEN_USES_MAX       INT64_C(1000000)

/* Reads the JSON object, which has only known members. */
int token_request_parse(json_t *body, struct token_request *ret, struct diag *d);

/* Whether a caller may make this token, `tenant` being the resolved one. ERR_DENIED. */
int token_request_check(const struct token_request *r, const struct identity_caller *by,
                        const char *tenant, struct diag *d);

/* Whether the secret may still be used: 0, ERR_REVOKED, ERR_EXPIRED, or ERR_DENIED (used up). */
int token_check(const struct token_record *t, int64_t now_ms, struct diag *d);

/* Everything that decides a renewal. */
struct renewal {
    bool agent_is_revoked, token_is_revoked;
    bool is_newest;    /* the presented certificate is the last one issued to the agent */
    bool is_approved;  /* an operator let it through */
    int64_t not_after; /* of the presented certificate */
};

/* 0: renew; RENEWAL_PENDING: wait for approval; ERR_REVOKED, ERR_STALE (expired and not the
 * newest), ERR_EXPIRED (by policy). */
#define RENEWAL_PENDING 1
int renewal_judge(const struct renewal *r, const struct identity_policy *policy, int64_t now_ms,
                  struct diag *d);

/* A name for an agent: the wanted one if it is one, else made from its id. */
void agent_pick_name(const char *wanted, const char *id, char ret[IDENTITY_NAME_SIZE]);
/* Another one, for when that is taken. */
void agent_pick_other_name(const char *id, char name[IDENTITY_NAME_SIZE]);

/* identity_limits.c: {"tunnels": 5, "agents": null, …}, and from the stored text (NULL: none). */
json_t *limits_json(const struct identity_limits *limits);
void limits_read(const char *text, struct identity_limits *ret);

json_t *tenant_json(const struct tenant_record *t);
json_t *token_json(const struct token_record *t);

/* "Basic …" (RFC 7617): user and password; ERR_INVALID. `password` is to be wiped by secret_done.
 */
#define BASIC_MAX 512
int basic_parse(const char *authorization, char user[IDENTITY_NAME_SIZE], struct secret *password);

/* "Bearer …": the token. ERR_INVALID. */
int bearer_parse(const char *authorization, struct token *ret);

const char *audit_outcome_name(enum audit_outcome outcome);
