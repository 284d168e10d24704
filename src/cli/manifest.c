#include "cli/manifest.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/yaml_load.h"
#include "conf/conf_toml.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One file while it is read. */
struct source {
    struct manifest *manifest;
    const char *file;
    size_t document;
    struct diag *d;
};

/* --- places ---------------------------------------------------------------------------------- */

static unsigned line_at(const json_t *lines, const char *prefix, const char *field)
{
    CLEANUP(mem_free)
    char *path = mem_printf("%s%s%s", prefix, *prefix && *field ? "." : "", field);
    for (;;) {
        const json_t *line = json_object_get(lines, path);
        if (line)
            return (unsigned)json_integer_value(line);
        char *dot = strrchr(path, '.'), *bracket = strrchr(path, '[');
        char *cut = dot > bracket ? dot : bracket;
        if (!cut)
            return 0;
        *cut = '\0';
    }
}

unsigned manifest_line(const struct manifest_object *o, const char *field)
{
    unsigned line = line_at(o->lines, o->prefix, field);
    return line ? line : o->line;
}

void manifest_place(const struct manifest_object *o, const char *field, char *out, size_t size)
{
    snprintf(out, size, "%s:%u (document %zu)", o->file, manifest_line(o, field), o->document);
}

static int fail_at(const struct source *s, unsigned line, const char *field, int code,
                   const char *what)
{
    diag_set(s->d, code, "%.200s:%u (document %zu)%s%.60s: %.140s", s->file, line, s->document,
             *field ? ": " : "", field, what);
    return code;
}

/* --- objects --------------------------------------------------------------------------------- */

static int check_twice(const struct source *s, const struct manifest_object *o)
{
    char place[300];
    for (size_t i = 0; i < s->manifest->n; i++) {
        const struct manifest_object *other = &s->manifest->objects[i];
        if (other->kind != o->kind || strcmp(other->name, o->name) != 0)
            continue;
        manifest_place(other, "name", place, sizeof(place));
        CLEANUP(mem_free)
        char *what =
            mem_printf("the %s '%s' is declared twice, also in %s", o->kind->name, o->name, place);
        return fail_at(s, manifest_line(o, "name"), "name", ERR_INVALID, what);
    }
    return 0;
}

static int take_version(const struct source *s, struct manifest_object *o)
{
    const json_t *version = json_object_get(o->body, "version");
    if (!version)
        return 0;
    if (!json_is_integer(version) || json_integer_value(version) < 1)
        return fail_at(s, manifest_line(o, "version"), "version", ERR_INVALID,
                       "must be a whole number from 1");
    o->version = (uint64_t)json_integer_value(version);
    json_object_del(o->body, "version");
    return 0;
}

static int fill(const struct source *s, struct manifest_object *o)
{
    o->name = json_string_value(json_object_get(o->body, "name"));
    if (!o->name)
        return fail_at(s, manifest_line(o, "name"), "name", ERR_INVALID, "is missing, or no text");
    if (!text_is_name(o->name))
        return fail_at(s, manifest_line(o, "name"), "name", ERR_INVALID,
                       "must be 1 to 63 of a-z, 0-9 and -, with no - at either end");
    TRY(take_version(s, o));
    if (s->manifest->n >= MANIFEST_OBJECTS_MAX)
        return fail_at(s, o->line, "", ERR_TOO_LARGE, "more objects than can be applied at once");
    return check_twice(s, o);
}

static void object_done(struct manifest_object *o)
{
    json_decref(o->body);
    json_decref(o->lines);
    free(o->file);
    free(o->prefix);
}

/* An object of a known kind. `value` and `lines` are borrowed. */
static int add_object(const struct source *s, const struct kind *kind, const json_t *value,
                      json_t *lines, unsigned line, const char *prefix)
{
    struct manifest *m = s->manifest;
    if (!json_is_object(value))
        return fail_at(s, line, prefix, ERR_INVALID, "must be an object");
    struct manifest_object o = {.kind = kind,
                                .body = json_copy((json_t *)value),
                                .file = mem_strdup(s->file),
                                .document = s->document,
                                .line = line,
                                .lines = json_incref(lines),
                                .prefix = mem_strdup(prefix)};
    json_object_del(o.body, "kind");
    int rc = fill(s, &o);
    if (rc < 0) {
        object_done(&o);
        return rc;
    }
    m->objects = mem_grow(m->objects, (m->n + 1) * sizeof(*m->objects));
    m->objects[m->n++] = o;
    return 0;
}

static int unknown_kind(const struct source *s, unsigned line, const char *field, const char *kind)
{
    char what[160];
    size_t len = (size_t)snprintf(what, sizeof(what), "'%.30s' is not a kind; there are:", kind);
    for (size_t i = 0; i < n_kinds && len < sizeof(what); i++)
        len += (size_t)snprintf(what + len, sizeof(what) - len, " %s", kinds[i].name);
    return fail_at(s, line, field, ERR_INVALID, what);
}

/* --- YAML ------------------------------------------------------------------------------------ */

static int add_yaml_object(const struct source *s, const json_t *value, json_t *lines,
                           unsigned line, const char *prefix)
{
    if (!json_is_object(value))
        return fail_at(s, line, prefix, ERR_INVALID, "must be an object with a kind and a name");
    const char *kind = json_string_value(json_object_get(value, "kind"));
    unsigned at = line_at(lines, prefix, "kind");
    if (!kind)
        return fail_at(s, at ? at : line, "kind", ERR_INVALID, "is missing, or no text");
    if (!kind_find(kind))
        return unknown_kind(s, at ? at : line, "kind", kind);
    return add_object(s, kind_find(kind), value, lines, line, prefix);
}

static int on_yaml(void *arg, const struct yaml_document *document)
{
    struct source *s = arg;
    size_t i;
    json_t *item;
    char prefix[32];
    s->document = document->number;
    json_t *lines = json_copy(document->lines);
    int rc = 0;
    if (!json_is_array(document->value))
        rc = add_yaml_object(s, document->value, lines, document->line, "");
    json_array_foreach (document->value, i, item) {
        snprintf(prefix, sizeof(prefix), "[%zu]", i);
        rc = add_yaml_object(s, item, lines, line_at(lines, prefix, ""), prefix);
        if (rc < 0)
            break;
    }
    json_decref(lines);
    return rc;
}

static int parse_yaml(struct source *s, const char *text, size_t len)
{
    struct diag why = {0};
    unsigned line = 0;
    int rc = yaml_load(text, len, on_yaml, s, &line, &why);
    if (rc < 0 && why.code)
        return diag_set(s->d, rc, "%.200s:%u: %.200s", s->file, line, diag_text(&why));
    return rc;
}

/* --- TOML ------------------------------------------------------------------------------------ */

static int add_toml(struct source *s, const json_t *root, json_t *lines)
{
    const char *key;
    json_t *tables, *item;
    size_t i;
    json_object_foreach ((json_t *)root, key, tables) {
        const struct kind *kind = kind_find(key);
        unsigned line = line_at(lines, "", key);
        char prefix[64];
        if (!kind)
            return unknown_kind(s, line, "", key);
        if (!json_is_array(tables))
            return fail_at(s, line, key, ERR_INVALID, "must be an array of tables: [[KIND]]");
        json_array_foreach (tables, i, item) {
            snprintf(prefix, sizeof(prefix), "%s[%zu]", kind->name, i);
            s->document = i + 1;
            TRY(add_object(s, kind, item, lines, line_at(lines, prefix, ""), prefix));
        }
    }
    return 0;
}

static int parse_toml(struct source *s, const char *text, size_t len)
{
    json_t *root = NULL, *lines = NULL;
    unsigned line;
    char why[200];
    if (conf_toml_json(text, len, &root, &lines, &line, why, sizeof(why)) < 0)
        return diag_set(s->d, ERR_INVALID, "%.200s:%u: not TOML: %s", s->file, line, why);
    int rc = add_toml(s, root, lines);
    json_decref(root);
    json_decref(lines);
    return rc;
}

/* --- files ----------------------------------------------------------------------------------- */

static bool has_ending(const char *name, const char *ending)
{
    size_t n = strlen(name), m = strlen(ending);
    return n > m && strcmp(name + n - m, ending) == 0;
}

int manifest_parse(struct manifest *m, const char *file, const char *text, size_t len,
                   struct diag *d)
{
    struct source s = {.manifest = m, .file = file, .document = 1, .d = d};
    return has_ending(file, ".toml") ? parse_toml(&s, text, len) : parse_yaml(&s, text, len);
}

static int read_stdin(struct buf *ret, struct diag *d)
{
    for (;;) {
        buf_reserve(ret, 65536);
        ssize_t n = read(STDIN_FILENO, ret->data + ret->len, 65536);
        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return diag_set(d, ERR_IO, "cannot read the standard input: %s", strerror(errno));
        ret->len += (size_t)n;
        if (ret->len > MANIFEST_FILE_MAX)
            return diag_set(d, ERR_TOO_LARGE, "the standard input is larger than 4 MiB");
    }
}

static int read_one(struct manifest *m, const char *path, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    bool is_stdin = strcmp(path, "-") == 0;
    if (is_stdin)
        TRY(read_stdin(&text, d));
    else
        TRY(file_read(path, MANIFEST_FILE_MAX, false, &text, d));
    return manifest_parse(m, is_stdin ? "<stdin>" : path, buf_text(&text), text.len, d);
}

static int is_manifest(const struct dirent *e)
{
    static const char *const endings[] = {".yaml", ".yml", ".json", ".toml"};
    for (size_t i = 0; i < ARRAY_SIZE(endings); i++)
        if (e->d_name[0] != '.' && has_ending(e->d_name, endings[i]))
            return 1;
    return 0;
}

static int read_folder(struct manifest *m, const char *path, struct diag *d)
{
    struct dirent **entries;
    int n = scandir(path, &entries, is_manifest, alphasort), rc = 0;
    if (n < 0)
        return diag_set(d, ERR_IO, "cannot read the folder %s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        CLEANUP(mem_free) char *file = mem_printf("%s/%s", path, entries[i]->d_name);
        if (rc == 0)
            rc = read_one(m, file, d);
        free(entries[i]);
    }
    free(entries);
    if (rc == 0 && n == 0)
        return diag_set(d, ERR_NOT_FOUND, "the folder %s has no .yaml, .yml, .json or .toml files",
                        path);
    return rc;
}

int manifest_read(struct manifest *m, const char *path, struct diag *d)
{
    struct stat st;
    if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return read_folder(m, path, d);
    return read_one(m, path, d);
}

void manifest_done(struct manifest *m)
{
    for (size_t i = 0; i < m->n; i++)
        object_done(&m->objects[i]);
    free(m->objects);
    *m = (struct manifest){0};
}
