#include "cli/object_cmd.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "cli/watch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DOING_SIZE 128

static const struct flag_row output_rows_of_flags[] = {
    {.name = "--output",
     .letter = 'o',
     .type = FLAG_CHOICE,
     .metavar = "table|json|yaml",
     .fallback = "table",
     .choices = output_formats,
     .candidates = CANDIDATES_CHOICES,
     .help = "How to print the result."},
    {.name = "--quiet", .letter = 'q', .type = FLAG_SWITCH, .help = "Print ids only."},
};
const struct flag_set output_flags = {"Output", output_rows_of_flags,
                                      ARRAY_SIZE(output_rows_of_flags)};

static const struct flag_row list_rows[] = {
    {.name = "--watch",
     .letter = 'w',
     .type = FLAG_SWITCH,
     .help = "Go on and print each change as it happens."},
};
const struct flag_set list_flags = {"Flags", list_rows, ARRAY_SIZE(list_rows)};

static const struct flag_row if_version_rows[] = {
    {.name = "--if-version",
     .type = FLAG_INT,
     .metavar = "N",
     .help = "Only if the object still has this version."},
};
const struct flag_set if_version_flags = {"Flags", if_version_rows, ARRAY_SIZE(if_version_rows)};

static enum output_format format_of(const struct call *c)
{
    const char *name = call_text(c, "--output");
    size_t i = 0;
    while (name && i < OUTPUT_FORMAT_COUNT - 1 && strcmp(output_formats[i], name) != 0)
        i++;
    return name ? (enum output_format)i : OUTPUT_TABLE;
}

struct output output_of(struct call *c, struct remote *r)
{
    const char *no_color = getenv("NO_COLOR");
    return (struct output){
        .file = c->out,
        .format = format_of(c),
        .is_coloured = isatty(fileno(c->out)) && !(no_color && *no_color),
        .is_quiet = call_is_given(c, "--quiet"),
        .now_ms = time_wall_ms(),
        .name_of = r ? remote_name_of : NULL,
        .arg = r,
    };
}

static int list_once(struct call *c, struct remote *r, const struct view *v, const char *path,
                     size_t limit)
{
    char doing[DOING_SIZE];
    json_t *items = NULL;
    struct output o = output_of(c, r);
    snprintf(doing, sizeof(doing), "list %s", v->collection);
    TRY(remote_list(r, path, limit, doing, &items));
    int result = output_list(&o, v, items);
    json_decref(items);
    return result;
}

int object_list(struct call *c, const struct view *v, char *path, size_t limit)
{
    CLEANUP(mem_free) char *owned = path;
    CLEANUP(remote_free) struct remote *r = NULL;
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    if (command_flag(c->command, "--watch", 0) && call_is_given(c, "--watch"))
        return watch_show(c, r, v, &o, owned);
    return list_once(c, r, v, owned, limit);
}

int object_get(struct call *c, const struct view *v)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    CLEANUP(mem_free) char *path = remote_path(v->collection, c->args[0], NULL);
    char doing[DOING_SIZE];
    json_t *obj = NULL;
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    if (command_flag(c->command, "--watch", 0) && call_is_given(c, "--watch"))
        return watch_show(c, r, v, &o, path);
    snprintf(doing, sizeof(doing), "show the %s \"%s\"", v->noun, c->args[0]);
    TRY(remote_get(r, path, doing, &obj));
    int result = output_object(&o, obj);
    json_decref(obj);
    return result;
}

static uint64_t if_version(const struct call *c)
{
    return (uint64_t)call_int(c, "--if-version", 0);
}

int object_delete(struct call *c, const struct view *v)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    char doing[DOING_SIZE];
    TRY(remote_open(c, &r));
    struct output o = output_of(c, NULL);
    for (size_t i = 0; i < c->n_args; i++) {
        CLEANUP(mem_free) char *path = remote_path(v->collection, c->args[i], NULL);
        snprintf(doing, sizeof(doing), "delete the %s \"%s\"", v->noun, c->args[i]);
        TRY(remote_send(r, "DELETE", path, NULL, if_version(c), doing, NULL));
        if (o.format == OUTPUT_TABLE && !o.is_quiet)
            fprintf(c->out, "%s \"%s\" deleted\n", v->noun, c->args[i]);
    }
    return 0;
}

int object_action(struct call *c, const struct view *v, const char *verb)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    CLEANUP(mem_free) char *suffix = mem_printf(":%s", verb);
    char doing[DOING_SIZE];
    int result = 0;
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    json_t *done = json_array();
    for (size_t i = 0; i < c->n_args && result == 0; i++) {
        CLEANUP(mem_free) char *path = remote_path(v->collection, c->args[i], suffix);
        json_t *obj = NULL;
        snprintf(doing, sizeof(doing), "%s the %s \"%s\"", verb, v->noun, c->args[i]);
        result = remote_send(r, "POST", path, NULL, if_version(c), doing, &obj);
        if (result == 0)
            json_array_append_new(done, obj);
    }
    if (json_array_size(done) == 1 && o.format != OUTPUT_TABLE)
        output_object(&o, json_array_get(done, 0));
    else if (json_array_size(done) > 0)
        output_list(&o, v, done);
    json_decref(done);
    return result;
}

int object_action_with(struct call *c, const struct view *v, const char *verb, json_t *body)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    char doing[DOING_SIZE], suffix[24];
    json_t *obj = NULL;
    int result = remote_open(c, &r);
    if (result < 0) {
        json_decref(body);
        return result;
    }
    struct output o = output_of(c, r);
    snprintf(suffix, sizeof(suffix), ":%s", verb);
    snprintf(doing, sizeof(doing), "%s the %s \"%.60s\"", verb, v->noun, c->args[0]);
    CLEANUP(mem_free) char *path = remote_path(v->collection, c->args[0], suffix);
    TRY(remote_send(r, "POST", path, body, if_version(c), doing, &obj));
    result = output_object(&o, obj);
    json_decref(obj);
    return result;
}

int object_create(struct call *c, struct remote *r, const struct view *v, json_t *body,
                  json_t **ret)
{
    char doing[DOING_SIZE];
    CLEANUP(mem_free) char *path = remote_path(v->collection, NULL, NULL);
    const char *name = json_string_value(json_object_get(body, "name"));
    if (name)
        snprintf(doing, sizeof(doing), "create the %s \"%s\"", v->noun, name);
    else
        snprintf(doing, sizeof(doing), "create a %s", v->noun);
    return remote_send(r, "POST", path, body, 0, doing, ret);
}

int object_create_named(struct call *c, const struct view *v)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *obj = NULL;
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    TRY(object_create(c, r, v, json_pack("{s:s}", "name", c->args[0]), &obj));
    int result = output_object(&o, obj);
    json_decref(obj);
    return result;
}
