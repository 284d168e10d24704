/*
 * The connections an agent has open, whether or not they are of its live session: control sessions
 * and links. They are capped for each agent, so that one that goes wild takes nothing from others.
 */
#include "fleet/internal.h"

#include "base/mem.h"
#include "net/conn.h"
#include "pki/cert.h"
#include "rpc/server.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define SESSIONS_MAX 8 /* control connections of one agent; the oldest gives way */
#define LINKS_MAX    (2 * FLEET_LINKS_MAX) /* reverse connections, of superseded sessions too */

/* A control connection, the user pointer of its rpc_session. */
struct control {
    struct spiffe id;
    struct rpc_session *session;
    struct fleet_peer *peer;
    bool is_shed;
    struct control *prev, *next;
};

struct fleet_peer {
    char agent[ID_SIZE];
    struct control *controls; /* oldest first */
    struct control *shed;     /* one too many: being closed */
    size_t n_controls, n_links;
    UT_hash_handle hh;
};

static struct fleet_peer *peer_get(struct fleet *f, const char *agent)
{
    struct fleet_peer *p;
    HASH_FIND_STR(f->peers, agent, p);
    if (!p) {
        p = NEW(struct fleet_peer);
        snprintf(p->agent, sizeof(p->agent), "%s", agent);
        HASH_ADD_STR(f->peers, agent, p);
    }
    return p;
}

static void peer_put(struct fleet *f, struct fleet_peer *p)
{
    if (p->controls || p->shed || p->n_links)
        return;
    HASH_DEL(f->peers, p);
    mem_free(p);
}

static void shed_oldest(struct fleet_peer *p)
{
    struct control *c = p->controls;
    DL_DELETE(p->controls, c);
    p->n_controls--;
    DL_APPEND(p->shed, c);
    c->is_shed = true;
    rpc_session_close(c->session);
}

void *fleet_peer_session_open(struct rpc_session *s, void *arg)
{
    struct fleet *f = arg;
    struct control *c = NEW(struct control);
    if (cert_identity(conn_peer_cert(rpc_session_conn(s)), f->cfg.trust_domain, &c->id) < 0) {
        mem_free(c);
        return NULL;
    }
    c->session = s;
    c->peer = peer_get(f, c->id.agent);
    DL_APPEND(c->peer->controls, c);
    if (++c->peer->n_controls > SESSIONS_MAX)
        shed_oldest(c->peer);
    return c;
}

void fleet_peer_session_close(struct rpc_session *s, void *user, int err, void *arg)
{
    struct control *c = user;
    if (!c)
        return;
    if (c->is_shed) {
        DL_DELETE(c->peer->shed, c);
    } else {
        DL_DELETE(c->peer->controls, c);
        c->peer->n_controls--;
    }
    peer_put(arg, c->peer);
    mem_free(c);
}

const struct spiffe *fleet_peer_of(struct rpc_call *call)
{
    struct rpc_session *s = rpc_call_session(call);
    struct control *c = s ? rpc_session_user(s) : NULL;
    return c ? &c->id : NULL;
}

void fleet_peer_close_sessions(struct fleet *f, const char *agent)
{
    struct fleet_peer *p;
    struct control *c;
    HASH_FIND_STR(f->peers, agent, p);
    if (!p)
        return;
    DL_FOREACH (p->controls, c)
        rpc_session_close(c->session);
}

bool fleet_peer_link_add(struct fleet *f, const char *agent)
{
    struct fleet_peer *p = peer_get(f, agent);
    if (p->n_links >= LINKS_MAX)
        return false;
    p->n_links++;
    return true;
}

void fleet_peer_link_remove(struct fleet *f, const char *agent)
{
    struct fleet_peer *p = peer_get(f, agent);
    p->n_links--;
    peer_put(f, p);
}

void fleet_peers_close(struct fleet *f)
{
    for (struct fleet_peer *p = f->peers; p; p = p->hh.next)
        fleet_peer_close_sessions(f, p->agent);
}

void fleet_peers_free(struct fleet *f)
{
    struct fleet_peer *p, *next_p;
    struct control *c, *next;
    HASH_ITER (hh, f->peers, p, next_p) {
        DL_FOREACH_SAFE (p->controls, c, next)
            mem_free(c);
        DL_FOREACH_SAFE (p->shed, c, next)
            mem_free(c);
        HASH_DEL(f->peers, p);
        mem_free(p);
    }
}
