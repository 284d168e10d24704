/*
 * What a database has to offer. Private to this folder. All calls come from one thread at a time.
 * A back end maps its errors to those of store.h and keeps the text of the last one.
 */
#pragma once

#include "store/store.h"

struct backend;

#define BACKEND_SLOW_MS 2000

/* A commit whose answer was lost: was_committed tells, once there is a connection again. */
#define STORE_UNSURE 1

struct backend_ops {
    const struct store_schema *schema; /* of the store's own tables */
    uint32_t batch_max;                /* transactions that may share one of the database's */
    bool is_shared;                    /* others write too: the feed has to be followed */

    int (*open)(const struct store_options *options, struct backend **ret, struct diag *d);
    void (*close)(struct backend *b);

    /* Connects again if the connection was lost; at once when it was not. NULL: no connection. */
    int (*connect)(struct backend *b);
    bool (*is_lost)(struct backend *b);
    /* `fn` is called now and then while one answer takes longer than BACKEND_SLOW_MS; or NULL. */
    void (*on_slow)(struct backend *b, void (*fn)(void *arg), void *arg);

    int (*begin)(struct backend *b, enum store_mode mode);
    int (*commit)(struct backend *b, enum store_mode mode); /* 0, STORE_UNSURE or an error */
    int (*was_committed)(struct backend *b);                /* the last batch: 1, 0 or an error */
    int (*begin_migration)(struct backend *b); /* keeps all other writers out, and waits for them */
    int (*commit_migration)(struct backend *b);
    void (*rollback)(struct backend *b); /* harmless when the back end has rolled back already */
    bool (*in_transaction)(struct backend *b);

    /* Around each of the transactions that share one, so that one fails alone. */
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
    int (*n_columns)(struct store_cursor *c);
    const char *(*column_name)(struct store_cursor *c, int column);
    struct store_value (*value)(struct store_cursor *c, int column); /* of the type it has */

    const char *(*last_error)(struct backend *b);

    /* Of a shared one. `wake` comes from any thread: the feed may have grown. notify wakes others.
     */
    int (*listen)(struct backend *b, const struct store_options *options, void (*wake)(void *arg),
                  void *arg);
    void (*notify)(struct backend *b);

    const char *now_sql; /* a query for the database's clock, Unix time in ms */
};

extern const struct backend_ops store_sqlite_ops, store_postgres_ops;

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

/* Writes changes to the feed and gives them their numbers. */
int store_feed_append(struct tx *tx, struct change *const *changes, size_t n);

/* Drops feed rows that are too old or too many. */
int store_feed_trim(struct tx *tx, int64_t now_ms, int64_t keep_ms, int64_t keep_rows);

/* The file of an SQLite database. */
const char *store_path(const char *db);

/* Adds a change to those that are told after the commit. */
struct change *tx_add_change(struct tx *tx, const struct store_change *c);
