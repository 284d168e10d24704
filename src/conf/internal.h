/* Shared by the files of this folder only. */
#pragma once

#include "conf/conf.h"

struct conf {
    const struct conf_table *table;
    char *settings; /* the struct */
    char **origins; /* one a row; NULL: the default */
};

void *conf_at(const struct conf *c, const struct conf_row *row);

#define CONF_ITEMS_MAX 1024 /* of one list */

/* Gives all items that a source has for a row (a scalar: one) to it. */
int conf_set(struct conf *c, const struct conf_row *row, const char *const *items, size_t n,
             const char *origin, struct diag *d);

/* Paths in the text are relative to `folder`; NULL: to the working folder. */
int conf_load_toml(struct conf *c, const char *name, const char *folder, const char *text,
                   size_t len, struct diag *d);
int conf_load_file(struct conf *c, const char *path, struct diag *d);

/* Always ERR_USAGE. */
int conf_fail_unknown(const struct conf_table *table, const char *origin, const char *name,
                      bool is_flag, struct diag *d);

/* What a type can do with a value in the struct. `set` gets all items of a source (a scalar: one),
 * replaces what was there and fills in `d` without saying which setting or source it was. */
int conf_value_set(const struct conf_row *row, void *at, const char *const *items, size_t n,
                   struct diag *d);
void conf_value_done(const struct conf_row *row, void *at);
bool conf_value_equal(const struct conf_row *row, const void *a, const void *b);
void conf_value_swap(const struct conf_row *row, void *a, void *b);
int conf_value_dump(const struct conf_row *row, const void *at, struct buf *out); /* TOML */
bool conf_value_is_unset(const struct conf_row *row, const void *at);
