/* A watch over a real store and a real connection: objects are "things" with a value. */
#include "http/watch.h"

#include "../net/fixture.h"
#include "base/buf.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/rest.h"
#include "net/conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define THINGS_MAX 4000

struct bench {
    char dir[64];
    struct loop *loop;
    struct store *store;
    struct http_server *http;
    int fd; /* the client */
    struct buf in;
    size_t at;
    char *things[THINGS_MAX]; /* "thing_0007" is things[7]; NULL: not there */
    int pending;
};

static json_t *render(void *ctx, const char *id)
{
    const struct bench *b = ctx;
    const char *value = b->things[atoi(id + 6)];
    return value ? json_pack("{s:s, s:s}", "id", id, "value", value) : NULL;
}

static void each(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    const struct bench *b = ctx;
    for (int i = 0; i < THINGS_MAX; i++) {
        char id[ID_SIZE];
        snprintf(id, sizeof(id), "thing_%04d", i);
        if (b->things[i])
            fn(arg, id);
    }
}

static void get_things(struct http_request *req, void *ctx)
{
    struct bench *b = ctx;
    struct diag d = {0};
    bool watch = false;
    int64_t after;
    assert_int_equal(rest_watch(req, &watch, &after, &d), 0);
    assert_true(watch);
    const struct watch_source source = {.store = b->store,
                                        .kind = "thing",
                                        .tenant = "ten_a",
                                        .only = http_query(req, "only"),
                                        .render = render,
                                        .each = each,
                                        .ctx = b};
    watch_start(req, &source, after);
}

static const struct http_route routes[] = {
    {"GET", "/things", HTTP_PUBLIC, 0, get_things, "Watches things"}};

static int set_up(void **state)
{
    struct bench *b = NEW(struct bench);
    struct diag d = {0};
    snprintf(b->dir, sizeof(b->dir), "/tmp/warren-watch-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    CLEANUP(mem_free) char *path = mem_printf("%s/warren.db", b->dir);
    const struct store_options options = {.db = path};
    assert_int_equal(loop_new(&b->loop), 0);
    assert_int_equal(store_open(b->loop, &options, &b->store, &d), 0);
    const struct http_server_config cfg = {.loop = b->loop};
    assert_int_equal(http_server_new(&cfg, &b->http), 0);
    http_server_add(b->http, routes, ARRAY_SIZE(routes), b);
    b->fd = -1;
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    if (b->fd >= 0)
        close(b->fd);
    http_server_free(b->http);
    loop_settle(b->loop);
    store_close(b->store);
    loop_settle(b->loop);
    loop_free(b->loop);
    for (int i = 0; i < THINGS_MAX; i++)
        mem_free(b->things[i]);
    buf_done(&b->in);
    CLEANUP(mem_free) char *command = mem_printf("rm -r %s", b->dir);
    assert_int_equal(system(command), 0);
    mem_free(b);
    return 0;
}

/* ---- changing things: the view follows in `done`, as those of the hub do ---- */

struct act {
    struct bench *b;
    const char *tenant;
    int n;
    char *value;
};

static int write_thing(struct tx *tx, void *arg)
{
    const struct act *a = arg;
    char id[ID_SIZE];
    snprintf(id, sizeof(id), "thing_%04d", a->n);
    return store_publish(tx, a->tenant, "thing", id, a->value ? STORE_PUT : STORE_DELETE);
}

static void thing_written(void *arg, int err)
{
    struct act *a = arg;
    assert_int_equal(err, 0);
    mem_free(a->b->things[a->n]);
    a->b->things[a->n] = a->value;
    a->b->pending--;
    mem_free(a);
}

static void put(struct bench *b, int n, const char *value)
{
    struct act *a = NEW(struct act);
    *a = (struct act){b, "ten_a", n, value ? mem_strdup(value) : NULL};
    b->pending++;
    store_run(b->store, STORE_WRITE, write_thing, thing_written, a);
}

static void settle(struct bench *b)
{
    wait_for(b->loop, b->pending == 0);
}

/* ---- the client ---- */

static void ask(struct bench *b, const char *query, const char *header)
{
    int fds[2];
    struct conn *c;
    char text[256];
    if (b->fd >= 0)
        close(b->fd);
    buf_done(&b->in);
    b->at = 0;
    test_tcp_pair(fds);
    const int small = 16384; /* the kernel keeps little of what the client does not read */
    setsockopt(fds[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    b->fd = fds[0];
    assert_int_equal(conn_new_plain(b->loop, fds[1], NULL, &c), 0);
    http_server_take(b->http, c);
    int n = snprintf(text, sizeof(text), "GET /things?watch=1%s HTTP/1.0\r\nHost: hub\r\n%s\r\n",
                     query, header);
    assert_int_equal(write(b->fd, text, (size_t)n), n);
}

static bool read_more(struct bench *b)
{
    assert_int_equal(buf_reserve(&b->in, 65536), 0);
    ssize_t n = read(b->fd, b->in.data + b->in.len, 65535);
    if (n > 0)
        b->in.len += (size_t)n;
    b->in.data[b->in.len] = '\0';
    return n == 0;
}

/* The next block, up to an empty line; NUL ends it. */
static char *next_block(struct bench *b, const char *end_mark)
{
    char *end = NULL;
    wait_for(b->loop, (read_more(b), end = strstr((char *)b->in.data + b->at, end_mark)));
    char *block = (char *)b->in.data + b->at;
    *end = '\0';
    b->at = (size_t)(end - (char *)b->in.data) + strlen(end_mark);
    return block;
}

/* "put thing_0001 VALUE", "delete thing_0001", "sync" */
static char *next_event(struct bench *b, long *ret_id)
{
    static char text[400];
    char event[16] = "", data[512] = "";
    char *block = next_block(b, "\n\n");
    assert_int_equal(sscanf(block, "id: %ld\nevent: %15s\ndata: %511[^\n]", ret_id, event, data),
                     3);
    json_t *object = json_loads(data, 0, NULL);
    const char *id = json_string_value(json_object_get(object, "id"));
    const char *value = json_string_value(json_object_get(object, "value"));
    snprintf(text, sizeof(text), "%s%s%s%s%s", event, id ? " " : "", id ? id : "", value ? " " : "",
             value ? value : "");
    json_decref(object);
    return text;
}

static void expect(struct bench *b, const char *event)
{
    long id;
    assert_string_equal(next_event(b, &id), event);
}

static void expect_status(struct bench *b, const char *status)
{
    char *head = next_block(b, "\r\n\r\n");
    assert_non_null(strstr(head, status));
}

/* ---- tests ---- */

static void a_watch_begins_with_what_is_and_goes_on_with_changes(void **state)
{
    struct bench *b = *state;
    put(b, 1, "one");
    put(b, 2, "two");
    settle(b);
    ask(b, "", "");
    expect_status(b, "200");
    expect(b, "put thing_0001 one");
    expect(b, "put thing_0002 two");
    expect(b, "sync");
    put(b, 2, "TWO");
    expect(b, "put thing_0002 TWO");
    put(b, 1, NULL);
    expect(b, "delete thing_0001");
}

static void nothing_at_all_is_a_sync(void **state)
{
    struct bench *b = *state;
    ask(b, "", "");
    expect_status(b, "200");
    expect(b, "sync");
}

static void only_the_sync_and_what_follows_carry_a_position(void **state)
{
    struct bench *b = *state;
    long id;
    put(b, 1, "one");
    settle(b);
    ask(b, "", "");
    expect_status(b, "200");
    next_event(b, &id);
    assert_int_equal(id, 0);
    next_event(b, &id);
    assert_int_equal(id, 1);
    put(b, 2, "two");
    next_event(b, &id);
    assert_int_equal(id, 2);
}

static void resuming_sends_each_changed_object_once_in_order(void **state)
{
    struct bench *b = *state;
    long id;
    for (int i = 1; i <= 5; i++)
        put(b, i, "old");
    put(b, 4, "new");
    put(b, 3, NULL);
    settle(b);
    ask(b, "", "Last-Event-ID: 2\r\n");
    expect_status(b, "200");
    assert_string_equal(next_event(b, &id), "put thing_0005 old");
    assert_int_equal(id, 5);
    assert_string_equal(next_event(b, &id), "put thing_0004 new");
    assert_int_equal(id, 6);
    assert_string_equal(next_event(b, &id), "delete thing_0003");
    assert_int_equal(id, 7);
}

static void a_position_that_never_was_is_gone(void **state)
{
    struct bench *b = *state;
    put(b, 1, "one");
    settle(b);
    ask(b, "", "Last-Event-ID: 99\r\n");
    expect_status(b, "410");
}

static void a_snapshot_larger_than_the_backlog_arrives_whole(void **state)
{
    struct bench *b = *state;
    char value[301], wanted[400];
    memset(value, 'v', sizeof(value) - 1);
    value[300] = '\0';
    for (int i = 0; i < THINGS_MAX; i++)
        b->things[i] = mem_strdup(value);
    ask(b, "", "");
    for (int i = 0; i < 50; i++) /* a reader that comes late */
        loop_turn(b->loop, false);
    expect_status(b, "200");
    for (int i = 0; i < THINGS_MAX; i++) {
        snprintf(wanted, sizeof(wanted), "put thing_%04d %s", i, value);
        expect(b, wanted);
    }
    expect(b, "sync");
}

static void a_slow_reader_gets_the_last_state_once(void **state)
{
    struct bench *b = *state;
    char value[201], wanted[256];
    memset(value, 'v', sizeof(value) - 1);
    value[200] = '\0';
    for (int i = 0; i < THINGS_MAX; i++)
        b->things[i] = mem_strdup(value);
    put(b, 0, value);
    settle(b);
    ask(b, "", "");
    expect_status(b, "200");
    for (int i = 0; i < 200; i++) {
        snprintf(wanted, sizeof(wanted), "%d", i);
        put(b, THINGS_MAX - 1, wanted);
    }
    settle(b);
    int times = 0;
    for (long id = 0; id == 0;) {
        const char *event = next_event(b, &id);
        times += strstr(event, "thing_3999") != NULL;
        if (strstr(event, "thing_3999"))
            assert_string_equal(event, "put thing_3999 199");
    }
    assert_int_equal(times, 1);
}

static void a_watch_of_one_object_ends_with_it(void **state)
{
    struct bench *b = *state;
    put(b, 1, "one");
    put(b, 2, "two");
    settle(b);
    ask(b, "&only=thing_0002", "");
    expect_status(b, "200");
    expect(b, "put thing_0002 two");
    expect(b, "sync");
    put(b, 1, "ONE");
    put(b, 2, NULL);
    expect(b, "delete thing_0002");
    wait_for(b->loop, read_more(b));
}

static void what_other_tenants_do_is_not_heard(void **state)
{
    struct bench *b = *state;
    ask(b, "", "");
    expect_status(b, "200");
    expect(b, "sync");
    struct act *a = NEW(struct act);
    *a = (struct act){b, "ten_b", 1, mem_strdup("theirs")};
    b->pending++;
    store_run(b->store, STORE_WRITE, write_thing, thing_written, a);
    put(b, 2, "ours");
    expect(b, "put thing_0002 ours");
}

static void a_client_that_leaves_at_any_moment_costs_nothing(void **state)
{
    struct bench *b = *state;
    for (int i = 0; i < THINGS_MAX; i++)
        b->things[i] = mem_strdup("a value");
    for (int turns = 0; turns < 12; turns++) {
        ask(b, "", "");
        for (int i = 0; i < turns; i++) {
            put(b, i, "changed");
            loop_turn(b->loop, false);
        }
    }
    close(b->fd);
    b->fd = -1;
    settle(b);
    struct http_stats stats;
    wait_for(b->loop, (http_server_stats(b->http, &stats), stats.conns == 0));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_watch_begins_with_what_is_and_goes_on_with_changes),
        T(nothing_at_all_is_a_sync),
        T(only_the_sync_and_what_follows_carry_a_position),
        T(resuming_sends_each_changed_object_once_in_order),
        T(a_position_that_never_was_is_gone),
        T(a_snapshot_larger_than_the_backlog_arrives_whole),
        T(a_slow_reader_gets_the_last_state_once),
        T(a_watch_of_one_object_ends_with_it),
        T(what_other_tenants_do_is_not_heard),
        T(a_client_that_leaves_at_any_moment_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
