/*
 * The store on PostgreSQL: many hubs, one database.
 *
 * Theory of operation
 *
 * Each hub has one session, used by the store's thread with deadlines on every wait. Statements
 * wait for one another (the next one depends on what the last one said), so a thread that waits
 * loses nothing against callbacks; what can go together goes in one round trip (postgres_conn.h):
 * BEGIN with its settings and lock, a savepoint with the first statement behind it, a savepoint's
 * end with what follows, the commit with the writer's mark.
 *
 * One writer at a time: a transaction that writes takes an advisory lock first, READ COMMITTED, so
 * every statement sees all that was committed before. This is what SQLite promises too, so the
 * same work functions are right on both: none sees a serialization failure or a deadlock. It also
 * makes the feed safe: a change gets the next number under the lock and the lock ends with the
 * commit, so numbers have no gaps and become visible in their order. (The other way, reading up to
 * pg_snapshot_xmin, stalls behind any long transaction of the whole server, and its numbers do not
 * outlive a dump and restore.) A hub that is frozen inside a transaction is ended by the server
 * after IDLE_MS and holds up nobody longer.
 *
 * A commit whose answer was lost is looked up: the row of `store_writer` tells the last batch of
 * this opening that was committed. Whoever asks holds the lock, so the one in doubt is over.
 *
 * Transactions that only read are REPEATABLE READ READ ONLY and take no lock. They may be idle for
 * longer: a hub that starts puts a million agents in their place between two statements.
 */
#include "store/backend.h"
#include "store/postgres_conn.h"
#include "store/postgres_listen.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#define ANSWER_MS    6000   /* a statement; longer than the server's own limits below */
#define MIGRATE_MS   600000 /* a statement of a migration, or waiting for another hub's */
#define BATCH_MAX    60     /* savepoints that write; PostgreSQL caches 64 in a transaction */
#define MARK_KEEP_MS 86400000
#define OWED_MAX     4

/* For the rest of the transaction only: a pooler gives the session to another one then. */
#define LIMITS                                           \
    "SELECT set_config('statement_timeout', $1, true), " \
    "set_config('idle_in_transaction_session_timeout', $2, true)"
#define STATEMENT_MS "5500" /* longer than who holds the lock may be idle */
#define IDLE_MS      "4000"
#define READ_IDLE_MS "120000"
#define RETRY_MS     1000 /* a connection that is found dead is so at once */

/* The letters of "warren" and a 1: other programs may lock numbers of theirs in this database. */
#define LOCK "SELECT pg_advisory_xact_lock(8602282598907904001)"

#define MARK                                                                    \
    "INSERT INTO store_writer (id, batch, at) VALUES ($1, $2, $3) ON CONFLICT " \
    "(id) DO UPDATE SET batch = excluded.batch, at = excluded.at"

/* A result, which has arrived as a whole, and the row that is read. */
struct store_cursor {
    struct backend *backend;
    PGresult *res;
    int row; /* -1 before the first */
    struct unescaped {
        struct unescaped *next;
        unsigned char *data;
    } * blobs; /* of this row */
    struct store_cursor *prev, *next;
};

struct backend {
    struct postgres_conn conn;
    char *url, *password_file;
    struct postgres_listener *listener; /* NULL: nobody follows yet */
    struct store_cursor *open;
    bool in_transaction;
    uint32_t wait_ms;
    const char *owed[OWED_MAX]; /* statements that go with the next one */
    size_t n_owed;
    char writer[ID_SIZE];
    int64_t batch; /* the last that was begun */
};

static const char *postgres_last_error(struct backend *b)
{
    return b->conn.error;
}

/* ---- statements ---- */

static int flush(struct backend *b, PGresult **ret)
{
    int rc = postgres_flush(&b->conn, b->wait_ms, ret);
    if (!b->conn.pg)
        b->in_transaction = false;
    return rc;
}

static void add_owed(struct backend *b)
{
    for (size_t i = 0; i < b->n_owed; i++)
        postgres_add(&b->conn, b->owed[i], NULL, 0);
    b->n_owed = 0;
}

static bool is_reading(const char *sql)
{
    return strncasecmp(sql, "SELECT", 6) == 0;
}

static int run(struct backend *b, enum store_mode mode, const char *sql,
               const struct store_value *values, size_t n, PGresult **ret)
{
    if (mode == STORE_READ && !is_reading(sql))
        return postgres_bug(&b->conn, sql, "a STORE_READ transaction must not write");
    if (!b->in_transaction)
        return ERR_UNAVAILABLE; /* lost within this transaction */
    add_owed(b);
    postgres_add(&b->conn, sql, values, n);
    int rc = flush(b, ret);
    if (rc == ERR_BUG)
        LOG_ERROR("faulty SQL", LOG_STR("reason", b->conn.error), LOG_STR("sql", sql));
    return rc;
}

static int postgres_exec(struct backend *b, enum store_mode mode, const char *sql,
                         const struct store_value *values, size_t n, int64_t *ret_changed)
{
    PGresult *res = NULL;
    *ret_changed = 0;
    TRY(run(b, mode, sql, values, n, &res));
    *ret_changed = strtoll(PQcmdTuples(res), NULL, 10);
    PQclear(res);
    return 0;
}

static int postgres_query(struct backend *b, enum store_mode mode, const char *sql,
                          const struct store_value *values, size_t n, struct store_cursor **ret)
{
    PGresult *res = NULL;
    TRY(run(b, mode, sql, values, n, &res));
    struct store_cursor *c = NEW(struct store_cursor);
    c->backend = b;
    c->res = res;
    c->row = -1;
    DL_APPEND(b->open, c);
    *ret = c;
    return 0;
}

/* ---- rows ---- */

static void drop_blobs(struct store_cursor *c)
{
    while (c->blobs) {
        struct unescaped *blob = c->blobs;
        c->blobs = blob->next;
        PQfreemem(blob->data);
        mem_free(blob);
    }
}

static int postgres_next(struct store_cursor *c)
{
    drop_blobs(c);
    return ++c->row < PQntuples(c->res);
}

static void postgres_end(struct store_cursor *c)
{
    drop_blobs(c);
    DL_DELETE(c->backend->open, c);
    PQclear(c->res);
    mem_free(c);
}

static void postgres_end_all(struct backend *b)
{
    while (b->open)
        postgres_end(b->open);
}

static bool postgres_is_null(struct store_cursor *c, int column)
{
    return PQgetisnull(c->res, c->row, column);
}

static const char *postgres_text(struct store_cursor *c, int column)
{
    return postgres_is_null(c, column) ? NULL : PQgetvalue(c->res, c->row, column);
}

static int64_t postgres_integer(struct store_cursor *c, int column)
{
    const char *text = PQgetvalue(c->res, c->row, column); /* "" for NULL */
    return *text == 't' ? 1 : strtoll(text, NULL, 10);
}

static const void *postgres_blob(struct store_cursor *c, int column, size_t *ret_len)
{
    *ret_len = 0;
    if (postgres_is_null(c, column))
        return NULL;
    struct unescaped *blob = NEW(struct unescaped);
    blob->data =
        PQunescapeBytea((const unsigned char *)PQgetvalue(c->res, c->row, column), ret_len);
    blob->next = c->blobs;
    c->blobs = blob;
    return blob->data;
}

static int postgres_n_columns(struct store_cursor *c)
{
    return PQnfields(c->res);
}

static const char *postgres_column_name(struct store_cursor *c, int column)
{
    return PQfname(c->res, column);
}

static struct store_value postgres_value(struct store_cursor *c, int column)
{
    struct store_value v = STORE_NULL;
    if (postgres_is_null(c, column))
        return v;
    switch (PQftype(c->res, column)) {
    case OID_INT8:
        return STORE_INT(postgres_integer(c, column));
    case OID_BYTEA:
        v.type = STORE_VALUE_BLOB;
        v.data = postgres_blob(c, column, &v.len);
        return v;
    default:
        return store_value_text(postgres_text(c, column));
    }
}

/* ---- transactions ---- */

static int begin(struct backend *b, enum store_mode mode, bool is_migration)
{
    const struct store_value limits[] = {STORE_TEXT(STATEMENT_MS),
                                         STORE_TEXT(mode == STORE_WRITE ? IDLE_MS : READ_IDLE_MS)};
    b->n_owed = 0;
    b->wait_ms = is_migration ? MIGRATE_MS : ANSWER_MS;
    postgres_add(&b->conn,
                 mode == STORE_WRITE ? "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
                                     : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                 NULL, 0);
    if (!is_migration)
        postgres_add(&b->conn, LIMITS, limits, ARRAY_SIZE(limits));
    if (mode == STORE_WRITE)
        postgres_add(&b->conn, LOCK, NULL, 0);
    int rc = flush(b, NULL);
    b->in_transaction = rc >= 0;
    return rc;
}

static int connect(struct backend *b)
{
    b->in_transaction = false;
    return postgres_connect(&b->conn, b->url, b->password_file);
}

static int postgres_connect_again(struct backend *b)
{
    return postgres_is_connected(&b->conn) ? 0 : connect(b);
}

static bool postgres_is_lost(struct backend *b)
{
    return !b->conn.pg;
}

static void postgres_on_slow(struct backend *b, void (*fn)(void *arg), void *arg)
{
    b->conn.on_slow = fn;
    b->conn.on_slow_arg = arg;
}

static void postgres_rollback(struct backend *b)
{
    char why[sizeof(b->conn.error)];
    memcpy(why, b->conn.error, sizeof(why)); /* the error that led here is the one to keep */
    postgres_end_all(b);
    b->n_owed = 0;
    if (b->in_transaction) {
        postgres_add(&b->conn, "ROLLBACK", NULL, 0);
        if (flush(b, NULL) < 0)
            postgres_disconnect(&b->conn);
        b->in_transaction = false;
    }
    memcpy(b->conn.error, why, sizeof(why));
}

/* A connection that died unnoticed costs a second attempt, not the transaction. */
static int begin_again(struct backend *b, enum store_mode mode, bool is_migration)
{
    uint64_t since = time_mono_ms();
    int rc = begin(b, mode, is_migration);
    if (rc < 0 && !b->conn.pg && time_mono_ms() - since < RETRY_MS) {
        TRY(connect(b));
        rc = begin(b, mode, is_migration);
    }
    if (rc < 0)
        postgres_disconnect(&b->conn); /* perhaps it takes no writes any more; find one that does */
    b->in_transaction = rc >= 0;
    return rc;
}

static int postgres_begin(struct backend *b, enum store_mode mode)
{
    int rc = begin_again(b, mode, false);
    if (rc >= 0 && mode == STORE_WRITE)
        b->batch++;
    return rc;
}

static int postgres_begin_migration(struct backend *b)
{
    return begin_again(b, STORE_WRITE, true);
}

/* A transaction that has failed answers COMMIT with ROLLBACK. */
static int commit(struct backend *b)
{
    PGresult *res;
    postgres_add(&b->conn, "COMMIT", NULL, 0);
    TRY(flush(b, &res));
    bool is_committed = strcmp(PQcmdStatus(res), "COMMIT") == 0;
    PQclear(res);
    b->in_transaction = false;
    return is_committed ? 0 : ERR_IO;
}

/* Marks of those who have not written for a day: theirs comes again with their next commit. */
static void add_sweep(struct backend *b)
{
    const struct store_value before[] = {STORE_INT(time_wall_ms() - MARK_KEEP_MS)};
    postgres_add(&b->conn, "DELETE FROM store_writer WHERE at < $1", before, 1);
}

static int postgres_commit(struct backend *b, enum store_mode mode)
{
    const struct store_value mark[] = {STORE_TEXT(b->writer), STORE_INT(b->batch),
                                       STORE_INT(time_wall_ms())};
    if (!b->in_transaction)
        return ERR_UNAVAILABLE;
    add_owed(b);
    if (mode == STORE_WRITE)
        postgres_add(&b->conn, MARK, mark, ARRAY_SIZE(mark));
    if (mode == STORE_WRITE && b->batch == 1)
        add_sweep(b);
    int rc = commit(b);
    return rc < 0 && !b->conn.pg && mode == STORE_WRITE ? STORE_UNSURE : rc;
}

static int postgres_commit_migration(struct backend *b)
{
    return commit(b);
}

static int postgres_was_committed(struct backend *b)
{
    const struct store_value writer[] = {STORE_TEXT(b->writer)};
    PGresult *res;
    TRY(begin(b, STORE_WRITE, false));
    postgres_add(&b->conn, "SELECT batch FROM store_writer WHERE id = $1", writer, 1);
    TRY(flush(b, &res));
    bool is_there = PQntuples(res) > 0 && strtoll(PQgetvalue(res, 0, 0), NULL, 10) == b->batch;
    PQclear(res);
    postgres_rollback(b);
    return is_there;
}

static bool postgres_in_transaction(struct backend *b)
{
    return b->in_transaction;
}

/* Each of these is sent with what comes next; a savepoint that nothing followed never was. */
static void owe(struct backend *b, const char *sql)
{
    if (b->n_owed < OWED_MAX)
        b->owed[b->n_owed++] = sql;
}

static const char savepoint[] = "SAVEPOINT work";

static int postgres_savepoint(struct backend *b)
{
    owe(b, savepoint);
    return 0;
}

static bool drop_savepoint(struct backend *b)
{
    bool is_owed = b->n_owed && b->owed[b->n_owed - 1] == savepoint;
    b->n_owed -= is_owed;
    return is_owed;
}

static int postgres_savepoint_keep(struct backend *b)
{
    if (!drop_savepoint(b))
        owe(b, "RELEASE work");
    return 0;
}

static int postgres_savepoint_undo(struct backend *b)
{
    if (!drop_savepoint(b)) {
        owe(b, "ROLLBACK TO work");
        owe(b, "RELEASE work");
    }
    return 0;
}

static int postgres_run_script(struct backend *b, const char *sql)
{
    int rc = postgres_script(&b->conn, sql, b->wait_ms);
    if (!b->conn.pg)
        b->in_transaction = false;
    return rc;
}

/* ---- the feed ---- */

static int postgres_listen(struct backend *b, const struct store_options *options,
                           void (*wake)(void *arg), void *arg)
{
    return postgres_listener_start(options->db_listen && *options->db_listen ? options->db_listen
                                                                             : b->url,
                                   b->password_file, wake, arg, &b->listener);
}

static void postgres_notify(struct backend *b)
{
    if (b->listener)
        postgres_listener_notify(b->listener);
}

/* ---- open and close ---- */

static void postgres_close(struct backend *b)
{
    if (b->listener)
        postgres_listener_stop(b->listener);
    postgres_end_all(b);
    postgres_disconnect(&b->conn);
    mem_free(b->url);
    mem_free(b->password_file);
    mem_free(b);
}

static void warn_if_in_clear(struct backend *b)
{
    const char *host = PQhost(b->conn.pg);
    bool is_local = !host || *host == '/' || strcmp(host, "localhost") == 0 ||
                    strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
    if (!is_local && !PQsslInUse(b->conn.pg))
        LOG_WARN("the database is reached over the network without TLS; set sslmode=verify-full",
                 LOG_STR("host", host));
}

static int postgres_open(const struct store_options *options, struct backend **ret, struct diag *d)
{
    struct backend *b = NEW(struct backend);
    b->url = mem_strdup(options->db);
    b->password_file = mem_strdup(options->db_password_file);
    id_new(b->writer, "wri");
    int rc = connect(b);
    if (rc < 0) {
        diag_set_field(d, rc, "db", "cannot use %s: %s", b->url, b->conn.error);
        postgres_close(b);
        return rc;
    }
    warn_if_in_clear(b);
    *ret = b;
    return 0;
}

extern const struct store_schema store_postgres_schema;

const struct backend_ops store_postgres_ops = {
    .schema = &store_postgres_schema,
    .batch_max = BATCH_MAX,
    .is_shared = true,
    .now_sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    .open = postgres_open,
    .close = postgres_close,
    .connect = postgres_connect_again,
    .is_lost = postgres_is_lost,
    .on_slow = postgres_on_slow,
    .begin = postgres_begin,
    .commit = postgres_commit,
    .was_committed = postgres_was_committed,
    .begin_migration = postgres_begin_migration,
    .commit_migration = postgres_commit_migration,
    .rollback = postgres_rollback,
    .in_transaction = postgres_in_transaction,
    .savepoint = postgres_savepoint,
    .savepoint_keep = postgres_savepoint_keep,
    .savepoint_undo = postgres_savepoint_undo,
    .script = postgres_run_script,
    .exec = postgres_exec,
    .query = postgres_query,
    .next = postgres_next,
    .end = postgres_end,
    .end_all = postgres_end_all,
    .text = postgres_text,
    .integer = postgres_integer,
    .blob = postgres_blob,
    .is_null = postgres_is_null,
    .n_columns = postgres_n_columns,
    .column_name = postgres_column_name,
    .value = postgres_value,
    .last_error = postgres_last_error,
    .listen = postgres_listen,
    .notify = postgres_notify,
};
