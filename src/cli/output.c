#include "cli/output.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOTHING "-"

const char *const output_formats[] = {"table", "json", "yaml", NULL};
static_assert(ARRAY_SIZE(output_formats) == OUTPUT_FORMAT_COUNT + 1, "a name for each format");

const json_t *output_at(const json_t *obj, const char *path)
{
    char key[64];
    while (obj && *path) {
        size_t len = strcspn(path, ".");
        snprintf(key, sizeof(key), "%.*s", (int)len, path);
        obj = json_object_get(obj, key);
        path += len + (path[len] == '.');
    }
    return obj;
}

/* --- cells ----------------------------------------------------------------------------------- */

/* UTF-8 that is known to be valid. */
void output_put_safe(struct buf *out, const char *s)
{
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) {
            buf_puts(out, "?");
        } else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) {
            buf_puts(out, "?");
            p++;
        } else {
            buf_append(out, p, 1);
        }
    }
}

static size_t width_of(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += (*s & 0xc0) != 0x80;
    return n;
}

static void put_bytes(struct buf *out, json_int_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)n;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
        value /= 1024;
        unit++;
    }
    buf_printf(out, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

/* In the largest unit of which there are at least two. */
void output_put_age(struct buf *out, int64_t from_now_ms)
{
    static const struct {
        int64_t ms;
        char letter;
    } units[] = {{86400000, 'd'}, {3600000, 'h'}, {60000, 'm'}, {1000, 's'}};
    int64_t ms = from_now_ms < 0 ? -from_now_ms : from_now_ms;
    size_t i = 0;
    while (i + 1 < ARRAY_SIZE(units) && ms < 2 * units[i].ms)
        i++;
    int64_t n = ms / units[i].ms;
    if (n == 0)
        buf_puts(out, "now");
    else if (from_now_ms < 0)
        buf_printf(out, "%" PRId64 "%c ago", n, units[i].letter);
    else
        buf_printf(out, "in %" PRId64 "%c", n, units[i].letter);
}

static void put_time(struct buf *out, int64_t wall_ms)
{
    char text[32];
    struct tm tm;
    time_t seconds = (time_t)(wall_ms / 1000);
    localtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    buf_puts(out, text);
}

static void put_value(struct buf *out, const json_t *value)
{
    size_t i;
    json_t *item;
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING:
        output_put_safe(out, json_string_value(value));
        break;
    case JSON_INTEGER:
        buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        buf_printf(out, "%g", json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        buf_puts(out, json_is_true(value) ? "yes" : "no");
        break;
    case JSON_ARRAY:
        json_array_foreach (value, i, item) {
            buf_puts(out, i ? ", " : "");
            put_value(out, item);
        }
        break;
    default:
        break;
    }
}

static void put_cell(const struct output *o, const struct column *col, const json_t *obj,
                     struct buf *out)
{
    const json_t *value = output_at(obj, col->path);
    const char *text = json_string_value(value);
    const char *name = NULL;
    int64_t ms = 0;
    if (col->kind == COLUMN_REF && text && o->name_of)
        name = o->name_of(o->arg, col->collection, text);
    if (name)
        output_put_safe(out, name);
    else if (col->kind == COLUMN_BYTES && json_is_integer(value))
        put_bytes(out, json_integer_value(value));
    else if (col->kind == COLUMN_TIME && text && time_parse(text, &ms) == 0)
        put_time(out, ms);
    else if (col->kind == COLUMN_AGE && text && time_parse(text, &ms) == 0)
        output_put_age(out, ms - o->now_ms);
    else
        put_value(out, value);
    if (out->len == 0)
        buf_puts(out, NOTHING);
}

/* --- tables ---------------------------------------------------------------------------------- */

static const char *colour_of(const char *phase)
{
    static const struct {
        const char *phase, *colour;
    } colours[] = {{"active", "32"},  {"online", "32"},  {"ready", "32"},    {"ok", "32"},
                   {"pending", "33"}, {"offline", "33"}, {"draining", "33"}, {"failed", "31"},
                   {"revoked", "31"}, {"expired", "31"}, {"denied", "31"}};
    for (size_t i = 0; i < ARRAY_SIZE(colours); i++)
        if (strcmp(colours[i].phase, phase) == 0)
            return colours[i].colour;
    return NULL;
}

static void print_cell(const struct output *o, const struct column *col, const char *text,
                       size_t width, bool is_last)
{
    const char *colour = o->is_coloured && col->kind == COLUMN_PHASE ? colour_of(text) : NULL;
    if (colour)
        fprintf(o->file, "\x1b[%sm", colour);
    fputs(text, o->file);
    if (colour)
        fputs("\x1b[0m", o->file);
    if (!is_last)
        fprintf(o->file, "%*s", (int)(width - width_of(text)) + 2, "");
}

static void print_header(const struct output *o, const struct view *v, struct output_widths *w)
{
    for (size_t c = 0; c < v->n; c++) {
        bool is_last = c + 1 == v->n;
        fprintf(o->file, "%s%*s", v->columns[c].title,
                is_last ? 0 : (int)(w->columns[c] - strlen(v->columns[c].title)) + 2, "");
    }
    fputc('\n', o->file);
    w->has_header = true;
}

int output_rows(const struct output *o, const struct view *v, const json_t *array,
                struct output_widths *w)
{
    size_t n = json_array_size(array);
    assert(v->n <= OUTPUT_COLUMNS_MAX);
    char **cells = mem_new((n * v->n + 1) * sizeof(*cells));
    for (size_t c = 0; c < v->n; c++)
        w->columns[c] = MAX(w->columns[c], strlen(v->columns[c].title));
    for (size_t i = 0; i < n * v->n; i++) {
        struct buf text = {0};
        put_cell(o, &v->columns[i % v->n], json_array_get(array, i / v->n), &text);
        cells[i] = buf_take(&text);
        w->columns[i % v->n] = MAX(w->columns[i % v->n], width_of(cells[i]));
    }
    if (!w->has_header)
        print_header(o, v, w);
    for (size_t i = 0; i < n * v->n; i++) {
        size_t c = i % v->n;
        print_cell(o, &v->columns[c], cells[i], w->columns[c], c + 1 == v->n);
        if (c + 1 == v->n)
            fputc('\n', o->file);
        free(cells[i]);
    }
    free(cells);
    return fflush(o->file) == 0 ? 0 : ERR_IO;
}

/* --- one object ------------------------------------------------------------------------------ */

struct line {
    char *path, *text;
};

struct lines {
    struct line *items;
    size_t n;
};

static void flatten(struct lines *ls, const char *path, const json_t *value)
{
    const char *key;
    json_t *member;
    if (json_is_object(value)) {
        json_object_foreach ((json_t *)value, key, member) {
            char *longer = mem_printf("%s%s%s", path, *path ? "." : "", key);
            flatten(ls, longer, member);
            free(longer);
        }
        return;
    }
    struct buf text = {0};
    put_value(&text, value);
    if (text.len == 0)
        buf_puts(&text, NOTHING);
    ls->items = mem_grow(ls->items, (ls->n + 1) * sizeof(*ls->items));
    ls->items[ls->n++] = (struct line){mem_strdup(path), buf_take(&text)};
}

static void print_lines(const struct output *o, const json_t *obj)
{
    struct lines ls = {0};
    size_t width = 0;
    flatten(&ls, "", obj);
    for (size_t i = 0; i < ls.n; i++)
        width = MAX(width, strlen(ls.items[i].path));
    for (size_t i = 0; i < ls.n; i++) {
        fprintf(o->file, "%-*s  %s\n", (int)width, ls.items[i].path, ls.items[i].text);
        free(ls.items[i].path);
        free(ls.items[i].text);
    }
    free(ls.items);
}

/* --- the formats ----------------------------------------------------------------------------- */

static int print_json(FILE *f, const json_t *value, size_t flags)
{
    if (json_dumpf(value, f, flags) < 0)
        return ERR_IO;
    return fputc('\n', f) == EOF ? ERR_IO : 0;
}

static void print_id(const struct output *o, const json_t *obj)
{
    const char *id = json_string_value(json_object_get(obj, "id"));
    fprintf(o->file, "%s\n", id ? id : "");
}

int output_list(const struct output *o, const struct view *v, const json_t *array)
{
    struct output_widths w = {0};
    size_t i;
    json_t *item;
    if (o->is_quiet) {
        json_array_foreach (array, i, item) {
            print_id(o, item);
        }
        return 0;
    }
    if (o->format == OUTPUT_JSON)
        return print_json(o->file, array, JSON_INDENT(2));
    if (o->format == OUTPUT_YAML)
        return yaml_write(o->file, array, false);
    return output_rows(o, v, array, &w);
}

int output_object(const struct output *o, const json_t *obj)
{
    if (o->is_quiet)
        print_id(o, obj);
    else if (o->format == OUTPUT_JSON)
        return print_json(o->file, obj, JSON_INDENT(2));
    else if (o->format == OUTPUT_YAML)
        return yaml_write(o->file, obj, false);
    else
        print_lines(o, obj);
    return 0;
}

int output_item(const struct output *o, const json_t *obj)
{
    int r = 0;
    if (o->is_quiet)
        print_id(o, obj);
    else if (o->format == OUTPUT_YAML)
        r = yaml_write(o->file, obj, true);
    else
        r = print_json(o->file, obj, JSON_COMPACT);
    return fflush(o->file) == 0 ? r : ERR_IO;
}
