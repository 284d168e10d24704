/*
 * What a database has to offer. Private to this folder. All calls come from one thread at a time.
 * A back end maps its errors to those of store.h and keeps the text of the last one.
 */
#pragma once

#include "store/store.h"

struct backend;

struct backend_ops {
    int (*open)(const struct store_options *options, struct backend **ret, struct diag *d);
    void (*close)(struct backend *b);

    int (*begin)(struct backend *b, enum store_mode mode);
    int (*commit)(struct backend *b);
    void (*rollback)(struct backend *b); /* harmless when the back end has rolled back already */
    bool (*in_transaction)(struct backend *b);

    int (*savepoint)(struct backend *b);
    int (*savepoint_keep)(struct backend *b);
    int (*savepoint_undo)(struct backend *b);

    int (*script)(struct backend *b, const char *sql); /* many statements, no values */
    int (*exec)(struct backend *b, enum store_mode mode, const char *sql,
                const struct store_value *values, size_t n, int64_t *ret_changed);
    int (*query)(struct backend *b, enum store_mode mode, const char *sql,
                 const struct store_value *values, size_t n, struct store_cursor **ret);

    int (*next)(struct store_cursor *c); /* 1, 0 or an error */
    void (*end)(struct store_cursor *c);
    void (*end_all)(struct backend *b); /* every open cursor */
    const char *(*text)(struct store_cursor *c, int column);
    int64_t (*integer)(struct store_cursor *c, int column);
    const void *(*blob)(struct store_cursor *c, int column, size_t *ret_len);
    bool (*is_null)(struct store_cursor *c, int column);

    const char *(*last_error)(struct backend *b);
};

extern const struct backend_ops store_sqlite_ops;

/* One change that waits for its commit; lives in the transaction's arena. */
struct change {
    struct store_change c;
    struct change *next;
};

struct tx {
    const struct backend_ops *ops;
    struct backend *backend;
    enum store_mode mode;
    int err; /* of the first statement that failed */
    int64_t changed;
    struct arena *arena;
    struct change *changes, **changes_tail;
    uint32_t n_changes;
};

void tx_init(struct tx *tx, const struct backend_ops *ops, struct backend *b, enum store_mode mode,
             struct arena *arena);

/* Brings the tables up to date in one transaction. */
int store_migrate(const struct backend_ops *ops, struct backend *b,
                  const struct store_options *options, struct diag *d);

/* Drops feed rows that are too old or too many. */
int store_feed_trim(struct tx *tx, int64_t now_ms, int64_t keep_ms, int64_t keep_rows);

extern const struct store_schema store_schema;
