/*
 * What a running agent holds, for whoever may enter its data folder: a socket in it that gives each
 * client one JSON text, made at that moment, and closes. It reads nothing.
 */
#pragma once

#include "base/buf.h"
#include "base/diag.h"

#include <jansson.h>

#define AGENT_VIEW_SOCKET "agent.sock" /* in the data folder; mode 0600 */

struct agent_view;
struct loop;

struct agent_view_config {
    struct loop *loop;
    const char *dir;
    json_t *(*render)(void *arg);
    void *arg;
};

/* Takes the place of a socket that an earlier process left. ERR_IO, ERR_TOO_LARGE: the folder's
 * path is too long for a socket. */
int agent_view_start(const struct agent_view_config *cfg, struct agent_view **ret, struct diag *d);
void agent_view_free(struct agent_view *v); /* removes the socket */

/* The other side: appends what the agent in `dir` says. Blocks. ERR_UNAVAILABLE: none runs there.
 */
int agent_view_read(const char *dir, struct buf *out, struct diag *d);
