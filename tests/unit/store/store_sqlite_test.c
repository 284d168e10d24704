#include "store_contract.h"

#include "base/error.h"
#include "base/macro.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

static int make_dir(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/warren-store-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(store_contract_db, sizeof(store_contract_db), "%s/warren.db", dir);
    return 0;
}

static int remove_dir(void **state)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        char name[300];
        snprintf(name, sizeof(name), "%s%s", store_contract_db, suffixes[i]);
        unlink(name);
    }
    return rmdir(dir);
}

/* Opens with `n` schemas and expects `err`; the diagnosis is left in `d`. */
static void open_fails(const struct store_schema *const *schemas, size_t n, int err, struct diag *d)
{
    struct loop *l;
    struct store *s;
    struct store_options options = {.db = store_contract_db, .schemas = schemas, .n_schemas = n};
    *d = (struct diag){0};
    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(store_open(l, &options, &s, d), err);
    loop_free(l);
}

static void the_file_is_for_its_owner_only(void **state)
{
    struct store_bench b;
    struct stat st;
    mode_t before = umask(0);
    store_bench_open(&b, 0);
    umask(before);
    assert_int_equal(stat(store_contract_db, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    store_bench_close(&b);
}

static void a_second_process_is_kept_out(void **state)
{
    struct store_bench b;
    struct diag d;
    store_bench_open(&b, 0);
    open_fails(NULL, 0, ERR_EXISTS, &d);
    assert_non_null(strstr(d.text, "in use"));
    store_bench_close(&b);
}

static void what_a_newer_program_has_added_is_left_alone(void **state)
{
    static const char *const steps[] = {"CREATE TABLE future (n BIGINT)",
                                        "ALTER TABLE future ADD COLUMN more TEXT"};
    static const struct store_schema newer = {"contract", steps, 2, 0};
    static const struct store_schema older = {"contract", steps, 1, 0};
    const struct store_schema *const now[] = {&newer}, *const before[] = {&older};
    struct loop *l;
    struct store *s;
    struct store_options options = {.db = store_contract_db, .schemas = now, .n_schemas = 1};
    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(store_open(l, &options, &s, NULL), 0);
    store_close(s);
    options.schemas = before;
    assert_int_equal(store_open(l, &options, &s, NULL), 0);
    store_close(s);
    options.n_schemas = 0; /* before the capability was there */
    assert_int_equal(store_open(l, &options, &s, NULL), 0);
    store_close(s);
    options.schemas = now;
    options.n_schemas = 1;
    assert_int_equal(store_open(l, &options, &s, NULL), 0); /* and nothing is done twice */
    store_close(s);
    loop_free(l);
}

static void a_newer_database_is_refused_and_left_alone(void **state)
{
    static const char *const steps[] = {"CREATE TABLE future (n BIGINT)", "SELECT 1"};
    static const struct store_schema newer = {"contract", steps, 2, 2};
    static const struct store_schema other = {"other", steps, 1, 0};
    static const struct store_schema older = {"contract", steps, 1, 0};
    const struct store_schema *const both[] = {&newer, &other}, *const before[] = {&older};
    struct diag d;
    struct loop *l;
    struct store *s;
    struct store_options options = {.db = store_contract_db, .schemas = both, .n_schemas = 2};
    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(store_open(l, &options, &s, NULL), ERR_BUG); /* both make the same table */
    options.n_schemas = 1;
    assert_int_equal(store_open(l, &options, &s, NULL), 0); /* and the first left nothing behind */
    store_close(s);
    loop_free(l);
    open_fails(before, 1, ERR_STALE, &d);
    assert_non_null(strstr(d.text, "newer Warren"));
    assert_non_null(strstr(d.text, "step 2"));
    open_fails(NULL, 0, ERR_STALE, &d);
}

static void garbage_is_not_taken_for_a_database(void **state)
{
    struct diag d;
    char junk[8192];
    memset(junk, 'x', sizeof(junk));
    int fd = open(store_contract_db, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, junk, sizeof(junk)), sizeof(junk));
    close(fd);
    open_fails(NULL, 0, ERR_IO, &d);
    assert_non_null(strstr(d.text, "not a database"));
}

static void a_missing_folder_is_named(void **state)
{
    struct diag d;
    char before[256];
    memcpy(before, store_contract_db, sizeof(before));
    snprintf(store_contract_db, sizeof(store_contract_db), "%.200s/nowhere/x.db", before);
    open_fails(NULL, 0, ERR_NOT_FOUND, &d);
    assert_non_null(strstr(d.text, "nowhere"));
    memcpy(store_contract_db, before, sizeof(before));
}

static int limit_pages(struct tx *tx, void *pages)
{
    char sql[64];
    snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %d", *(int *)pages);
    return tx_exec(tx, sql);
}

static int insert_big(struct tx *tx, void *arg)
{
    static char big[1 << 20];
    return tx_exec(tx, "INSERT INTO item (name, size, data) VALUES ('big', 1, $1)",
                   STORE_BLOB(big, sizeof(big)));
}

static void a_full_disk_is_an_error_and_passes(void **state)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "a"), 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, limit_pages, &(int){40}), 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, insert_big, NULL), ERR_NO_SPACE);
    assert_int_equal(store_contract_count(&b), 1);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, limit_pages, &(int){100000}), 0);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, insert_big, NULL), 0);
    assert_int_equal(store_contract_count(&b), 2);
    store_bench_close(&b);
}

static void a_disk_that_fails_to_write_is_an_error_and_passes(void **state)
{
    struct store_bench b;
    struct rlimit before, small = {.rlim_cur = 65536};
    store_bench_open(&b, 0);
    assert_int_equal(store_bench_write(&b, store_contract_insert, "a"), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, insert_big, NULL), ERR_IO);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(store_contract_count(&b), 1);
    assert_int_equal(store_run_wait(b.store, STORE_WRITE, insert_big, NULL), 0);
    store_bench_close(&b);
}

/* The child writes rows and says each one that was acknowledged, until it is killed. */
static void write_until_killed(int out)
{
    struct store_bench b;
    store_bench_open(&b, 0);
    for (int i = 0;; i++) {
        char name[16];
        snprintf(name, sizeof(name), "row%d", i);
        if (store_bench_write(&b, store_contract_insert, name) < 0)
            _exit(1);
        if (write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static int has_rows_up_to(struct tx *tx, void *last)
{
    for (int i = 0; i <= *(int *)last; i++) {
        char name[16];
        int64_t n;
        snprintf(name, sizeof(name), "row%d", i);
        TRY(tx_query_int(tx, &n, "SELECT COUNT(*) FROM item WHERE name = $1", STORE_TEXT(name)));
        if (n != 1)
            return ERR_NOT_FOUND;
    }
    return 0;
}

static void what_was_acknowledged_survives_kill_9(void **state)
{
    struct store_bench b;
    int fds[2], last = -1;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0)
        write_until_killed(fds[1]);
    close(fds[1]);
    while (last < 60)
        assert_int_equal(read(fds[0], &last, sizeof(last)), sizeof(last));
    kill(pid, SIGKILL);
    while (read(fds[0], &last, sizeof(last)) == sizeof(last))
        ;
    close(fds[0]);
    waitpid(pid, NULL, 0);
    store_bench_open(&b, 0);
    assert_int_equal(store_run_wait(b.store, STORE_READ, has_rows_up_to, &last), 0);
    store_bench_close(&b);
}

#define WITH_DIR(test)                                                                          \
    {                                                                                           \
        .name = #test, .test_func = (test), .setup_func = make_dir, .teardown_func = remove_dir \
    }

int main(void)
{
    const struct CMUnitTest own[] = {
        WITH_DIR(the_file_is_for_its_owner_only),
        WITH_DIR(a_second_process_is_kept_out),
        WITH_DIR(what_a_newer_program_has_added_is_left_alone),
        WITH_DIR(a_newer_database_is_refused_and_left_alone),
        WITH_DIR(garbage_is_not_taken_for_a_database),
        WITH_DIR(a_missing_folder_is_named),
        WITH_DIR(a_full_disk_is_an_error_and_passes),
        WITH_DIR(a_disk_that_fails_to_write_is_an_error_and_passes),
        WITH_DIR(what_was_acknowledged_survives_kill_9),
    };
    struct CMUnitTest contract[STORE_CONTRACT_TESTS];
    for (size_t i = 0; i < STORE_CONTRACT_TESTS; i++) {
        contract[i] = store_contract_tests[i];
        contract[i].setup_func = make_dir;
        contract[i].teardown_func = remove_dir;
    }
    int failed = cmocka_run_group_tests_name("contract", contract, NULL, NULL);
    return failed + cmocka_run_group_tests_name("sqlite", own, NULL, NULL);
}
