#include "hub/worker.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

struct worker {
    struct worker_config cfg;
    int fd;
    struct loop *loop;
    struct server *server;                 /* the worker's */
    struct tunnel_gateway *gateway;        /* the same */
    const struct server_stats *stats;      /* the main loop's; NULL: closing */
    const struct gateway_stats *web_stats; /* the same */
    pthread_t thread;
};

struct handover {
    struct worker *worker;
    struct conn *conn;
    size_t lane;
};

static void hand_over(void *arg)
{
    CLEANUP(mem_free) struct handover *h = arg;
    h->worker->cfg.on_conn(h->worker->cfg.arg, h->conn, h->lane);
}

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct worker *w = arg;
    char name[HOST_SIZE];
    if (w->gateway && lane < w->cfg.n_web_lanes &&
        host_name_parse(conn_server_name(c), name) == 0 &&
        tunnel_names_find(tunnels_names(w->cfg.web), name) == TUNNEL_NAME_HOST) {
        tunnel_gateway_take(w->gateway, c);
        return;
    }
    conn_detach(c);
    struct handover *h = NEW(struct handover);
    *h = (struct handover){w, c, lane};
    loop_post(w->cfg.main, hand_over, h);
}

static bool wants_raw(void *arg, const char *name)
{
    struct worker *w = arg;
    return tunnel_names_find(tunnels_names(w->cfg.web), name) == TUNNEL_NAME_SNI;
}

static bool has_raw(void *arg)
{
    struct worker *w = arg;
    return tunnel_names_has_sni(tunnels_names(w->cfg.web));
}

static void on_raw(void *arg, int fd, const struct addr *peer, const char *name)
{
    struct worker *w = arg;
    tunnel_gateway_pass(w->gateway, fd, peer, name);
}

static const struct server_raw_ops raw_ops = {has_raw, wants_raw, on_raw};

/* Signals belong to the main thread. */
static void *run(void *arg)
{
    struct worker *w = arg;
    loop_run(w->loop);
    return NULL;
}

int worker_start(const struct worker_config *cfg, int fd, struct worker **ret)
{
    struct worker *w = NEW(struct worker);
    w->cfg = *cfg;
    w->fd = fd;
    int rc = loop_new(&w->loop);
    if (rc == 0 && cfg->web)
        w->gateway = tunnel_gateway_new(cfg->web, w->loop);
    if (rc == 0) {
        const struct server_config server = {.tls = cfg->tls,
                                             .trust = cfg->trust,
                                             .on_conn = on_conn,
                                             .raw = cfg->web ? &raw_ops : NULL,
                                             .arg = w,
                                             .max_waiting = cfg->max_waiting,
                                             .max_per_address = cfg->max_per_address,
                                             .handshakes_per_second = cfg->handshakes_per_second,
                                             .fd_max = cfg->fd_max};
        rc = server_start(w->loop, fd, &server, &w->server);
    }
    if (rc == 0) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        rc = pthread_create(&w->thread, NULL, run, w) ? ERR_LIMIT : 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (rc < 0) {
        if (w->server)
            server_free(w->server);
        if (w->gateway)
            tunnel_gateway_retire(w->gateway);
        tunnel_gateway_free(w->gateway);
        loop_free(w->loop);
        close(fd);
        mem_free(w);
        return rc;
    }
    w->stats = server_stats(w->server);
    w->web_stats = w->gateway ? tunnel_gateway_stats(w->gateway) : NULL;
    *ret = w;
    return 0;
}

struct loop *worker_loop(const struct worker *w)
{
    return w->loop;
}

/* The socket too: a client that nobody will accept is refused, not left waiting. */
static void stop_accepting(void *arg)
{
    struct worker *w = arg;
    if (w->server)
        server_stop_accepting(w->server);
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    if (w->gateway)
        tunnel_gateway_drain(w->gateway);
}

void worker_stop_accepting(struct worker *w)
{
    loop_post(w->loop, stop_accepting, w);
}

struct closing {
    struct worker *worker;
    void (*done)(void *arg);
    void *arg;
};

static void closed(void *arg)
{
    CLEANUP(mem_free) struct closing *c = arg;
    c->done(c->arg);
}

static void close_server(void *arg)
{
    struct closing *c = arg;
    struct worker *w = c->worker;
    stop_accepting(w);
    server_free(TAKE(w->server));
    tunnel_gateway_free(TAKE(w->gateway));
    loop_post(w->cfg.main, closed, c);
}

void worker_close_server(struct worker *w, void (*done)(void *arg), void *arg)
{
    struct closing *c = NEW(struct closing);
    *c = (struct closing){w, done, arg};
    w->stats = NULL;
    w->web_stats = NULL;
    if (w->gateway)
        tunnel_gateway_retire(w->gateway);
    loop_post(w->loop, close_server, c);
}

void worker_end(struct worker *w)
{
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    loop_settle(w->loop);
    loop_free(w->loop);
    mem_free(w);
}

const struct server_stats *worker_stats(const struct worker *w)
{
    return w->stats;
}

const struct gateway_stats *worker_web_stats(const struct worker *w)
{
    return w->web_stats;
}
