/*
 * The flags that say how a tunnel is reached from outside, and by whom: for create and update.
 */
#pragma once

#include "cli/command.h"

#include <jansson.h>

extern const struct flag_set access_flags;

/* Adds the members of spec.access that were given to `access`. `*has_endpoint`: one was. */
int access_from_flags(struct call *c, json_t *access, bool *has_endpoint);
/* Adds the hubs of the endpoint, which then is complete. */
int access_hubs_from_flags(struct call *c, json_t *access);
