#include "net/relay.h"

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

/* A hub and an agent on one loop, joined by a TCP connection (TLS in one test). */
struct rig {
    struct loop *loop;
    struct h2conn *hub, *agent;
    struct relay_set hub_set, agent_set;
    int listening; /* the target */
    struct addr target;
    int (*check)(void *arg, const struct addr *a);
    struct relay_result hub_result, agent_result;
    int hub_ends, agent_ends, opens, closed;
    uint32_t deadline_ms;
};

static void on_open(void *arg, struct relay *r)
{
    ((struct rig *)arg)->opens++;
}

static void on_hub_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct rig *rig = arg;
    rig->hub_result = *res;
    rig->hub_ends++;
}

static void on_agent_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct rig *rig = arg;
    rig->agent_result = *res;
    rig->agent_ends++;
}

static const struct relay_ops hub_ops = {.on_open = on_open, .on_end = on_hub_end};
static const struct relay_ops agent_ops = {.on_end = on_agent_end};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = arg;
    struct relay_accept_params p = {.deadline_ms = rig->deadline_ms,
                                    .check = rig->check,
                                    .check_arg = rig,
                                    .set = &rig->agent_set,
                                    .ops = &agent_ops,
                                    .arg = rig};
    assert_string_equal(h2_headers_get(h, "warren-tunnel"), "tun_1");
    assert_int_equal(host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL), 0);
    relay_accept(s, &p);
}

static void on_link_close(void *arg, int err)
{
    ((struct rig *)arg)->closed++;
}

static const struct h2conn_ops hub_conn_ops = {.on_close = on_link_close};
static const struct h2conn_ops agent_conn_ops = {.on_request = on_request,
                                                 .on_close = on_link_close};
#define WINDOW_MAX (1u << 20)
static const struct h2conn_config hub_config = {.h2 = {.stream_window_max = WINDOW_MAX}};
static const struct h2conn_config agent_config = {.h2 = {.is_server = true,
                                                         .max_streams = 20000,
                                                         .stream_window_max = WINDOW_MAX,
                                                         .peer_is_trusted = true}};

static void rig_base(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->listening = test_listen(&rig->target);
}

static void rig_new(struct rig *rig)
{
    int fds[2];
    struct conn *hub, *agent;
    rig_base(rig);
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &hub), 0);
    assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &agent), 0);
    rig->hub = h2conn_new(hub, &hub_config, &hub_conn_ops, rig);
    rig->agent = h2conn_new(agent, &agent_config, &agent_conn_ops, rig);
}

static void rig_done(struct rig *rig)
{
    if (!rig->closed)
        h2conn_abort(rig->hub, ERR_CANCELED);
    wait_for(rig->loop, rig->closed == 2);
    assert_null(rig->hub_set.head);
    assert_null(rig->agent_set.head);
    assert_int_equal(rig->hub_set.open, 0);
    close(rig->listening);
    loop_free(rig->loop);
}

static int open_to(struct rig *rig, const struct addr *target, struct relay **ret)
{
    char authority[ADDR_TEXT_SIZE];
    int fds[2];
    struct relay *r;
    addr_format(target, authority, sizeof(authority));
    test_tcp_pair(fds);
    struct relay_open_params p = {.authority = authority,
                                  .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                  .n_headers = 1,
                                  .set = &rig->hub_set,
                                  .ops = &hub_ops,
                                  .arg = rig};
    assert_int_equal(relay_open(rig->hub, fds[1], &p, ret ? ret : &r), 0);
    return fds[0];
}

/* A client's socket and the target's, joined by a relay. */
static void open_pair(struct rig *rig, int *client, int *target)
{
    int before = rig->opens;
    *client = open_to(rig, &rig->target, NULL);
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

static char byte_at(size_t i)
{
    return (char)(i * 31 + (i >> 9));
}

/* Writes and reads as the sockets allow; both byte streams are checked. */
static void transfer(struct rig *rig, int from, int to, size_t bytes)
{
    static char out[200000], in[200000];
    size_t sent = 0, got = 0;
    uint64_t end = test_deadline();
    while (got < bytes) {
        for (size_t i = 0; i < sizeof(out) && sent + i < bytes; i++)
            out[i] = byte_at(sent + i);
        ssize_t n =
            sent < bytes ? send(from, out, MIN(sizeof(out), bytes - sent), MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        test_turn(rig->loop);
        n = recv(to, in, sizeof(in), 0);
        for (ssize_t i = 0; i < n; i++) {
            if (in[i] != byte_at(got + (size_t)i))
                fail_msg("byte %zu differs", got + (size_t)i);
        }
        got += n > 0 ? (size_t)n : 0;
        assert_true(n != 0);
        test_check_deadline(end, "transfer");
    }
}

static bool is_end(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) == 0;
}

static bool is_reset(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) < 0 && errno == ECONNRESET;
}

static void reset(int fd)
{
    struct linger zero = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    close(fd);
}

static void bytes_go_both_ways_unchanged(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    transfer(&rig, client, target, 7);
    transfer(&rig, client, target, 5000000);
    transfer(&rig, target, client, 5000001);
    assert_int_equal(rig.hub_set.bytes_read, 5000007);
    assert_int_equal(rig.hub_set.bytes_written, 5000001);
    assert_int_equal(rig.agent_set.bytes_read, 5000001);
    close(client);
    wait_for(rig.loop, is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.hub_result.bytes_read, 5000007);
    rig_done(&rig);
}

static void half_close_is_carried_either_way(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, is_end(target));
    transfer(&rig, target, client, 3000000);
    close(target);
    wait_for(rig.loop, is_end(client));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    close(client);

    open_pair(&rig, &client, &target);
    shutdown(target, SHUT_WR);
    wait_for(rig.loop, is_end(client));
    transfer(&rig, client, target, 3000000);
    close(client);
    wait_for(rig.loop, is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    rig_done(&rig);
}

static void an_end_right_behind_the_data_loses_nothing(void **state)
{
    struct rig rig;
    rig_new(&rig);
    for (int i = 0; i < 50; i++) {
        int client = open_to(&rig, &rig.target, NULL), target;
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
    rig_done(&rig);
}

static void a_reset_is_carried_either_way(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    reset(client);
    wait_for(rig.loop, is_reset(target));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    assert_int_equal(rig.agent_result.end, RELAY_END_STREAM_RESET);
    close(target);

    open_pair(&rig, &client, &target);
    reset(target);
    wait_for(rig.loop, is_reset(client));
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.agent_result.end, RELAY_END_SOCKET_RESET);
    assert_int_equal(rig.hub_result.end, RELAY_END_STREAM_RESET);
    close(client);
    rig_done(&rig);
}

static void a_reset_after_a_half_close_is_seen(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, is_end(target));
    reset(client);
    wait_for(rig.loop, send(target, "x", 1, MSG_NOSIGNAL) < 0);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    close(target);
    rig_done(&rig);
}

static size_t fill(struct rig *rig, int fd)
{
    static char data[65536];
    size_t total = 0;
    for (int idle = 0; idle < 30;) {
        ssize_t n = send(fd, data, sizeof(data), MSG_NOSIGNAL);
        total += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        test_turn(rig->loop);
    }
    return total;
}

static void a_stalled_reader_stalls_only_itself_within_its_window(void **state)
{
    struct rig rig;
    int stalled_client, stalled_target, client, target;
    rig_new(&rig);
    open_pair(&rig, &stalled_client, &stalled_target);
    fill(&rig, stalled_client);
    fill(&rig, stalled_target);
    wait_for(rig.loop, rig.hub_set.bytes_read > rig.agent_set.bytes_written &&
                           rig.agent_set.bytes_read > rig.hub_set.bytes_written);
    assert_in_range(rig.hub_set.bytes_read - rig.agent_set.bytes_written, 1, WINDOW_MAX);
    assert_in_range(rig.agent_set.bytes_read - rig.hub_set.bytes_written, 1, WINDOW_MAX);

    open_pair(&rig, &client, &target);
    transfer(&rig, client, target, 20000000);
    transfer(&rig, target, client, 20000000);
    close(client);
    close(target);

    reset(stalled_client); /* a reset gets through even though nothing is read */
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    close(stalled_target);
    rig_done(&rig);
}

static void a_slow_reader_gets_everything_after_the_sender_has_gone(void **state)
{
    static char data[100000], in[100000];
    struct rig rig;
    int client, target;
    size_t sent = 0, got = 0;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, is_end(target));
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
    rig_done(&rig);
}

static int deny(void *arg, const struct addr *a)
{
    return ERR_DENIED;
}

static void expect_failure(struct rig *rig, const char *target, uint16_t port, int err)
{
    struct addr a;
    int ends = rig->hub_ends;
    assert_int_equal(addr_parse(target, port, &a), 0);
    int client = open_to(rig, &a, NULL);
    wait_for(rig->loop, is_reset(client));
    wait_for(rig->loop, rig->hub_ends == ends + 1 && rig->agent_ends == ends + 1);
    assert_int_equal(rig->hub_result.end, RELAY_END_NOT_OPENED);
    assert_int_equal(rig->hub_result.err, err);
    assert_int_equal(rig->agent_result.err, err);
    close(client);
}

static void each_failure_to_reach_the_target_has_its_own_error(void **state)
{
    struct rig rig;
    struct addr nobody;
    rig_new(&rig);
    close(test_listen(&nobody));
    expect_failure(&rig, "127.0.0.1", addr_port(&nobody), ERR_REFUSED);
    expect_failure(&rig, "224.0.0.1", 80, ERR_UNREACHABLE);
    rig.check = deny;
    expect_failure(&rig, "127.0.0.1", addr_port(&rig.target), ERR_DENIED);
    rig_done(&rig);
}

static void a_kept_socket_can_still_tell_its_client_why(void **state)
{
    struct rig rig;
    struct addr nobody;
    char authority[ADDR_TEXT_SIZE], got[8] = {0};
    int fds[2];
    struct relay *r;
    rig_new(&rig);
    close(test_listen(&nobody));
    addr_format(&nobody, authority, sizeof(authority));
    test_tcp_pair(fds);
    const struct relay_open_params p = {.authority = authority,
                                        .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                        .n_headers = 1,
                                        .set = &rig.hub_set,
                                        .ops = &hub_ops,
                                        .arg = &rig,
                                        .keeps_fd = true};
    assert_int_equal(relay_open(rig.hub, fds[1], &p, &r), 0);
    wait_for(rig.loop, rig.hub_ends == 1);
    assert_int_equal(rig.hub_result.end, RELAY_END_NOT_OPENED);
    assert_int_equal(rig.hub_result.err, ERR_REFUSED);
    assert_int_equal(rig.hub_result.fd, fds[1]);
    assert_int_equal(send(fds[1], "why", 3, 0), 3);
    wait_for(rig.loop, recv(fds[0], got, sizeof(got), 0) == 3);
    assert_string_equal(got, "why");
    close(fds[0]);
    close(fds[1]);
    rig_done(&rig);
}

/* The end of a local socket that is closed counts when the other side has said what it was. */
static void local_pair(struct rig *rig, int *local, int *target, struct relay **ret)
{
    char authority[ADDR_TEXT_SIZE];
    int fds[2], before = rig->opens;
    addr_format(&rig->target, authority, sizeof(authority));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    const struct relay_open_params p = {.authority = authority,
                                        .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                        .n_headers = 1,
                                        .set = &rig->hub_set,
                                        .ops = &hub_ops,
                                        .arg = rig,
                                        .is_local = true};
    assert_int_equal(relay_open(rig->hub, fds[1], &p, ret), 0);
    *local = fds[0];
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

static void a_closed_local_socket_is_an_end_or_a_reset_as_it_is_told(void **state)
{
    struct rig rig;
    struct relay *r;
    int local, target;
    rig_new(&rig);
    local_pair(&rig, &local, &target, &r);
    assert_int_equal(send(local, "x", 1, 0), 1);
    close(local);
    wait_for(rig.loop, recv(target, &(char){0}, 1, 0) == 1);
    for (int i = 0; i < 20; i++)
        test_turn(rig.loop);
    assert_false(is_end(target));
    relay_other_ended(r, 0);
    wait_for(rig.loop, is_end(target));
    close(target);
    wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);

    local_pair(&rig, &local, &target, &r);
    relay_other_ended(r, ERR_RESET);
    close(local);
    wait_for(rig.loop, is_reset(target));
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.hub_result.end, RELAY_END_SOCKET_RESET);
    close(target);
    rig_done(&rig);
}

static void a_target_that_does_not_answer_is_a_timeout(void **state)
{
    struct rig rig;
    struct addr full;
    int others[2];
    rig_new(&rig);
    rig.deadline_ms = 200;
    int fd = test_listen(&full);
    listen(fd, 0); /* its queue holds one */
    for (int i = 0; i < 2; i++) {
        others[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(others[i], &full.sa, full.len);
    }
    expect_failure(&rig, "127.0.0.1", addr_port(&full), ERR_TIMEOUT);
    close(others[0]);
    close(others[1]);
    close(fd);
    rig_done(&rig);
}

static void aborting_a_set_resets_both_sockets_at_once(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    relay_set_abort(&rig.hub_set, ERR_STALE);
    assert_true(is_reset(client));
    wait_for(rig.loop, is_reset(target));
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_ABORTED);
    assert_int_equal(rig.hub_result.err, ERR_STALE);
    close(client);
    close(target);
    rig_done(&rig);
}

static void losing_the_connection_ends_every_relay(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    h2conn_abort(rig.agent, ERR_CANCELED);
    wait_for(rig.loop, is_reset(client));
    wait_for(rig.loop, rig.closed == 2);
    assert_int_equal(rig.hub_result.end, RELAY_END_LOST);
    assert_int_equal(rig.agent_result.end, RELAY_END_LOST);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_client_that_leaves_while_the_target_is_dialled_ends_the_dial(void **state)
{
    struct rig rig;
    struct addr full;
    rig_new(&rig);
    int fd = test_listen(&full), filler[2];
    listen(fd, 0);
    for (int i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler[i], &full.sa, full.len);
    }
    int client = open_to(&rig, &full, NULL);
    wait_for(rig.loop, rig.agent_set.open == 1);
    reset(client);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.agent_result.end, RELAY_END_NOT_OPENED);
    close(filler[0]);
    close(filler[1]);
    close(fd);
    rig_done(&rig);
}

static void hundreds_of_streams_are_open_at_once(void **state)
{
    enum { N = 300 }; /* descriptors: five a stream in this one process */
    static int clients[N], targets[N];
    struct rig rig;
    rig_new(&rig);
    for (int i = 0; i < N; i++)
        open_pair(&rig, &clients[i], &targets[i]);
    assert_int_equal(rig.hub_set.open, N);
    for (int i = 0; i < N; i += 37) {
        transfer(&rig, clients[i], targets[i], 1000);
        transfer(&rig, targets[i], clients[i], 1000);
    }
    for (int i = 0; i < N; i++) {
        close(clients[i]);
        close(targets[i]);
    }
    wait_for(rig.loop, rig.hub_ends == N && rig.agent_ends == N);
    rig_done(&rig);
}

/* The same over TLS, with the roles reversed as in the product. */

static void on_tls_conn(void *arg, struct conn *c, size_t lane)
{
    struct rig *rig = arg;
    rig->hub = h2conn_new(c, &hub_config, &hub_conn_ops, rig);
}

static void on_tls_dialled(void *arg, const struct dial_result *r)
{
    struct rig *rig = arg;
    assert_int_equal(r->err, 0);
    rig->agent = h2conn_new(r->conn, &agent_config, &agent_conn_ops, rig);
}

static void bytes_go_through_tls_unchanged(void **state)
{
    struct rig rig;
    struct test_certs certs;
    struct server *server;
    struct addr a;
    int client, target;
    rig_base(&rig);
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
    open_pair(&rig, &client, &target);
    transfer(&rig, client, target, 30000000);
    transfer(&rig, target, client, 30000000);
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
    rig_done(&rig);
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
        cmocka_unit_test(each_failure_to_reach_the_target_has_its_own_error),
        cmocka_unit_test(a_kept_socket_can_still_tell_its_client_why),
        cmocka_unit_test(a_closed_local_socket_is_an_end_or_a_reset_as_it_is_told),
        cmocka_unit_test(a_target_that_does_not_answer_is_a_timeout),
        cmocka_unit_test(aborting_a_set_resets_both_sockets_at_once),
        cmocka_unit_test(losing_the_connection_ends_every_relay),
        cmocka_unit_test(a_client_that_leaves_while_the_target_is_dialled_ends_the_dial),
        cmocka_unit_test(hundreds_of_streams_are_open_at_once),
        cmocka_unit_test(bytes_go_through_tls_unchanged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
