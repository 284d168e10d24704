#include "cli/plan_show.h"

#include "base/buf.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define VALUE_SHOWN_MAX 200 /* bytes */

static const struct look {
    char sign;
    const char *colour, *to_do;
} looks[PLAN_ACTION_COUNT] = {
    [PLAN_UNCHANGED] = {' ', NULL, "unchanged"}, [PLAN_CREATE] = {'+', "32", "to create"},
    [PLAN_UPDATE] = {'~', "33", "to update"},    [PLAN_ADOPT] = {'=', "36", "to adopt"},
    [PLAN_DELETE] = {'-', "31", "to delete"},    [PLAN_CONFLICT] = {'!', "1;31", "in conflict"},
};

static void paint(const struct output *o, const char *colour, const char *text)
{
    if (o->is_coloured && colour)
        fprintf(o->file, "\x1b[%sm%s\x1b[0m", colour, text);
    else
        fputs(text, o->file);
}

/* A value in one line: JSON, without control characters, cut when it is long. */
static char *value_text(const json_t *value)
{
    struct buf safe = {0};
    char *text = json_is_null(value) || !value ? mem_strdup("none")
                                               : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    output_put_safe(&safe, text ? text : "");
    free(text);
    if (safe.len > VALUE_SHOWN_MAX) {
        size_t cut = VALUE_SHOWN_MAX;
        while (cut > 0 && ((unsigned char)safe.data[cut] & 0xc0) == 0x80)
            cut--;
        safe.len = cut;
        safe.data[cut] = '\0';
        buf_puts(&safe, "...");
    }
    return buf_take(&safe);
}

static void show_changes(const struct output *o, const json_t *from, const json_t *to)
{
    json_t *changes = plan_changes(from, to), *change;
    size_t i, width = 0;
    json_array_foreach (changes, i, change) {
        width = MAX(width, strlen(json_string_value(json_object_get(change, "field"))));
    }
    json_array_foreach (changes, i, change) {
        CLEANUP(mem_free) char *was = value_text(json_object_get(change, "from"));
        CLEANUP(mem_free) char *is = value_text(json_object_get(change, "to"));
        fprintf(o->file, "    %-*s  ", (int)MIN(width, (size_t)40),
                json_string_value(json_object_get(change, "field")));
        if (from) {
            paint(o, "31", was);
            fputs(" -> ", o->file);
        }
        paint(o, "32", is);
        fputc('\n', o->file);
    }
    json_decref(changes);
}

static void show_conflict(const struct output *o, const struct plan_step *s)
{
    const json_t *declared = json_object_get(s->record, "declared");
    fprintf(o->file, "    %s\n", s->why);
    if (s->is_drift && declared && s->from) {
        fputs("  changed by others since it was applied:\n", o->file);
        show_changes(o, declared, s->from);
    }
    if (s->to) {
        fputs("  what the file would change:\n", o->file);
        show_changes(o, s->from, s->to);
    }
    fprintf(o->file, "  hint: %s\n", s->advice);
}

static void show_step(const struct output *o, const struct plan_step *s, const char *note)
{
    const struct look *look = &looks[s->action];
    CLEANUP(mem_free) char *title = mem_printf("%c %s %s", look->sign, s->kind->name, s->name);
    paint(o, look->colour, title);
    if (s->action == PLAN_CONFLICT)
        paint(o, look->colour, "  conflict");
    if (note)
        fprintf(o->file, "  (%s)", note);
    fputc('\n', o->file);
    if (s->has_secret)
        fputs("    passwords change\n", o->file);
    if (s->action == PLAN_CONFLICT)
        show_conflict(o, s);
    else if (s->action == PLAN_CREATE || s->action == PLAN_UPDATE)
        show_changes(o, s->from, s->to);
}

void plan_show(const struct output *o, const struct plan *p,
               char *(*note)(void *arg, const struct plan_step *s), void *arg)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_step *s = &p->steps[i];
        if (s->action == PLAN_UNCHANGED)
            continue;
        CLEANUP(mem_free) char *text = s->live ? note(arg, s) : NULL;
        show_step(o, s, text);
    }
}

void plan_summary(const struct plan *p, char *out, size_t size)
{
    size_t len = 0;
    *out = '\0';
    for (int a = PLAN_ACTION_COUNT - 1; a >= 0 && len < size; a--) {
        size_t n = plan_count(p, (enum plan_action)a);
        if (n || a == PLAN_UNCHANGED)
            len += (size_t)snprintf(out + len, size - len, "%s%zu %s", len ? ", " : "", n,
                                    looks[a].to_do);
    }
}

static json_t *text_or_null(const char *s)
{
    return s && *s ? json_string(s) : json_null();
}

static json_t *step_json(const struct plan_step *s)
{
    const struct manifest_object *o = s->source;
    json_t *place = json_null();
    if (o)
        place = json_pack("{s:s, s:i, s:i}", "file", o->file, "line", (int)o->line, "document",
                          (int)o->document);
    const char *id = s->id ? s->id : json_string_value(json_object_get(s->live, "id"));
    const char *why = s->result == PLAN_FAILED ? s->failure : s->why;
    json_t *changes = s->action == PLAN_DELETE ? json_array() : plan_changes(s->from, s->to);
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:o, s:o, s:o}", "kind", s->kind->name, "name",
                     s->name, "id", text_or_null(id), "action", plan_actions[s->action], "result",
                     plan_results[s->result], "reason", text_or_null(why), "place", place,
                     "changes", changes);
}

json_t *plan_json(const struct plan *p, const struct plan_rules *rules, bool is_dry_run)
{
    json_t *objects = json_array(), *summary = json_object();
    for (size_t i = 0; i < p->n; i++)
        json_array_append_new(objects, step_json(&p->steps[i]));
    for (int a = 0; a < PLAN_ACTION_COUNT; a++)
        json_object_set_new(summary, plan_actions[a],
                            json_integer((json_int_t)plan_count(p, (enum plan_action)a)));
    return json_pack("{s:b, s:o, s:o, s:o}", "dry_run", (int)is_dry_run, "set",
                     text_or_null(rules->set), "summary", summary, "objects", objects);
}
