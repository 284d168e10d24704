#include "cli/plan.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const plan_actions[] = {"unchanged", "create", "update", "adopt", "delete", "conflict"};
static_assert(ARRAY_SIZE(plan_actions) == PLAN_ACTION_COUNT, "a name for each action");
const char *const plan_results[] = {"planned", "done", "failed"};
static_assert(ARRAY_SIZE(plan_results) == PLAN_RESULT_COUNT, "a name for each result");

uint64_t plan_version(const json_t *object)
{
    return (uint64_t)json_integer_value(json_object_get(object, "version"));
}

/* --- deciding -------------------------------------------------------------------------------- */

static void PRINTF_LIKE(3, 4)
    conflict(struct plan_step *s, const char *advice, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->why, sizeof(s->why), format, args);
    va_end(args);
    snprintf(s->advice, sizeof(s->advice), "%s", advice);
    s->action = PLAN_CONFLICT;
}

static bool is_drifted(const struct plan_step *s)
{
    return s->record && plan_version(s->record) != plan_version(s->live);
}

/* False: it belongs to another set, which is a conflict. */
static bool check_owner(const struct plan_rules *rules, struct plan_step *s, const char *owner,
                        bool is_same)
{
    if (!owner || rules->take_over || (rules->set && strcmp(owner, rules->set) == 0))
        return true;
    if (!rules->set && is_same)
        return true;
    conflict(s,
             rules->set ? "take it out of one of the two sets; --take-over moves it into this one"
                        : "apply it with the files of its set and --set",
             "it belongs to the set '%.63s'", owner);
    return false;
}

/* Whether the version that the file was made from is still what the file's author saw: nobody else
 * has changed the object since. */
static bool is_seen(const struct plan_rules *rules, const struct plan_step *s)
{
    uint64_t seen = s->source->version, live = plan_version(s->live);
    const char *token = json_string_value(json_object_get(s->record, "token"));
    uint64_t since = (uint64_t)json_integer_value(json_object_get(s->record, "since"));
    bool only_mine = s->record && !is_drifted(s) && token && strcmp(token, rules->token) == 0;
    return seen == live || (only_mine && seen >= since && seen <= live);
}

static void decide_difference(const struct plan_rules *rules, struct plan_step *s)
{
    s->action = PLAN_UPDATE;
    if (rules->overwrite)
        return;
    if (s->source->version && !is_seen(rules, s))
        conflict(s,
                 "take over what you want to keep, then write the present version into the "
                 "file; or --overwrite",
                 "the file was made from version %" PRIu64 ", it is at %" PRIu64 " by now",
                 s->source->version, plan_version(s->live));
    else if (!s->source->version && !s->record)
        conflict(s, "compare with \"warren export\"; --overwrite makes it what the file says",
                 "it was made by other means and differs from the file");
    else if (!s->source->version && is_drifted(s))
        conflict(s, "put the change into the file, or drop it with --overwrite",
                 "it was changed by other means since it was applied (version %" PRIu64
                 ", now %" PRIu64 ")",
                 plan_version(s->record), plan_version(s->live));
}

static void decide_prune(const struct plan_rules *rules, struct plan_step *s)
{
    s->action = PLAN_DELETE;
    if (is_drifted(s) && !rules->overwrite)
        conflict(s, "declare it again, or delete it with --overwrite",
                 "it is no longer declared, but was changed by other means since it was applied "
                 "(version %" PRIu64 ", now %" PRIu64 ")",
                 plan_version(s->record), plan_version(s->live));
}

void plan_decide(const struct plan_rules *rules, struct plan_step *s)
{
    const char *owner = json_string_value(json_object_get(s->record, "set"));
    s->is_drift = s->live && is_drifted(s);
    if (!s->source) {
        decide_prune(rules, s);
        return;
    }
    if (!s->live) {
        s->action = PLAN_CREATE;
        if (s->source->version && !rules->overwrite)
            conflict(s, "take the version out of the file, and it is made anew",
                     "the file was made from version %" PRIu64 ", but it was deleted",
                     s->source->version);
        return;
    }
    bool is_same = json_equal(s->from, s->to) && !s->has_secret;
    bool is_mine = !rules->set || (owner && strcmp(owner, rules->set) == 0);
    if (!check_owner(rules, s, owner, is_same))
        return;
    if (!is_same)
        decide_difference(rules, s);
    else
        s->action = !is_mine || (rules->set && s->is_drift) ? PLAN_ADOPT : PLAN_UNCHANGED;
}

/* --- differences ----------------------------------------------------------------------------- */

static void compare(json_t *out, const char *path, const json_t *from, const json_t *to);

static void compare_members(json_t *out, const char *path, const json_t *from, const json_t *to)
{
    const char *key;
    json_t *member;
    json_object_foreach ((json_t *)(to ? to : from), key, member) {
        CLEANUP(mem_free) char *longer = mem_printf("%s%s%s", path, *path ? "." : "", key);
        compare(out, longer, json_object_get(from, key), json_object_get(to, key));
    }
    if (!to)
        return;
    json_object_foreach ((json_t *)from, key, member) {
        CLEANUP(mem_free) char *longer = mem_printf("%s%s%s", path, *path ? "." : "", key);
        if (!json_object_get(to, key))
            compare(out, longer, member, NULL);
    }
}

static void compare(json_t *out, const char *path, const json_t *from, const json_t *to)
{
    bool from_fits = !from || json_is_object(from), to_fits = !to || json_is_object(to);
    if (json_equal(from, to) || (!from && json_is_null(to)) || (!to && json_is_null(from)))
        return;
    if (from_fits && to_fits && (from || to)) {
        compare_members(out, path, from, to);
        return;
    }
    json_array_append_new(out,
                          json_pack("{s:s, s:O?, s:O?}", "field", path, "from", from, "to", to));
}

json_t *plan_changes(const json_t *from, const json_t *to)
{
    json_t *out = json_array();
    compare(out, "", from, to);
    return out;
}

/* --- the plan -------------------------------------------------------------------------------- */

struct plan_step *plan_add(struct plan *p, const struct kind *kind, const char *name)
{
    p->steps = mem_grow(p->steps, (p->n + 1) * sizeof(*p->steps));
    struct plan_step *s = &p->steps[p->n++];
    *s = (struct plan_step){.kind = kind, .name = name};
    return s;
}

size_t plan_count(const struct plan *p, enum plan_action action)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++)
        n += p->steps[i].action == action;
    return n;
}

void plan_done(struct plan *p)
{
    for (size_t i = 0; i < p->n; i++) {
        struct plan_step *s = &p->steps[i];
        json_decref(s->live);
        json_decref(s->record);
        json_decref(s->from);
        json_decref(s->to);
        free(s->id);
    }
    free(p->steps);
    *p = (struct plan){0};
}
