/*
 * The database of decisions: objects, leases, audit. One thread of its own runs transactions in the
 * order they were given (reads too), so that what a caller wrote is seen by all that it asks later.
 *
 * A transaction is a function `work(tx, arg)` that runs on the store's thread and touches nothing
 * but `tx` and `arg`. Its result comes to `done(arg, err)` on the store's loop: always later,
 * exactly once, in order. `err` >= 0 means that the transaction is on stable storage; `err` < 0,
 * but for ERR_IN_DOUBT, that nothing of it is. Queued writes share one commit, but fail alone.
 *
 * A database may be a file (SQLite, one hub) or PostgreSQL, which several hubs share. Either way
 * one transaction that writes runs at a time, so `work` sees a state that nobody changes under it.
 *
 * Errors beside those that `work` itself returns:
 *   ERR_UNAVAILABLE  too many transactions wait; the database is locked or read-only; it is away,
 *                    and has been for five seconds, or was lost while this transaction ran
 *   ERR_NO_SPACE     the disk is full
 *   ERR_IO           the disk or the file is broken
 *   ERR_IN_DOUBT     the commit was not answered, and for five seconds nobody could be asked
 * All are transient as far as the caller is concerned. Of ERR_IN_DOUBT nobody knows whether it has
 * taken effect: if so, subscribers hear of its changes later, as `is_elsewhere`. After the others
 * nothing was changed.
 *
 * SQL is written once for every back end (README.md): placeholders `$1`..`$n`, BIGINT, TEXT, BYTEA,
 * ON CONFLICT, RETURNING. Prepared statements are cached by their text.
 */
#pragma once

#include "base/diag.h"
#include "base/id.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct store;
struct tx;

/* The tables of one capability, as the steps that made them what they are. `X.sql` becomes
 * `X_schema` at build (README.md); whoever opens the store lists them all. */
struct store_schema {
    const char *capability;
    const char *const *steps; /* SQL; step 1 first. Only ever appended to */
    size_t n_steps;
    size_t breaking; /* the newest step that older programs do not survive; 0: none */
};

struct store_options {
    /* A file ("PATH" or "sqlite:PATH"; its folder must exist), or "postgres://USER@HOST/DATABASE"
     * (libpq's URLs; those may name several hosts, and no password). */
    const char *db;
    const char *db_password_file;              /* of PostgreSQL; NULL: as libpq finds one */
    const char *db_listen;                     /* PostgreSQL past a transaction pooler; NULL: db */
    const struct store_schema *const *schemas; /* in the order in which they may refer to others */
    size_t n_schemas;
    uint32_t queue_limit;   /* transactions that may wait; 0: 10,000 */
    int64_t feed_keep_ms;   /* age at which feed rows are dropped; 0: 24 h */
    int64_t feed_keep_rows; /* how many are kept at most; 0: 100,000 */
};

/* Whether store_open will understand it; a password in it is refused. */
int store_check_url(const char *db, struct diag *d);
bool store_is_shared(const char *db); /* by several hubs: PostgreSQL */

/* Blocks: for start-up. Applies missing migrations, all or none. A database of a newer program is
 * used as it is, with what that has added left alone; ERR_STALE when it has a breaking step,
 * ERR_EXISTS when another process has it open (SQLite). */
int store_open(struct loop *l, const struct store_options *options, struct store **ret,
               struct diag *d);

/* Copies everything of one database into another that has no tenants yet; all or nothing. Blocks;
 * neither may be open. Of `options` the schemas and the password file count. */
int store_copy(const char *from, const char *to, const struct store_options *options,
               void (*progress)(void *arg, const char *table, int64_t rows), void *arg,
               struct diag *d);

/* Blocks: runs all that waits, calls every outstanding `done`, then frees. On the store's loop. */
void store_close(struct store *s);

enum store_mode { STORE_READ, STORE_WRITE };

/* Any thread. A negative result of `work` rolls it back. STORE_READ must not write. */
void store_run(struct store *s, enum store_mode mode, int (*work)(struct tx *tx, void *arg),
               void (*done)(void *arg, int err), void *arg);

/* STORE_WRITE that comes before all that waits: for what must not be late, such as a lease, and is
 * about nothing that others write. */
void store_run_first(struct store *s, int (*work)(struct tx *tx, void *arg),
                     void (*done)(void *arg, int err), void *arg);

/* STORE_WRITE that nobody waits for and that must not be lost: it waits for as long as the database
 * is away, and is run again if it was, so twice must be the same as once. Fails like that at
 * store_close only.
 */
void store_run_patient(struct store *s, int (*work)(struct tx *tx, void *arg),
                       void (*done)(void *arg, int err), void *arg);

/* STORE_READ for those who follow the feed: one that waits for as long as the database is away, and
 * is run again if it was lost, so that no change is missed. Fails like that at store_close only. */
void store_reread(struct store *s, int (*work)(struct tx *tx, void *arg),
                  void (*done)(void *arg, int err), void *arg);

/* `done` comes when all that was queued before is done and its changes were told. */
void store_follow(struct store *s, void (*done)(void *arg, int err), void *arg);

/* store_run, but waits for the result. For start-up and tests; it stops the loop it is called on.
 */
int store_run_wait(struct store *s, enum store_mode mode, int (*work)(struct tx *tx, void *arg),
                   void *arg);

struct store_stats {
    uint64_t queued;   /* waiting now */
    uint64_t done;     /* transactions that ended well */
    uint64_t failed;   /* that were rolled back */
    uint64_t refused;  /* because the queue was full */
    uint64_t commits;  /* each a write to stable storage, for one or many transactions */
    uint64_t losses;   /* how often the connection to the database was lost */
    bool is_away;      /* the database cannot be reached now */
    int64_t feed_seen; /* of a shared database: the newest change that this hub knows */
};
void store_stats(struct store *s, struct store_stats *ret); /* any thread */

/* ---- inside `work` ---- */

struct store_value {
    enum { STORE_VALUE_NULL, STORE_VALUE_INT, STORE_VALUE_TEXT, STORE_VALUE_BLOB } type;
    int64_t num;
    const void *data; /* only read during the call; NULL: SQL's NULL */
    size_t len;
};

#define STORE_INT(n)     ((struct store_value){STORE_VALUE_INT, (int64_t)(n), NULL, 0})
#define STORE_TEXT(s)    store_value_text(s) /* NULL is SQL's NULL */
#define STORE_BLOB(p, n) ((struct store_value){STORE_VALUE_BLOB, 0, (p), (n)})
#define STORE_NULL       ((struct store_value){STORE_VALUE_NULL, 0, NULL, 0})

struct store_value store_value_text(const char *s); /* one of type TEXT also when it is NULL */

/* The values of `$1`..`$n`: store_args(...) makes the array and its length. */
#define store_args(...)                                                               \
    (const struct store_value[]){__VA_ARGS__ __VA_OPT__(, ) STORE_NULL},              \
        sizeof((const struct store_value[]){__VA_ARGS__ __VA_OPT__(, ) STORE_NULL}) / \
                sizeof(struct store_value) -                                          \
            1

/* One statement that returns no rows. ERR_EXISTS: a unique value is taken; ERR_CONFLICT: a foreign
 * key has no counterpart; ERR_INVALID: NULL or a value that a CHECK forbids. A statement that
 * failed fails its transaction, whatever `work` returns: to try, write ON CONFLICT. */
#define tx_exec(tx, sql, ...) tx_exec_values(tx, sql, store_args(__VA_ARGS__))
int tx_exec_values(struct tx *tx, const char *sql, const struct store_value *values, size_t n);

/* Rows that the last tx_exec inserted, changed or deleted. */
int64_t tx_changed(const struct tx *tx);

/* A statement that returns rows; errors come out of row_next.
 *
 *     struct rows rows = tx_query(tx, "SELECT id, name FROM tunnel WHERE tenant = $1",
 * STORE_TEXT(t)); int rc; while ((rc = row_next(&rows)) > 0) add(row_text(&rows, 0),
 * row_text(&rows, 1)); return rc;
 */
struct rows {
    struct tx *tx;
    struct store_cursor *cursor; /* the back end's; NULL when over */
    int err;
};
#define tx_query(tx, sql, ...) tx_query_values(tx, sql, store_args(__VA_ARGS__))
struct rows tx_query_values(struct tx *tx, const char *sql, const struct store_value *values,
                            size_t n);

/* 1: a row; 0: no more; negative: an error. */
int row_next(struct rows *rows);
/* Ends a query before its last row; harmless otherwise. Left open, it ends with `work`. */
void rows_done(struct rows *rows);

/* Columns from 0, valid until the next row_next. NULL or 0 for SQL's NULL. */
const char *row_text(const struct rows *rows, int column);
int64_t row_int(const struct rows *rows, int column);
const void *row_blob(const struct rows *rows, int column, size_t *ret_len);
bool row_is_null(const struct rows *rows, int column);

/* The first column of the only row. ERR_NOT_FOUND without a row. */
#define tx_query_int(tx, ret, sql, ...) tx_query_int_values(tx, ret, sql, store_args(__VA_ARGS__))
int tx_query_int_values(struct tx *tx, int64_t *ret, const char *sql,
                        const struct store_value *values, size_t n);

/* Many rows with one statement, for on PostgreSQL each statement is a round trip:
 *
 *     UPDATE item SET size = new.column2 FROM (VALUES ($1, $2), ($3, $4)) AS new
 *     WHERE name = new.column1
 */
#define STORE_VALUES_MAX 512 /* of one statement */
#define STORE_ROWS_MAX   64

/* How many of `left` go into the next statement: powers of two, so that its texts are few and stay
 * prepared. */
size_t store_rows_at_once(size_t left);

/* Writes `head`, the places of `rows` rows of `columns` values from `$first` on, and `tail`. */
int store_rows_sql(struct buf *sql, const char *head, size_t first, size_t rows, size_t columns,
                   const char *tail);

/* ---- the feed of changes ---- */

/* STORE_STATE: nothing of the object is another but its state: who is logged in, whether it serves.
 * A PUT to those who show it. */
enum store_op { STORE_PUT, STORE_DELETE, STORE_STATE };

struct store_change {
    int64_t seq; /* rises with each change of any tenant */
    const char *tenant, *kind, *id;
    enum store_op op;
    int64_t at_ms;     /* wall clock */
    bool is_elsewhere; /* made by another hub; told within a second or two */
    bool is_undone; /* a fail-over of the database has lost it: read the object anew, whatever its
                       version, and if it is not there drop it */
};

/* Appends to the feed in the transaction that makes the change; not to be read in the same one.
 * `kind` such as "tunnel". */
int store_publish(struct tx *tx, const char *tenant, const char *kind, const char *id,
                  enum store_op op);

/* Told of every committed change, in order, on the store's loop, before the `done` of the
 * transaction that made it; of a shared database also of what others committed. Embedded in its
 * owner. */
struct store_subscriber {
    void (*fn)(struct store_subscriber *sub, const struct store_change *change);
    /* After all changes of one transaction, or all that were read of others' at a time; so that
     * what follows from many can be done at once. May be NULL. */
    void (*on_told)(struct store_subscriber *sub);
    struct store *store; /* NULL: not subscribed */
    struct store_subscriber *prev, *next;
};
void store_subscribe(struct store *s, struct store_subscriber *sub);
void store_unsubscribe(struct store_subscriber *sub);

/* Calls `fn` for the changes after `seq`, oldest first, at most `limit`. Returns how many, or
 * ERR_EXPIRED when some after `seq` are no longer kept or `seq` was never reached: the reader must
 * start over from the objects themselves. `tenant` NULL: all. */
int store_feed_read(struct tx *tx, const char *tenant, int64_t seq, int limit,
                    void (*fn)(void *arg, const struct store_change *change), void *arg);

/* The oldest seq that store_feed_read accepts and the newest that was given out. */
int store_feed_range(struct tx *tx, int64_t *ret_oldest, int64_t *ret_newest);

/* The database's clock, Unix time: the one clock that all hubs have in common. */
int tx_now_ms(struct tx *tx, int64_t *ret);

/* ---- the hub's own row ---- */

struct store_hub {
    char id[ID_SIZE]; /* hub_... */
    int64_t epoch;    /* one higher with each start */
};

/* Makes or raises the hub's row. `hub->id`: as it was the last time; empty: the one hub's there is,
 * or a new one, as it also is when others have rows (`is_alone` is false). */
int store_hub_start(struct tx *tx, bool is_alone, const char *version, int64_t now_ms,
                    struct store_hub *hub);
