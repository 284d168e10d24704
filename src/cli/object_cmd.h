/*
 * What list, get, delete and the like have in common, whatever the kind of object.
 */
#pragma once

#include "cli/output.h"
#include "cli/remote.h"

extern const struct flag_set output_flags;     /* -o, -q */
extern const struct flag_set list_flags;       /* --watch */
extern const struct flag_set if_version_flags; /* --if-version */

/* How the call wants its output. `r` may be NULL: no names instead of ids. */
struct output output_of(struct call *c, struct remote *r);

/* Follows --watch. `path` is stolen. `limit` 0: all. */
int object_list(struct call *c, const struct view *v, char *path, size_t limit);
int object_get(struct call *c, const struct view *v);    /* the object named by the argument */
int object_delete(struct call *c, const struct view *v); /* each argument */
/* POST …/NAME:verb for each argument, and shows what came of it. */
int object_action(struct call *c, const struct view *v, const char *verb);
/* The same for the first argument, with `body`, which is stolen; shows the answer. */
int object_action_with(struct call *c, const struct view *v, const char *verb, json_t *body);
/* POST of an object that is its name, the argument; shows it. */
int object_create_named(struct call *c, const struct view *v);
/* POST. `body` is stolen. */
int object_create(struct call *c, struct remote *r, const struct view *v, json_t *body,
                  json_t **ret);
