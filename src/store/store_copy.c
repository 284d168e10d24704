/*
 * Moves a database to another one, of whatever kind: everything or nothing. Both are opened as a
 * hub opens them, so tables are brought up to date first, and an SQLite file that a hub has open is
 * refused. Which tables there are is read from the steps that made the source's, in whose order a
 * row finds those that it refers to.
 */
#include "store/backend.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define TABLES_MAX  64
#define COLUMNS_MAX 64
#define VALUES_MAX  64 /* of one statement; both back ends take as many */

struct side {
    const struct backend_ops *ops;
    struct backend *backend;
    struct store_options options;
    struct tx tx;
};

struct copy {
    struct side from, to;
    struct arena arena;
    const char *tables[TABLES_MAX];
    size_t n_tables;
    void (*progress)(void *arg, const char *table, int64_t rows);
    void *arg;
};

static int side_open(struct side *s, const char *db, const struct store_options *options,
                     struct arena *arena, struct diag *d)
{
    s->options = *options;
    s->options.db = db;
    s->ops = store_is_shared(db) ? &store_postgres_ops : &store_sqlite_ops;
    TRY(s->ops->open(&s->options, &s->backend, d));
    TRY(store_migrate(s->ops, s->backend, &s->options, d));
    tx_init(&s->tx, s->ops, s->backend, STORE_WRITE, arena);
    int rc = s->ops->begin_migration(s->backend);
    return rc < 0 ? diag_set(d, rc, "cannot use %s: %s", db, s->ops->last_error(s->backend)) : 0;
}

static void side_close(struct side *s)
{
    if (!s->backend)
        return;
    s->ops->end_all(s->backend);
    s->ops->rollback(s->backend);
    s->ops->close(s->backend);
}

static bool has_table(const struct store_schema *schema, const char *name)
{
    CLEANUP(mem_free) char *create = mem_printf("CREATE TABLE %s (", name);
    for (size_t i = 0; i < schema->n_steps; i++) {
        if (strstr(schema->steps[i], create))
            return true;
    }
    return false;
}

/* Those that the other side has too: each back end has tables that only it needs. */
static void find_tables(struct copy *c, const struct store_schema *schema,
                        const struct store_schema *other)
{
    static const char create[] = "CREATE TABLE ";
    for (size_t i = 0; i < schema->n_steps; i++) {
        const char *p = schema->steps[i];
        while ((p = strstr(p, create))) {
            p += strlen(create);
            const char *name = arena_strndup(&c->arena, p, strcspn(p, " ("));
            assert(c->n_tables < TABLES_MAX);
            if (has_table(other, name))
                c->tables[c->n_tables++] = name;
        }
    }
}

/* ---- one table ---- */

struct table {
    struct copy *copy;
    const char *name;
    size_t n_columns, rows_at_once;
    struct buf insert; /* INSERT INTO name (...) VALUES */
    int64_t rows;
};

static int read_columns(struct table *t, struct store_cursor *cursor)
{
    const struct backend_ops *ops = t->copy->from.ops;
    t->n_columns = (size_t)ops->n_columns(cursor);
    assert(t->n_columns <= COLUMNS_MAX);
    t->rows_at_once = VALUES_MAX / t->n_columns;
    TRY(buf_printf(&t->insert, "INSERT INTO %s (", t->name));
    for (size_t i = 0; i < t->n_columns; i++)
        TRY(buf_printf(&t->insert, "%s%s", i ? ", " : "", ops->column_name(cursor, (int)i)));
    return buf_puts(&t->insert, ") VALUES ");
}

static int insert(struct table *t, const struct store_value *values, size_t rows)
{
    CLEANUP(buf_done) struct buf sql = {0};
    TRY(buf_puts(&sql, buf_text(&t->insert)));
    for (size_t i = 0; i < rows * t->n_columns; i++) {
        bool is_first = i % t->n_columns == 0, is_last = (i + 1) % t->n_columns == 0;
        TRY(buf_printf(&sql, "%s$%zu%s", is_first ? i ? ", (" : "(" : ", ", i + 1,
                       is_last ? ")" : ""));
    }
    t->rows += (int64_t)rows;
    return tx_exec_values(&t->copy->to.tx, buf_text(&sql), values, rows * t->n_columns);
}

/* The column's value, kept in `arena`. */
static struct store_value keep_value(const struct side *from, struct store_cursor *cursor,
                                     int column, struct arena *arena)
{
    struct store_value v = from->ops->value(cursor, column);
    if (v.data)
        v.data = v.len ? memcpy(arena_alloc(arena, v.len), v.data, v.len) : "";
    return v;
}

static int copy_rows(struct table *t, struct rows *rows)
{
    struct store_value values[VALUES_MAX];
    struct arena arena = {0};
    size_t n = 0;
    int rc = 0, more = 1;
    while (more > 0 && rc >= 0) {
        more = row_next(rows);
        for (size_t i = 0; more > 0 && i < t->n_columns; i++)
            values[n * t->n_columns + i] = keep_value(&t->copy->from, rows->cursor, (int)i, &arena);
        n += more > 0;
        if (n == t->rows_at_once || (more <= 0 && n)) {
            rc = insert(t, values, n);
            arena_done(&arena);
            n = 0;
        }
    }
    arena_done(&arena);
    return rc < 0 ? rc : more;
}

static int copy_table(struct copy *c, const char *name)
{
    struct table t = {.copy = c, .name = name};
    char sql[100];
    snprintf(sql, sizeof(sql), "DELETE FROM %.60s", name); /* what a migration put there */
    TRY(tx_exec(&c->to.tx, sql));
    snprintf(sql, sizeof(sql), "SELECT * FROM %.60s", name);
    struct rows rows = tx_query(&c->from.tx, sql);
    int rc = rows.err < 0 ? rows.err : read_columns(&t, rows.cursor);
    if (rc >= 0)
        rc = copy_rows(&t, &rows);
    rows_done(&rows);
    buf_done(&t.insert);
    if (rc >= 0 && c->progress)
        c->progress(c->arg, name, t.rows);
    return rc;
}

static int refuse_used(struct copy *c, struct diag *d)
{
    int64_t tenants;
    TRY(tx_query_int(&c->to.tx, &tenants, "SELECT COUNT(*) FROM tenant"));
    return tenants ? diag_set(d, ERR_EXISTS,
                              "%s is in use already: it has tenants. Give an empty "
                              "database",
                              c->to.options.db)
                   : 0;
}

static int copy_all(struct copy *c, const struct store_options *options, struct diag *d)
{
    TRY(refuse_used(c, d));
    find_tables(c, c->from.ops->schema, c->to.ops->schema);
    for (size_t i = 0; i < options->n_schemas; i++)
        find_tables(c, options->schemas[i], options->schemas[i]);
    for (size_t i = 0; i < c->n_tables; i++) {
        int rc = copy_table(c, c->tables[i]);
        if (rc < 0)
            return diag_set(d, rc, "cannot copy table '%s': %s", c->tables[i],
                            c->from.tx.err < 0 ? c->from.ops->last_error(c->from.backend)
                                               : c->to.ops->last_error(c->to.backend));
    }
    int rc = c->to.ops->commit_migration(c->to.backend);
    return rc < 0 ? diag_set(d, rc, "cannot write to %s: %s", c->to.options.db,
                             c->to.ops->last_error(c->to.backend))
                  : 0;
}

int store_copy(const char *from, const char *to, const struct store_options *options,
               void (*progress)(void *arg, const char *table, int64_t rows), void *arg,
               struct diag *d)
{
    struct copy c = {.progress = progress, .arg = arg};
    int rc = side_open(&c.from, from, options, &c.arena, d);
    if (rc >= 0)
        rc = side_open(&c.to, to, options, &c.arena, d);
    if (rc >= 0)
        rc = copy_all(&c, options, d);
    side_close(&c.to);
    side_close(&c.from);
    arena_done(&c.arena);
    return rc;
}
