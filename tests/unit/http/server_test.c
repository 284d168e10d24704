/* Requests: how they are read, routed, refused; connections that become something else. */
#include "server_bench.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/conn.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void a_request_is_answered_and_the_connection_stays(void **state)
{
    say("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 200 OK\r\n");
    HEARD("content-length: 5\r\n");
    HEARD("\r\n\r\nhello");
    HEARD("date: ");
    say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    HEARD("\r\n\r\nabc");
    say("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n");
    HEARD("\r\n\r\na");
    assert_false(b.got_end);
}

static void handle_connect(struct http_request *req, void *ctx)
{
    b.held = req;
}

static size_t on_tunnel_data(void *arg, const uint8_t *data, size_t len)
{
    buf_append(arg, data, len);
    return len;
}

static size_t on_tunnel_fill(void *arg, uint8_t *out, size_t cap)
{
    return 0;
}

static void on_tunnel_close(void *arg, int err)
{
}

static void connect_hands_the_connection_over_with_its_unread_bytes(void **state)
{
    static const struct conn_ops tunnel_ops = {
        .on_data = on_tunnel_data, .on_fill = on_tunnel_fill, .on_close = on_tunnel_close};
    CLEANUP(buf_done) struct buf got = {0};
    struct http_stats stats;
    http_server_on_connect(b.server, handle_connect, NULL);
    say("CONNECT [::1]:80 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n");
    assert_string_equal(http_path(b.held), "[::1]:80");
    struct conn *c = http_take_conn(b.held);
    assert_non_null(c);
    http_server_stats(b.server, &stats);
    assert_int_equal(stats.conns, 0);
    assert_int_equal(stats.in_flight, 0);
    conn_attach(c, b.loop, &tunnel_ops, &got);
    say("more");
    assert_string_equal(buf_text(&got), "GET / HTTP/1.1\r\nmore");
    assert_int_equal(b.got.len, 0);
    conn_abort(c, ERR_CANCELED);
    pump();
}

static void connect_can_be_answered_like_any_request(void **state)
{
    http_server_on_connect(b.server, handle_connect, NULL);
    say("CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n");
    http_respond_text(b.held, 407, "who?");
    pump();
    HEARD("HTTP/1.1 407 ");
    say("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("hello");
}

static void connect_of_a_client_that_has_gone_yields_nothing(void **state)
{
    http_server_on_connect(b.server, handle_connect, NULL);
    say("CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n");
    struct linger zero = {.l_onoff = 1};
    setsockopt(b.fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    hang_up();
    assert_null(http_take_conn(b.held));
    http_respond_empty(b.held, 503);
}

static void connect_is_refused_where_nobody_serves_it_or_with_a_body(void **state)
{
    say("CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 404 ");
    http_server_on_connect(b.server, handle_connect, NULL);
    say("CONNECT a:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    HEARD("HTTP/1.1 413 ");
    assert_null(b.held);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    say("GET /items/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
        "GET /items/3 HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("1|-|item");
    NOT_HEARD("3|-|item");
    buf_clear(&b.got);
    http_respond_text(b.held, 200, "second");
    pump();
    const char *second = strstr(buf_text(&b.got), "second");
    assert_non_null(second);
    assert_non_null(strstr(second, "3|-|item"));
}

static void many_pipelined_big_answers_do_not_pile_up(void **state)
{
    for (int i = 0; i < 20; i++)
        assert_true(send(b.fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", 30, 0) > 0);
    uint64_t end = test_deadline(); /* the kernel may be slow with so much */
    size_t n = 0;
    while (n != 20) {
        pump();
        n = 0;
        for (const char *at = buf_text(&b.got); (at = strstr(at, "HTTP/1.1 200")); at++)
            n++;
        test_check_deadline(end, "all answers");
    }
}

static void the_old_protocol_and_connection_close_end_the_connection(void **state)
{
    say("GET /hello HTTP/1.0\r\n\r\n");
    HEARD("hello");
    assert_true(b.got_end);
    close(b.fd);
    connect_client();
    say("GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    HEARD("connection: close\r\n");
    HEARD("hello");
    assert_true(b.got_end);
}

static void head_is_get_without_the_body(void **state)
{
    say("HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("content-length: 5\r\n");
    NOT_HEARD("\r\n\r\nhello");
}

static void routes_prefer_literals_then_suffixes(void **state)
{
    say("GET /items/a%20b?q=1+%26%201 HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("a b|1 & 1|item");
    say("GET /items/self HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("(null)|-|self");
    say("POST /items/7:stop HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("7|-|stop");
    say("GET https://x/items/9 HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("9|-|item");
    say("GET /items/a%00b HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("404 Not Found");
    say("GET /items/ HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("404 Not Found");
    say("GET /items/a/b HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("404 Not Found");
    say("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n");
    HEARD("404 Not Found");
}

static void unknown_paths_and_methods_are_problems(void **state)
{
    say("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 404 Not Found\r\n");
    HEARD("content-type: application/problem+json\r\n");
    HEARD("\"type\":\"urn:warren:error:not_found\"");
    HEARD("\"status\":404");
    say("PUT /items/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    HEARD("HTTP/1.1 405 Method Not Allowed\r\n");
    HEARD("allow: GET, HEAD, DELETE\r\n");
    assert_false(b.got_end);
}

static void bodies_are_capped_before_they_are_read(void **state)
{
    say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n");
    HEARD("HTTP/1.1 413 Content Too Large\r\n");
    HEARD("connection: close\r\n");
    loop_advance(b.loop, 1001);
    pump();
    assert_true(b.got_end);
    close(b.fd);

    connect_client();
    say("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n60\r\n");
    char part[0x60] = {0};
    say_bytes(part, sizeof(part));
    assert_int_equal(b.got.len, 0);
    say("\r\n60\r\nxxxxxxxxxxxxxxx");
    HEARD("HTTP/1.1 413 Content Too Large\r\n");
    close(b.fd);

    connect_client();
    say("GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na");
    HEARD("HTTP/1.1 413 Content Too Large\r\n");
}

static void a_client_may_ask_before_it_sends_a_body(void **state)
{
    say("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    HEARD("HTTP/1.1 100 Continue\r\n\r\n");
    say("ab");
    HEARD("\r\n\r\nab");
    say("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 200\r\n\r\n");
    HEARD("HTTP/1.1 413");
    NOT_HEARD("100 Continue");
}

static void malformed_requests_are_refused_and_closed(void **state)
{
    static const struct {
        const char *input, *answer;
    } rows[] = {
        {"\x16\x03\x01 garbage\r\n\r\n", "HTTP/1.1 501"},
        {"GET /hello HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
        {"GET /hello HTTP/1.1\nHost: x\n\n", "HTTP/1.1 400 Bad Request"},
        {"GET /hello HTTP/3.0\r\nHost: x\r\n\r\n", "HTTP/1.1 505"},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: "
         "chunked\r\n\r\n",
         "HTTP/1.1 400 Bad Request"},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
         "HTTP/1.1 501"},
        {"GET /hello HTTP/1.1\r\nHost: x\r\nExpect: much\r\n\r\n", "HTTP/1.1 417"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        say(rows[i].input);
        if (!strstr(buf_text(&b.got), rows[i].answer))
            print_error("input %zu: %s\n", i, buf_text(&b.got));
        HEARD(rows[i].answer);
        HEARD("connection: close\r\n");
        loop_advance(b.loop, 1001);
        pump();
        assert_true(b.got_end);
        close(b.fd);
        connect_client();
    }
}

static void oversized_heads_are_refused(void **state)
{
    char big[20000];
    memset(big, 'a', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    memcpy(big, "GET /hello HTTP/1.1\r\nHost: x\r\nX: ", 33);
    say(big);
    HEARD("HTTP/1.1 431 Request Header Fields Too Large");
    close(b.fd);
    connect_client();
    memset(big, 'a', sizeof(big) - 1);
    memcpy(big, "GET /", 5);
    say(big);
    HEARD("HTTP/1.1 414 URI Too Long");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_answered_and_the_connection_stays),
        TEST(connect_hands_the_connection_over_with_its_unread_bytes),
        TEST(connect_can_be_answered_like_any_request),
        TEST(connect_of_a_client_that_has_gone_yields_nothing),
        TEST(connect_is_refused_where_nobody_serves_it_or_with_a_body),
        TEST(pipelined_requests_are_answered_in_order),
        TEST(many_pipelined_big_answers_do_not_pile_up),
        TEST(the_old_protocol_and_connection_close_end_the_connection),
        TEST(head_is_get_without_the_body),
        TEST(routes_prefer_literals_then_suffixes),
        TEST(unknown_paths_and_methods_are_problems),
        TEST(bodies_are_capped_before_they_are_read),
        TEST(a_client_may_ask_before_it_sends_a_body),
        TEST(malformed_requests_are_refused_and_closed),
        TEST(oversized_heads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
