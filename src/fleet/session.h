/*
 * The agent's side of the fleet: keeps a control session with a hub for ever, and reverse
 * connections while somebody wants them. One loop.
 *
 * When the hub answered and refused, the pause before the next attempt doubles up to 30 s, with
 * jitter; when nobody answered, a fresh attempt starts within a second: packets that reach nobody
 * burden nobody, and a network that returns is used at once. Which hub is dialled: hub_list.h.
 *
 * A hub that is being drained asks its agents to move: the session at another hub is there before
 * the one that is left, and that one's streams go on until its hub ends them.
 */
#pragma once

#include "base/diag.h"
#include "fleet/hub_list.h"
#include "identity/agent.h"
#include "loop/loop.h"
#include "rpc/client.h"

#include <stdbool.h>
#include <stdint.h>

#define SESSION_WELCOME_MS 15000 /* for a hub to answer Connect */

struct h2_headers;
struct h2_stream;
struct session;
typedef struct Warren__V1__HubEvent Warren__V1__HubEvent;
typedef struct Warren__V1__Welcome Warren__V1__Welcome;

struct session_config {
    struct loop *loop;
    struct agent_identity *identity; /* borrowed; session_reload when it has changed */
    const char *const *hubs;         /* URLs; borrowed */
    size_t n_hubs;
    bool fixed_hubs; /* only those: what the cluster tells of its hubs is not used */
    const json_t
        *known_hubs; /* what on_hubs gave, in an earlier process (hub_list_json); or NULL */
    const char *const *allow; /* told to the hub; copied */
    size_t n_allow;
    const char *hostname;
    const char *instance; /* random, of this process; borrowed */
    bool discovery;       /* told to the hub: whether this agent looks for others */

    void (*on_up)(void *arg, const Warren__V1__Welcome *w);
    void (*on_event)(void *arg, const Warren__V1__HubEvent *e);
    void (*on_down)(void *arg);
    /* Instead of on_down and on_up: the session is one at another hub now, and streams of the one
     * before go on, until on_left_over or on_down. */
    void (*on_moved)(void *arg, const Warren__V1__Welcome *w);
    void (*on_left_over)(void *arg);
    /* The hubs of the cluster are others, or were measured: to be kept. May be NULL. */
    void (*on_hubs)(void *arg, const struct hub_list *hubs);
    /* A request of the hub on a reverse connection. */
    void (*on_request)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    /* The same of another hub: it may only move streams (fleet/shortcut.h). */
    void (*on_shortcut)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    /* The certificate is refused or has ended: renewing may help. */
    void (*on_certificate)(void *arg);
    void *arg;
};

/* ERR_TLS: the identity's files make no TLS client; ERR_INVALID: a hub's URL. */
int session_new(const struct session_config *cfg, struct session **ret, struct diag *d);
/* on_down is called if it was up. Aborted connections end in the turns that follow. */
void session_free(struct session *s);

/* After a renewal, or when other roots are trusted: new connections go by what the identity is now.
 */
int session_reload(struct session *s, struct diag *d);

/* Tells the hub which roots the identity trusts now. */
void session_report_roots(struct session *s);

/* What the next login tells the hub; copied. */
void session_set_allow(struct session *s, const char *const *allow, size_t n);

/* Whether reverse connections are wanted; they are kept open from now on, or closed. */
void session_want_reverse(struct session *s, bool wanted);

/* A stream with this tag is busy: a connection to where its client came in would be of use. */
void session_want_shortcut(struct session *s, const char *tag);

/* While up; NULL and 0 otherwise. */
struct rpc_client *session_rpc(const struct session *s);
uint64_t session_epoch(const struct session *s);

/* For status and logs: "connected to …", or why not. */
const char *session_status(const struct session *s);
bool session_is_up(const struct session *s);
