/*
 * Applying declared objects: reading what the hub has, planning, and carrying the plan out.
 */
#pragma once

#include "cli/plan.h"
#include "cli/remote.h"

struct apply {
    struct call *call;
    struct remote *remote;
    struct plan_rules rules;
    bool prune;
    char token[64]; /* id of who applies */
    struct manifest manifest;
    struct plan plan;
    json_t *live;    /* {"tunnel": {name: object}} */
    json_t *records; /* {object id: record} */
};

/* Reads the hub's side and fills the plan. Members at fault are told on the call's `err`, each with
 * its place; then ERR_INVALID. */
int apply_plan(struct apply *a);
/* Carries it out, step by step; stops at the first that fails. */
int apply_run(struct apply *a);
void apply_done(struct apply *a);

/* "last applied 3m ago by ci" or "changed 5m ago by ann from 10.0.0.1"; for free(), NULL: nothing
 * known. */
char *apply_note(void *apply, const struct plan_step *s);
