/*
 * How a running mount is found and talked to: a socket in the abstract namespace, "warren-mount/
 * UID/NAME". Nothing of it is on disk, so nothing can be left behind; a name is taken by exactly
 * one process; and a program inside a mount, which is in another network namespace, cannot reach
 * it. Both ends see by SO_PEERCRED that the other one is of the same user.
 *
 * One message asks ("status", "stop", "join"), one answers: a JSON object, for "join" with the
 * descriptor of the space's process 1. After "stop" the connection ends when the mount has.
 */
#pragma once

#include "base/diag.h"
#include "loop/loop.h"

#include <jansson.h>

struct control;

struct control_ops {
    json_t *(*status)(void *arg); /* a new reference */
    void (*stop)(void *arg);
    int (*process)(void *arg); /* a pidfd; stays the owner's */
};

#define CONTROL_NAME_SIZE 64

/* Takes the name for this process. ERR_EXISTS: a mount of this name runs. */
int control_listen(const char *name, int *ret_fd, struct diag *d);
/* Takes the descriptor, also on failure. */
int control_start(struct loop *l, int fd, const struct control_ops *ops, void *arg,
                  struct control **ret);
/* The name is free; who waits for the stop still waits: until control_free. NULL is fine. */
void control_stop(struct control *c);
void control_free(struct control *c);

/* ---- the other side; blocking ---- */

/* ERR_NOT_FOUND: no such mount. `ret_fd` (NULL: not wanted) is a descriptor or -1. For "stop" it
 * returns when the mount has ended. */
int control_ask(const char *name, const char *what, json_t **ret, int *ret_fd, struct diag *d);
/* The status of each mount of this user, in the order of their names. */
json_t *control_list(void);
