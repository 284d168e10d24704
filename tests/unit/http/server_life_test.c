/* Time, hooks, event streams, caps, and the end of the server. */
#include "server_bench.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/conn.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static void slow_clients_are_cut_off_by_deadlines(void **state)
{
    loop_advance(b.loop, 60001); /* said nothing */
    pump();
    assert_true(b.got_end);
    close(b.fd);

    connect_client();
    say("GET /hello");
    for (int i = 0; i < 9; i++) { /* slow loris */
        loop_advance(b.loop, 1000);
        say("o");
    }
    buf_clear(&b.got);
    loop_advance(b.loop, 1001);
    pump();
    HEARD("HTTP/1.1 408 Request Timeout");
    close(b.fd);

    connect_client();
    say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\na");
    loop_advance(b.loop, 30001);
    pump();
    HEARD("HTTP/1.1 408 Request Timeout");
    close(b.fd);

    connect_client();
    say("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    loop_advance(b.loop, 60001); /* idle after a request */
    pump();
    assert_true(b.got_end);
}

static void answers_wait_for_a_slow_reader_but_not_for_one_that_stopped(void **state)
{
    struct http_stats st;
    for (int i = 0; i < 64; i++) /* 12 MiB, more than the kernel takes */
        assert_true(send(b.fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", 30, 0) > 0);
    for (int i = 0; i < 4; i++) {
        static char part[256 * 1024];
        for (size_t taken = 0; taken < (2 << 20);) {
            loop_turn(b.loop, false);
            ssize_t n = recv(b.fd, part, sizeof(part), MSG_DONTWAIT);
            assert_true(n > 0 || (n < 0 && errno == EAGAIN));
            taken += n > 0 ? (size_t)n : 0;
        }
        loop_advance(b.loop, 40000);
    }
    http_server_stats(b.server, &st);
    assert_int_equal(st.conns, 1);
    loop_advance(b.loop, 61000);
    pump();
    http_server_stats(b.server, &st);
    assert_int_equal(st.conns, 0);
}

static void a_held_request_waits_without_a_deadline(void **state)
{
    say("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    loop_advance(b.loop, 600000);
    pump();
    assert_false(http_request_is_gone(b.held));
    http_respond_text(b.held, 200, "at last");
    pump();
    HEARD("at last");
}

static void note_gone(void *arg)
{
    b.gone++;
}

static void a_request_survives_its_client(void **state)
{
    say("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_request_on_gone(b.held, note_gone, NULL);
    struct linger hard = {1, 0};
    setsockopt(b.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    hang_up();
    assert_int_equal(b.gone, 1);
    assert_true(http_request_is_gone(b.held));
    assert_null(http_conn(b.held));
    assert_string_equal(http_path(b.held), "/hold");
    http_respond_text(b.held, 200, "to nobody");
    struct http_stats st;
    http_server_stats(b.server, &st);
    assert_int_equal(st.in_flight, 0);
    assert_int_equal(st.conns, 0);
}

static void a_request_survives_its_server(void **state)
{
    say("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_free(TAKE(b.server));
    assert_true(http_request_is_gone(b.held));
    http_respond_text(b.held, 200, "to nobody");
    pump();
}

static void a_half_closed_client_still_gets_its_answer(void **state)
{
    say("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    shutdown(b.fd, SHUT_WR);
    pump();
    http_respond_text(b.held, 200, "late");
    pump();
    HEARD("late");
    assert_true(b.got_end);
}

static void private_routes_ask_who_calls(void **state)
{
    b.auth = ERR_UNAUTHENTICATED;
    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 401 Unauthorized\r\n");
    HEARD("www-authenticate: Bearer");
    HEARD("\"detail\":\"who are you?\"");
    b.auth = ERR_DENIED;
    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 403 Forbidden\r\n");
    b.auth = ERR_RATE;
    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 429 Too Many Requests\r\n");
    HEARD("retry-after: ");
    b.auth = 0;
    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("hello");
    assert_int_equal(b.after_status, 200);
}

static void hooks_may_decide_later(void **state)
{
    b.sleeps = true;
    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(b.got.len, 0);
    http_request_continue(b.asleep, NULL);
    pump();
    HEARD("hello");

    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    http_request_continue(b.asleep, &(struct diag){.code = ERR_DENIED, .text = "no"});
    pump();
    HEARD("403");

    say("GET /private HTTP/1.1\r\nHost: x\r\n\r\n");
    struct linger hard = {1, 0};
    setsockopt(b.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    hang_up();
    http_request_continue(b.asleep, NULL); /* nobody waits: the handler does not run */
    struct http_stats st;
    http_server_stats(b.server, &st);
    assert_int_equal(st.in_flight, 0);
}

static void a_stored_answer_is_given_by_the_before_hook(void **state)
{
    say("GET /hello HTTP/1.1\r\nHost: x\r\nIdempotency-Key: stored\r\n\r\n");
    HEARD("HTTP/1.1 201 Created\r\n");
    HEARD("as before");
}

static void versions_are_etags(void **state)
{
    say("GET /object HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("etag: \"7\"\r\n");
    HEARD("{\"name\":\"web\"}");
    say("GET /object HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"6\", \"7\"\r\n\r\n");
    HEARD("HTTP/1.1 304 Not Modified\r\n");
    NOT_HEARD("content-length");
}

static void events_are_streamed_with_heartbeats(void **state)
{
    say("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("content-type: text/event-stream\r\n");
    HEARD("transfer-encoding: chunked\r\n");
    assert_int_equal(http_sse_send(b.sse, "5", "put", "a\nb"), 0);
    pump();
    HEARD("id: 5\nevent: put\ndata: a\ndata: b\n\n");
    buf_clear(&b.got);
    loop_advance(b.loop, 15001);
    pump();
    HEARD("3\r\n:\n\n\r\n");
    buf_clear(&b.got);
    http_sse_end(TAKE(b.sse));
    pump();
    HEARD("0\r\n\r\n");
    assert_true(b.got_end);
    assert_int_equal(b.sse_closed, 0);
}

static void an_event_stream_notices_its_reader_leave(void **state)
{
    say("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    hang_up();
    assert_int_equal(b.sse_closed, 1);
    assert_int_equal(http_sse_send(b.sse, NULL, NULL, "x"), ERR_CLOSED);
    http_sse_end(TAKE(b.sse));
}

static void an_event_stream_whose_reader_sleeps_is_cut(void **state)
{
    say("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    static char big[64 * 1024];
    memset(big, 'x', sizeof(big) - 1);
    int rc = 0;
    for (int i = 0; i < 1000 && rc == 0; i++) {
        rc = http_sse_send(b.sse, NULL, NULL, big);
        loop_turn(b.loop, false);
    }
    assert_int_equal(rc, ERR_LIMIT);
    pump();
    assert_int_equal(b.sse_closed, 1);
    http_sse_end(TAKE(b.sse));
}

static void connections_are_capped_for_each_address(void **state)
{
    tear_down(state);
    set_up_with((struct http_limits){.conns_per_addr = 2});
    int first = b.fd;
    connect_client();
    int second = b.fd;
    assert_false(b.got_end);
    connect_client();
    assert_true(b.got_end);
    close(b.fd);
    close(second);
    pump();
    connect_client();
    assert_false(b.got_end);
    close(first);
}

static void connect_client_from(const char *ip)
{
    int fds[2];
    struct conn *c;
    struct addr peer;
    test_tcp_pair(fds);
    b.fd = fds[0];
    b.got_end = false;
    assert_int_equal(addr_parse(ip, 1, &peer), 0);
    assert_int_equal(conn_new_plain(b.loop, fds[1], &peer, &c), 0);
    http_server_take(b.server, c);
    pump();
}

static void an_ipv6_network_counts_as_one_address(void **state)
{
    tear_down(state);
    set_up_with((struct http_limits){.conns_per_addr = 2});
    static const char *const own[] = {"fd00::1", "fd00::2"};
    int fds[ARRAY_SIZE(own)];
    for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
        connect_client_from(own[i]);
        assert_false(b.got_end);
        fds[i] = b.fd;
    }
    connect_client_from("fd00::3");
    assert_true(b.got_end);
    close(b.fd);
    connect_client_from("fd00:0:0:1::1");
    assert_false(b.got_end);
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        close(fds[i]);
}

static void requests_in_flight_are_capped_for_each_address(void **state)
{
    static const char hold[] = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
    tear_down(state);
    set_up_with((struct http_limits){.requests_per_addr = 2});
    int unfinished = b.fd;
    say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na");
    connect_client();
    say(hold);
    int holding = b.fd;
    connect_client();
    say(hold);
    HEARD("HTTP/1.1 429 ");
    hang_up();
    connect_client_from("10.0.0.1"); /* others are served */
    say("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 200 OK");
    hang_up();
    http_respond_text(b.held, 200, "");
    close(unfinished);
    pump();
    for (int i = 0; i < 3; i++) { /* answered ones and lost ones count no more */
        connect_client();
        say("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
        HEARD("HTTP/1.1 200 OK");
        hang_up();
    }
    close(holding);
}

static void note_drained(void *arg)
{
    b.drained++;
}

static void draining_ends_idle_connections_and_waits_for_busy_ones(void **state)
{
    int idle = b.fd;
    connect_client();
    say("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_drain(b.server, note_drained, NULL);
    pump();
    char c;
    assert_int_equal(recv(idle, &c, 1, MSG_DONTWAIT), 0);
    close(idle);
    assert_int_equal(b.drained, 0);
    http_respond_text(b.held, 200, "last");
    pump();
    HEARD("connection: close\r\n");
    HEARD("last");
    hang_up();
    assert_int_equal(b.drained, 1);
}

static void draining_ends_event_streams(void **state)
{
    say("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_drain(b.server, note_drained, NULL);
    pump();
    assert_int_equal(b.sse_closed, 1);
    http_sse_end(TAKE(b.sse));
    assert_true(b.got_end);
    hang_up();
    assert_int_equal(b.drained, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(slow_clients_are_cut_off_by_deadlines),
        TEST(answers_wait_for_a_slow_reader_but_not_for_one_that_stopped),
        TEST(a_held_request_waits_without_a_deadline),
        TEST(a_request_survives_its_client),
        TEST(a_request_survives_its_server),
        TEST(a_half_closed_client_still_gets_its_answer),
        TEST(private_routes_ask_who_calls),
        TEST(hooks_may_decide_later),
        TEST(a_stored_answer_is_given_by_the_before_hook),
        TEST(versions_are_etags),
        TEST(events_are_streamed_with_heartbeats),
        TEST(an_event_stream_notices_its_reader_leave),
        TEST(an_event_stream_whose_reader_sleeps_is_cut),
        TEST(connections_are_capped_for_each_address),
        TEST(an_ipv6_network_counts_as_one_address),
        TEST(requests_in_flight_are_capped_for_each_address),
        TEST(draining_ends_idle_connections_and_waits_for_busy_ones),
        TEST(draining_ends_event_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
