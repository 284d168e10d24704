/*
 * A worker: a thread with a loop that accepts on the hub's port, shakes hands, serves the clients
 * of tunnels by name, and hands all other connections to the main loop, which sends those of
 * agents' data to the worker that is their home.
 */
#pragma once

#include "net/server.h"
#include "tunnel/tunnel_web.h"

struct worker;

struct worker_config {
    struct loop *main;
    struct tls_server *tls;
    struct proxy_trust *trust;
    uint32_t max_waiting, max_per_address; /* unfinished handshakes, of this worker */
    uint32_t handshakes_per_second;        /* 0: as many as come */
    int fd_max;                            /* server.h */
    struct tunnels
        *web; /* tunnels by name, of those in the first `n_web_lanes` lanes; NULL: none */
    size_t n_web_lanes;
    /* Called on the main loop with the connection detached. */
    void (*on_conn)(void *arg, struct conn *c, size_t lane);
    void *arg;
};

/* `fd`: a listening socket for this worker (SO_REUSEPORT), taken. */
int worker_start(const struct worker_config *cfg, int fd, struct worker **ret);

struct loop *worker_loop(const struct worker *w);

void worker_stop_accepting(struct worker *w);
/* Drops unfinished handshakes too; `done` on the main loop: no connection comes any more. */
void worker_close_server(struct worker *w, void (*done)(void *arg), void *arg);
/* Ends the thread, waits for it and frees. Nothing may live on its loop. */
void worker_end(struct worker *w);

/* Both: NULL after worker_close_server. Main loop. */
const struct server_stats *worker_stats(const struct worker *w);
const struct gateway_stats *worker_web_stats(const struct worker *w);
