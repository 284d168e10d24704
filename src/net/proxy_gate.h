/*
 * Behind a load balancer: connections from trusted addresses begin with a PROXY header
 * (wire/proxy_header.h) that says who is really there. The gate reads it, and nothing beyond it,
 * before anybody else sees the connection. One without a proper header is closed, and so is one
 * that takes longer than PROXY_GATE_MS or waits when too many do.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"

#include <stdatomic.h>

#define PROXY_GATE_MS      5000
#define PROXY_GATE_WAITING 4096 /* connections at a gate; the oldest gives way */
#define PROXY_TRUST_RULES  64

/* Which addresses are trusted. Constant while in use, but for the counters. Any thread. */
struct proxy_trust {
    struct addr_rule rules[PROXY_TRUST_RULES];
    size_t n;
    _Atomic uint64_t accepted, refused;
};
bool proxy_trust_has(const struct proxy_trust *t, const struct addr *peer);

struct proxy_gate;

/* `on_pass` gets the descriptor and the client's address: the header's, or the connection's own if
 * the header tells none. It may free the gate. */
struct proxy_gate *proxy_gate_new(struct loop *l, struct proxy_trust *trust,
                                  void (*on_pass)(void *arg, int fd, const struct addr *client),
                                  void *arg);
void proxy_gate_take(struct proxy_gate *g, int fd, const struct addr *peer); /* a trusted one */
void proxy_gate_free(struct proxy_gate *g); /* closes those that wait; NULL is fine */
