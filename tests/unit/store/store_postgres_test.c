/* The contract on a real PostgreSQL, which tests/lib/postgres.py runs for as long as this test. */
#include "store_contract.h"

#include "base/error.h"
#include "base/macro.h"

#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the server ---- */

static char dir[64], url[200];
static pid_t server;
static int server_input;

static void run_server(int input, int output)
{
    char script[512];
    snprintf(script, sizeof(script), "%s/lib/postgres.py", getenv("WARREN_TESTS"));
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    execl("/usr/bin/python3", "python3", script, "serve", dir, NULL);
    _exit(127);
}

static int start_server(void)
{
    int to[2], from[2];
    size_t n = 0;
    ssize_t got;
    snprintf(dir, sizeof(dir), "/tmp/warren-store-XXXXXX");
    if (!mkdtemp(dir) || pipe(to) < 0 || pipe(from) < 0)
        return -1;
    server = fork();
    if (server == 0) {
        close(to[1]);
        run_server(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    server_input = to[1];
    while (n < sizeof(url) - 1 && (got = read(from[0], url + n, sizeof(url) - 1 - n)) > 0) {
        n += (size_t)got;
        if (url[n - 1] == '\n')
            break;
    }
    url[n ? n - 1 : 0] = '\0';
    close(from[0]);
    return n ? 0 : -1;
}

static void stop_server(void)
{
    char command[100];
    close(server_input);
    waitpid(server, NULL, 0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", dir);
}

/* As an operator would. */
static void sql(const char *text)
{
    PGconn *pg = PQconnectdb(url);
    PGresult *res = PQexec(pg, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(pg));
    PQclear(res);
    PQfinish(pg);
}

static int empty_database(void **state)
{
    sql("SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    snprintf(store_contract_db, sizeof(store_contract_db), "%s", url);
    return 0;
}

/* ---- tests ---- */

static void a_newer_database_is_refused_and_left_alone(void **state)
{
    static const char *const steps[] = {"CREATE TABLE future (n BIGINT)", "SELECT 1"};
    static const struct store_schema newer = {"contract", steps, 2, 2};
    static const struct store_schema added = {"contract", steps, 2, 0};
    static const struct store_schema older = {"contract", steps, 1, 0};
    const struct store_schema *const now[] = {&newer}, *const before[] = {&older};
    const struct store_schema *const more[] = {&added};
    struct store_bench b;
    struct diag d = {0};
    assert_int_equal(store_bench_try(&b, more, 1, &d), 0);
    store_bench_close(&b);
    assert_int_equal(store_bench_try(&b, before, 1, &d), 0); /* it has only added */
    store_bench_close(&b);
    assert_int_equal(store_bench_try(&b, now, 1, &d), 0);
    store_bench_close(&b);
    assert_int_equal(store_bench_try(&b, before, 1, &d), ERR_STALE);
    assert_non_null(strstr(d.text, "newer Warren"));
}

static void a_password_in_the_url_is_refused(void **state)
{
    struct diag d = {0};
    assert_int_equal(store_check_url("postgres://u:secret@host/db", &d), ERR_INVALID);
    assert_null(strstr(d.text, "secret"));
    assert_int_equal(store_check_url("postgres://u@host/db?password=secret", &d), ERR_INVALID);
    assert_int_equal(store_check_url("postgres://h1,h2:5433/db?sslmode=verify-full", &d), 0);
    assert_int_equal(store_check_url("mysql://h/db", &d), ERR_INVALID);
}

static void a_database_that_is_not_there_is_named(void **state)
{
    struct store_bench b;
    struct diag d = {0};
    snprintf(store_contract_db, sizeof(store_contract_db), "postgres://admin@/nothing?host=%s",
             dir);
    assert_int_equal(store_bench_try(&b, NULL, 0, &d), ERR_NOT_FOUND);
    assert_non_null(strstr(d.text, "nothing"));
    snprintf(store_contract_db, sizeof(store_contract_db), "postgres://admin@/x?host=/nowhere");
    assert_int_equal(store_bench_try(&b, NULL, 0, &d), ERR_UNAVAILABLE);
}

static int read_for_long(struct tx *tx, void *arg)
{
    int64_t n;
    TRY(tx_query_int(tx, &n, "SELECT COUNT(*) FROM item"));
    poll(NULL, 0, 4500);
    return tx_query_int(tx, &n, "SELECT COUNT(*) FROM item");
}

/* As a hub that reads many agents when it starts, and puts each in its place. */
static void who_only_reads_may_be_idle_for_longer_than_a_writer(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, read_for_long, NULL), 0);
    store_bench_close(&b);
}

static struct {
    char trace[2000];
    int n;
} heard[2];

static void on_change(struct store_subscriber *sub, const struct store_change *c);
static struct store_subscriber subs[2] = {{.fn = on_change}, {.fn = on_change}};

static void on_change(struct store_subscriber *sub, const struct store_change *c)
{
    size_t who = (size_t)(sub - subs), n = strlen(heard[who].trace);
    snprintf(heard[who].trace + n, sizeof(heard[who].trace) - n, "%lld%s ", (long long)c->seq,
             c->is_elsewhere ? "'" : "");
    heard[who].n++;
}

static int publish(struct tx *tx, void *arg)
{
    return store_publish(tx, "ten_1", "item", "x", STORE_PUT);
}

static int publish_then_fail(struct tx *tx, void *arg)
{
    TRY(publish(tx, arg));
    return ERR_DENIED;
}

static void every_hub_hears_of_every_change_once_and_in_order(void **state)
{
    struct store_bench b[2];
    memset(heard, 0, sizeof(heard));
    for (int i = 0; i < 2; i++) {
        store_bench_open(&b[i], 0);
        store_subscribe(b[i].store, &subs[i]);
    }
    for (int i = 0; i < 30; i++) {
        store_run(b[i % 2].store, STORE_WRITE, publish, NULL, NULL);
        store_run(b[i % 2].store, STORE_WRITE, publish_then_fail, NULL, NULL);
        store_run(b[(i + 1) % 2].store, STORE_WRITE, publish, NULL, NULL);
    }
    for (int i = 0; i < 2; i++) {
        while (heard[i].n < 60)
            loop_turn(b[i].loop, true);
    }
    for (int i = 0; i < 2; i++) {
        long long seq = 0, own = 0;
        for (char *p = heard[i].trace; *p; p++) {
            assert_true(strtoll(p, &p, 10) == ++seq);
            own += *p == ' ';
            p += *p == '\'';
        }
        assert_true(seq == 60);
        assert_true(own == 30);
        store_unsubscribe(&subs[i]);
        store_bench_close(&b[i]);
    }
}

static void *open_write_close(void *arg)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    *(int *)arg = store_run_wait(b.store, STORE_WRITE, publish, NULL);
    store_bench_close(&b);
    return NULL;
}

static void many_who_open_it_together_migrate_it_once(void **state)
{
    pthread_t threads[6];
    int results[6];
    struct store_bench b;
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_write_close, &results[i]), 0);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(results[i], 0);
    }
    store_bench_open(&b, 0);
    assert_int_equal(store_contract_count(&b), 0);
    store_bench_close(&b);
}

static int cut_own_session(struct tx *tx, void *arg)
{
    struct rows rows = tx_query(tx, "SELECT pg_terminate_backend(pg_backend_pid())");
    return row_next(&rows);
}

static void a_lost_connection_fails_what_ran_and_nothing_else(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store_bench_write(&b, cut_own_session, NULL), ERR_UNAVAILABLE);
        assert_int_equal(store_bench_write(&b, store_contract_insert, "abc" + i), 0);
    }
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'warren'");
    assert_int_equal(store_contract_count(&b), 3);
    store_bench_close(&b);
}

/* The commit's answer is lost: a trigger that runs at the commit ends the session, before (the
 * commit fails) or, from another session, after it. */
static void a_commit_that_did_not_happen_is_known(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    sql("CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.size = 4) EXECUTE FUNCTION cut()");
    assert_int_equal(store_bench_write(&b, store_contract_insert, "good"), ERR_UNAVAILABLE);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "other"), 0);
    assert_int_equal(store_contract_count(&b), 1);
    store_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest own[] = {
        cmocka_unit_test_setup(a_newer_database_is_refused_and_left_alone, empty_database),
        cmocka_unit_test_setup(a_password_in_the_url_is_refused, empty_database),
        cmocka_unit_test_setup(a_database_that_is_not_there_is_named, empty_database),
        cmocka_unit_test_setup(who_only_reads_may_be_idle_for_longer_than_a_writer, empty_database),
        cmocka_unit_test_setup(every_hub_hears_of_every_change_once_and_in_order, empty_database),
        cmocka_unit_test_setup(many_who_open_it_together_migrate_it_once, empty_database),
        cmocka_unit_test_setup(a_lost_connection_fails_what_ran_and_nothing_else, empty_database),
        cmocka_unit_test_setup(a_commit_that_did_not_happen_is_known, empty_database),
    };
    struct CMUnitTest contract[STORE_CONTRACT_TESTS];
    if (access("/usr/lib/postgresql", X_OK) < 0 || !getenv("WARREN_TESTS")) {
        fprintf(stderr, "PostgreSQL is not installed\n");
        return 77; /* meson: skipped */
    }
    if (start_server() < 0)
        return 1;
    for (size_t i = 0; i < STORE_CONTRACT_TESTS; i++) {
        contract[i] = store_contract_tests[i];
        contract[i].setup_func = empty_database;
    }
    int failed = cmocka_run_group_tests_name("contract", contract, NULL, NULL);
    failed += cmocka_run_group_tests_name("postgres", own, NULL, NULL);
    stop_server();
    return failed;
}
