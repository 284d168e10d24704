#include "store_contract.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

char store_contract_db[256];

static const char *const steps[] = {
    "CREATE TABLE item (name TEXT PRIMARY KEY, size BIGINT NOT NULL CHECK (size > 0), data BYTEA);"
    "CREATE TABLE part (item TEXT NOT NULL REFERENCES item (name));",
};
const struct store_schema store_contract_schema = {"contract", steps, ARRAY_SIZE(steps)};
static const struct store_schema *const schemas[] = {&store_contract_schema};

static int try_open(struct store_bench *b, const struct store_options *options, struct diag *d)
{
    assert_int_equal(loop_new(&b->loop), 0);
    int rc = store_open(b->loop, options, &b->store, d);
    if (rc < 0)
        loop_free(b->loop);
    return rc;
}

int store_bench_try(struct store_bench *b, const struct store_schema *const *tables, size_t n,
                    struct diag *d)
{
    struct store_options options = {.db = store_contract_db, .schemas = tables, .n_schemas = n};
    return try_open(b, &options, d);
}

void store_bench_open(struct store_bench *b, uint32_t queue_limit)
{
    struct diag d = {0};
    struct store_options options = {.db = store_contract_db,
                                    .schemas = schemas,
                                    .n_schemas = ARRAY_SIZE(schemas),
                                    .queue_limit = queue_limit,
                                    .feed_keep_rows = 50};
    if (try_open(b, &options, &d) < 0)
        fail_msg("%s", diag_text(&d));
}

void store_bench_close(struct store_bench *b)
{
    store_close(b->store);
    loop_free(b->loop);
}

int store_bench_write(struct store_bench *b, int (*work)(struct tx *tx, void *arg),
                      const char *text)
{
    return store_run_wait(b->store, STORE_WRITE, work, (void *)(uintptr_t)text);
}

int store_contract_insert(struct tx *tx, void *name)
{
    return tx_exec(tx, "INSERT INTO item (name, size) VALUES ($1, $2)", STORE_TEXT(name),
                   STORE_INT(strlen(name)));
}

static int count(struct tx *tx, void *ret)
{
    return tx_query_int(tx, ret, "SELECT COUNT(*) FROM item");
}

int64_t store_contract_count(struct store_bench *b)
{
    int64_t n = -1;
    assert_int_equal(store_run_wait(b->store, STORE_READ, count, &n), 0);
    return n;
}

/* ---- results ---- */

struct results {
    int n;
    int err[512];
    char trace[256];
};
static struct results results;

static void on_done(void *arg, int err)
{
    assert_true(results.n < (int)ARRAY_SIZE(results.err));
    results.err[results.n++] = err;
}

static void wait_for(struct store_bench *b, int n)
{
    while (results.n < n)
        loop_turn(b->loop, true);
}

static void write_later(struct store_bench *b, int (*work)(struct tx *tx, void *arg),
                        void (*done)(void *arg, int err), const char *text)
{
    store_run(b->store, STORE_WRITE, work, done, (void *)(uintptr_t)text);
}

static void a_result_comes_later_on_the_loop_and_once(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    results.n = 0;
    write_later(&b, store_contract_insert, on_done, "a");
    assert_int_equal(results.n, 0);
    wait_for(&b, 1);
    assert_int_equal(results.err[0], 0);
    assert_int_equal(store_contract_count(&b), 1);
    store_bench_close(&b);
    assert_int_equal(results.n, 1);
}

static int values_work(struct tx *tx, void *arg)
{
    static const char bytes[] = {0, 1, 2, '\0', (char)0xff};
    size_t len;
    TRY(tx_exec(tx, "INSERT INTO item (size, name, data) VALUES ($2, $1, $3)", STORE_TEXT("n'ä"),
                STORE_INT(INT64_MAX), STORE_BLOB(bytes, sizeof(bytes))));
    assert_int_equal(tx_changed(tx), 1);
    TRY(tx_exec(tx, "INSERT INTO item (name, size) VALUES ($1, $2)", STORE_TEXT("z"),
                STORE_INT(7)));
    TRY(tx_exec(tx, "UPDATE item SET size = size - 1"));
    assert_int_equal(tx_changed(tx), 2);

    struct rows rows = tx_query(tx, "SELECT name, size, data FROM item ORDER BY name");
    assert_int_equal(row_next(&rows), 1);
    assert_string_equal(row_text(&rows, 0), "n'ä");
    assert_true(row_int(&rows, 1) == INT64_MAX - 1);
    assert_memory_equal(row_blob(&rows, 2, &len), bytes, sizeof(bytes));
    assert_int_equal(len, sizeof(bytes));
    assert_int_equal(row_next(&rows), 1);
    assert_true(row_is_null(&rows, 2));
    assert_null(row_text(&rows, 2));
    assert_int_equal(row_next(&rows), 0);
    assert_int_equal(row_next(&rows), 0);

    int64_t n;
    assert_int_equal(tx_query_int(tx, &n, "SELECT size FROM item WHERE data = $1 AND name = $2",
                                  STORE_BLOB(bytes, sizeof(bytes)), STORE_TEXT("n'ä")),
                     0);
    assert_int_equal(tx_query_int(tx, &n, "SELECT size FROM item WHERE name = $1", STORE_NULL),
                     ERR_NOT_FOUND);
    return 0;
}

static void values_come_back_as_they_were_given(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, values_work, NULL), 0);
    store_bench_close(&b);
}

static int exec_work(struct tx *tx, void *sql)
{
    return tx_exec(tx, sql);
}

static void broken_rules_have_errors_of_their_own(void **state)
{
    static const struct {
        const char *sql;
        int err;
    } cases[] = {
        {"INSERT INTO item (name, size) VALUES ('a', 2)", ERR_EXISTS},
        {"INSERT INTO item (name, size) VALUES ('b', NULL)", ERR_INVALID},
        {"INSERT INTO item (name, size) VALUES ('b', -1)", ERR_INVALID},
        {"INSERT INTO part (item) VALUES ('nothing')", ERR_CONFLICT},
        {"DELETE FROM no_such_table", ERR_BUG},
        {"INSERT INTO item (name, size) VALUES ($1, $2)", ERR_BUG},
    };
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "a"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(store_bench_write(&b, exec_work, cases[i].sql), cases[i].err);
    assert_int_equal(store_contract_count(&b), 1);
    store_bench_close(&b);
}

static void a_reader_cannot_write(void **state)
{
    char name[] = "a";
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, store_contract_insert, name), ERR_BUG);
    assert_int_equal(store_contract_count(&b), 0);
    store_bench_close(&b);
}

static int insert_then_refuse(struct tx *tx, void *name)
{
    TRY(store_contract_insert(tx, name));
    TRY(store_publish(tx, "ten_1", "item", name, STORE_PUT));
    return ERR_DENIED;
}

static int insert_twice_and_hide_it(struct tx *tx, void *name)
{
    store_contract_insert(tx, name);
    store_contract_insert(tx, name);
    return 0;
}

/* Holds the thread up, so that what is queued meanwhile becomes one batch. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int wait_at_gate(struct tx *tx, void *arg)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return 0;
}

static void one_that_fails_does_not_hurt_others_of_its_batch(void **state)
{
    struct store_bench b;
    struct store_stats stats;
    store_bench_open(&b, 0);
    results.n = 0;
    pthread_mutex_lock(&gate);
    store_run(b.store, STORE_READ, wait_at_gate, on_done, NULL);
    write_later(&b, store_contract_insert, on_done, "a");
    write_later(&b, insert_then_refuse, on_done, "b");
    write_later(&b, insert_twice_and_hide_it, on_done, "c");
    write_later(&b, store_contract_insert, on_done, "b");
    pthread_mutex_unlock(&gate);
    wait_for(&b, 5);
    assert_int_equal(results.err[1], 0);
    assert_int_equal(results.err[2], ERR_DENIED);
    assert_int_equal(results.err[3], ERR_EXISTS);
    assert_int_equal(results.err[4], 0);
    assert_int_equal(store_contract_count(&b), 2);
    store_stats(b.store, &stats);
    assert_int_equal(stats.failed, 2);
    store_bench_close(&b);
}

static void many_writes_share_a_commit(void **state)
{
    static char names[200][8];
    struct store_bench b;
    struct store_stats before, after;
    store_bench_open(&b, 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "first"), 0);
    store_stats(b.store, &before);
    results.n = 0;
    pthread_mutex_lock(&gate);
    store_run(b.store, STORE_READ, wait_at_gate, on_done, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(names[i], sizeof(names[i]), "n%zu", i);
        store_run(b.store, STORE_WRITE, store_contract_insert, on_done, names[i]);
    }
    pthread_mutex_unlock(&gate);
    wait_for(&b, 1 + (int)ARRAY_SIZE(names));
    store_stats(b.store, &after);
    /* batches have bounds, on slow machines one of time, too */
    assert_true(after.commits - before.commits <= ARRAY_SIZE(names) / 2);
    assert_int_equal(after.done - before.done, 1 + ARRAY_SIZE(names));
    assert_int_equal(store_contract_count(&b), 201);
    store_bench_close(&b);
}

static void note_name(void *name, int err)
{
    assert_int_equal(err, 0);
    strncat(results.trace, name, sizeof(results.trace) - strlen(results.trace) - 1);
    results.n++;
}

/* As where the database is far away. What must not be late comes meanwhile. */
static int insert_slowly(struct tx *tx, void *store)
{
    store_run_first(store, store_contract_insert, note_name, (void *)(uintptr_t) "first ");
    poll(NULL, 0, 700);
    return store_contract_insert(tx, (void *)(uintptr_t) "slow");
}

static void what_comes_first_does_not_wait_for_all_of_a_slow_batch(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    results = (struct results){0};
    pthread_mutex_lock(&gate);
    store_run(b.store, STORE_READ, wait_at_gate, NULL, NULL);
    store_run(b.store, STORE_WRITE, insert_slowly, NULL, b.store);
    write_later(&b, store_contract_insert, note_name, "rest ");
    write_later(&b, store_contract_insert, note_name, "more ");
    pthread_mutex_unlock(&gate);
    wait_for(&b, 3);
    assert_string_equal(results.trace, "first rest more ");
    assert_int_equal(store_contract_count(&b), 4);
    store_bench_close(&b);
}

static void a_full_queue_refuses_and_says_so(void **state)
{
    struct store_bench b;
    struct store_stats stats;
    store_bench_open(&b, 3);
    results.n = 0;
    pthread_mutex_lock(&gate);
    store_run(b.store, STORE_READ, wait_at_gate, on_done, NULL);
    do { /* until the thread stands at the gate */
        store_stats(b.store, &stats);
    } while (stats.queued);
    for (int i = 0; i < 5; i++)
        store_run(b.store, STORE_READ, wait_at_gate, on_done, NULL);
    wait_for(&b, 2);
    assert_int_equal(results.err[0], ERR_UNAVAILABLE);
    assert_int_equal(results.err[1], ERR_UNAVAILABLE);
    pthread_mutex_unlock(&gate);
    wait_for(&b, 6);
    assert_int_equal(results.err[5], 0);
    store_stats(b.store, &stats);
    assert_int_equal(stats.refused, 2);
    store_bench_close(&b);
}

static void closing_runs_what_waits_and_tells_it(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    results.n = 0;
    for (int i = 0; i < 10; i++)
        write_later(&b, store_contract_insert, on_done, "x");
    store_close(b.store);
    assert_int_equal(results.n, 10);
    loop_free(b.loop);
    store_bench_open(&b, 0);
    assert_int_equal(store_contract_count(&b), 1);
    store_bench_close(&b);
}

static int query_in_query(struct tx *tx, void *arg)
{
    int64_t *pairs = arg;
    static const char sql[] = "SELECT name FROM item";
    struct rows outer = tx_query(tx, sql);
    int rc;
    while ((rc = row_next(&outer)) > 0) {
        struct rows inner = tx_query(tx, sql);
        while ((rc = row_next(&inner)) > 0)
            ++*pairs;
        TRY(rc);
    }
    struct rows left_open = tx_query(tx, sql);
    TRY(row_next(&left_open));
    return rc;
}

static void a_query_runs_inside_another_of_the_same_text(void **state)
{
    struct store_bench b;
    int64_t pairs = 0;
    store_bench_open(&b, 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "a"), 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "b"), 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, query_in_query, &pairs), 0);
    assert_int_equal(pairs, 4);
    store_bench_close(&b);
}

static int many_texts(struct tx *tx, void *arg)
{
    char sql[64];
    int64_t n;
    for (int i = 0; i < 1000; i++) {
        snprintf(sql, sizeof(sql), "SELECT %d + $1", i);
        TRY(tx_query_int(tx, &n, sql, STORE_INT(i)));
        assert_int_equal(n, 2 * i);
    }
    return 0;
}

static void statements_of_many_texts_do_not_pile_up(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, many_texts, NULL), 0);
    store_bench_close(&b);
}

#define MANY 150

static int put_many_rows(struct tx *tx, size_t n, size_t first)
{
    struct store_value values[2 * STORE_ROWS_MAX];
    char names[STORE_ROWS_MAX][16];
    CLEANUP(buf_done) struct buf sql = {0};
    for (size_t i = 0; i < n; i++) {
        snprintf(names[i], sizeof(names[i]), "i%zu", first + i);
        values[2 * i] = STORE_TEXT(names[i]);
        values[2 * i + 1] = STORE_INT(first + i + 1);
        TRY(store_publish(tx, "ten_1", "item", names[i], STORE_PUT));
    }
    TRY(store_rows_sql(&sql, "INSERT INTO item (name, size) VALUES ", 1, n, 2, ""));
    return tx_exec_values(tx, buf_text(&sql), values, 2 * n);
}

static int many_rows(struct tx *tx, void *arg)
{
    for (size_t i = 0, some; i < MANY; i += some) {
        some = store_rows_at_once(MANY - i);
        TRY(put_many_rows(tx, some, i));
    }
    return 0;
}

/* Of three one is not there, and one becomes NULL. */
static int change_rows(struct tx *tx, void *arg)
{
    char *changed = arg;
    CLEANUP(buf_done) struct buf sql = {0};
    const struct store_value values[] = {STORE_INT(1000),  STORE_TEXT("i7"), STORE_INT(5),
                                         STORE_TEXT("no"), STORE_INT(6),     STORE_TEXT("i149"),
                                         STORE_INT(0)};
    int rc;
    TRY(store_rows_sql(&sql,
                       "UPDATE item SET size = size + $1 + COALESCE(NULLIF(more.column2, 0), 1) "
                       "FROM (VALUES ",
                       2, 3, 2, ") AS more WHERE name = more.column1 RETURNING name, size"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), values, ARRAY_SIZE(values));
    while ((rc = row_next(&rows)) > 0)
        sprintf(changed + strlen(changed), "%s=%d ", row_text(&rows, 0), (int)row_int(&rows, 1));
    return rc;
}

static void many_rows_go_with_a_statement(void **state)
{
    struct store_bench b;
    char changed[64] = "";
    assert_int_equal(store_rows_at_once(1), 1);
    assert_int_equal(store_rows_at_once(63), 32);
    assert_int_equal(store_rows_at_once(MANY), STORE_ROWS_MAX);
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, many_rows, NULL), 0);
    assert_int_equal(store_contract_count(&b), MANY);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, change_rows, changed), 0);
    assert_int_equal(strlen(changed), strlen("i7=1013 i149=1151 "));
    assert_non_null(strstr(changed, "i7=1013 "));
    assert_non_null(strstr(changed, "i149=1151 "));
    store_bench_close(&b);
}

/* ---- the feed ---- */

struct in_order {
    struct store_subscriber sub;
    int64_t last;
    int n;
};

static void on_one_more(struct store_subscriber *sub, const struct store_change *change)
{
    struct in_order *o = container_of(sub, struct in_order, sub);
    char id[16];
    snprintf(id, sizeof(id), "i%d", o->n++);
    assert_string_equal(change->id, id);
    assert_true(o->last == 0 || change->seq == o->last + 1);
    o->last = change->seq;
}

static void many_changes_of_one_transaction_keep_their_order(void **state)
{
    struct store_bench b;
    struct in_order heard = {.sub.fn = on_one_more};
    store_bench_open(&b, 0);
    results = (struct results){0};
    store_subscribe(b.store, &heard.sub);
    store_run(b.store, STORE_WRITE, many_rows, on_done, NULL);
    wait_for(&b, 1);
    assert_int_equal(results.err[0], 0);
    assert_int_equal(heard.n, MANY);
    store_unsubscribe(&heard.sub);
    store_bench_close(&b);
}

static void note(const char *mark, const char *text)
{
    size_t n = strlen(results.trace);
    snprintf(results.trace + n, sizeof(results.trace) - n, "%s%s ", mark, text);
}

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    note(change->op == STORE_DELETE ? "-" : "+", change->id);
    if (strcmp(change->id, "last") == 0)
        store_unsubscribe(sub);
}

static void on_put_done(void *arg, int err)
{
    note("", err < 0 ? "failed" : "done");
    results.n++;
}

static int put(struct tx *tx, void *id)
{
    TRY(store_contract_insert(tx, id));
    return store_publish(tx, "ten_1", "item", id, STORE_PUT);
}

static int drop(struct tx *tx, void *id)
{
    TRY(tx_exec(tx, "DELETE FROM item WHERE name = $1", STORE_TEXT(id)));
    return store_publish(tx, "ten_2", "item", id, STORE_DELETE);
}

static void subscribers_hear_of_commits_in_order_and_before_done(void **state)
{
    struct store_bench b;
    struct store_subscriber sub = {.fn = on_change}, other = {.fn = on_change};
    store_bench_open(&b, 0);
    results = (struct results){0};
    store_subscribe(b.store, &sub);
    store_subscribe(b.store, &other);
    store_unsubscribe(&other);
    write_later(&b, put, on_put_done, "a");
    write_later(&b, put, on_put_done, "a");
    write_later(&b, drop, on_put_done, "a");
    write_later(&b, put, on_put_done, "last");
    write_later(&b, put, on_put_done, "unheard");
    wait_for(&b, 5);
    assert_string_equal(results.trace, "+a done failed -a done +last done done ");
    assert_null(sub.store);
    store_bench_close(&b);
}

static int put_three(struct tx *tx, void *arg)
{
    static char a[] = "a", c[] = "c";
    TRY(put(tx, a));
    TRY(store_publish(tx, "ten_1", "item", "b", STORE_STATE));
    return put(tx, c);
}

static void on_told(struct store_subscriber *sub)
{
    note("", "told");
}

static void on_change_elsewhere(struct store_subscriber *sub, const struct store_change *change)
{
    note(change->op == STORE_STATE ? "s" : "o", change->id);
}

static void each_subscriber_hears_a_whole_transaction_before_the_next_one(void **state)
{
    struct store_bench b;
    struct store_subscriber first = {.fn = on_change, .on_told = on_told},
                            second = {.fn = on_change_elsewhere};
    store_bench_open(&b, 0);
    results = (struct results){0};
    store_subscribe(b.store, &first);
    store_subscribe(b.store, &second);
    write_later(&b, put_three, on_put_done, NULL);
    write_later(&b, put, on_put_done, "last"); /* the first one leaves in its midst */
    wait_for(&b, 2);
    assert_string_equal(results.trace, "+a +b +c told oa sb oc done +last olast done ");
    store_unsubscribe(&second);
    store_bench_close(&b);
}

static void on_feed(void *arg, const struct store_change *change)
{
    note("", change->id);
    *(int64_t *)arg = change->seq;
}

static int read_feed(struct tx *tx, void *arg)
{
    return store_feed_read(tx, "ten_1", *(int64_t *)arg, 2, on_feed, arg);
}

static void the_feed_is_read_on_from_any_place_by_tenant(void **state)
{
    struct store_bench b;
    int64_t seq = 0;
    store_bench_open(&b, 0);
    results = (struct results){0};
    assert_int_equal(store_bench_write(&b, put, "a"), 0);
    assert_int_equal(store_bench_write(&b, drop, "a"), 0);
    assert_int_equal(store_bench_write(&b, put, "b"), 0);
    assert_int_equal(store_bench_write(&b, put, "c"), 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), 2);
    assert_string_equal(results.trace, "a b ");
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), 1);
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), 0);
    assert_string_equal(results.trace, "a b c ");
    seq += 1;
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), ERR_EXPIRED);
    store_bench_close(&b);
}

static int publish_many(struct tx *tx, void *arg)
{
    for (int i = 0; i < 1200; i++)
        TRY(store_publish(tx, "ten_1", "item", "x", STORE_PUT));
    return 0;
}

static int feed_range(struct tx *tx, void *arg)
{
    int64_t *range = arg;
    return store_feed_range(tx, &range[0], &range[1]);
}

static void an_old_place_in_the_feed_is_refused_once_it_was_trimmed(void **state)
{
    struct store_bench b;
    int64_t seq = 0, range[2];
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, publish_many, NULL), 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, feed_range, range), 0);
    assert_int_equal(range[1], 1200);
    assert_int_equal(range[0], 1150);
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), ERR_EXPIRED);
    seq = range[0];
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_feed, &seq), 2);
    assert_int_equal(seq, 1152);
    store_bench_close(&b);
}

static int start_hub(struct tx *tx, void *hub)
{
    return store_hub_start(tx, true, "1.0", time_wall_ms(), hub);
}

static void the_hubs_epoch_rises_with_each_start(void **state)
{
    struct store_bench b;
    struct store_hub first = {0}, second = {0};
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, start_hub, &first), 0);
    store_bench_close(&b);
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, start_hub, &second), 0);
    assert_true(id_is(first.id, "hub"));
    assert_string_equal(first.id, second.id);
    assert_int_equal(first.epoch, 1);
    assert_int_equal(second.epoch, 2);
    store_bench_close(&b);
}

const struct CMUnitTest store_contract_tests[STORE_CONTRACT_TESTS] = {
    cmocka_unit_test(a_result_comes_later_on_the_loop_and_once),
    cmocka_unit_test(values_come_back_as_they_were_given),
    cmocka_unit_test(broken_rules_have_errors_of_their_own),
    cmocka_unit_test(a_reader_cannot_write),
    cmocka_unit_test(one_that_fails_does_not_hurt_others_of_its_batch),
    cmocka_unit_test(many_writes_share_a_commit),
    cmocka_unit_test(what_comes_first_does_not_wait_for_all_of_a_slow_batch),
    cmocka_unit_test(a_full_queue_refuses_and_says_so),
    cmocka_unit_test(closing_runs_what_waits_and_tells_it),
    cmocka_unit_test(a_query_runs_inside_another_of_the_same_text),
    cmocka_unit_test(statements_of_many_texts_do_not_pile_up),
    cmocka_unit_test(many_rows_go_with_a_statement),
    cmocka_unit_test(many_changes_of_one_transaction_keep_their_order),
    cmocka_unit_test(subscribers_hear_of_commits_in_order_and_before_done),
    cmocka_unit_test(each_subscriber_hears_a_whole_transaction_before_the_next_one),
    cmocka_unit_test(the_feed_is_read_on_from_any_place_by_tenant),
    cmocka_unit_test(an_old_place_in_the_feed_is_refused_once_it_was_trimmed),
    cmocka_unit_test(the_hubs_epoch_rises_with_each_start),
};
