/*
 * The kinds of objects that can be declared in files: one row each. What an object may say is the
 * hub's business; nothing here knows the members of a spec.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* A member that names another object: shown as its name, which may be about to be made. */
struct kind_ref {
    const char *path;  /* "spec.target.network" */
    const char *kind;  /* "network" */
    const char *query; /* of a dry run: "pending_network" */
};

struct kind {
    const char *name;           /* "tunnel" */
    const char *collection;     /* "tunnels" */
    const char *const *members; /* what is declared, beside the name; ends with NULL */
    const struct kind_ref *ref; /* NULL: names no other */
    bool (*is_passing)(const json_t *object); /* nobody declared it: not exported; may be NULL */
};

/* In the order in which they are made; deleted in the reverse order. */
extern const struct kind kinds[];
extern const size_t n_kinds;

const struct kind *kind_find(const char *name); /* NULL: none */

/* What a live object declares: {"name", members…}, a reference as the name that `name_of` gives
 * (NULL: as it is). A new reference. */
json_t *kind_declared(const struct kind *k, const json_t *object,
                      const char *(*name_of)(void *arg, const char *collection, const char *id),
                      void *arg);
/* The string at a dotted path; NULL. And sets it where all but the last step exist. */
const char *kind_text_at(const json_t *object, const char *path);
void kind_set_at(json_t *object, const char *path, const char *text);
