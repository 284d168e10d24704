/*
 * Which public name belongs to which tunnel of this hub: each to one. Written by the main loop,
 * looked up by any thread.
 */
#pragma once

#include "base/addr.h"
#include "base/id.h"

#include <stdbool.h>

enum tunnel_name_kind {
    TUNNEL_NAME_NONE,
    TUNNEL_NAME_HOST, /* HTTP that the hub takes apart */
    TUNNEL_NAME_SNI,  /* TLS that passes untouched */
};

struct tunnel_names;

struct tunnel_names *tunnel_names_new(void);
void tunnel_names_free(struct tunnel_names *n);

/* Names are canonical (host_name_parse). Any thread. */
enum tunnel_name_kind tunnel_names_find(struct tunnel_names *n, const char *name);
bool tunnel_names_has_sni(struct tunnel_names *n); /* any, at all */

/* Main loop. ERR_EXISTS: another tunnel has it. ERR_DENIED: it is the hub's own. */
int tunnel_names_claim(struct tunnel_names *n, const char *name, enum tunnel_name_kind kind,
                       const char *tunnel);
/* Whether a claim would succeed, as of now. */
int tunnel_names_check(struct tunnel_names *n, const char *name, const char *tunnel);
void tunnel_names_release(struct tunnel_names *n, const char *name, const char *tunnel);
const char *tunnel_names_tunnel(struct tunnel_names *n, const char *name); /* NULL: nobody's */
/* One of the hub's own. */
void tunnel_names_reserve(struct tunnel_names *n, const char *name);
