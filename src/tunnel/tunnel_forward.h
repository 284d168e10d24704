/*
 * Plain requests through the proxy: "GET http://host/path" over HTTP/1.1, each with its own target
 * (RFC 9112 section 3.2.2). A gateway on one loop; who asks for what is judged on the main loop.
 */
#pragma once

#include "tunnel/tunnel_hub.h"

struct conn;
struct tunnel_forward;

/* Main loop. `l`: where it works; the others are called there. */
struct tunnel_forward *tunnel_forward_new(struct tunnels *ts, struct loop *l);
void tunnel_forward_take(struct tunnel_forward *f, struct conn *c); /* attached, not started */
void tunnel_forward_drain(struct tunnel_forward *f);
void tunnel_forward_free(struct tunnel_forward *f);
