/*
 * The hubs that an agent knows: those that it was configured with, in their order, and those of the
 * cluster, of which hubs tell it. Which is to be dialled next is worked out here; values and rules,
 * no I/O.
 *
 * A hub of the cluster is only as good as its certificate: it must bear the hub's id as a DNS name
 * and be of the agent's CA, so that a list sends nobody to a stranger.
 */
#pragma once

#include "base/addr.h"
#include "base/id.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HUB_LIST_CONFIGURED 8
#define HUB_LIST_CLUSTER    64

/* Hubs this near to the nearest one are as good. */
#define HUB_LIST_NEAR_US 5000

struct hub_entry {
    char id[ID_SIZE]; /* empty: configured, so it may be a load balancer */
    struct host_port at;
    struct addr known; /* where the last dial succeeded; len 0: nowhere */
    uint32_t rtt_us;   /* measured; 0: not */
    bool is_leaving;   /* it is being drained */
    bool was_tried;    /* since the agent was connected */
};

struct hub_list {
    struct hub_entry entries[HUB_LIST_CONFIGURED + HUB_LIST_CLUSTER]; /* configured ones first */
    size_t n, n_configured;
};

/* ERR_LIMIT */
int hub_list_configure(struct hub_list *l, const struct host_port *at);

/* Replaces the cluster's: what is known of those that stay is kept. Entries with a bad id or
 * address, or one too many, are left out. */
struct hub_told {
    const char *id, *address; /* HOST:PORT */
    bool is_leaving;
};
void hub_list_replace(struct hub_list *l, const struct hub_told *told, size_t n);

/* The next one to dial, and it is marked as tried: a near one of the cluster (by `random`), then
 * the configured ones, those that were not measured, those that are leaving. `not_id` (may be
 * empty) is passed over. When all were tried they begin anew. NULL: there is none. */
struct hub_entry *hub_list_next(struct hub_list *l, const char *not_id, uint32_t random);
/* Whether another one would come before any is tried again. */
bool hub_list_has_untried(const struct hub_list *l, const char *not_id);
void hub_list_reset(struct hub_list *l); /* none was tried */

struct hub_entry *hub_list_find(struct hub_list *l, const char *id, const struct host_port *at);

/* As it is kept in a file: [{"id", "address", "rtt_us"}] */
json_t *hub_list_json(const struct hub_list *l);
void hub_list_load(struct hub_list *l, const json_t *list); /* what is malformed is left out */
