/*
 * What applying a set of declared objects would do, and why not: pure functions on what was read
 * from files and from the hub. The rules are in docs/apply.md.
 */
#pragma once

#include "cli/manifest.h"

enum plan_action {
    PLAN_UNCHANGED,
    PLAN_CREATE,
    PLAN_UPDATE,
    PLAN_ADOPT, /* it is as declared; from now on it belongs to the set */
    PLAN_DELETE,
    PLAN_CONFLICT,
    PLAN_ACTION_COUNT
};
extern const char *const plan_actions[]; /* names */

enum plan_result { PLAN_OPEN, PLAN_DONE, PLAN_FAILED, PLAN_RESULT_COUNT };
extern const char *const plan_results[];

struct plan_step {
    const struct kind *kind;
    const char *name;
    const struct manifest_object *source; /* NULL: not in the files, to be pruned */
    json_t *live;                         /* the hub's object; NULL: there is none */
    json_t *record;                       /* what was applied last; NULL: never */
    json_t *from, *to;                    /* as declared, all members; NULL: not there */
    enum plan_action action;
    char why[400]; /* of a conflict */
    char advice[200];
    bool is_drift;   /* others changed it since the record */
    bool has_secret; /* a password changes, which no difference shows */
    enum plan_result result;
    char failure[300];
    char *id; /* afterwards */
};

struct plan {
    struct plan_step *steps;
    size_t n;
};

struct plan_rules {
    const char *set;   /* NULL: none */
    const char *token; /* id of who applies */
    bool overwrite;    /* what others changed meanwhile */
    bool take_over;    /* objects of other sets */
};

/* Decides on a step whose source, live, record, from and to are known. */
void plan_decide(const struct plan_rules *rules, struct plan_step *step);

/* [{"field": "spec.target.address", "from": …, "to": …}]: what differs, objects member by member;
 * either may be NULL. A new reference. */
json_t *plan_changes(const json_t *from, const json_t *to);

struct plan_step *plan_add(struct plan *p, const struct kind *kind, const char *name);
size_t plan_count(const struct plan *p, enum plan_action action);
void plan_done(struct plan *p);

uint64_t plan_version(const json_t *object); /* its member "version"; 0: NULL */
