/*
 * SQLite: one file, one connection, WAL with synchronous=FULL, so that a commit that returned is on
 * stable storage. A lock file beside it keeps a second hub away from the same database; the kernel
 * drops the lock with the process, however that ends.
 *
 * Prepared statements are kept by their text, the least recently used one goes first. One that is
 * in use (a query within a query of the same text) gets a second copy.
 */
#include "store/backend.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define BATCH_MAX       256
#define CACHE_MAX       256
#define BUSY_TIMEOUT_MS 5000
#define WAL_KEEP_BYTES  "67108864"

/* A prepared statement; while it is in use, a cursor. */
struct store_cursor {
    struct backend *backend;
    sqlite3_stmt *stmt;
    char *sql;
    uint16_t n_parameters;
    uint16_t *value_of; /* SQLite's parameter i (from 0) is value `$k` - 1 */
    bool is_cached;
    struct store_cursor *prev, *next; /* in backend.open while in use */
    bool in_use;
    UT_hash_handle hh; /* uthash keeps the order of adding: the oldest first */
};

struct backend {
    sqlite3 *db;
    int lock_fd;
    struct store_cursor *cache;
    struct store_cursor *open;
    char error[256];
};

static int map_error(int code)
{
    switch (code) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
        return ERR_EXISTS;
    case SQLITE_CONSTRAINT_FOREIGNKEY:
        return ERR_CONFLICT;
    default:
        break;
    }
    switch (code & 0xff) {
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
        return ERR_INVALID;
    case SQLITE_FULL:
        return ERR_NO_SPACE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_READONLY:
        return ERR_UNAVAILABLE;
    case SQLITE_TOOBIG:
        return ERR_TOO_LARGE;
    case SQLITE_NOMEM:
        return ERR_LIMIT;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return ERR_DENIED;
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
        return ERR_BUG;
    default:
        return ERR_IO;
    }
}

/* Notes the connection's error; `sql` of a faulty statement goes to the log, for it is our bug. */
static int fail(struct backend *b, const char *sql)
{
    int rc = map_error(sqlite3_extended_errcode(b->db));
    snprintf(b->error, sizeof(b->error), "%s", sqlite3_errmsg(b->db));
    if (rc == ERR_BUG)
        LOG_ERROR("faulty SQL", LOG_STR("reason", b->error), LOG_STR("sql", sql));
    return rc;
}

static int fail_bug(struct backend *b, const char *sql, const char *reason)
{
    snprintf(b->error, sizeof(b->error), "%s", reason);
    LOG_ERROR("faulty SQL", LOG_STR("reason", reason), LOG_STR("sql", sql));
    return ERR_BUG;
}

static const char *sqlite_last_error(struct backend *b)
{
    return b->error;
}

/* ---- statements ---- */

static void cursor_free(struct store_cursor *c)
{
    sqlite3_finalize(c->stmt);
    mem_free(c->value_of);
    mem_free(c->sql);
    mem_free(c);
}

/* SQLite numbers `$k` by first appearance; find out which value each one means. */
static int map_parameters(struct store_cursor *c)
{
    int n = sqlite3_bind_parameter_count(c->stmt);
    if (n > STORE_VALUES_MAX)
        return fail_bug(c->backend, c->sql, "too many parameters");
    c->value_of = mem_new((size_t)n * sizeof(*c->value_of) + 1);
    for (int i = 0; i < n; i++) {
        const char *name = sqlite3_bind_parameter_name(c->stmt, i + 1);
        uint64_t k;
        if (!name || *name != '$' || text_to_u64(name + 1, STORE_VALUES_MAX, &k) < 0 || k == 0)
            return fail_bug(c->backend, c->sql, "parameters are $1, $2, ...");
        c->value_of[i] = (uint16_t)(k - 1);
    }
    c->n_parameters = (uint16_t)n;
    return 0;
}

static int cursor_prepare(struct backend *b, const char *sql, struct store_cursor **ret)
{
    struct store_cursor *c = NEW(struct store_cursor);
    c->backend = b;
    c->sql = mem_strdup(sql);
    int rc = sqlite3_prepare_v3(b->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &c->stmt, NULL);
    if (rc != SQLITE_OK)
        rc = fail(b, sql);
    else
        rc = map_parameters(c);
    if (rc < 0) {
        cursor_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

static void cache_add(struct backend *b, struct store_cursor *c)
{
    c->is_cached = true;
    HASH_ADD_KEYPTR(hh, b->cache, c->sql, strlen(c->sql), c);
    struct store_cursor *old, *next;
    HASH_ITER (hh, b->cache, old, next) {
        if (HASH_COUNT(b->cache) <= CACHE_MAX)
            break;
        if (!old->in_use) {
            HASH_DEL(b->cache, old);
            cursor_free(old);
        }
    }
}

static int cursor_get(struct backend *b, const char *sql, struct store_cursor **ret)
{
    struct store_cursor *c;
    HASH_FIND_STR(b->cache, sql, c);
    bool is_taken = c && c->in_use;
    if (!c || is_taken)
        TRY(cursor_prepare(b, sql, &c));
    else
        HASH_DEL(b->cache, c);
    c->in_use = true;
    DL_APPEND(b->open, c);
    if (!is_taken)
        cache_add(b, c);
    *ret = c;
    return 0;
}

static void sqlite_end(struct store_cursor *c)
{
    struct backend *b = c->backend;
    sqlite3_reset(c->stmt);
    sqlite3_clear_bindings(c->stmt);
    DL_DELETE(b->open, c);
    c->in_use = false;
    if (!c->is_cached)
        cursor_free(c);
}

static void sqlite_end_all(struct backend *b)
{
    while (b->open)
        sqlite_end(b->open);
}

static int bind(struct store_cursor *c, int i, const struct store_value *v)
{
    switch (v->type) {
    case STORE_VALUE_INT:
        return sqlite3_bind_int64(c->stmt, i, v->num);
    case STORE_VALUE_TEXT:
        return sqlite3_bind_text64(c->stmt, i, v->data, v->len, SQLITE_TRANSIENT, SQLITE_UTF8);
    case STORE_VALUE_BLOB:
        if (!v->len)
            return sqlite3_bind_zeroblob(c->stmt, i, 0);
        return sqlite3_bind_blob64(c->stmt, i, v->data, v->len, SQLITE_TRANSIENT);
    default:
        return sqlite3_bind_null(c->stmt, i);
    }
}

static int bind_all(struct store_cursor *c, const struct store_value *values, size_t n)
{
    for (int i = 0; i < c->n_parameters; i++) {
        if (c->value_of[i] >= n)
            return fail_bug(c->backend, c->sql, "a parameter has no value");
        if (bind(c, i + 1, &values[c->value_of[i]]) != SQLITE_OK)
            return fail(c->backend, c->sql);
    }
    return 0;
}

static int sqlite_query(struct backend *b, enum store_mode mode, const char *sql,
                        const struct store_value *values, size_t n, struct store_cursor **ret)
{
    struct store_cursor *c;
    TRY(cursor_get(b, sql, &c));
    int rc = bind_all(c, values, n);
    if (rc >= 0 && mode == STORE_READ && !sqlite3_stmt_readonly(c->stmt))
        rc = fail_bug(b, sql, "a STORE_READ transaction must not write");
    if (rc < 0) {
        sqlite_end(c);
        return rc;
    }
    *ret = c;
    return 0;
}

static int sqlite_next(struct store_cursor *c)
{
    int rc = sqlite3_step(c->stmt);
    if (rc == SQLITE_ROW)
        return 1;
    return rc == SQLITE_DONE ? 0 : fail(c->backend, c->sql);
}

static int sqlite_exec(struct backend *b, enum store_mode mode, const char *sql,
                       const struct store_value *values, size_t n, int64_t *ret_changed)
{
    struct store_cursor *c;
    int rc;
    TRY(sqlite_query(b, mode, sql, values, n, &c));
    while ((rc = sqlite_next(c)) > 0)
        ;
    sqlite_end(c);
    *ret_changed = rc < 0 ? 0 : sqlite3_changes64(b->db);
    return rc;
}

static const char *sqlite_text(struct store_cursor *c, int column)
{
    return (const char *)sqlite3_column_text(c->stmt, column);
}

static int64_t sqlite_integer(struct store_cursor *c, int column)
{
    return sqlite3_column_int64(c->stmt, column);
}

static const void *sqlite_blob(struct store_cursor *c, int column, size_t *ret_len)
{
    const void *data = sqlite3_column_blob(c->stmt, column);
    *ret_len = (size_t)sqlite3_column_bytes(c->stmt, column);
    return data;
}

static bool sqlite_is_null(struct store_cursor *c, int column)
{
    return sqlite3_column_type(c->stmt, column) == SQLITE_NULL;
}

static int sqlite_n_columns(struct store_cursor *c)
{
    return sqlite3_column_count(c->stmt);
}

static const char *sqlite_column_name_of(struct store_cursor *c, int column)
{
    return sqlite3_column_name(c->stmt, column);
}

static struct store_value sqlite_value_of(struct store_cursor *c, int column)
{
    struct store_value v = STORE_NULL;
    switch (sqlite3_column_type(c->stmt, column)) {
    case SQLITE_INTEGER:
        return STORE_INT(sqlite3_column_int64(c->stmt, column));
    case SQLITE_TEXT:
        return store_value_text(sqlite_text(c, column));
    case SQLITE_BLOB:
        v.type = STORE_VALUE_BLOB;
        v.data = sqlite_blob(c, column, &v.len);
        return v;
    default:
        return v;
    }
}

/* ---- transactions ---- */

static int run(struct backend *b, const char *sql)
{
    int64_t changed;
    return sqlite_exec(b, STORE_WRITE, sql, NULL, 0, &changed);
}

static int sqlite_begin(struct backend *b, enum store_mode mode)
{
    return run(b, mode == STORE_WRITE ? "BEGIN IMMEDIATE" : "BEGIN");
}

static int sqlite_commit(struct backend *b, enum store_mode mode)
{
    return run(b, "COMMIT");
}

static int sqlite_begin_migration(struct backend *b)
{
    return sqlite_begin(b, STORE_WRITE);
}

static int sqlite_commit_migration(struct backend *b)
{
    return sqlite_commit(b, STORE_WRITE);
}

static bool sqlite_in_transaction(struct backend *b)
{
    return !sqlite3_get_autocommit(b->db);
}

static void sqlite_rollback(struct backend *b)
{
    char why[sizeof(b->error)];
    memcpy(why, b->error, sizeof(why)); /* the error that led here is the one to keep */
    sqlite_end_all(b);
    if (sqlite_in_transaction(b))
        run(b, "ROLLBACK");
    memcpy(b->error, why, sizeof(why));
}

static int sqlite_savepoint(struct backend *b)
{
    return run(b, "SAVEPOINT work");
}

static int sqlite_savepoint_keep(struct backend *b)
{
    return run(b, "RELEASE work");
}

static int sqlite_savepoint_undo(struct backend *b)
{
    TRY(run(b, "ROLLBACK TO work"));
    return run(b, "RELEASE work");
}

static int sqlite_script(struct backend *b, const char *sql)
{
    return sqlite3_exec(b->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(b, sql);
}

/* ---- open and close ---- */

static void sqlite_close(struct backend *b)
{
    struct store_cursor *c, *next;
    sqlite_end_all(b);
    HASH_ITER (hh, b->cache, c, next) {
        HASH_DEL(b->cache, c);
        cursor_free(c);
    }
    sqlite3_close(b->db);
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    mem_free(b);
}

static int take_lock(struct backend *b, const char *path, struct diag *d)
{
    CLEANUP(mem_free) char *name = mem_printf("%s.lock", path);
    b->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->lock_fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot make %s: %s", name, strerror(errno));
    if (flock(b->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return diag_set(d, ERR_EXISTS, "database %s is in use by another process", path);
    return 0;
}

/* next_epoch(was): no commit of this database is ever lost. */
static void next_epoch(sqlite3_context *ctx, int n, sqlite3_value **values)
{
    sqlite3_result_int64(ctx, sqlite3_value_int64(values[0]) + 1);
}

static int configure(struct backend *b)
{
    if (sqlite3_create_function(b->db, "next_epoch", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                next_epoch, NULL, NULL) != SQLITE_OK)
        return fail(b, "next_epoch");
    sqlite3_extended_result_codes(b->db, 1);
    sqlite3_busy_timeout(b->db, BUSY_TIMEOUT_MS);
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    return sqlite_script(b, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                            "PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;"
                            "PRAGMA journal_size_limit = " WAL_KEEP_BYTES ";"
                            "SELECT COUNT(*) FROM sqlite_schema;");
}

static int open_file(struct backend *b, const char *path, struct diag *d)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* SQLite would ask the umask only */
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot open database %s: %s", path,
                        strerror(errno));
    close(fd);
    int rc = sqlite3_open_v2(path, &b->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (!b->db)
        return diag_set(d, ERR_LIMIT, "cannot open database %s: no memory", path);
    rc = rc == SQLITE_OK ? configure(b) : fail(b, path);
    if (rc < 0)
        return diag_set(d, rc, "cannot use %s as the database: %s", path, b->error);
    if (sqlite3_db_readonly(b->db, "main") == 1)
        return diag_set(d, ERR_DENIED, "database %s is read-only", path);
    return 0;
}

static int sqlite_open(const struct store_options *options, struct backend **ret, struct diag *d)
{
    struct backend *b = NEW(struct backend);
    b->lock_fd = -1;
    int rc = take_lock(b, store_path(options->db), d);
    if (rc >= 0)
        rc = open_file(b, store_path(options->db), d);
    if (rc < 0) {
        sqlite_close(b);
        return rc;
    }
    *ret = b;
    return 0;
}

extern const struct store_schema store_schema;

const struct backend_ops store_sqlite_ops = {
    .schema = &store_schema,
    .batch_max = BATCH_MAX,
    .open = sqlite_open,
    .close = sqlite_close,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .begin_migration = sqlite_begin_migration,
    .commit_migration = sqlite_commit_migration,
    .rollback = sqlite_rollback,
    .in_transaction = sqlite_in_transaction,
    .savepoint = sqlite_savepoint,
    .savepoint_keep = sqlite_savepoint_keep,
    .savepoint_undo = sqlite_savepoint_undo,
    .script = sqlite_script,
    .exec = sqlite_exec,
    .query = sqlite_query,
    .next = sqlite_next,
    .end = sqlite_end,
    .end_all = sqlite_end_all,
    .text = sqlite_text,
    .integer = sqlite_integer,
    .blob = sqlite_blob,
    .is_null = sqlite_is_null,
    .n_columns = sqlite_n_columns,
    .column_name = sqlite_column_name_of,
    .value = sqlite_value_of,
    .last_error = sqlite_last_error,
    .now_sql = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
};
