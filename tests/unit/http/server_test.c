#include "http/server.h"

#include "../net/fixture.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "http/rest.h"
#include "net/conn.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* One server on a virtual clock, one client that speaks raw bytes. */
struct bench {
    struct loop *loop;
    struct http_server *server;
    int fd; /* the client's end; -1: closed */
    struct buf got;
    bool got_end;
    struct http_request *held;
    struct http_sse *sse;
    int gone, sse_closed, after_status, drained;
    int auth;    /* what authenticate returns */
    bool sleeps; /* authenticate says HTTP_LATER */
    struct http_request *asleep;
};

static struct bench b;

static void handle_hello(struct http_request *req, void *ctx)
{
    http_respond_text(req, 200, "hello");
}

static void handle_echo(struct http_request *req, void *ctx)
{
    size_t len;
    const void *body = http_body(req, &len);
    http_respond(req, 200, "text/plain", body, len);
}

static void handle_item(struct http_request *req, void *ctx)
{
    const char *query = http_query(req, "q");
    char text[256];
    snprintf(text, sizeof(text), "%s|%s|%s", http_param(req, "id"), query ? query : "-",
             http_route(req)->summary);
    http_respond_text(req, 200, text);
}

static void handle_hold(struct http_request *req, void *ctx)
{
    b.held = req;
}

static void handle_big(struct http_request *req, void *ctx)
{
    static char big[200 * 1024];
    memset(big, 'x', sizeof(big));
    http_respond(req, 200, "text/plain", big, sizeof(big));
}

static void on_sse_close(void *arg)
{
    b.sse_closed++;
}

static void handle_events(struct http_request *req, void *ctx)
{
    b.sse = http_sse_start(req, on_sse_close, NULL);
}

static void handle_object(struct http_request *req, void *ctx)
{
    http_respond_json(req, 200, json_pack("{s:s}", "name", "web"), 7);
}

static const struct http_route routes[] = {
    {"GET", "/hello", HTTP_PUBLIC, 0, handle_hello, "hello"},
    {"POST", "/echo", HTTP_PUBLIC, 100, handle_echo, "echo"},
    {"GET", "/items/{id}", HTTP_PUBLIC, 0, handle_item, "item"},
    {"GET", "/items/self", HTTP_PUBLIC, 0, handle_item, "self"},
    {"POST", "/items/{id}:stop", HTTP_PUBLIC, 0, handle_item, "stop"},
    {"DELETE", "/items/{id}", HTTP_PUBLIC, 0, handle_item, "delete"},
    {"GET", "/hold", HTTP_PUBLIC, 0, handle_hold, "hold"},
    {"GET", "/big", HTTP_PUBLIC, 0, handle_big, "big"},
    {"GET", "/events", HTTP_PUBLIC, 0, handle_events, "events"},
    {"GET", "/object", HTTP_PUBLIC, 0, handle_object, "object"},
    {"GET", "/private", HTTP_OPERATOR, 0, handle_hello, "private"},
};

static int authenticate(struct http_request *req, struct diag *d, void *arg)
{
    if (b.sleeps) {
        b.asleep = req;
        return HTTP_LATER;
    }
    return b.auth ? diag_set(d, b.auth, "who are you?") : 0;
}

static int after(struct http_request *req, int status, const void *body, size_t len, void *arg)
{
    b.after_status = status;
    return 0;
}

/* Idempotency-Key: "stored" has an answer already. */
static int before(struct http_request *req, struct diag *d, void *arg)
{
    const char *key = http_header(req, "Idempotency-Key");
    if (!key || strcmp(key, "stored") != 0)
        return 0;
    http_respond_text(req, 201, "as before");
    return HTTP_LATER;
}

/* --- the client ------------------------------------------------------------------------------- */

static void pump(void)
{
    char part[65536];
    for (int quiet = 0; quiet < 3;) {
        loop_turn(b.loop, false);
        ssize_t n = b.fd < 0 ? -1 : recv(b.fd, part, sizeof(part), MSG_DONTWAIT);
        if (n > 0)
            buf_append(&b.got, part, (size_t)n);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            b.got_end = true;
        quiet = n > 0 ? 0 : quiet + 1;
    }
}

static void say_bytes(const char *data, size_t len)
{
    buf_clear(&b.got);
    assert_int_equal(send(b.fd, data, len, MSG_NOSIGNAL), len);
    pump();
}

static void say(const char *text)
{
    say_bytes(text, strlen(text));
}

static void hang_up(void)
{
    close(b.fd);
    b.fd = -1;
    pump();
}

static void connect_client(void)
{
    int fds[2];
    struct conn *c;
    test_tcp_pair(fds);
    b.fd = fds[0];
    b.got_end = false;
    buf_clear(&b.got);
    assert_int_equal(conn_new_plain(b.loop, fds[1], NULL, &c), 0);
    http_server_take(b.server, c);
    pump();
}

#define HEARD(text)     assert_non_null(strstr(buf_text(&b.got), text))
#define NOT_HEARD(text) assert_null(strstr(buf_text(&b.got), text))

static int set_up_with(struct http_limits limits)
{
    b = (struct bench){.fd = -1};
    const struct http_server_config cfg = {.hooks = {authenticate, before, after, NULL},
                                           .limits = limits};
    struct http_server_config c = cfg;
    assert_int_equal(loop_new_virtual(&b.loop, 1000), 0);
    c.loop = b.loop;
    assert_int_equal(http_server_new(&c, &b.server), 0);
    http_server_add(b.server, routes, ARRAY_SIZE(routes), NULL);
    connect_client();
    return 0;
}

static int set_up(void **state)
{
    return set_up_with((struct http_limits){0});
}

static int tear_down(void **state)
{
    struct http_server *s = b.server;
    if (b.sse)
        http_sse_end(b.sse);
    http_server_free(s);
    pump();
    if (b.fd >= 0)
        hang_up();
    loop_free(b.loop);
    buf_done(&b.got);
    return 0;
}

/* --- tests ------------------------------------------------------------------------------------ */

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
    pump();
    size_t n = 0;
    for (const char *at = buf_text(&b.got); (at = strstr(at, "HTTP/1.1 200")); at++)
        n++;
    assert_int_equal(n, 20);
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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

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
