#include "cli/contexts.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (1u << 20)

static char *path_of_file(void)
{
    const char *given = getenv("WARREN_CONTEXTS");
    const char *config = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    if (given && *given)
        return mem_strdup(given);
    if (config && *config)
        return mem_printf("%s/warren/contexts.json", config);
    return mem_printf("%s/.config/warren/contexts.json", home ? home : "");
}

int contexts_load(struct contexts *ret, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    json_error_t error;
    struct contexts cs = {.path = path_of_file()};
    int r = file_read(cs.path, FILE_MAX, true, &text, d);
    if (r == ERR_NOT_FOUND) {
        cs.root = json_pack("{s:n, s:{}}", "current", "contexts");
    } else if (r == 0) {
        cs.root = json_loadb(text.data, text.len, 0, &error);
        if (!json_is_object(cs.root) || !json_is_object(json_object_get(cs.root, "contexts")))
            r = diag_set(d, ERR_INVALID, "%s is damaged; remove it and log in again", cs.path);
        explicit_bzero(text.data, text.len);
    }
    if (r < 0 && r != ERR_NOT_FOUND) {
        contexts_done(&cs);
        return r;
    }
    *ret = cs;
    return 0;
}

void contexts_done(struct contexts *cs)
{
    free(cs->path);
    json_decref(cs->root);
    *cs = (struct contexts){0};
}

int contexts_save(const struct contexts *cs, struct diag *d)
{
    TRY(file_make_folders(cs->path, 0700, d));
    char *text = json_dumps(cs->root, JSON_INDENT(2));
    if (!text)
        return diag_set(d, ERR_BUG, "cannot write the contexts as JSON");
    size_t len = strlen(text);
    int r = file_write_atomic(cs->path, text, len, 0600, d);
    explicit_bzero(text, len);
    free(text);
    return r;
}

static json_t *table_of(const struct contexts *cs)
{
    return json_object_get(cs->root, "contexts");
}

const char *contexts_current(const struct contexts *cs)
{
    return json_string_value(json_object_get(cs->root, "current"));
}

int contexts_get(const struct contexts *cs, const char *name, struct context *ret, struct diag *d)
{
    const char *wanted = name ? name : contexts_current(cs);
    if (!wanted)
        return diag_set(d, ERR_NOT_FOUND, "no context is in use");
    json_t *c = json_object_get(table_of(cs), wanted);
    const char *hub = json_string_value(json_object_get(c, "hub"));
    if (!hub)
        return diag_set(d, ERR_NOT_FOUND, "there is no context \"%s\"", wanted);
    *ret = (struct context){
        .name = wanted,
        .hub = hub,
        .token = json_string_value(json_object_get(c, "token")),
        .ca = json_string_value(json_object_get(c, "ca")),
    };
    return 0;
}

void contexts_put(struct contexts *cs, const struct context *c)
{
    json_object_set_new(
        table_of(cs), c->name,
        json_pack("{s:s, s:s?, s:s?}", "hub", c->hub, "token", c->token, "ca", c->ca));
}

void contexts_use(struct contexts *cs, const char *name)
{
    json_object_set_new(cs->root, "current", json_string(name));
}

void contexts_remove(struct contexts *cs, const char *name)
{
    const char *current = contexts_current(cs);
    if (current && strcmp(current, name) == 0)
        json_object_set_new(cs->root, "current", json_null());
    json_object_del(table_of(cs), name);
}

json_t *contexts_list(const struct contexts *cs)
{
    json_t *list = json_array();
    const char *name, *current = contexts_current(cs);
    json_t *c;
    json_object_foreach (table_of(cs), name, c) {
        bool is_current = current && strcmp(current, name) == 0;
        json_array_append_new(list, json_pack("{s:s, s:O, s:b}", "name", name, "hub",
                                              json_object_get(c, "hub"), "current", is_current));
    }
    return list;
}
