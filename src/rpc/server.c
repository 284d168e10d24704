/*
 * The server and its sessions (connections). A call's life is in call.c.
 */
#include "rpc/server.h"

#include "base/error.h"
#include "base/mem.h"
#include "rpc/internal.h"

#include <utlist.h>

#define SESSIONS_DEFAULT 65536
#define CALLS_DEFAULT    32
#define BACKLOG_DEFAULT  (1024 * 1024)
#define DRAIN_MS         30000

/* A client pings after 5 s: who waits a little longer never has to, and both find a dead peer
 * within 15 s. */
#define PING_MS 7500
#define DEAD_MS 7500

int rpc_server_new(const struct rpc_server_config *cfg, struct rpc_server **ret)
{
    struct rpc_server *s = NEW(struct rpc_server);
    s->cfg = *cfg;
    s->cfg.sessions = cfg->sessions ? cfg->sessions : SESSIONS_DEFAULT;
    s->cfg.calls_per_session = cfg->calls_per_session ? cfg->calls_per_session : CALLS_DEFAULT;
    s->cfg.stream_backlog = cfg->stream_backlog ? cfg->stream_backlog : BACKLOG_DEFAULT;
    *ret = s;
    return 0;
}

void rpc_server_add(struct rpc_server *s, const struct rpc_method *rows, size_t n, void *ctx)
{
    struct rpc_table *t = NEW(struct rpc_table);
    *t = (struct rpc_table){.rows = rows, .n = n, .ctx = ctx};
    LL_APPEND(s->tables, t);
}

void rpc_server_stats(const struct rpc_server *s, struct rpc_stats *ret)
{
    *ret = s->stats;
}

/* --- sessions --------------------------------------------------------------------------------- */

static void on_request(void *arg, struct h2_stream *stream, const struct h2_headers *h)
{
    rpc_call_accept(arg, stream, h);
}

static void on_close(void *arg, int err)
{
    struct rpc_session *s = arg;
    struct rpc_server *server = s->server;
    if (server) {
        DL_DELETE(server->sessions, s);
        server->stats.sessions--;
        if (s->is_open && server->cfg.on_close)
            server->cfg.on_close(s, s->user, err, server->cfg.arg);
    }
    mem_free(s);
}

static const struct h2conn_ops h2conn_ops = {.on_request = on_request, .on_close = on_close};

void rpc_server_take(struct rpc_server *s, struct conn *c)
{
    if (s->is_draining || s->stats.sessions >= s->cfg.sessions) {
        conn_abort(c, ERR_LIMIT);
        return;
    }
    struct rpc_session *session = NEW(struct rpc_session);
    session->server = s;
    const struct h2conn_config cfg = {.h2 = {.is_server = true,
                                             .max_streams = s->cfg.calls_per_session,
                                             .stream_window = 64 * 1024,
                                             .stream_window_max = 256 * 1024,
                                             .connection_window = 1024 * 1024},
                                      .ping_ms = PING_MS,
                                      .dead_ms = DEAD_MS};
    session->hc = h2conn_new(c, &cfg, &h2conn_ops, session);
    DL_APPEND(s->sessions, session);
    s->stats.sessions++;
    session->is_open = true;
    if (s->cfg.on_open)
        session->user = s->cfg.on_open(session, s->cfg.arg);
}

struct conn *rpc_session_conn(const struct rpc_session *s)
{
    return h2conn_conn(s->hc);
}

void *rpc_session_user(const struct rpc_session *s)
{
    return s->user;
}

void rpc_session_close(struct rpc_session *s)
{
    h2conn_abort(s->hc, ERR_CANCELED);
}

/* --- the end ---------------------------------------------------------------------------------- */

void rpc_server_drain(struct rpc_server *s)
{
    s->is_draining = true;
    struct rpc_session *session, *next;
    DL_FOREACH_SAFE (s->sessions, session, next)
        h2conn_shutdown(session->hc, DRAIN_MS);
}

static void abandon(struct rpc_session *session)
{
    struct rpc_call *call;
    session->server = NULL;
    DL_FOREACH (session->calls, call)
        call->on_cancel = NULL;
    h2conn_abort(session->hc, ERR_CANCELED);
}

void rpc_server_free(struct rpc_server *s)
{
    if (!s)
        return;
    struct rpc_session *session, *next;
    DL_FOREACH_SAFE (s->sessions, session, next) {
        DL_DELETE(s->sessions, session);
        abandon(session);
    }
    struct rpc_table *t, *next_table;
    LL_FOREACH_SAFE (s->tables, t, next_table)
        mem_free(t);
    mem_free(s);
}
