/*
 * What a request to the hub as a proxy must show, however it came: who asks, for which network and
 * target. Main loop.
 */
#pragma once

#include "tunnel/internal.h"

struct tunnel_proxy_ask {
    const char *credentials; /* Proxy-Authorization; NULL: none */
    const char *authority;   /* "host:port"; NULL: only who asks is judged */
    const char *udp_path;    /* of connect-udp instead; NULL: a stream */
    /* By a tunnel to the whole network ("network"), or to ranges of it (tunnel_ranges_read): many
     * targets will follow. NULL: by any that leads to the target. */
    const char *scope;
    struct addr peer;
    struct addr own; /* where the client found this hub; len 0: unknown */
};

/* Fills the demand, which can then be started. Else what tunnel_proxy_refusal explains:
 * ERR_UNAUTHENTICATED, ERR_INVALID, ERR_NOT_FOUND, ERR_DENIED. */
int tunnel_proxy_judge(struct tunnels *ts, const struct tunnel_proxy_ask *ask,
                       struct tunnel_demand *ret, struct diag *d);

/* A refusal's status, and its Proxy-Status field. */
#define TUNNEL_PROXY_CHALLENGE "Basic realm=\"warren\", charset=\"UTF-8\"" /* with a 407 */
int tunnel_proxy_refusal(int err, char field[PROXY_STATUS_SIZE]);
