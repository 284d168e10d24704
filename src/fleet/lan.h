/*
 * The agent's part of LAN discovery: speaks and listens on every interface that can do multicast,
 * and reports to the hub which agents of its tenant it hears. It decides nothing.
 *
 * It starts when the hub has handed out the tenant's keys, with a session's Welcome, and goes on
 * with them while the hub is away; they are kept in memory only.
 */
#pragma once

#include "fleet/session.h"

struct lan;

struct lan_config {
    struct loop *loop;
    const char *agent; /* our id; borrowed */
    uint64_t instance; /* random, of this process */
    struct session *session;
};

struct lan *lan_new(const struct lan_config *cfg);
void lan_free(struct lan *l); /* says goodbye to the caches of others */

/* From the session's callbacks. */
void lan_on_up(struct lan *l, const Warren__V1__Welcome *w);
void lan_on_event(struct lan *l, const Warren__V1__HubEvent *e);
void lan_on_down(struct lan *l);
