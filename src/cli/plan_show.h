/*
 * A plan for people (coloured lines) and for scripts (JSON).
 */
#pragma once

#include "cli/output.h"
#include "cli/plan.h"

/* The steps, differences field by field; unchanged ones are only counted. `note`: a text about a
 * step such as who changed it last, or NULL; for free(). */
void plan_show(const struct output *o, const struct plan *p,
               char *(*note)(void *arg, const struct plan_step *s), void *arg);
/* "1 to create, 2 to update, 5 unchanged" */
void plan_summary(const struct plan *p, char *out, size_t size);
/* New reference; see docs/apply.md. */
json_t *plan_json(const struct plan *p, const struct plan_rules *rules, bool is_dry_run);
