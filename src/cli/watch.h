/*
 * Following changes: lists and objects as they move, and waiting for a tunnel to serve or an
 * agent to be drained.
 */
#pragma once

#include "cli/output.h"
#include "cli/remote.h"

/* Shows the objects at `path` and then each change, until interrupted; a watched object's deletion
 * ends it. A table prints one line a change, JSON one object a line; what was deleted is
 * {"id": …, "deleted": true}. Broken connections are resumed where they broke. */
int watch_show(struct call *c, struct remote *r, const struct view *v, const struct output *o,
               const char *path);

/* Waits until the tunnel serves, and gives its newest state (a new reference, also on failure if
 * one was seen). ERR_TIMEOUT, or ERR_CONFLICT when it cannot serve any more; the call's diagnosis
 * says why. */
int watch_until_active(struct call *c, struct remote *r, const char *id, int64_t timeout_ms,
                       json_t **ret);
/* The same until a draining agent holds no tunnel and has no stream any more. */
int watch_until_drained(struct call *c, struct remote *r, const char *id, int64_t timeout_ms,
                        json_t **ret);
