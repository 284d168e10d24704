/*
 * Where a connect-udp request goes (RFC 9298 section 2): the path of the default template,
 * "/.well-known/masque/udp/{target_host}/{target_port}/", percent-encoded as a template expands.
 */
#pragma once

#include "base/addr.h"

#define CONNECT_UDP_PATH_SIZE (HOST_SIZE * 3 + 48)

void connect_udp_path(const struct host_port *target, char out[CONNECT_UDP_PATH_SIZE]);

/* Port 0 is none. ERR_INVALID with a text in `d` (may be NULL). */
int connect_udp_parse(const char *path, struct host_port *ret, struct diag *d);
