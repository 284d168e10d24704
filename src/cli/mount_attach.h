/*
 * A mount's hold on its tunnel: one flow that stays open and leads nowhere (TUNNEL_LEASE). Its
 * request makes the tunnel and waits until an agent holds the lease; while it is open the tunnel
 * counts as used; when it ends that agent is gone, and the next request waits for another one.
 */
#pragma once

#include "cli/uplink.h"
#include "net/flow.h"

struct attach_config {
    struct loop *loop;
    struct uplink *uplink;
    const struct h2_header *headers; /* of each request; outlive it */
    size_t n_headers;
    void (*on_change)(void *arg); /* attach_is_up has another value, or attach_error */
    void *arg;
};

/* Embedded. */
struct attach {
    struct attach_config cfg;
    struct uplink_waiter waiter;
    struct flow *flow;
    struct flow_set flows;
    struct timer again;
    uint32_t failures; /* in a row */
    bool is_up, is_stopping;
    int err;
};

void attach_start(struct attach *a, const struct attach_config *cfg);
/* Its flow ends with the uplink's connections, or when the loop settles. */
void attach_stop(struct attach *a);
bool attach_is_up(const struct attach *a); /* an agent serves the mount */
int attach_error(const struct attach *a);  /* why not; 0: not known yet */
