/*
 * ?watch=1: a stream of server-sent events that follows one kind of object through the store's
 * feed. It begins with every object as it is and a "sync" (or, when resumed by Last-Event-ID, with
 * what has changed since) and goes on with "put" and "delete" events whose id is the feed's
 * position.
 */
#pragma once

#include "base/id.h"
#include "http/server.h"
#include "store/store.h"

#include <jansson.h>

struct watch_source {
    struct store *store;
    const char *kind;   /* static, as published in the feed */
    const char *tenant; /* NULL: of all. Copied */
    const char *only;   /* id of the one object watched; NULL: all. Copied */

    /* The object as this watcher may see it; NULL: not there, or not for it. */
    json_t *(*render)(void *ctx, const char *id);
    /* Calls fn(arg, id) for every object; render() filters. */
    void (*each)(void *ctx, void (*fn)(void *arg, const char *id), void *arg);
    void (*done)(void *ctx); /* the watch is over; may be NULL */
    void *ctx;
};

/* Answers the request. `after`: resume behind this position; -1: from the beginning. */
void watch_start(struct http_request *req, const struct watch_source *source, int64_t after);
