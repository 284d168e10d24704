/* Effective settings as a TOML file that loads back to the same. */
#include "conf/internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

/* The length of the table's name in "table.key", 0 at the top level. */
static size_t table_len(const struct conf_row *row)
{
    const char *dot = strrchr(row->name, '.');
    return dot ? (size_t)(dot - row->name) : 0;
}

static bool same_table(const struct conf_row *a, const struct conf_row *b)
{
    size_t n = table_len(a);
    return n == table_len(b) && strncmp(a->name, b->name, n) == 0;
}

static int dump_row(const struct conf *c, const struct conf_row *row, struct buf *out)
{
    size_t n = table_len(row);
    const char *origin = conf_origin(c, row->name);
    bool is_unset = conf_value_is_unset(row, conf_at(c, row));
    TRY(buf_printf(out, "# %s\n", row->help));
    if (row->choices) {
        TRY(buf_puts(out, "# One of:"));
        for (size_t i = 0; row->choices[i]; i++)
            TRY(buf_printf(out, " %s", row->choices[i]));
        TRY(buf_puts(out, "\n"));
    }
    TRY(buf_printf(out, "# From: %s%s\n", is_unset ? "not set" : origin,
                   row->flags & CONF_RELOADABLE ? "; a change applies at reload" : ""));
    TRY(buf_printf(out, "%s%s = ", is_unset ? "# " : "", row->name + (n ? n + 1 : 0)));
    TRY(conf_value_dump(row, conf_at(c, row), out));
    return buf_puts(out, "\n\n");
}

static int dump_table(const struct conf *c, const struct conf_row *first, struct buf *out)
{
    const struct conf_row *end = c->table->rows + c->table->n_rows;
    if (table_len(first))
        TRY(buf_printf(out, "[%.*s]\n\n", (int)table_len(first), first->name));
    for (const struct conf_row *row = first; row < end; row++) {
        if (same_table(row, first))
            TRY(dump_row(c, row, out));
    }
    return 0;
}

static bool is_first_of_table(const struct conf *c, const struct conf_row *row)
{
    for (const struct conf_row *r = c->table->rows; r < row; r++) {
        if (same_table(r, row))
            return false;
    }
    return true;
}

/* The top level first: in TOML nothing can return to it after a table's header. */
int conf_dump(const struct conf *c, struct buf *out)
{
    for (int top = 1; top >= 0; top--) {
        for (size_t i = 0; i < c->table->n_rows; i++) {
            const struct conf_row *row = &c->table->rows[i];
            if ((table_len(row) == 0) == top && is_first_of_table(c, row))
                TRY(dump_table(c, row, out));
        }
    }
    return 0;
}
