/*
 * The TLS front door of one loop: accepts, shakes hands, and gives finished connections to their
 * lane's owner. Bounded against strangers: a connection has no TLS state before its first byte,
 * 10 s to finish its handshake, and unfinished ones are capped overall and per address (the oldest
 * give way).
 *
 * Bounded against too many friends, too: handshakes are what costs, and a server that begins more
 * than it can finish in time finishes none. Beyond `handshakes_per_second` (with one second's worth
 * in reserve) a connection is reset as soon as it is accepted, for the price of two system calls.
 * The same when the process has no descriptors left but those that `fd_max` reserves.
 */
#pragma once

#include "net/conn.h"
#include "net/tls.h"

#include <stdatomic.h>

struct proxy_trust;
struct server;

/* Connections whose TLS is not ours: recognized by the name in the ClientHello, of which no byte is
 * taken. */
struct server_raw_ops {
    bool (*has_any)(void *arg); /* false: nothing needs to be looked at */
    bool (*wants)(void *arg, const char *name);
    void (*on_raw)(void *arg, int fd, const struct addr *peer, const char *name); /* takes `fd` */
};

struct server_config {
    struct tls_server *tls;
    struct proxy_trust *trust; /* load balancers before us; NULL: none */
    /* A finished handshake. The callee owns `c`: conn_start here, or conn_detach and conn_attach
     * on another loop. `lane` indexes tls_server_config.lanes. */
    void (*on_conn)(void *arg, struct conn *c, size_t lane);
    const struct server_raw_ops *raw; /* NULL: all TLS is ours */
    void *arg;
    uint32_t handshake_ms;          /* 0: 10 s */
    uint32_t max_waiting;           /* unfinished, on this loop; 0: 4096 */
    uint32_t max_per_address;       /* unfinished, from one address, on this loop; 0: 1024 */
    uint32_t handshakes_per_second; /* begun, on this loop; 0: as many as come */
    int fd_max; /* descriptors from this one on are for other things; 0: none are */
};

struct server_stats { /* readable from any thread */
    _Atomic uint64_t accepted, finished, failed, evicted, refused;
    _Atomic uint32_t waiting;
};

/* `fd`: from listener_bind; not owned. */
int server_start(struct loop *l, int fd, const struct server_config *cfg, struct server **ret);
void server_stop_accepting(struct server *s);
void server_free(struct server *s); /* drops unfinished handshakes; finished conns are not its */
const struct server_stats *server_stats(const struct server *s);
