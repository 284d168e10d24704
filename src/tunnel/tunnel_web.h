/*
 * Tunnels by name: HTTP that the hub takes apart, and TLS that passes untouched. What is to happen
 * is decided on the main loop (who owns the name, who may come in, who serves it); each worker has
 * a gateway (http/gateway.h) that moves the bytes.
 */
#pragma once

#include "tunnel/tunnel_hub.h"
#include "tunnel/tunnel_names.h"

struct gateway_stats;
struct identity;
struct tunnel_gateway;

struct tunnel_web_config {
    struct tunnels *tunnels;
    struct identity *identity;
    const char *key_path;            /* a file of our own: signs the cookies; made if missing */
    bool shares_key;                 /* hubs of one CA: they take each other's cookies */
    const char *const *public_names; /* of the hub itself: no tunnel gets one */
    size_t n_public_names;
};

/* Main loop, before the workers. */
int tunnels_serve_web(const struct tunnel_web_config *cfg, struct diag *d);
/* The CA's roots are other ones: so are the keys that hubs share. */
void tunnels_roots_changed(struct tunnels *ts);
struct tunnel_names *tunnels_names(struct tunnels *ts); /* any thread may look something up */
/* Turns the loop until nothing runs elsewhere that would be told to a worker. */
void tunnels_settle_web(struct tunnels *ts);

/* One for each worker: made before its thread starts, then that thread's. */
struct tunnel_gateway *tunnel_gateway_new(struct tunnels *ts, struct loop *worker);
/* A connection, handshaked, whose name is of TUNNEL_NAME_HOST. */
void tunnel_gateway_take(struct tunnel_gateway *tg, struct conn *c);
/* A client whose ClientHello, still unread, asks for a name of TUNNEL_NAME_SNI. `fd` is taken. */
void tunnel_gateway_pass(struct tunnel_gateway *tg, int fd, const struct addr *peer,
                         const char *name);
const struct gateway_stats *tunnel_gateway_stats(const struct tunnel_gateway *tg);
void tunnel_gateway_drain(struct tunnel_gateway *tg);
/* Main loop, before the worker is told to free it: it gets no more messages. */
void tunnel_gateway_retire(struct tunnel_gateway *tg);
void tunnel_gateway_free(struct tunnel_gateway *tg);
