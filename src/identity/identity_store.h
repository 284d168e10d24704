/*
 * Identity's tables. All functions run inside a transaction, on the store's thread.
 */
#pragma once

#include "identity/identity_model.h"
#include "pki/cert.h"
#include "store/store.h"

/* ---- loading ---- */

/* Each row is given to `fn`; the record is only valid during the call. */
int tenant_each(struct tx *tx, void (*fn)(void *arg, const struct tenant_record *t), void *arg);
int token_each(struct tx *tx, void (*fn)(void *arg, const struct token_record *t), void *arg);
int agent_each(struct tx *tx,
               void (*fn)(void *arg, const char *id, const char *tenant, bool is_revoked),
               void *arg);

/* ---- tenants and tokens ---- */

int tenant_read(struct tx *tx, const char *id, struct tenant_record *ret);
int tenant_insert(struct tx *tx, const struct tenant_record *t); /* ERR_EXISTS: the name */
/* With its tokens, revoked agents and their audit; ERR_CONFLICT while it has networks. */
int tenant_delete(struct tx *tx, const char *id);

int token_insert(struct tx *tx, const struct token_record *t); /* ERR_EXISTS: the name */
int token_read(struct tx *tx, const char *id, struct token_record *ret);
/* Sets `revoked` if it is not set; `version` 0: any, else ERR_STALE. *ret is the row afterwards. */
int token_revoke(struct tx *tx, const char *id, int64_t version, int64_t now_ms,
                 struct token_record *ret);
/* Counts one use of a token that is valid in this very moment; else as token_check. */
int token_use(struct tx *tx, const char *id, int64_t now_ms, struct token_record *ret,
              struct diag *d);

/* identity_limits.c. ERR_CONFLICT: the tenant may have no more of them; `d` says what to do. */
enum limits_kind { LIMITS_AGENTS, LIMITS_NETWORKS, LIMITS_TOKENS };
int limits_check(struct tx *tx, const char *tenant, enum limits_kind kind, struct diag *d);

/* The network `ref` (id or name) of the tenant; a name that does not exist is made. An empty one
 * makes an automatic network, named after its id. ERR_NOT_FOUND: an id that does not exist;
 * ERR_CONFLICT with `d`: the tenant may have no more. */
int network_find_or_make(struct tx *tx, const char *tenant, const char *ref, int64_t now_ms,
                         char ret[ID_SIZE], struct diag *d);

/* ---- agents ---- */

struct agent_certificate {
    char serial[CERT_SERIAL_SIZE];
    uint8_t key_hash[PKEY_HASH_SIZE];
    int64_t not_after;
    int64_t root, knows; /* ca_root.id: by which it is, and the newest that the agent trusts */
};

struct agent_admission {
    char id[ID_SIZE], tenant[ID_SIZE], network[ID_SIZE], token[ID_SIZE];
    char name[IDENTITY_NAME_SIZE]; /* changed when it was taken */
    struct agent_certificate certificate;
};

int agent_insert(struct tx *tx, struct agent_admission *a, int64_t now_ms);

/* What a renewal is judged by. */
struct agent_facts {
    char tenant[ID_SIZE];
    char serial[CERT_SERIAL_SIZE];
    int64_t version, revoked, pending, approved;
    bool token_is_revoked;
};
int agent_read(struct tx *tx, const char *id, struct agent_facts *ret); /* ERR_NOT_FOUND */

int agent_renewed(struct tx *tx, const char *tenant, const char *id,
                  const struct agent_certificate *c);
int agent_set_pending(struct tx *tx, const char *tenant, const char *id, int64_t now_ms);
int agent_set_approved(struct tx *tx, const char *tenant, const char *id, int64_t now_ms);
/* `since` 0: not any more. `grace_ms` 0: no limit. */
int agent_set_draining(struct tx *tx, const char *tenant, const char *id, int64_t since,
                       int64_t grace_ms);
int agent_set_revoked(struct tx *tx, const char *tenant, const char *id, int64_t now_ms);

/* ---- audit ---- */

struct audit_filter {
    const char *tenant;
    const char *action, *actor, *object; /* NULL: any */
    int64_t since, until;                /* 0: open */
    int64_t before_at;                   /* continue after this position (INT64_MAX: newest) */
    const char *before_id;
    int64_t limit;
};

/* Newest first. The strings live during the call. */
struct audit_record {
    const char *id, *actor, *address, *action, *object, *detail;
    int64_t at;
    enum audit_outcome outcome;
};
int audit_each(struct tx *tx, const struct audit_filter *f,
               void (*fn)(void *arg, const struct audit_record *r), void *arg);

/* ---- repeated requests ---- */

struct stored_answer {
    uint8_t hash[32];
    int64_t status; /* 0: not answered yet */
    struct buf body;
};

/* Reserves the key (0), or finds what it was used for (1, *ret filled). */
int idempotency_reserve(struct tx *tx, const char *token, const char *key, const uint8_t hash[32],
                        int64_t now_ms, struct stored_answer *ret);
int idempotency_store(struct tx *tx, const char *token, const char *key, int status,
                      const void *body, size_t len);
int idempotency_forget(struct tx *tx, const char *token, const char *key);
/* Drops all but the newest. */
int idempotency_trim(struct tx *tx, const char *token, int64_t keep);

/* Drops what is older: answers of repeated requests, audit rows. */
int identity_sweep(struct tx *tx, int64_t answers_before_ms, int64_t audit_before_ms);
