/*
 * A few connections to a hub as a proxy into one network (ALPN warren-client/1), kept up for ever:
 * a lost one is dialled again, with growing pauses; a hub that says goodbye is left. Streams go on
 * the connection that has the fewest; another is opened when all are busy.
 */
#pragma once

#include "base/diag.h"
#include "http/client.h"
#include "loop/loop.h"
#include "wire/h2.h"

struct h2conn;
struct uplink;

enum uplink_state {
    UPLINK_CONNECTING, /* for the first time */
    UPLINK_UP,
    UPLINK_DOWN,    /* was up, or could not get up; tries again */
    UPLINK_REFUSED, /* the hub said so at the first time: no such network, not authenticated */
};

/* Whoever waits for a connection. Embedded. */
struct uplink_waiter {
    /* 0 and a connection that takes a new stream now; or why there is none. Once, always later. */
    void (*fn)(struct uplink_waiter *w, struct h2conn *hc, int err);
    struct timer deadline;
    struct uplink *uplink; /* NULL: not waiting */
    struct uplink_waiter *prev, *next;
};

struct uplink_config {
    struct loop *loop;
    const struct http_client_config *http; /* hub, token, trust */
    const char *network;
    uint32_t stream_window, stream_window_max; /* bytes; 0: the usual of wire/h2 */
    void (*on_state)(void *arg);               /* another one, or another reason */
    void *arg;
};

/* Begins to connect. */
int uplink_new(const struct uplink_config *cfg, struct uplink **ret, struct diag *d);
/* Aborts everything; frees once uplink_is_idle. Waiters and streams have ended before. */
void uplink_close(struct uplink *u);
bool uplink_is_idle(const struct uplink *u); /* nothing of it is on the loop any more */
void uplink_free(struct uplink *u);

enum uplink_state uplink_state(const struct uplink *u);
const struct diag *uplink_reason(const struct uplink *u); /* why it is not up */
const char *uplink_hub(const struct uplink *u);           /* "hub.example:8443" */

void uplink_wait(struct uplink *u, struct uplink_waiter *w);
void uplink_wait_cancel(struct uplink_waiter *w); /* harmless when it does not wait */
struct h2conn *uplink_pick(struct uplink *u);     /* NULL: none is there now */

/* "Basic NETWORK:TOKEN" as Proxy-Authorization has it; a heap string, to be wiped. */
char *uplink_authorization(const char *network, const char *token);
/* What each request carries. */
const struct h2_header *uplink_headers(const struct uplink *u, size_t *ret_n);
