/* The TOML file as a source: its items are gathered into texts per row. */
#include "conf/internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "conf/conf_toml.h"

#include <libgen.h>
#include <stdio.h>
#include <string.h>

#define FILE_MAX_BYTES (1 << 20)

struct file {
    struct conf *c;
    const char *name;           /* in diagnoses */
    const char *folder;         /* paths are relative to it; NULL: the working folder */
    const struct conf_row *row; /* whose items are being gathered */
    unsigned line;              /* of the first item */
    const char **items;
    size_t n;
    struct diag *d;
};

static const char *expected(const struct conf_row *row)
{
    switch (row->type) {
    case CONF_INT:
        return "a whole number";
    case CONF_BOOL:
        return "true or false";
    case CONF_LIST:
        return "a list of texts in quotes";
    case CONF_DURATION:
        return "a time in quotes, such as \"30s\"";
    case CONF_BYTES:
        return "a size such as 4096 or \"8MiB\"";
    default:
        return "text in quotes";
    }
}

static bool kind_fits(const struct conf_row *row, const struct conf_toml_item *item)
{
    if (row->type != CONF_LIST && item->in_array)
        return false;
    switch (item->kind) {
    case CONF_TOML_STRING:
        return row->type != CONF_INT && row->type != CONF_BOOL;
    case CONF_TOML_INTEGER:
        return row->type == CONF_INT || row->type == CONF_BYTES;
    case CONF_TOML_BOOL:
        return row->type == CONF_BOOL;
    case CONF_TOML_EMPTY_ARRAY:
        return row->type == CONF_LIST && !item->in_array;
    default:
        return false;
    }
}

static void origin_at(const struct file *f, unsigned line, char *out, size_t size)
{
    snprintf(out, size, "%.150s:%u", f->name, line);
}

/* Gives the gathered items to their row. */
static int file_flush(struct file *f)
{
    char origin[200];
    const struct conf_row *row = TAKE(f->row);
    if (!row)
        return 0;
    origin_at(f, f->line, origin, sizeof(origin));
    int rc = conf_set(f->c, row, f->items, f->n, origin, f->d);
    for (; f->n; f->n--)
        mem_free((char *)f->items[f->n - 1]);
    return rc;
}

static char *file_item_text(const struct file *f, const struct conf_row *row, const char *text)
{
    if (row->type == CONF_PATH && f->folder && *text && *text != '/')
        return mem_printf("%s/%s", f->folder, text);
    return mem_strdup(text);
}

static int on_toml_item(void *arg, const struct conf_toml_item *item)
{
    struct file *f = arg;
    char origin[200];
    const struct conf_row *row = conf_find(f->c->table, item->path);
    origin_at(f, item->line, origin, sizeof(origin));
    if (!row)
        return conf_fail_unknown(f->c->table, origin, item->path, false, f->d);
    if (!kind_fits(row, item))
        return diag_set_field(f->d, ERR_INVALID, row->name, "%s: %s: expects %s, not %.60s", origin,
                              row->name, expected(row), item->text);
    if (row != f->row || !item->in_array) {
        TRY(file_flush(f));
        f->row = row;
        f->line = item->line;
    }
    if (item->kind == CONF_TOML_EMPTY_ARRAY)
        return 0;
    if (f->n == CONF_ITEMS_MAX)
        return diag_set_field(f->d, ERR_TOO_LARGE, row->name, "%s: %s: more than %d items", origin,
                              row->name, CONF_ITEMS_MAX);
    f->items[f->n++] = file_item_text(f, row, item->text);
    return 0;
}

int conf_load_toml(struct conf *c, const char *name, const char *folder, const char *text,
                   size_t len, struct diag *d)
{
    struct file f = {.c = c, .name = name, .folder = folder, .d = d};
    struct diag why = {0};
    char error[300] = "";
    unsigned line = 0;
    f.items = mem_new(CONF_ITEMS_MAX * sizeof(*f.items));
    f.d = &why;
    int rc = conf_toml_parse(text, len, on_toml_item, &f, &line, error, sizeof(error));
    if (rc >= 0)
        rc = file_flush(&f);
    else if (!why.code)
        diag_set(&why, rc, "%.150s:%u: %s", name, line, error);
    for (; f.n; f.n--)
        mem_free((char *)f.items[f.n - 1]);
    mem_free(f.items);
    if (rc < 0 && d)
        *d = why;
    return rc;
}

int conf_load_file(struct conf *c, const char *path, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    CLEANUP(mem_free) char *copy = mem_strdup(path);
    TRY(file_read(path, FILE_MAX_BYTES, false, &text, d));
    return conf_load_toml(c, path, dirname(copy), buf_text(&text), text.len, d);
}
