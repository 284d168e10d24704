#include "net/relay.h"

#include "base/error.h"
#include "base/macro.h"
#include "fixture.h"
#include "net/pacer.h"
#include "traffic.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/*
 * A client's hub, the hub that has the agent, and the agent, on one loop:
 *
 *     client ─ ingress ═══ lane ─ pair ─ far ═══ agent ─ target
 */
struct rig {
    struct loop *loop;
    struct h2conn *ingress, *lane, *far, *agent;
    struct relay_set ingress_set, lane_set, far_set, agent_set;
    int listening; /* the target */
    struct addr target;
    struct relay_result ingress_result, lane_result, far_result, agent_result;
    int ingress_ends, lane_ends, far_ends, agent_ends, opens, closed;
    struct relay *awaiting; /* the lane's newest */
    struct relay *far_relay;
    bool drops;                   /* the lane's end of the pair */
    struct h2conn *far2, *agent2; /* a second connection to the agent, where there is one */
};

static void on_open(void *arg, struct relay *r)
{
    ((struct rig *)arg)->opens++;
}

#define ON_END(who)                                                                        \
    static void on_##who##_end(void *arg, struct relay *r, const struct relay_result *res) \
    {                                                                                      \
        struct rig *rig = arg;                                                             \
        rig->who##_result = *res;                                                          \
        rig->who##_ends++;                                                                 \
    }
ON_END(ingress)
ON_END(lane)
ON_END(agent)

/* In these tests the argument of the far relay is that of the lane. */
static void on_far_open(void *arg, struct relay *r)
{
    relay_confirm(arg, NULL, 0);
}

static struct rig *the_rig;

static void on_far_end(void *arg, struct relay *r, const struct relay_result *res)
{
    the_rig->far_result = *res;
    the_rig->far_ends++;
    if (res->end == RELAY_END_NOT_OPENED && !the_rig->lane_ends)
        relay_fail(arg, res->err, NULL, 0);
}

static const struct relay_ops ingress_ops = {.on_open = on_open, .on_end = on_ingress_end};
static const struct relay_ops lane_ops = {.on_end = on_lane_end};
static const struct relay_ops far_ops = {.on_open = on_far_open, .on_end = on_far_end};
static const struct relay_ops agent_ops = {.on_end = on_agent_end};

static void on_lane_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = arg;
    struct relay_pair *pair = relay_pair_new();
    struct relay *r = rig->awaiting = relay_await(s, &rig->lane_set, &lane_ops, rig);
    const struct relay_open_params p = {.authority = h2_headers_get(h, ":authority"),
                                        .set = &rig->far_set,
                                        .ops = &far_ops,
                                        .arg = r,
                                        .pair = pair};
    assert_int_equal(relay_open(rig->far, -1, &p, &rig->far_relay), 0);
    if (rig->drops)
        relay_pair_drop(pair);
    else
        relay_begin_pair(r, pair);
}

static void on_agent_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = arg;
    struct relay_accept_params p = {.set = &rig->agent_set, .ops = &agent_ops, .arg = rig};
    uint32_t from, stream;
    if (relay_is_move(h, &from, &stream)) {
        assert_int_equal(relay_accept_move(s, rig->agent, stream), 0);
        return;
    }
    assert_int_equal(host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL), 0);
    relay_accept(s, &p);
}

static void on_link_close(void *arg, int err)
{
    ((struct rig *)arg)->closed++;
}

#define WINDOW_MAX (1u << 20)
static const struct h2conn_ops client_ops = {.on_close = on_link_close};
static const struct h2conn_ops lane_conn_ops = {.on_request = on_lane_request,
                                                .on_close = on_link_close};
static const struct h2conn_ops agent_conn_ops = {.on_request = on_agent_request,
                                                 .on_close = on_link_close};
static const struct h2conn_config client_config = {.h2 = {.stream_window_max = WINDOW_MAX}};
static const struct h2conn_config server_config = {.h2 = {.is_server = true,
                                                          .enable_connect = true,
                                                          .max_streams = 20000,
                                                          .stream_window_max = WINDOW_MAX,
                                                          .peer_is_trusted = true}};

static void link_up(struct rig *rig, struct h2conn **client, struct h2conn **server,
                    const struct h2conn_ops *server_ops)
{
    int fds[2];
    struct conn *c, *s;
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &c), 0);
    assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &s), 0);
    *client = h2conn_new(c, &client_config, &client_ops, rig);
    *server = h2conn_new(s, &server_config, server_ops, rig);
}

static void rig_new(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    the_rig = rig;
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->listening = test_listen(&rig->target);
    link_up(rig, &rig->ingress, &rig->lane, &lane_conn_ops);
    link_up(rig, &rig->far, &rig->agent, &agent_conn_ops);
}

static void lose(struct h2conn **hc, int err)
{
    if (*hc)
        h2conn_abort(TAKE(*hc), err);
}

static void rig_done(struct rig *rig)
{
    lose(&rig->ingress, ERR_CANCELED);
    lose(&rig->far, ERR_CANCELED);
    lose(&rig->far2, ERR_CANCELED);
    wait_for(rig->loop, rig->closed == (rig->agent2 ? 6 : 4));
    assert_null(rig->ingress_set.head);
    assert_null(rig->lane_set.head);
    assert_null(rig->far_set.head);
    assert_null(rig->agent_set.head);
    close(rig->listening);
    loop_free(rig->loop);
}

static int open_to(struct rig *rig, const struct addr *target)
{
    char authority[ADDR_TEXT_SIZE];
    int fds[2];
    struct relay *r;
    addr_format(target, authority, sizeof(authority));
    test_tcp_pair(fds);
    const struct relay_open_params p = {
        .authority = authority, .set = &rig->ingress_set, .ops = &ingress_ops, .arg = rig};
    assert_int_equal(relay_open(rig->ingress, fds[1], &p, &r), 0);
    return fds[0];
}

static void open_pair(struct rig *rig, int *client, int *target)
{
    int before = rig->opens;
    *client = open_to(rig, &rig->target);
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

static bool all_ended(const struct rig *rig, int n)
{
    return rig->ingress_ends == n && rig->lane_ends == n && rig->far_ends == n &&
           rig->agent_ends == n;
}

static void bytes_go_both_ways_unchanged(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 7);
    test_transfer(rig.loop, client, target, 9000000);
    test_transfer(rig.loop, target, client, 9000001);
    assert_int_equal(rig.lane_set.bytes_written, 9000007);
    assert_int_equal(rig.lane_set.bytes_read, 9000001);
    assert_int_equal(rig.far_set.bytes_read, 9000007);
    assert_int_equal(rig.far_set.bytes_written, 9000001);
    close(client);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.lane_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.far_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.far_result.bytes_read, 9000007);
    rig_done(&rig);
}

static void half_close_is_carried_either_way(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    test_transfer(rig.loop, target, client, 3000000);
    close(target);
    wait_for(rig.loop, test_is_end(client));
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.ingress_result.end, RELAY_END_FINISHED);
    close(client);

    open_pair(&rig, &client, &target);
    shutdown(target, SHUT_WR);
    wait_for(rig.loop, test_is_end(client));
    test_transfer(rig.loop, client, target, 3000000);
    close(client);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    wait_for(rig.loop, all_ended(&rig, 2));
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    rig_done(&rig);
}

static void what_a_client_sends_before_it_is_open_arrives(void **state)
{
    struct rig rig;
    rig_new(&rig);
    for (int i = 0; i < 50; i++) {
        int client = open_to(&rig, &rig.target), target;
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
        wait_for(rig.loop, all_ended(&rig, i + 1));
        assert_int_equal(rig.far_result.end, RELAY_END_FINISHED);
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
    test_reset(client);
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.lane_result.end, RELAY_END_STREAM_RESET);
    assert_int_equal(rig.far_result.end, RELAY_END_SOCKET_RESET);
    close(target);

    open_pair(&rig, &client, &target);
    test_reset(target);
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, all_ended(&rig, 2));
    assert_int_equal(rig.far_result.end, RELAY_END_STREAM_RESET);
    assert_int_equal(rig.lane_result.end, RELAY_END_SOCKET_RESET);
    close(client);

    open_pair(&rig, &client, &target); /* also when one way has ended */
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    test_reset(target);
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, all_ended(&rig, 3));
    close(client);
    rig_done(&rig);
}

static void what_a_target_says_before_its_reset_arrives(void **state)
{
    struct rig rig;
    int client, target;
    char got[16] = {0};
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    assert_int_equal(send(target, "last words", 10, 0), 10);
    test_reset(target);
    wait_for(rig.loop, recv(client, got, sizeof(got), 0) == 10);
    assert_string_equal(got, "last words");
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, all_ended(&rig, 1));
    close(client);
    rig_done(&rig);
}

static void what_was_read_of_a_target_arrives_though_the_link_to_it_is_lost(void **state)
{
    static char data[60000], in[100000];
    struct rig rig;
    int client, target;
    size_t got = 0;
    ssize_t n;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    assert_int_equal(send(target, data, sizeof(data), 0), sizeof(data));
    wait_for(rig.loop, rig.agent_set.bytes_read == sizeof(data));
    wait_for(rig.loop, conn_bytes_in(h2conn_conn(rig.far)) > sizeof(data));
    lose(&rig.far, ERR_RESET);
    wait_for(rig.loop, (n = recv(client, in, sizeof(in), 0)) >= 0 ? (got += (size_t)n, false)
                                                                  : errno != EAGAIN);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(got, sizeof(data));
    assert_int_equal(rig.far_result.end, RELAY_END_LOST);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_lost_link_to_the_clients_resets_the_targets(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    lose(&rig.ingress, ERR_RESET);
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.lane_result.end, RELAY_END_LOST);
    assert_int_equal(rig.far_result.end, RELAY_END_SOCKET_RESET);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_target_that_is_not_reached_is_told_as_such(void **state)
{
    struct rig rig;
    struct addr nobody;
    rig_new(&rig);
    close(test_listen(&nobody));
    int client = open_to(&rig, &nobody);
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.ingress_result.end, RELAY_END_NOT_OPENED);
    assert_int_equal(rig.ingress_result.err, ERR_REFUSED);
    close(client);
    rig_done(&rig);
}

static void a_client_that_leaves_before_it_is_open_takes_the_dial_with_it(void **state)
{
    struct rig rig;
    rig_new(&rig);
    int client = open_to(&rig, &rig.target);
    wait_for(rig.loop, rig.far_relay != NULL);
    test_reset(client);
    wait_for(rig.loop, rig.ingress_ends == 1 && rig.lane_ends == 1 && rig.far_ends == 1);
    wait_for(rig.loop, !rig.agent_set.open);
    rig_done(&rig);
}

static void a_dropped_end_is_a_reset(void **state)
{
    struct rig rig;
    rig_new(&rig);
    rig.drops = true;
    int client = open_to(&rig, &rig.target);
    wait_for(rig.loop, rig.far_ends == 1);
    assert_int_equal(rig.far_result.end, RELAY_END_SOCKET_RESET);
    test_reset(client);
    wait_for(rig.loop, rig.ingress_ends == 1 && rig.lane_ends == 1);
    rig_done(&rig);
}

static void cutting_one_end_cuts_the_other(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    relay_set_abort(&rig.far_set, ERR_UNAVAILABLE);
    wait_for(rig.loop, test_is_reset(client));
    wait_for(rig.loop, test_is_reset(target));
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.far_result.end, RELAY_END_ABORTED);
    assert_int_equal(rig.lane_result.err, ERR_UNAVAILABLE);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_stalled_reader_stalls_only_itself_within_its_windows(void **state)
{
    struct rig rig;
    int stalled_client, stalled_target, client, target;
    rig_new(&rig);
    open_pair(&rig, &stalled_client, &stalled_target);
    test_fill(rig.loop, stalled_client);
    test_fill(rig.loop, stalled_target);
    wait_for(rig.loop, rig.ingress_set.bytes_read > rig.agent_set.bytes_written &&
                           rig.agent_set.bytes_read > rig.ingress_set.bytes_written);
    assert_in_range(rig.ingress_set.bytes_read - rig.lane_set.bytes_written, 1, WINDOW_MAX);
    assert_in_range(rig.agent_set.bytes_read - rig.far_set.bytes_written, 1, WINDOW_MAX);

    open_pair(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 20000000);
    test_transfer(rig.loop, target, client, 20000000);
    close(client);
    close(target);
    test_reset(stalled_client);
    wait_for(rig.loop, all_ended(&rig, 2));
    close(stalled_target);
    rig_done(&rig);
}

static void a_stream_changes_its_connection_to_the_agent_while_bytes_are_kept(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    link_up(&rig, &rig.far2, &rig.agent2, &agent_conn_ops);
    open_pair(&rig, &client, &target);
    struct way down = {target, client, 40000000, 0, 0}, up = {client, target, 9000000, 0, 0};
    uint64_t end = test_deadline();
    for (int idle = 0; idle < 50; idle++) { /* until all on the way is full */
        size_t before = down.sent;
        way_send(&down);
        test_turn(rig.loop);
        idle = down.sent > before ? 0 : idle;
    }
    assert_int_equal(relay_move(rig.far_relay, rig.far2, 1), 0);
    while (down.got < down.bytes || up.got < up.bytes) {
        way_move(&down);
        way_move(&up);
        test_turn(rig.loop);
        test_check_deadline(end, "both ways");
    }
    assert_ptr_equal(relay_conn(rig.far_relay), rig.far2);
    close(client);
    close(target);
    wait_for(rig.loop, all_ended(&rig, 1));
    assert_int_equal(rig.far_result.end, RELAY_END_FINISHED);
    rig_done(&rig);
}

static void many_streams_share_the_links(void **state)
{
    enum { N = 40 };
    struct rig rig;
    struct way ways[2 * N];
    int clients[N], targets[N];
    size_t done = 0;
    uint64_t end = test_deadline();
    rig_new(&rig);
    for (int i = 0; i < N; i++)
        open_pair(&rig, &clients[i], &targets[i]);
    for (int i = 0; i < N; i++) {
        ways[2 * i] = (struct way){clients[i], targets[i], 1 + (size_t)i * 20011, 0, 0};
        ways[2 * i + 1] = (struct way){targets[i], clients[i], 1 + (size_t)(N - i) * 20011, 0, 0};
    }
    while (done < 2 * N) {
        done = 0;
        for (int i = 0; i < 2 * N; i++) {
            if (ways[i].got < ways[i].bytes)
                way_move(&ways[i]);
            done += ways[i].got == ways[i].bytes;
        }
        test_turn(rig.loop);
        test_check_deadline(end, "all streams");
    }
    for (int i = 0; i < N; i++) {
        close(clients[i]);
        close(targets[i]);
    }
    wait_for(rig.loop, all_ended(&rig, N));
    rig_done(&rig);
}

static void a_bandwidth_limit_holds_both_ways(void **state)
{
    struct rig rig;
    struct meter meter;
    struct meter *meters[PACER_METERS] = {&meter};
    struct pacer read_pace, write_pace;
    int client, target;
    meter_init(&meter);
    meter_set(&meter, &(struct meter_limits){.bandwidth = 4000000});
    rig_new(&rig);
    pacer_init(&read_pace, rig.loop, meters, false);
    pacer_init(&write_pace, rig.loop, meters, true);
    rig.far_set.read_pace = &read_pace;
    rig.far_set.write_pace = &write_pace;
    open_pair(&rig, &client, &target);
    uint64_t began_ms = loop_now_ms(rig.loop);
    test_transfer(rig.loop, client, target, 1000000);
    assert_true(loop_now_ms(rig.loop) - began_ms >= 100);
    began_ms = loop_now_ms(rig.loop);
    test_transfer(rig.loop, target, client, 1000000);
    assert_true(loop_now_ms(rig.loop) - began_ms >= 100);
    close(client);
    close(target);
    wait_for(rig.loop, all_ended(&rig, 1));
    rig_done(&rig);
    pacer_done(&read_pace);
    pacer_done(&write_pace);
    meter_done(&meter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_both_ways_unchanged),
        cmocka_unit_test(half_close_is_carried_either_way),
        cmocka_unit_test(what_a_client_sends_before_it_is_open_arrives),
        cmocka_unit_test(a_reset_is_carried_either_way),
        cmocka_unit_test(what_a_target_says_before_its_reset_arrives),
        cmocka_unit_test(what_was_read_of_a_target_arrives_though_the_link_to_it_is_lost),
        cmocka_unit_test(a_lost_link_to_the_clients_resets_the_targets),
        cmocka_unit_test(a_target_that_is_not_reached_is_told_as_such),
        cmocka_unit_test(a_client_that_leaves_before_it_is_open_takes_the_dial_with_it),
        cmocka_unit_test(a_dropped_end_is_a_reset),
        cmocka_unit_test(cutting_one_end_cuts_the_other),
        cmocka_unit_test(a_stalled_reader_stalls_only_itself_within_its_windows),
        cmocka_unit_test(a_stream_changes_its_connection_to_the_agent_while_bytes_are_kept),
        cmocka_unit_test(many_streams_share_the_links),
        cmocka_unit_test(a_bandwidth_limit_holds_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
