/*
 * Flags that set limits: of tunnels (spec.limits) and of tenants (limits).
 */
#pragma once

#include "cli/command.h"

#include <jansson.h>

extern const struct flag_set tunnel_limit_flags; /* --bandwidth, --max-streams, --max-rate */
extern const struct flag_set tenant_limit_flags; /* --tunnels, --agents, --streams, --bandwidth */

/* The members that were given, "none" as null; NULL in *ret if there are none. A new reference. */
int limit_flags_read(struct call *c, const struct flag_set *flags, json_t **ret);
