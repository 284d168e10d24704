/* What a `work` function calls: statements and rows, the same for every back end. */
#include "store/backend.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"

#include <string.h>

void tx_init(struct tx *tx, const struct backend_ops *ops, struct backend *b, enum store_mode mode,
             struct arena *arena)
{
    *tx = (struct tx){.ops = ops, .backend = b, .mode = mode, .arena = arena};
    tx->changes_tail = &tx->changes;
}

struct store_value store_value_text(const char *s)
{
    return (struct store_value){STORE_VALUE_TEXT, 0, s, s ? strlen(s) : 0};
}

int tx_exec_values(struct tx *tx, const char *sql, const struct store_value *values, size_t n)
{
    if (tx->err < 0)
        return tx->err;
    tx->err = tx->ops->exec(tx->backend, tx->mode, sql, values, n, &tx->changed);
    return tx->err;
}

int64_t tx_changed(const struct tx *tx)
{
    return tx->changed;
}

struct rows tx_query_values(struct tx *tx, const char *sql, const struct store_value *values,
                            size_t n)
{
    struct rows rows = {.tx = tx};
    if (tx->err >= 0)
        tx->err = tx->ops->query(tx->backend, tx->mode, sql, values, n, &rows.cursor);
    rows.err = tx->err;
    return rows;
}

int row_next(struct rows *rows)
{
    if (!rows->cursor)
        return rows->err;
    int rc = rows->tx->ops->next(rows->cursor);
    if (rc > 0)
        return rc;
    if (rc < 0)
        rows->err = rows->tx->err = rc;
    rows_done(rows);
    return rc;
}

void rows_done(struct rows *rows)
{
    if (rows->cursor)
        rows->tx->ops->end(TAKE(rows->cursor));
}

const char *row_text(const struct rows *rows, int column)
{
    return rows->tx->ops->text(rows->cursor, column);
}

int64_t row_int(const struct rows *rows, int column)
{
    return rows->tx->ops->integer(rows->cursor, column);
}

const void *row_blob(const struct rows *rows, int column, size_t *ret_len)
{
    return rows->tx->ops->blob(rows->cursor, column, ret_len);
}

bool row_is_null(const struct rows *rows, int column)
{
    return rows->tx->ops->is_null(rows->cursor, column);
}

int tx_query_int_values(struct tx *tx, int64_t *ret, const char *sql,
                        const struct store_value *values, size_t n)
{
    struct rows rows = tx_query_values(tx, sql, values, n);
    if (!TRY(row_next(&rows)))
        return ERR_NOT_FOUND;
    int64_t v = row_int(&rows, 0);
    rows_done(&rows);
    *ret = v;
    return 0;
}

size_t store_rows_at_once(size_t left)
{
    size_t n = STORE_ROWS_MAX;
    while (n > left)
        n /= 2;
    return n;
}

int store_rows_sql(struct buf *sql, const char *head, size_t first, size_t rows, size_t columns,
                   const char *tail)
{
    TRY(buf_puts(sql, head));
    for (size_t i = 0; i < rows * columns; i++) {
        bool is_first = i % columns == 0, is_last = i % columns == columns - 1;
        TRY(buf_printf(sql, "%s$%zu%s",
                       !is_first ? ", "
                       : i       ? ", ("
                                 : "(",
                       first + i, is_last ? ")" : ""));
    }
    return buf_puts(sql, tail);
}
