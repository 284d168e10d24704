/* What the tests of the relay share: a hub and an agent on one loop, joined by one connection. */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"
#include "net/h2conn.h"
#include "net/relay.h"
#include "traffic.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RELAY_RIG_WINDOW (1u << 20) /* the largest of a stream */

struct relay_rig {
    struct loop *loop;
    struct h2conn *hub, *agent;
    struct relay_set hub_set, agent_set;
    int listening; /* the target */
    struct addr target;
    int (*check)(void *arg, const struct addr *a);
    struct relay_result hub_result, agent_result;
    int hub_ends, agent_ends, opens, closed;
    uint32_t deadline_ms;
};

extern const struct relay_ops relay_rig_hub_ops;
extern const struct h2conn_ops relay_rig_hub_conn, relay_rig_agent_conn;
extern const struct h2conn_config relay_rig_hub_config, relay_rig_agent_config;

void relay_rig_base(struct relay_rig *rig); /* the loop and the target, without the connection */
void relay_rig_new(struct relay_rig *rig);
void relay_rig_done(struct relay_rig *rig);

/* A client's socket; the relay may be wanted too. */
int relay_rig_open_to(struct relay_rig *rig, const struct addr *target, struct relay **ret);
/* A client's socket and the target's, joined by a relay. */
void relay_rig_open(struct relay_rig *rig, int *client, int *target);
