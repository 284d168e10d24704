/* Names that no row has: the diagnosis offers the nearest one that exists. */
#include "conf/internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

#define NAME_MAX_BYTES 64

static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_BYTES + 1];
    size_t n = strlen(b);
    if (n > NAME_MAX_BYTES || strlen(a) > NAME_MAX_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t replace = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t insert_or_drop = MIN(row[j], diagonal) + 1;
            row[j + 1] = MIN(replace, insert_or_drop);
        }
    }
    return row[n];
}

static const char *nearest(const struct conf_table *table, const char *name, bool is_flag)
{
    const char *best = NULL;
    size_t best_distance = strlen(name) / 2 + 1;
    for (size_t i = 0; i < table->n_rows; i++) {
        const char *known = is_flag ? table->rows[i].flag : table->rows[i].name;
        size_t distance = known ? edit_distance(name, known) : SIZE_MAX;
        if (distance < best_distance) {
            best_distance = distance;
            best = known;
        }
    }
    return best;
}

int conf_fail_unknown(const struct conf_table *table, const char *origin, const char *name,
                      bool is_flag, struct diag *d)
{
    const char *known = nearest(table, name, is_flag);
    const char *what = is_flag ? "flag" : "setting";
    if (known)
        return diag_set_field(d, ERR_USAGE, name, "%s: unknown %s '%.64s'; did you mean '%s'?",
                              origin, what, name, known);
    return diag_set_field(d, ERR_USAGE, name, "%s: unknown %s '%.64s'", origin, what, name);
}
