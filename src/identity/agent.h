/*
 * The agent's side of identity: enrolment with a bootstrap token, the files that result, renewal.
 *
 * Files in the data folder: key.pem (0600, never leaves the machine), cert.pem, ca.pem (the hubs'
 * roots, several while the CA is rotated) and agent.json, which says where the hubs are and who
 * this agent is. agent.json is written last, so a folder with one is a complete enrolment.
 */
#pragma once

#include "base/diag.h"
#include "base/id.h"
#include "base/log.h"
#include "loop/loop.h"
#include "pki/cert.h"
#include "pki/roots.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_HUBS_MAX  8
#define AGENT_ALLOW_MAX 64

/* Request header of enrolment and renewal: roots_digest_text of those that the agent trusts.
 * Whoever knows no more than one root sends none. */
#define AGENT_ROOTS_HEADER "Warren-Roots"

struct agent_identity {
    char id[ID_SIZE], tenant[ID_SIZE];
    char trust_domain[TRUST_DOMAIN_SIZE];
    char *hubs[AGENT_HUBS_MAX]; /* "https://host:port", in the order to dial */
    size_t n_hubs;
    char *allow[AGENT_ALLOW_MAX]; /* the owner's ceiling, rules of base/addr.h; none: everything */
    size_t n_allow;
    char *ca_pem; /* the roots it trusts */
    char *cert_pem;
    struct secret key_pem;
    char serial[CERT_SERIAL_SIZE];
    int64_t not_before_ms, not_after_ms; /* of cert_pem */
    int64_t obtained_ms;                 /* when cert_pem was received */
    uint64_t roots_digest;               /* of the hubs' roots, as they were told last */
};

/* Reads and cross-checks the files. ERR_NOT_FOUND: not enrolled. */
int agent_identity_load(const char *dir, struct agent_identity *ret, struct diag *d);
void agent_identity_done(struct agent_identity *a);

/* Writes agent.json: who, hubs, allow rules. */
int agent_identity_save(const char *dir, const struct agent_identity *a, struct diag *d);

/* Takes a certificate that the hub sent (PKCS#7): checks that it is for our key, of our CA and for
 * the same agent, writes cert.pem and puts it in place. */
int agent_identity_renewed(const char *dir, struct agent_identity *a, const char *pkcs7, size_t len,
                           int64_t now_ms, struct diag *d);

/* The roots that the hubs have told, DER, the one that signs first: in place of the earlier ones,
 * on disk before this returns; one that our own certificate needs is kept. 1: they are other ones
 * than before, TLS clients have to be made anew; 0: the same. ERR_PROTO, and nothing has changed:
 * that is no list of roots of our trust domain. */
struct agent_root {
    const void *der;
    size_t len;
};
int agent_identity_take_roots(const char *dir, struct agent_identity *a,
                              const struct agent_root *told, size_t n, struct diag *d);
/* Whether our certificate is by another root than the one that signs now. */
bool agent_identity_is_by_old_root(const struct agent_identity *a);

bool agent_identity_is_expired(const struct agent_identity *a, int64_t now_ms);

/* "https://host:port" of what a user may type: scheme optional, port 443 unless given, no path. */
int agent_hub_url(const char *text, char **ret, struct diag *d);

struct agent_enroll_options {
    const char *hub; /* URL */
    const char *dir; /* made (0700) when missing */
    const struct secret *token;
    const char *name; /* wanted name; NULL: the host's name */
    const char *const *allow;
    size_t n_allow;
    bool force; /* replace an enrolment */
};

/* Blocks: for the command `warren-agent enroll`. The server must show the CA whose fingerprint the
 * token carries before the token is sent. ERR_EXISTS: enrolled already; ERR_TLS: that CA was not
 * shown (someone is in between, or the token is of another hub); what the hub answered; or why it
 * was not reached. */
int agent_enroll(const struct agent_enroll_options *options, struct agent_identity *ret,
                 struct diag *d);

/* Renewal on the agent's loop: at about two thirds of the certificate's life, with jitter; failures
 * are repeated with back-off for ever (an expired certificate is no reason to stop: the hub
 * decides). A new certificate is on disk before on_renewed is told. `agent` is borrowed and changed
 * in place (cert_pem, serial, times). */
struct agent_renewal;
struct agent_renewal_config {
    struct loop *loop;
    const char *dir; /* outlives the renewal */
    struct agent_identity *agent;
    void (*on_renewed)(void *arg);                        /* make new TLS client objects */
    void (*on_failed)(void *arg, const struct diag *why); /* for logs and status; may be NULL */
    void *arg;
    int64_t (*now_ms)(void); /* wall clock; NULL: time_wall_ms */
};
struct agent_renewal *agent_renewal_start(const struct agent_renewal_config *cfg);
/* For one who meets an expired certificate: renews at once, unless attempts are under way. */
void agent_renewal_hurry(struct agent_renewal *r);
/* Renews at a random moment of the next `within_ms`, if that is before it would. */
void agent_renewal_within(struct agent_renewal *r, uint32_t within_ms);
void agent_renewal_free(struct agent_renewal *r);

/* The rule by itself: when to renew, `jitter` from 0 to 1. */
int64_t agent_renewal_due(const struct agent_identity *a, double jitter);
