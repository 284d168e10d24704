/*
 * Who may do what: tenants, tokens, agents' certificates, the audit trail. The hub's side; what an
 * agent does to get in is identity/agent.h.
 *
 * One object on the main loop. Tokens, tenants and the list of admitted agents are held in memory,
 * loaded at start and changed after each commit, so that checking a caller costs no query. Two
 * functions may be called on any thread: identity_verify_leaf and identity_agent_status, for the
 * TLS handshakes on worker loops.
 *
 * Tables: tenant, token, network and agent (rows are made here, fleet/ reads them), audit,
 * idempotency, applied. Changes are published in the feed as kinds "tenant", "token", "network",
 * "agent".
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "base/id.h"
#include "base/log.h"
#include "http/server.h"
#include "identity/ca_store.h"
#include "pki/ca.h"
#include "pki/roots.h"
#include "store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IDENTITY_NAME_SIZE 64

/* What a renewal meets that comes after the certificate's end. Same order as the setting's words.
 */
enum identity_late {
    IDENTITY_LATE_DENY,
    IDENTITY_LATE_GRACE,
    IDENTITY_LATE_APPROVE,
    IDENTITY_LATE_COUNT
};

/* May be changed while running (identity_set_policy). */
struct identity_policy {
    int64_t cert_life_ms; /* of an agent's certificate; at least 1 s */
    enum identity_late late_renewal;
    int64_t late_grace_ms;      /* for IDENTITY_LATE_GRACE */
    uint32_t enroll_per_minute; /* attempts per client address */
};

struct identity_config {
    struct loop *loop;
    struct store *store; /* opened with identity_schema */
    const char *data_dir;
    const char *hub;            /* this hub's id, which its certificate bears */
    struct ca_source ca_source; /* none: the CA is in the data folder; outlives the identity */
    const char *trust_domain;
    const char *const *public_names; /* of the server certificate, beside localhost */
    size_t n_public_names;
    struct identity_policy policy;
    int64_t (*now_ms)(void); /* wall clock; NULL: time_wall_ms */

    /* All on the main loop, all may be NULL. */
    void (*on_agent_revoked)(void *arg, const char *agent); /* cut its sessions */
    void (*on_token_revoked)(void *arg, const char *token); /* or expired: cut what it opened */
    void (*on_server_cert)(void *arg); /* identity_server_chain is new: reload TLS */
    void (*on_roots)(void *arg);       /* so is what is trusted, and keys derived from the CA */
    void *arg;
};

/* Response header to callers: roots_digest_text of the hub's roots, so that whoever keeps them
 * notices that they have changed. In requests of agents: of those that the agent trusts. */
#define IDENTITY_ROOTS_HEADER "Warren-Roots"

struct identity;

extern const struct store_schema identity_schema;

/* Blocks: for start-up. The first start makes the CA, the tenant "default" and an administrator's
 * API token, written to DIR/admin.token (0600). */
int identity_open(const struct identity_config *cfg, struct identity **ret, struct diag *d);
/* After http_server_free and store_close, whose last callbacks still use it. */
void identity_close(struct identity *i);
void identity_set_policy(struct identity *i, const struct identity_policy *policy);

/* Inside a transaction, for whoever has the database: another administrator's API token, for when
 * none is left. `ret`: its text. ERR_NOT_FOUND when no hub has started on that database yet. */
int identity_add_admin(struct tx *tx, int64_t now_ms, struct secret *ret);

/* For net/tls.h. Borrowed; valid until on_server_cert or on_roots. */
const char *identity_server_chain(const struct identity *i); /* PEM: leaf, then the CA */
const struct secret *identity_server_key(const struct identity *i);
const char *identity_ca_pem(const struct identity *i);  /* every root that is trusted */
const struct ca *identity_ca(const struct identity *i); /* the one of them that signs */

/* ---- the roots of the CA (docs/operations.md) ---- */

/* Those that are trusted, the one that signs first. Borrowed until on_roots. */
const struct roots *identity_roots(const struct identity *i);
uint64_t identity_roots_digest(const struct identity *i);
int64_t identity_newest_root(const struct identity *i); /* numbers rise from 1 */
bool identity_is_moving(const struct identity *i);      /* certificates of an older root are left */

/* Secrets that all hubs can work out: one for each root that is trusted, the oldest first, which is
 * the one to use; what was made with the others is as good, since not all hubs see a change at
 * once.
 */
int identity_derive_keys(const struct identity *i, const char *label,
                         uint8_t out[][CA_DERIVED_SIZE], size_t max, size_t *ret_n);

/* Inside a transaction: the agent is known to trust that root. */
int identity_agent_knows(struct tx *tx, const char *agent, int64_t root);

enum identity_ca_step {
    IDENTITY_CA_START,  /* a new root, which is trusted and signs nothing yet */
    IDENTITY_CA_SIGN,   /* it signs from now on */
    IDENTITY_CA_FINISH, /* older ones are trusted no more; ERR_CONFLICT while agents need them */
    IDENTITY_CA_CANCEL, /* the new one is given up */
    IDENTITY_CA_STEP_COUNT
};
const char *const *identity_ca_steps(void); /* their names; ends with NULL */

/* ---- checks, any thread ---- */

/* 0: admitted; ERR_REVOKED; ERR_DENIED: no such agent in that tenant. */
int identity_agent_status(struct identity *i, const char *tenant, const char *agent);

/* The `verify` hook of net/tls.h, with the identity as arg: the leaf must name an admitted agent.
 */
int identity_verify_leaf(void *identity, struct x509_st *leaf);

/* The same for a lane of hubs: the leaf must be that of a hub of this CA. */
int identity_verify_hub(void *identity, struct x509_st *leaf);

/* ---- callers of the REST interface ---- */

/* Values rise with what one may do. */
enum identity_role {
    IDENTITY_OPERATOR, /* everything inside its tenant */
    IDENTITY_ADMIN,    /* also tenants, hubs, tokens of other tenants; tenant "default" only */
    IDENTITY_ROLE_COUNT
};

struct identity_caller {
    enum identity_role role;
    char tenant[ID_SIZE];
    char token[ID_SIZE];          /* who acts, for the audit */
    char address[ADDR_TEXT_SIZE]; /* from where */
    uint8_t seal_key[32];         /* derived from the token's secret, for stored answers */
};

/* `authorization` is the header's value, "Bearer wat_…", or NULL. ERR_UNAUTHENTICATED. */
int identity_authenticate(struct identity *i, const char *authorization, const struct addr *peer,
                          struct identity_caller *ret, struct diag *d);

/* Whether an API token, known by its id, still stands for that tenant. */
bool identity_token_is_valid(struct identity *i, const char *tenant, const char *token);

/* Hooks for http_server_config: caller by bearer token and the route's role; Idempotency-Key. */
struct http_hooks identity_http_hooks(struct identity *i);

/* The caller that the authenticate hook found; lives as long as the request. */
const struct identity_caller *identity_caller(const struct http_request *req);

/* REST rows of tokens, tenants and audit, and the EST rows cacerts and simpleenroll. */
void identity_add_routes(struct identity *i, struct http_server *s);
/* The one row of the server behind ALPN "warren-renew/1": simplereenroll. */
void identity_add_renew_routes(struct identity *i, struct http_server *s);

/* ---- acts on agents, for fleet's REST rows ---- */

/* On the main loop, always later, once: 0 or ERR_NOT_FOUND, ERR_STALE (If-Match), ERR_CONFLICT, …
 * The change was published in the feed, audited and, for a revocation, on_agent_revoked called. */
typedef void identity_done(void *arg, const struct diag *result);

/* `version` 0: any. The agent must be of the caller's tenant. Revoking twice is no error. */
void identity_agent_revoke(struct identity *i, const struct identity_caller *by, const char *agent,
                           uint64_t version, identity_done *done, void *arg);
/* Lets a pending agent renew once; ERR_CONFLICT unless it is pending. */
void identity_agent_approve(struct identity *i, const struct identity_caller *by, const char *agent,
                            uint64_t version, identity_done *done, void *arg);

/* Its tunnels move away; streams that are open may go on for `grace_ms` (0: until they end).
 * Stored: it stays so until identity_agent_undrain. ERR_CONFLICT when it was revoked. */
void identity_agent_drain(struct identity *i, const struct identity_caller *by, const char *agent,
                          uint64_t version, int64_t grace_ms, identity_done *done, void *arg);
void identity_agent_undrain(struct identity *i, const struct identity_caller *by, const char *agent,
                            uint64_t version, identity_done *done, void *arg);

/* A step of the CA's rotation; this hub has seen it when `done` is called. `is_forced`: it finishes
 * although agents are cut off. */
void identity_ca_rotate(struct identity *i, const struct identity_caller *by,
                        enum identity_ca_step step, bool is_forced, identity_done *done, void *arg);

/* ---- networks, inside a transaction ---- */

/* The id of a network by its id or name, or by that of one that was merged into it.
 * ERR_NOT_FOUND. */
int identity_network_find(struct tx *tx, const char *tenant, const char *ref, char ret[ID_SIZE]);
/* A new one, made by `by`. ERR_EXISTS: there is one of that name. ERR_CONFLICT: the tenant may have
 * no more; `d` (NULL: nobody asks) says so. */
int identity_network_create(struct tx *tx, const struct identity_caller *by, const char *id,
                            const char *name, int64_t now_ms, struct diag *d);

/* ---- audit, inside a transaction ---- */

enum audit_outcome { AUDIT_OK, AUDIT_DENIED, AUDIT_FAILED, AUDIT_OUTCOME_COUNT };

struct audit_entry {
    const char *tenant;
    const char *actor;   /* id of a token or an agent, or "hub" */
    const char *address; /* where from; NULL: unknown */
    const char *action;  /* "tunnel.create" */
    const char *object;  /* id; NULL: none */
    enum audit_outcome outcome;
    const char *detail; /* NULL: none. Never a secret */
};
int identity_audit(struct tx *tx, int64_t now_ms, const struct audit_entry *entry);

/* The same for what a caller did in its own tenant. */
int identity_audit_act(struct tx *tx, const struct identity_caller *by, const char *action,
                       const char *object, const char *detail);

/* ---- declared objects, inside a transaction ---- */

/* Recorded by each PUT of an object, in the transaction that changes it (docs/apply.md). */
struct identity_applied {
    const char *kind, *object, *name; /* "tunnel", its id, its name */
    const char *set;                  /* whose member it becomes; NULL: leave that alone */
    uint64_t before, version;         /* of the object; before: 0 if it is new */
    json_t *declared;                 /* what it was told to be */
};
int identity_applied_note(struct tx *tx, const struct identity_caller *by,
                          const struct identity_applied *a);
int identity_applied_forget(struct tx *tx, const char *object); /* it is deleted */

/* ---- what a tenant may use, inside a transaction ---- */

#define IDENTITY_HOSTS_SIZE 512

struct identity_limits { /* 0 or "": no limit */
    int64_t tunnels, agents;
    int64_t networks;  /* that somebody made: those that agents make count as agents */
    int64_t tokens;    /* that can be used */
    int64_t streams;   /* open at once, of all its tunnels */
    int64_t bandwidth; /* bytes per second in each direction, of all its tunnels */
    char hosts[IDENTITY_HOSTS_SIZE]; /* domains with a blank between them */
};
/* Whether a public name (as host_name_parse makes it) is one of these domains, or below one. */
bool identity_host_is_in(const char *hosts, const char *name);
int identity_limits_of(struct tx *tx, const char *tenant, struct identity_limits *ret);
/* `tenant` NULL: of all. */
int identity_limits_each(struct tx *tx, const char *tenant,
                         void (*fn)(void *arg, const char *tenant, const struct identity_limits *l),
                         void *arg);
