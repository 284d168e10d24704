#include "relay_rig.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fixture.h"
#include "net/dialer.h"
#include "net/server.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void bytes_go_both_ways_unchanged(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 7);
    test_transfer(rig.loop, client, target, 5000000);
    test_transfer(rig.loop, target, client, 5000001);
    assert_int_equal(rig.hub_set.bytes_read, 5000007);
    assert_int_equal(rig.hub_set.bytes_written, 5000001);
    assert_int_equal(rig.agent_set.bytes_read, 5000001);
    close(client);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.hub_result.bytes_read, 5000007);
    relay_rig_done(&rig);
}

static void half_close_is_carried_either_way(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    test_transfer(rig.loop, target, client, 3000000);
    close(target);
    wait_for(rig.loop, test_is_end(client));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    close(client);

    relay_rig_open(&rig, &client, &target);
    shutdown(target, SHUT_WR);
    wait_for(rig.loop, test_is_end(client));
    test_transfer(rig.loop, client, target, 3000000);
    close(client);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    relay_rig_done(&rig);
}

static void an_end_right_behind_the_data_loses_nothing(void **state)
{
    struct relay_rig rig;
    relay_rig_new(&rig);
    for (int i = 0; i < 50; i++) {
        int client = relay_rig_open_to(&rig, &rig.target, NULL), target;
        static char data[100000], in[200000];
        size_t got = 0;
        ssize_t n;
        int room = 2 * sizeof(data);
        setsockopt(client, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
        assert_int_equal(send(client, data, sizeof(data), 0), sizeof(data));
        shutdown(client, SHUT_WR);
        wait_for(rig.loop, (target = accept4(rig.listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
        wait_for(rig.loop,
                 ((n = recv(target, in, sizeof(in), 0)) > 0 && (got += (size_t)n, 0)) || n == 0);
        assert_int_equal(got, sizeof(data));
        close(target);
        wait_for(rig.loop, rig.hub_ends == i + 1 && rig.agent_ends == i + 1);
        assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
        close(client);
    }
    relay_rig_done(&rig);
}

static void a_reset_is_carried_either_way(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    test_reset(client);
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    assert_int_equal(rig.agent_result.end, RELAY_END_STREAM_RESET);
    close(target);

    relay_rig_open(&rig, &client, &target);
    test_reset(target);
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.agent_result.end, RELAY_END_SOCKET_RESET);
    assert_int_equal(rig.hub_result.end, RELAY_END_STREAM_RESET);
    close(client);
    relay_rig_done(&rig);
}

static void a_reset_after_a_half_close_is_seen(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    test_reset(client);
    wait_for(rig.loop, send(target, "x", 1, MSG_NOSIGNAL) < 0);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    close(target);
    relay_rig_done(&rig);
}

static void a_stalled_reader_stalls_only_itself_within_its_window(void **state)
{
    struct relay_rig rig;
    int stalled_client, stalled_target, client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &stalled_client, &stalled_target);
    test_fill(rig.loop, stalled_client);
    test_fill(rig.loop, stalled_target);
    wait_for(rig.loop, rig.hub_set.bytes_read > rig.agent_set.bytes_written &&
                           rig.agent_set.bytes_read > rig.hub_set.bytes_written);
    assert_in_range(rig.hub_set.bytes_read - rig.agent_set.bytes_written, 1, RELAY_RIG_WINDOW);
    assert_in_range(rig.agent_set.bytes_read - rig.hub_set.bytes_written, 1, RELAY_RIG_WINDOW);

    relay_rig_open(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 20000000);
    test_transfer(rig.loop, target, client, 20000000);
    close(client);
    close(target);

    test_reset(stalled_client); /* a reset gets through even though nothing is read */
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    close(stalled_target);
    relay_rig_done(&rig);
}

static void a_slow_reader_gets_everything_after_the_sender_has_gone(void **state)
{
    static char data[100000], in[100000];
    struct relay_rig rig;
    int client, target;
    size_t sent = 0, got = 0;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    for (int idle = 0; idle < 30;) {
        ssize_t n = send(target, data, sizeof(data), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        test_turn(rig.loop);
    }
    close(target);
    uint64_t end = test_deadline();
    for (ssize_t n = -1; n != 0;) {
        test_turn(rig.loop);
        n = recv(client, in, 50000, 0);
        got += n > 0 ? (size_t)n : 0;
        test_check_deadline(end, "the rest");
    }
    assert_int_equal(got, sent);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    close(client);
    relay_rig_done(&rig);
}

/* The end of a local socket that is closed counts when the other side has said what it was. */
static void local_pair(struct relay_rig *rig, int *local, int *target, struct relay **ret)
{
    char authority[ADDR_TEXT_SIZE];
    int fds[2], before = rig->opens;
    addr_format(&rig->target, authority, sizeof(authority));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    const struct relay_open_params p = {.authority = authority,
                                        .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                        .n_headers = 1,
                                        .set = &rig->hub_set,
                                        .ops = &relay_rig_hub_ops,
                                        .arg = rig,
                                        .is_local = true};
    assert_int_equal(relay_open(rig->hub, fds[1], &p, ret), 0);
    *local = fds[0];
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

static void a_closed_local_socket_is_an_end_or_a_reset_as_it_is_told(void **state)
{
    struct relay_rig rig;
    struct relay *r;
    int local, target;
    relay_rig_new(&rig);
    local_pair(&rig, &local, &target, &r);
    assert_int_equal(send(local, "x", 1, 0), 1);
    close(local);
    wait_for(rig.loop, recv(target, &(char){0}, 1, 0) == 1);
    for (int i = 0; i < 20; i++)
        test_turn(rig.loop);
    assert_false(test_is_end(target));
    relay_other_ended(r, 0);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);

    local_pair(&rig, &local, &target, &r);
    relay_other_ended(r, ERR_RESET);
    close(local);
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    close(target);
    relay_rig_done(&rig);
}

static void aborting_a_set_resets_both_sockets_at_once(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    relay_set_abort(&rig.hub_set, ERR_STALE);
    assert_true(test_is_reset(client));
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_ABORTED);
    assert_int_equal(rig.hub_result.err, ERR_STALE);
    close(client);
    close(target);
    relay_rig_done(&rig);
}

static void losing_the_connection_ends_every_relay(void **state)
{
    struct relay_rig rig;
    int client, target;
    relay_rig_new(&rig);
    relay_rig_open(&rig, &client, &target);
    h2conn_abort(rig.agent, ERR_CANCELED);
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, rig.closed == 2);
    assert_int_equal(rig.hub_result.end, RELAY_END_LOST);
    assert_int_equal(rig.agent_result.end, RELAY_END_LOST);
    close(client);
    close(target);
    relay_rig_done(&rig);
}

static void hundreds_of_streams_are_open_at_once(void **state)
{
    enum { N = 300 }; /* descriptors: five a stream in this one process */
    static int clients[N], targets[N];
    struct relay_rig rig;
    relay_rig_new(&rig);
    for (int i = 0; i < N; i++)
        relay_rig_open(&rig, &clients[i], &targets[i]);
    assert_int_equal(rig.hub_set.open, N);
    for (int i = 0; i < N; i += 37) {
        test_transfer(rig.loop, clients[i], targets[i], 1000);
        test_transfer(rig.loop, targets[i], clients[i], 1000);
    }
    for (int i = 0; i < N; i++) {
        close(clients[i]);
        close(targets[i]);
    }
    wait_for(rig.loop, rig.hub_ends == N && rig.agent_ends == N);
    relay_rig_done(&rig);
}

/* The same over TLS, with the roles reversed as in the product. */

static void on_tls_conn(void *arg, struct conn *c, size_t lane)
{
    struct relay_rig *rig = arg;
    rig->hub = h2conn_new(c, &relay_rig_hub_config, &relay_rig_hub_conn, rig);
}

static void on_tls_dialled(void *arg, const struct dial_result *r)
{
    struct relay_rig *rig = arg;
    assert_int_equal(r->err, 0);
    rig->agent = h2conn_new(r->conn, &relay_rig_agent_config, &relay_rig_agent_conn, rig);
}

static void bytes_go_through_tls_unchanged(void **state)
{
    struct relay_rig rig;
    struct test_certs certs;
    struct server *server;
    struct addr a;
    int client, target;
    relay_rig_base(&rig);
    test_certs_new(&certs);
    int fd = test_listen(&a);
    struct tls_server *ts = test_tls_server(&certs, NULL, NULL);
    struct tls_client *tc = test_tls_client(&certs, &certs.client, "warren-agent/1");
    struct server_config cfg = {.tls = ts, .on_conn = on_tls_conn, .arg = &rig};
    assert_int_equal(server_start(rig.loop, fd, &cfg, &server), 0);
    struct dial_params p = {.target = {.host = "127.0.0.1", .port = addr_port(&a)},
                            .tls = tc,
                            .on_done = on_tls_dialled,
                            .arg = &rig};
    dial_start(rig.loop, &p);
    wait_for(rig.loop, rig.hub && rig.agent);
    relay_rig_open(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 30000000);
    test_transfer(rig.loop, target, client, 30000000);
    close(client);
    close(target);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    h2conn_shutdown(rig.hub, 1000);
    wait_for(rig.loop, rig.closed == 2);
    server_free(server);
    close(fd);
    tls_server_unref(ts);
    tls_client_unref(tc);
    test_certs_done(&certs);
    relay_rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_both_ways_unchanged),
        cmocka_unit_test(half_close_is_carried_either_way),
        cmocka_unit_test(an_end_right_behind_the_data_loses_nothing),
        cmocka_unit_test(a_reset_is_carried_either_way),
        cmocka_unit_test(a_reset_after_a_half_close_is_seen),
        cmocka_unit_test(a_stalled_reader_stalls_only_itself_within_its_window),
        cmocka_unit_test(a_slow_reader_gets_everything_after_the_sender_has_gone),
        cmocka_unit_test(a_closed_local_socket_is_an_end_or_a_reset_as_it_is_told),
        cmocka_unit_test(aborting_a_set_resets_both_sockets_at_once),
        cmocka_unit_test(losing_the_connection_ends_every_relay),
        cmocka_unit_test(hundreds_of_streams_are_open_at_once),
        cmocka_unit_test(bytes_go_through_tls_unchanged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
