/*
 * What a mount knows of the network's agents: their names and addresses on their LAN, and who holds
 * the mount's tunnel. Asked of the hub's REST API, now and then; when that fails the last answer
 * stays.
 */
#pragma once

#include "http/client.h"
#include "loop/loop.h"

#include <jansson.h>

struct mount_agents;

struct mount_agents_config {
    struct loop *loop;
    const struct http_client_config *http;
    const char *network; /* name or id */
    const char *scope;   /* of the mount's tunnel: see uplink's header warren-scope */
    void (*on_change)(
        void *arg); /* another agent serves, or the first answer (or failure) is here */
    void *arg;
};

int mount_agents_new(const struct mount_agents_config *cfg, struct mount_agents **ret,
                     struct diag *d);
void mount_agents_free(struct mount_agents *ma);          /* NULL is fine */
bool mount_agents_is_idle(const struct mount_agents *ma); /* nothing of it is on the loop: free */
void mount_agents_stop(struct mount_agents *ma);

void mount_agents_ask(struct mount_agents *ma);                  /* soon: somebody else may serve */
bool mount_agents_are_known(const struct mount_agents *ma);      /* it was asked at least once */
const char *mount_agents_serving(const struct mount_agents *ma); /* name; NULL: nobody, not known */
/* As struct mount_names wants it. */
int mount_agents_find(void *agents, const char *name, uint8_t (*ret)[16], size_t max);
