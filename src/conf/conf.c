/*
 * Loading: the defaults, then each source in turn replaces the values of the rows it names. A
 * source is turned into texts; value.c makes values of them. A new `struct conf` is built aside, so
 * a failed load or reload leaves everything as it was.
 */
#include "conf/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

const struct conf_row *conf_find(const struct conf_table *table, const char *name)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        if (strcmp(table->rows[i].name, name) == 0)
            return &table->rows[i];
    }
    return NULL;
}

const struct conf_row *conf_find_flag(const struct conf_table *table, const char *flag)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        if (table->rows[i].flag && strcmp(table->rows[i].flag, flag) == 0)
            return &table->rows[i];
    }
    return NULL;
}

void *conf_at(const struct conf *c, const struct conf_row *row)
{
    return c->settings + row->offset;
}

void *conf_settings(struct conf *c)
{
    return c->settings;
}

const char *conf_origin(const struct conf *c, const char *name)
{
    const struct conf_row *row = conf_find(c->table, name);
    if (!row)
        return NULL;
    const char *origin = c->origins[row - c->table->rows];
    return origin ? origin : "default";
}

/* ---- one row from one source ---- */

int conf_set(struct conf *c, const struct conf_row *row, const char *const *items, size_t n,
             const char *origin, struct diag *d)
{
    struct diag why = {0};
    int rc = conf_value_set(row, conf_at(c, row), items, n, &why);
    if (rc < 0)
        return diag_set_field(d, rc, row->name, "%s: %s: %.300s", origin, row->name,
                              diag_text(&why));
    char **at = &c->origins[row - c->table->rows];
    mem_free(*at);
    *at = mem_strdup(origin);
    return 0;
}

/* Text of an environment variable or a default: a list's items are separated by white space. */
static int set_from_text(struct conf *c, const struct conf_row *row, const char *text,
                         const char *origin, struct diag *d)
{
    if (row->type != CONF_LIST)
        return conf_set(c, row, &text, 1, origin, d);
    CLEANUP(mem_free) char *copy = mem_strdup(text);
    CLEANUP(mem_free) const char **items = mem_new(CONF_ITEMS_MAX * sizeof(*items));
    size_t n = 0;
    char *save, *item = strtok_r(copy, " \t\r\n", &save);
    for (; item && n < CONF_ITEMS_MAX; item = strtok_r(NULL, " \t\r\n", &save))
        items[n++] = item;
    if (item)
        return diag_set_field(d, ERR_TOO_LARGE, row->name, "%s: more than %d items", origin,
                              CONF_ITEMS_MAX);
    return conf_set(c, row, items, n, origin, d);
}

static int load_defaults(struct conf *c, struct diag *d)
{
    for (size_t i = 0; i < c->table->n_rows; i++) {
        const struct conf_row *row = &c->table->rows[i];
        if (row->fallback)
            TRY(set_from_text(c, row, row->fallback, "default", d));
    }
    return 0;
}

/* ---- environment and flags ---- */

static int load_env(struct conf *c, char *const *env, struct diag *d)
{
    for (; env && *env; env++) {
        const char *equals = strchr(*env, '=');
        for (size_t i = 0; equals && equals[1] && i < c->table->n_rows; i++) {
            const struct conf_row *row = &c->table->rows[i];
            size_t n = (size_t)(equals - *env);
            if (row->env && strlen(row->env) == n && strncmp(row->env, *env, n) == 0)
                TRY(set_from_text(c, row, equals + 1, row->env, d));
        }
    }
    return 0;
}

/* All uses of a list's flag together replace what weaker sources said. */
static int load_flag_row(struct conf *c, const struct conf_row *row, const struct conf_sources *s,
                         struct diag *d)
{
    CLEANUP(mem_free) const char **items = mem_new((s->n_flags + 1) * sizeof(*items));
    size_t n = 0;
    for (size_t i = 0; i < s->n_flags; i++) {
        if (strcmp(s->flags[i].flag, row->flag) != 0)
            continue;
        if (row->type != CONF_LIST)
            n = 0; /* the last one counts */
        items[n++] = s->flags[i].value;
        if (!items[n - 1] && row->type != CONF_BOOL)
            return diag_set_field(d, ERR_USAGE, row->name, "%s needs a value: %s %s", row->flag,
                                  row->flag, row->metavar ? row->metavar : "VALUE");
        if (!items[n - 1])
            items[n - 1] = "true";
    }
    return n ? conf_set(c, row, items, n, row->flag, d) : 0;
}

static int load_flags(struct conf *c, const struct conf_sources *s, struct diag *d)
{
    for (size_t i = 0; i < s->n_flags; i++) {
        if (!conf_find_flag(c->table, s->flags[i].flag))
            return conf_fail_unknown(c->table, "command line", s->flags[i].flag, true, d);
    }
    for (size_t i = 0; i < c->table->n_rows; i++) {
        if (c->table->rows[i].flag)
            TRY(load_flag_row(c, &c->table->rows[i], s, d));
    }
    return 0;
}

/* ---- the whole ---- */

static struct conf *conf_new(const struct conf_table *table)
{
    struct conf *c = NEW(struct conf);
    c->table = table;
    c->settings = mem_new(table->size);
    c->origins = mem_new(table->n_rows * sizeof(*c->origins));
    return c;
}

void conf_free(struct conf *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->table->n_rows; i++) {
        conf_value_done(&c->table->rows[i], conf_at(c, &c->table->rows[i]));
        mem_free(c->origins[i]);
    }
    mem_free(c->settings);
    mem_free(c->origins);
    mem_free(c);
}
DEFINE_CLEANUP(struct conf *, conf_free)

static int check_complete(const struct conf *c, struct diag *d)
{
    for (size_t i = 0; i < c->table->n_rows; i++) {
        const struct conf_row *row = &c->table->rows[i];
        if ((row->flags & CONF_REQUIRED) && !c->origins[i])
            return diag_set_field(d, ERR_USAGE, row->name,
                                  "'%s' is not set: give %s %s, or %s in the environment, or %s in "
                                  "the settings file",
                                  row->name, row->flag ? row->flag : row->name,
                                  row->metavar ? row->metavar : "", row->env ? row->env : "none",
                                  row->name);
    }
    return c->table->check ? c->table->check(c->settings, d) : 0;
}

int conf_load(const struct conf_table *table, const struct conf_sources *sources, struct conf **ret,
              struct diag *d)
{
    CLEANUP(conf_free) struct conf *c = conf_new(table);
    TRY(load_defaults(c, d));
    if (sources->file)
        TRY(conf_load_file(c, sources->file, d));
    TRY(load_env(c, sources->env, d));
    TRY(load_flags(c, sources, d));
    TRY(check_complete(c, d));
    *ret = TAKE(c);
    return 0;
}

int conf_load_text(const struct conf_table *table, const char *name, const char *text, size_t len,
                   struct conf **ret, struct diag *d)
{
    CLEANUP(conf_free) struct conf *c = conf_new(table);
    TRY(load_defaults(c, d));
    TRY(conf_load_toml(c, name, NULL, text, len, d));
    TRY(check_complete(c, d));
    *ret = TAKE(c);
    return 0;
}

int conf_reload(struct conf *c, const struct conf_sources *sources,
                void (*report)(void *arg, const struct conf_row *row, bool applies_now), void *arg,
                struct diag *d)
{
    CLEANUP(conf_free) struct conf *now = NULL;
    TRY(conf_load(c->table, sources, &now, d));
    for (size_t i = 0; i < c->table->n_rows; i++) {
        const struct conf_row *row = &c->table->rows[i];
        bool is_reloadable = row->flags & CONF_RELOADABLE;
        bool is_changed = !conf_value_equal(row, conf_at(c, row), conf_at(now, row));
        if (is_reloadable && is_changed)
            conf_value_swap(row, conf_at(c, row), conf_at(now, row));
        if (is_reloadable || !is_changed) {
            char *origin = c->origins[i];
            c->origins[i] = now->origins[i];
            now->origins[i] = origin;
        }
        if (is_changed)
            report(arg, row, is_reloadable);
    }
    return 0;
}

void conf_log_change(void *arg, const struct conf_row *row, bool applies_now)
{
    if (applies_now)
        LOG_INFO("setting changed", LOG_STR("setting", row->name));
    else
        LOG_WARN("setting changed, but needs a restart", LOG_STR("setting", row->name));
}
