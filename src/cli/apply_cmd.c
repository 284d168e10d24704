#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/apply.h"
#include "cli/object_cmd.h"
#include "cli/plan_show.h"

#include <string.h>
#include <unistd.h>

/* --- apply ----------------------------------------------------------------------------------- */

static int read_files(struct call *c, struct manifest *m)
{
    const char *path;
    for (size_t i = 0; (path = call_item(c, "--file", i)); i++)
        TRY(manifest_read(m, path, &c->diag));
    if (m->n == 0 && !call_is_given(c, "--prune"))
        return call_fail(c, ERR_INVALID, NULL, "no objects are declared there");
    return 0;
}

static int check_flags(struct call *c, struct apply *a)
{
    a->rules.set = call_text(c, "--set");
    a->rules.overwrite = call_is_given(c, "--overwrite");
    a->rules.take_over = call_is_given(c, "--take-over");
    a->prune = call_is_given(c, "--prune");
    if (a->rules.set && !text_is_name(a->rules.set))
        return call_fail(c, ERR_USAGE, NULL, "--set: 1 to 63 of a-z, 0-9 and -");
    if (a->prune && !a->rules.set)
        return call_fail(c, ERR_USAGE,
                         "it removes what an earlier apply of the same set made and "
                         "the files no longer have",
                         "--prune needs --set NAME");
    return 0;
}

static size_t count_changes(const struct plan *p)
{
    return p->n - plan_count(p, PLAN_UNCHANGED);
}

/* Yes on a terminal, or nobody to ask. */
static bool is_agreed(struct call *c, const struct apply *a)
{
    char answer[16] = "";
    if (call_is_given(c, "--yes") || count_changes(&a->plan) == 0 || !isatty(STDIN_FILENO) ||
        !isatty(fileno(c->out)))
        return true;
    fputs("apply? [y/N] ", c->out);
    fflush(c->out);
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static void show_plan(const struct output *o, struct apply *a)
{
    char summary[200];
    plan_show(o, &a->plan, apply_note, a);
    plan_summary(&a->plan, summary, sizeof(summary));
    fprintf(o->file, "%s\n", summary);
}

static void show_result(const struct output *o, struct apply *a, bool is_dry_run, int result)
{
    size_t done = 0;
    for (size_t i = 0; i < a->plan.n; i++) {
        const struct plan_step *s = &a->plan.steps[i];
        done += s->result == PLAN_DONE && s->action != PLAN_UNCHANGED;
        if (o->is_quiet && s->id)
            fprintf(o->file, "%s\n", s->id);
    }
    if (o->is_quiet)
        return;
    if (o->format != OUTPUT_TABLE) {
        json_t *json = plan_json(&a->plan, &a->rules, is_dry_run);
        output_object(o, json);
        json_decref(json);
    } else if (result < 0 && done < count_changes(&a->plan)) {
        fprintf(o->file, "%zu of %zu changes were made\n", done, count_changes(&a->plan));
    } else if (!is_dry_run && done) {
        fputs("done\n", o->file);
    }
}

static int carry_out(struct call *c, struct apply *a)
{
    struct output o = output_of(c, a->remote);
    bool is_dry_run = call_is_given(c, "--dry-run"), is_table = o.format == OUTPUT_TABLE;
    int result = 0;
    if (is_table && !o.is_quiet)
        show_plan(&o, a);
    size_t conflicts = plan_count(&a->plan, PLAN_CONFLICT);
    if (conflicts)
        result = call_fail(c, ERR_CONFLICT, "see the objects marked with !; nothing was changed",
                           "%zu of %zu objects are in conflict with what the hub has", conflicts,
                           a->plan.n);
    else if (!is_dry_run && !is_agreed(c, a))
        return call_fail(c, ERR_CANCELED, NULL, "not agreed; nothing was changed");
    else if (!is_dry_run)
        result = apply_run(a);
    if (is_table && is_dry_run && !conflicts && !o.is_quiet)
        fputs("dry run: nothing was changed\n", c->out);
    else if (!is_table || !conflicts)
        show_result(&o, a, is_dry_run, result);
    return result;
}

static int run_apply(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct apply a = {.call = c};
    TRY(check_flags(c, &a));
    int result = read_files(c, &a.manifest);
    if (result == 0)
        result = remote_open(c, &r);
    a.remote = r;
    if (result == 0)
        result = apply_plan(&a);
    if (result == 0)
        result = carry_out(c, &a);
    apply_done(&a);
    return result;
}

/* --- export ---------------------------------------------------------------------------------- */

static bool is_wanted(const struct call *c, const struct kind *kind)
{
    const char *name;
    for (size_t i = 0; (name = call_item(c, "--kind", i)); i++)
        if (strcmp(name, kind->name) == 0)
            return true;
    return !call_is_given(c, "--kind");
}

static int check_kinds(struct call *c)
{
    const char *name;
    for (size_t i = 0; (name = call_item(c, "--kind", i)); i++)
        if (!kind_find(name))
            return call_fail(c, ERR_USAGE, "there are: network, tunnel", "'%s' is not a kind",
                             name);
    return 0;
}

/* By names or ids in the arguments; all of them without. */
static bool is_named(const struct call *c, const json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    const char *id = json_string_value(json_object_get(object, "id"));
    for (size_t i = 0; i < c->n_args; i++)
        if ((name && strcmp(name, c->args[i]) == 0) || (id && strcmp(id, c->args[i]) == 0))
            return true;
    return c->n_args == 0;
}

static json_t *exported(const struct call *c, struct remote *r, const struct kind *kind,
                        const json_t *object)
{
    json_t *declared = kind_declared(kind, object, remote_name_of, r);
    json_t *out =
        json_pack("{s:s, s:O}", "kind", kind->name, "name", json_object_get(declared, "name"));
    if (!call_is_given(c, "--no-version"))
        json_object_set(out, "version", json_object_get(object, "version"));
    json_object_update_missing(out, declared);
    json_decref(declared);
    return out;
}

static int export_kind(struct call *c, struct remote *r, const struct kind *kind, json_t *out)
{
    CLEANUP(mem_free) char *path = remote_path(kind->collection, NULL, NULL);
    char doing[64];
    json_t *list = NULL, *object;
    size_t i;
    snprintf(doing, sizeof(doing), "export %s", kind->collection);
    TRY(remote_list(r, path, 0, doing, &list));
    json_array_foreach (list, i, object) {
        bool is_passing = kind->is_passing && kind->is_passing(object);
        if (!is_passing && is_named(c, object))
            json_array_append_new(out, exported(c, r, kind, object));
    }
    json_decref(list);
    return 0;
}

static int print_export(struct call *c, const json_t *objects)
{
    size_t i;
    json_t *object;
    if (strcmp(call_text(c, "--output"), "json") == 0)
        return json_dumpf(objects, c->out, JSON_INDENT(2)) < 0 || fputc('\n', c->out) == EOF
                   ? ERR_IO
                   : 0;
    json_array_foreach (objects, i, object) {
        TRY(yaml_write(c->out, object, true));
    }
    return 0;
}

static int run_export(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    TRY(check_kinds(c));
    TRY(remote_open(c, &r));
    json_t *objects = json_array();
    int result = 0;
    for (size_t k = 0; k < n_kinds && result == 0; k++)
        if (is_wanted(c, &kinds[k]))
            result = export_kind(c, r, &kinds[k], objects);
    if (result == 0 && c->n_args && json_array_size(objects) == 0)
        result = call_fail(c, ERR_NOT_FOUND, NULL, "there is no such object");
    if (result == 0)
        result = print_export(c, objects);
    json_decref(objects);
    return result;
}

/* --- rows ------------------------------------------------------------------------------------ */

static const struct flag_row apply_rows[] = {
    {.name = "--file",
     .letter = 'f',
     .type = FLAG_LIST,
     .metavar = "FILE|DIR|-",
     .is_required = true,
     .candidates = CANDIDATES_FILE,
     .help = "What is declared: a file, the files of a folder, or the standard input (YAML)."},
    {.name = "--set",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "The set that the objects belong to from now on; no other set may change them."},
    {.name = "--prune",
     .type = FLAG_SWITCH,
     .help = "Delete what belongs to the set and is not declared any more."},
    {.name = "--dry-run",
     .letter = 'n',
     .type = FLAG_SWITCH,
     .help = "Only show what would be done."},
    {.name = "--overwrite",
     .type = FLAG_SWITCH,
     .help = "Undo what others changed since the file was applied or exported."},
    {.name = "--take-over", .type = FLAG_SWITCH, .help = "Take objects that belong to other sets."},
    {.name = "--yes", .letter = 'y', .type = FLAG_SWITCH, .help = "Do not ask on a terminal."},
};
static const struct flag_set apply_flags = {"Flags", apply_rows, ARRAY_SIZE(apply_rows)};

static const char *const export_formats[] = {"yaml", "json", NULL};
static const struct flag_row export_rows[] = {
    {.name = "--kind",
     .type = FLAG_LIST,
     .metavar = "KIND",
     .help = "Only objects of this kind: network or tunnel."},
    {.name = "--no-version",
     .type = FLAG_SWITCH,
     .help = "Leave the versions out, for files that are kept in version control."},
    {.name = "--output",
     .letter = 'o',
     .type = FLAG_CHOICE,
     .metavar = "yaml|json",
     .fallback = "yaml",
     .choices = export_formats,
     .candidates = CANDIDATES_CHOICES,
     .help = "How to print the objects."},
};
static const struct flag_set export_flags = {"Flags", export_rows, ARRAY_SIZE(export_rows)};

static const struct command rows[] = {
    {.words = "apply",
     .summary = "Makes the hub have what files declare, and shows the differences.",
     .run = run_apply,
     .flags = REMOTE_FLAGS(&apply_flags),
     .details =
         "Everything is read and checked, by the hub too, before anything is changed; an object "
         "that is wrong or in conflict stops it all (exit codes 2 and 5). A conflict is what "
         "somebody else changed since it was applied or exported: that is shown and never "
         "overwritten unless --overwrite is given.\n"
         "\n"
         "Then objects are created and changed one by one, networks before tunnels, and deleted "
         "last. Each change is made only if the object is still what was shown. The first that "
         "fails ends it; what was done stays, and applying again goes on from there.",
     .examples = "warren apply -f site.yaml --dry-run\n"
                 "warren apply -f declared/ --set prod --prune\n"
                 "warren export --kind tunnel > tunnels.yaml"},
    {.words = "export",
     .summary = "Prints objects as files that apply reads.",
     .run = run_export,
     .args = "NAME...",
     .min_args = 0,
     .max_args = ARGS_ANY,
     .flags = {&export_flags, &remote_flags},
     .details = "Applied again, the output changes nothing. Tunnels made on demand by the proxy, "
                "and those that are over, are left out."},
};
const struct command_set apply_commands = {rows, ARRAY_SIZE(rows)};
