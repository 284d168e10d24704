/*
 * The hubs that a user logged in to: a file of mode 0600 with address, token and trusted CA of
 * each, and which one is in use. WARREN_CONTEXTS names the file; otherwise it is
 * $XDG_CONFIG_HOME/warren/contexts.json or ~/.config/warren/contexts.json.
 */
#pragma once

#include "base/diag.h"

#include <jansson.h>

struct contexts {
    char *path;
    json_t *root; /* {"current": NAME, "contexts": {NAME: {"hub", "token", "ca"}}} */
};

/* Strings live as long as the contexts are neither changed nor done. */
struct context {
    const char *name;
    const char *hub;
    const char *token; /* NULL: none */
    const char *ca;    /* PEM; NULL: the system's */
};

/* A file that does not exist is empty. ERR_DENIED when others can read it. */
int contexts_load(struct contexts *ret, struct diag *d);
void contexts_done(struct contexts *cs);
int contexts_save(const struct contexts *cs, struct diag *d);

/* `name` NULL: the current one. ERR_NOT_FOUND with a diagnosis. */
int contexts_get(const struct contexts *cs, const char *name, struct context *ret, struct diag *d);
const char *contexts_current(const struct contexts *cs); /* NULL: none */
void contexts_put(struct contexts *cs, const struct context *c);
void contexts_use(struct contexts *cs, const char *name);
/* Also when it is the current one: then none is. */
void contexts_remove(struct contexts *cs, const char *name);
/* [{"name", "hub", "current"}], without secrets. A new reference. */
json_t *contexts_list(const struct contexts *cs);
