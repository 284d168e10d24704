#include "net/server.h"

#include "base/error.h"
#include "fixture.h"
#include "net/dialer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct rig {
    struct test_certs certs;
    struct loop *loop;
    struct tls_server *tls;
    struct server *server;
    int fd;
    struct addr addr;
    int served, dialled, dial_err;
};

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    ((struct rig *)arg)->served++;
    conn_abort(c, ERR_CANCELED);
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct rig *rig = arg;
    rig->dialled++;
    rig->dial_err = r->err;
    if (r->conn)
        conn_abort(r->conn, ERR_CANCELED);
}

static void rig_new(struct rig *rig, uint32_t max_waiting, uint32_t max_per_address)
{
    memset(rig, 0, sizeof(*rig));
    test_certs_new(&rig->certs);
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->fd = test_listen(&rig->addr);
    rig->tls = test_tls_server(&rig->certs, NULL, NULL);
    struct server_config cfg = {.tls = rig->tls,
                                .on_conn = on_conn,
                                .arg = rig,
                                .handshake_ms = 700,
                                .max_waiting = max_waiting,
                                .max_per_address = max_per_address};
    assert_int_equal(server_start(rig->loop, rig->fd, &cfg, &rig->server), 0);
}

/* Instead of the server that there is: one with descriptors for `n` connections from here. */
static void limit_descriptors(struct rig *rig, int n)
{
    int next = dup(rig->fd);
    close(next);
    struct server_config cfg = {
        .tls = rig->tls, .on_conn = on_conn, .arg = rig, .fd_max = next + 2 * n};
    server_free(rig->server);
    assert_int_equal(server_start(rig->loop, rig->fd, &cfg, &rig->server), 0);
}

static void rig_done(struct rig *rig)
{
    server_free(rig->server);
    tls_server_unref(rig->tls);
    for (int i = 0; i < 3; i++)
        test_turn(rig->loop);
    loop_free(rig->loop);
    close(rig->fd);
    test_certs_done(&rig->certs);
}

static int stranger(struct rig *rig)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, &rig->addr.sa, rig->addr.len), 0);
    return fd;
}

static bool is_gone(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void expect_service(struct rig *rig)
{
    int served = rig->served, dialled = rig->dialled;
    struct tls_client *t = test_tls_client(&rig->certs, NULL, "h2");
    struct dial_params p = {.target = {.host = "127.0.0.1", .port = addr_port(&rig->addr)},
                            .tls = t,
                            .on_done = on_dialled,
                            .arg = rig};
    dial_start(rig->loop, &p);
    wait_for(rig->loop, rig->dialled > dialled && rig->served > served);
    assert_int_equal(rig->dial_err, 0);
    tls_client_unref(t);
}

static void strangers_who_say_nothing_do_not_keep_others_out(void **state)
{
    struct rig rig;
    int silent[60];
    rig_new(&rig, 50, 20);
    for (int i = 0; i < 60; i++) {
        silent[i] = stranger(&rig);
        test_turn(rig.loop);
    }
    assert_in_range(server_stats(rig.server)->waiting, 1, 20);
    assert_true(is_gone(silent[0]));
    expect_service(&rig);
    wait_for(rig.loop, is_gone(silent[59])); /* at the deadline at the latest */
    assert_int_equal(server_stats(rig.server)->waiting, 0);
    for (int i = 0; i < 60; i++)
        close(silent[i]);
    rig_done(&rig);
}

static void half_a_handshake_ends_at_the_deadline(void **state)
{
    struct rig rig;
    rig_new(&rig, 0, 0);
    int fd = stranger(&rig);
    send(fd, "\x16\x03\x01\x00\xff\x01\x00", 7, 0);
    expect_service(&rig);
    wait_for(rig.loop, is_gone(fd));
    assert_int_equal(server_stats(rig.server)->waiting, 0);
    close(fd);
    rig_done(&rig);
}

static void garbage_is_dropped_and_plain_http_is_told_why(void **state)
{
    struct rig rig;
    char answer[200] = "";
    rig_new(&rig, 0, 0);
    int garbage = stranger(&rig), tls_garbage = stranger(&rig), http = stranger(&rig);
    send(garbage, "\x80\x01\x02", 3, 0);
    send(tls_garbage, "\x16\x16\x16\x16\x16\x16\x16\x16\x16\x16", 10, 0);
    send(http, "GET / HTTP/1.1\r\n\r\n", 18, 0);
    wait_for(rig.loop, is_gone(garbage));
    wait_for(rig.loop, recv(http, answer, sizeof(answer) - 1, MSG_DONTWAIT) > 0);
    assert_non_null(strstr(answer, "400 Bad Request"));
    wait_for(rig.loop, server_stats(rig.server)->failed == 3);
    expect_service(&rig);
    close(garbage);
    close(tls_garbage);
    close(http);
    rig_done(&rig);
}

static void without_descriptors_the_silent_go_first_and_then_others_are_refused(void **state)
{
    struct rig rig;
    rig_new(&rig, 0, 0);
    limit_descriptors(&rig, 1);
    int silent = stranger(&rig);
    wait_for(rig.loop, server_stats(rig.server)->waiting == 1);
    int half = stranger(&rig);
    wait_for(rig.loop, server_stats(rig.server)->evicted == 1);
    wait_for(rig.loop, is_gone(silent));
    send(half, "\x16\x03\x01\x00\xff\x01\x00", 7, 0);
    for (int i = 0; i < 3; i++)
        test_turn(rig.loop);
    int late = stranger(&rig);
    wait_for(rig.loop, is_gone(late));
    assert_int_equal(server_stats(rig.server)->refused, 1);
    assert_false(is_gone(half));
    close(silent);
    close(half);
    close(late);
    wait_for(rig.loop, server_stats(rig.server)->waiting == 0);
    expect_service(&rig);
    rig_done(&rig);
}

static void a_server_is_freed_in_the_middle_of_handshakes(void **state)
{
    struct rig rig;
    rig_new(&rig, 0, 0);
    int silent = stranger(&rig), half = stranger(&rig);
    send(half, "\x16\x03\x01\x00\xff\x01\x00", 7, 0);
    wait_for(rig.loop, server_stats(rig.server)->waiting == 2);
    for (int i = 0; i < 3; i++)
        test_turn(rig.loop);
    rig_done(&rig);
    assert_true(is_gone(silent));
    assert_true(is_gone(half));
    close(silent);
    close(half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_who_say_nothing_do_not_keep_others_out),
        cmocka_unit_test(half_a_handshake_ends_at_the_deadline),
        cmocka_unit_test(garbage_is_dropped_and_plain_http_is_told_why),
        cmocka_unit_test(without_descriptors_the_silent_go_first_and_then_others_are_refused),
        cmocka_unit_test(a_server_is_freed_in_the_middle_of_handshakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
