/*
 * Shortcuts, at the agent: connections to hubs where it is not logged in, but where clients of its
 * tunnels come in. Their streams pass through the agent's own hub; one that is busy is moved to
 * such a connection by the hub where its client is (net/relay.h, relay_take_shortcut).
 *
 * They are dialled when a stream is busy that could use one, closed when they are idle, and belong
 * to one session, whose epoch they tell.
 */
#pragma once

#include "fleet/hub_list.h"
#include "loop/loop.h"

struct h2_headers;
struct h2_stream;
struct shortcuts;
struct tls_client;

struct shortcuts_config {
    struct loop *loop;
    uint32_t epoch;              /* of the session */
    const struct hub_list *hubs; /* where they are; outlives the shortcuts */
    /* A client for that hub, referenced; negative: there is none. */
    int (*make_tls)(void *arg, const char *hub, struct tls_client **ret);
    void (*on_request)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    void *arg;
};

struct shortcuts *shortcuts_new(const struct shortcuts_config *cfg);
/* A stream with this tag ("HUB-ID/WORKER/...", net/relay.h) is busy. */
void shortcuts_want(struct shortcuts *sc, const char *tag);
void shortcuts_leave(struct shortcuts *sc); /* those that are open stay, no other is dialled */
void shortcuts_free(struct shortcuts *sc);  /* cuts all */
