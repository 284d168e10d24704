/* Shared by the files of this folder only. */
#pragma once

#include "base/error.h"
#include "base/macro.h"
#include "identity/identity.h"
#include "identity/identity_model.h"
#include "identity/identity_store.h"
#include "identity/rate.h"
#include "loop/loop.h"

#include <pthread.h>
#include <uthash.h>

#define RATE_ADDRESSES_MAX 65536

/* Answers kept for one token, and after how many more the oldest are dropped. */
#define REPEATS_MAX  10000
#define REPEATS_TRIM 1000

struct tenant_view {
    struct tenant_record r;
    UT_hash_handle hh;
};

struct token_view {
    struct token_record r;
    bool is_over;       /* it has expired, and what it opened was cut */
    uint32_t n_repeats; /* keys it has used since its answers were trimmed */
    UT_hash_handle hh;
};

struct agent_view {
    char id[ID_SIZE], tenant[ID_SIZE];
    bool is_revoked;
    UT_hash_handle hh;
};

struct identity {
    struct identity_config cfg;
    struct ca_keeper keeper;
    struct ca_roots roots; /* that are trusted */
    struct ca *ca;         /* the one of them that signs */
    struct roots trusted;  /* their certificates, that one first */
    uint64_t roots_digest; /* of those, */
    char roots_text[ROOTS_TEXT_SIZE];
    char *ca_chain; /* what follows this hub's leaf */
    char *data_dir;
    char *trust_domain;
    char hub[ID_SIZE]; /* this hub's id */
    char *ca_pem;
    struct buf cacerts; /* the body of GET cacerts */

    char **public_names;
    size_t n_public_names;
    struct secret server_key_pem;
    char *server_chain;
    int64_t server_renew_at; /* wall clock */
    struct timer housekeeping, expiry;

    struct rate *rate;
    struct store_subscriber feed;
    struct tenant_view *tenants; /* in order of creation, as are the tokens */
    struct token_view *tokens;

    pthread_rwlock_t lock; /* guards the agents, which handshakes on other threads look up */
    struct agent_view *agents;
};

static inline int64_t identity_now(const struct identity *i)
{
    return i->cfg.now_ms();
}

/* ---- identity_view.c ---- */

int view_load(struct identity *i, struct tx *tx);
void view_free(struct identity *i);

/* identity_expiry.c: on_token_revoked for those that expire; a token is new in the view. */
void expiry_start(struct identity *i);
void expiry_of(struct identity *i, const struct token_record *r);

/* identity_follow.c */
void identity_follow(struct identity *i);

void view_put_tenant(struct identity *i, const struct tenant_record *r);
void view_remove_tenant(struct identity *i, const char *id); /* and all that is its */
void view_put_token(struct identity *i, const struct token_record *r);
void view_remove_token(struct identity *i, const char *id);
void view_put_agent(struct identity *i, const char *id, const char *tenant, bool is_revoked);
const struct tenant_record *view_tenant(struct identity *i, const char *ref); /* id or name */
const struct token_record *view_token(struct identity *i, const char *id);
const struct token_record *view_token_by_ref(struct identity *i, const char *tenant,
                                             const char *ref);

/* Counts a use of an Idempotency-Key; true: REPEATS_TRIM of them since the last time. */
bool view_count_repeat(struct identity *i, const char *token);

/* The token whose secret this is; ERR_UNAUTHENTICATED. */
int view_check_secret(struct identity *i, const struct token *t, const struct token_record **ret);

/* ---- identity_ca.c ---- */

int identity_open_ca(struct identity *i, struct diag *d); /* blocks; fills i->ca and its kin */
void identity_close_ca(struct identity *i);
void identity_reread_ca(struct identity *i); /* some hub has changed it */

/* identity_hub.c: with a new key, by the root that signs now. */
int identity_renew_server_cert(struct identity *i, struct diag *d);

/* ---- identity_repeat.c: Idempotency-Key ---- */

int repeat_before(struct http_request *req, struct diag *d, void *identity);
int repeat_after(struct http_request *req, int status, const void *body, size_t len,
                 void *identity);

/* ---- identity_applied.c, identity_audit.c, identity_est.c ---- */

void limits_add_routes(struct identity *i, struct http_server *s);
void applied_add_routes(struct identity *i, struct http_server *s);
void audit_add_routes(struct identity *i, struct http_server *s);
void est_add_routes(struct identity *i, struct http_server *s);
