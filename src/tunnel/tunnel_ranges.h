/*
 * Which addresses of a network a tunnel to all of it may reach: spec.target.allow, and what a mount
 * asks for. Values.
 */
#pragma once

#include "base/addr.h"

#include <jansson.h>

/* A target of this name, port 53, is the name server that the agent's machine asks. */
#define TUNNEL_RESOLVER "resolver.agent"
/* A flow to this name leads nowhere. It is open for as long as the agent holds the lease and gets
 * new streams: whoever opens it learns both, and the tunnel counts as used. */
#define TUNNEL_LEASE "lease.agent"

/* A flow to this name carries echo requests to any target (net/echo_target.h). */
#define TUNNEL_ECHO "echo.agent"

#define TUNNEL_RANGES_MAX  16
#define TUNNEL_RANGES_TEXT (TUNNEL_RANGES_MAX * ADDR_TEXT_SIZE)

/* A header of requests for echoes, whose targets the hub does not see: the agent keeps to it. */
#define TUNNEL_ALLOW "warren-allow"

struct tunnel_ranges {
    struct addr_range list[TUNNEL_RANGES_MAX];
    uint8_t n; /* 0: every address */
};

/* An array of texts, or none. `d->field` is "spec.target.allow". */
int tunnel_ranges_parse(const json_t *allow, struct tunnel_ranges *ret, struct diag *d);
json_t *tunnel_ranges_json(const struct tunnel_ranges *r); /* NULL for every address */
/* "10.0.0.0/24,10.1.0.0/16". ERR_INVALID. */
int tunnel_ranges_read(const char *text, struct tunnel_ranges *ret);
void tunnel_ranges_write(const struct tunnel_ranges *r, char out[TUNNEL_RANGES_TEXT]);

bool tunnel_ranges_equal(const struct tunnel_ranges *a, const struct tunnel_ranges *b);
/* Whether a stream may go there: where there are ranges, only to an address in them, or to the
 * agent's name server, or for echoes. */
bool tunnel_ranges_permit(const struct tunnel_ranges *r, const struct host_port *target);
bool tunnel_ranges_permit_addr(const struct tunnel_ranges *r, const struct addr *a);
