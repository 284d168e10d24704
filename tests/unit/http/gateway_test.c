#include "http/gateway.h"

#include "../net/fixture.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "net/conn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TARGETS_MAX 4
#define HEAD        "Host: a.example\r\n"

/* A gateway on a virtual clock; a client that speaks raw HTTP/1.1, and targets that do as the test
 * says. */
struct bench {
    struct loop *loop;
    struct gateway *gateway;
    int client; /* -1: closed */
    struct buf got;
    bool got_end;
    struct gateway_exchange *asked[8];
    size_t n_asked, n_decided;
    char last_path[128], last_body[64];
    struct target {
        struct gateway_stream *stream;
        int fd;
        struct buf got;
        bool got_end, is_done;
        int done_err;
    } targets[TARGETS_MAX];
    size_t n_targets;
    const char *key;
};

static struct bench b;

static void on_request(void *arg, struct gateway_exchange *x, const struct gateway_ask *ask)
{
    assert_string_equal(ask->host, "a.example");
    snprintf(b.last_path, sizeof(b.last_path), "%s", ask->path);
    snprintf(b.last_body, sizeof(b.last_body), "%s", ask->body);
    b.asked[b.n_asked++] = x;
}

static void *dial(void *arg, struct gateway_stream *s, const char *key, int fd,
                  const struct addr *client)
{
    struct target *t = &b.targets[b.n_targets++];
    *t = (struct target){.stream = s, .fd = fd};
    assert_string_equal(key, b.key);
    return t;
}

static void done(void *arg, void *dialled, int err)
{
    struct target *t = dialled;
    assert_false(t->is_done);
    t->is_done = true;
    t->done_err = err;
}

static const struct gateway_ops ops = {on_request, dial, done};

static int set_up(void **state)
{
    static const struct gateway_limits limits = {.answer_ms = 5000, .idle_stream_ms = 3000};
    int fds[2];
    struct conn *c;
    struct addr peer;
    b = (struct bench){.client = -1, .key = "target 1"};
    assert_int_equal(loop_new_virtual(&b.loop, 1000), 0);
    const struct gateway_config cfg = {.loop = b.loop, .ops = &ops, .limits = limits};
    b.gateway = gateway_new(&cfg);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(addr_parse("192.0.2.1", 1, &peer), 0);
    assert_int_equal(conn_new_plain(b.loop, fds[0], &peer, &c), 0);
    gateway_take(b.gateway, c);
    b.client = fds[1];
    return 0;
}

static int tear_down(void **state)
{
    gateway_free(b.gateway);
    for (size_t i = b.n_decided; i < b.n_asked; i++)
        gateway_decide(b.asked[i], &(struct gateway_decision){0});
    loop_settle(b.loop);
    if (b.client >= 0)
        close(b.client);
    for (size_t i = 0; i < b.n_targets; i++) {
        assert_true(b.targets[i].is_done);
        if (b.targets[i].fd >= 0)
            close(b.targets[i].fd);
        buf_done(&b.targets[i].got);
    }
    buf_done(&b.got);
    loop_free(b.loop);
    return 0;
}

static void drain(int fd, struct buf *into, bool *end)
{
    char part[65536];
    ssize_t n = -1;
    while (fd >= 0 && (n = recv(fd, part, sizeof(part), 0)) > 0)
        buf_append(into, part, (size_t)n);
    *end = *end || (fd >= 0 && n == 0);
}

static void turn(void)
{
    for (int i = 0; i < 30; i++) {
        loop_turn(b.loop, false);
        drain(b.client, &b.got, &b.got_end);
        for (size_t k = 0; k < b.n_targets; k++)
            drain(b.targets[k].fd, &b.targets[k].got, &b.targets[k].got_end);
    }
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    turn();
}

static void ask(const char *text)
{
    say(b.client, text);
}

static void let_pass(void)
{
    struct gateway_decision d = {0};
    snprintf(d.key, sizeof(d.key), "%s", b.key);
    gateway_decide(b.asked[b.n_decided++], &d);
    turn();
}

/* The target has read to the end, and closes. */
static void hang_up(size_t i)
{
    assert_true(b.targets[i].got_end);
    close(b.targets[i].fd);
    b.targets[i].fd = -1;
    turn();
}

static bool starts(const struct buf *got, const char *text)
{
    return strncmp(buf_text(got), text, strlen(text)) == 0;
}

static bool has(const struct buf *got, const char *text)
{
    return strstr(buf_text(got), text) != NULL;
}

static void an_answer_comes_back_and_the_stream_is_used_again(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    assert_int_equal(b.n_asked, 1);
    assert_string_equal(b.last_path, "/x");
    let_pass();
    assert_true(starts(&b.targets[0].got, "GET /x HTTP/1.1\r\nHost: a.example\r\n"));
    assert_true(has(&b.targets[0].got, "X-Forwarded-For: 192.0.2.1\r\n"));
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi");
    assert_true(starts(&b.got, "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 2\r\n\r\nhi"));
    buf_clear(&b.got);
    ask("GET /y HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    assert_int_equal(b.n_targets, 1);
    say(b.targets[0].fd, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_true(starts(&b.got, "HTTP/1.1 204 No Content\r\n\r\n"));
    loop_advance(b.loop, 4000); /* idle for too long */
    turn();
    hang_up(0);
    assert_true(b.targets[0].is_done && b.targets[0].done_err == 0);
    assert_false(b.got_end);
}

static void requests_are_taken_one_by_one(void **state)
{
    ask("GET /1 HTTP/1.1\r\n" HEAD "\r\nGET /2 HTTP/1.1\r\n" HEAD "\r\n");
    assert_int_equal(b.n_asked, 1);
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    assert_int_equal(b.n_asked, 2);
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    assert_true(has(&b.got, "\r\n\r\n1HTTP/1.1 200") && has(&b.got, "\r\n\r\n2"));
}

static void a_body_without_length_is_chunked_on_both_sides(void **state)
{
    ask("POST /x HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let_pass();
    assert_true(has(&b.targets[0].got, "Transfer-Encoding: chunked\r\n"));
    assert_true(has(&b.targets[0].got, "\r\n\r\n3\r\nabc\r\n"));
    ask("2\r\nde\r\n0\r\n\r\n");
    assert_true(has(&b.targets[0].got, "2\r\nde\r\n0\r\n\r\n"));
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    assert_true(has(&b.got, "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n"));
    say(b.targets[0].fd, "0\r\n\r\n");
    assert_true(has(&b.got, "1\r\nx\r\n0\r\n\r\n"));
}

static void the_target_is_held_back_by_its_client_and_the_client_by_its_target(void **state)
{
    static char block[1 << 20];
    size_t sent = 0;
    ssize_t n;
    memset(block, 'x', sizeof(block));
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    int client = b.client;
    b.client = -1; /* nobody reads there */
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    for (int i = 0; i < 200; i++) {
        if ((n = send(b.targets[0].fd, block, sizeof(block), MSG_NOSIGNAL)) > 0)
            sent += (size_t)n;
        turn();
    }
    assert_true(sent < 4u << 20);
    b.client = client;
    size_t before = sent;
    for (int i = 0; i < 20; i++) {
        turn();
        if ((n = send(b.targets[0].fd, block, sizeof(block), MSG_NOSIGNAL)) > 0)
            sent += (size_t)n;
    }
    assert_true(sent > before);
}

static void an_upload_is_held_back_by_its_target(void **state)
{
    static char block[1 << 20];
    size_t sent = 0;
    ssize_t n;
    ask("POST /x HTTP/1.1\r\n" HEAD "Content-Length: 100000000\r\n\r\n");
    let_pass();
    int target = b.targets[0].fd;
    b.targets[0].fd = -1; /* does not read */
    for (int i = 0; i < 200; i++) {
        if ((n = send(b.client, block, sizeof(block), MSG_NOSIGNAL)) > 0)
            sent += (size_t)n;
        turn();
    }
    assert_true(sent < 4u << 20);
    b.targets[0].fd = target;
}

static void an_answer_until_the_end_needs_a_proper_end(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\n\r\nabc");
    shutdown(b.targets[0].fd, SHUT_WR);
    turn();
    assert_true(has(&b.got, "3\r\nabc\r\n0\r\n\r\n"));
    buf_clear(&b.got);
    ask("GET /y HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[1].fd, "HTTP/1.1 200 OK\r\n\r\nabc");
    close(b.targets[1].fd); /* as when the stream was reset */
    b.targets[1].fd = -1;
    turn();
    assert_true(has(&b.got, "3\r\nabc\r\n"));
    assert_false(has(&b.got, "\r\n0\r\n\r\n"));
    assert_true(b.got_end);
}

static void a_stream_that_fails_tells_why(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "Accept: text/html\r\n\r\n");
    let_pass();
    close(b.targets[0].fd);
    b.targets[0].fd = -1;
    turn();
    assert_int_equal(b.got.len, 0); /* it waits to be told */
    gateway_dialled(b.targets[0].stream, ERR_TIMEOUT, "it took <too> long");
    turn();
    assert_true(starts(&b.got, "HTTP/1.1 504 Gateway Timeout\r\n"));
    assert_true(has(&b.got, "proxy-status: warren; error=connection_timeout\r\n"));
    assert_true(has(&b.got, "it took 'too' long"));
    assert_false(b.got_end);
}

static void a_stream_that_was_closed_while_idle_is_replaced(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    ask("GET /y HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    assert_true(has(&b.targets[0].got, "GET /y"));
    shutdown(b.targets[0].fd, SHUT_WR); /* crossed on the way */
    turn();
    assert_int_equal(b.n_targets, 2);
    assert_true(has(&b.targets[1].got, "GET /y"));
    say(b.targets[1].fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny");
    assert_true(has(&b.got, "\r\n\r\ny"));
}

static void a_stream_of_an_earlier_generation_is_closed_and_not_used(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    b.key = "target 12";
    ask("GET /y HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    assert_int_equal(b.n_targets, 2);
    hang_up(0);
    say(b.targets[1].fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    b.key = "targe 1"; /* another's */
    ask("GET /z HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    assert_int_equal(b.n_targets, 3);
    assert_false(b.targets[1].got_end);
    gateway_drain(b.gateway);
    turn();
    hang_up(1);
}

static void what_cannot_be_repeated_is_not(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    buf_clear(&b.got);
    ask("POST /y HTTP/1.1\r\n" HEAD "Content-Length: 1\r\n\r\ny");
    let_pass();
    shutdown(b.targets[0].fd, SHUT_WR);
    turn();
    assert_int_equal(b.n_targets, 1);
    assert_true(starts(&b.got, "HTTP/1.1 502 Bad Gateway\r\n"));
}

static void a_target_that_does_not_answer_is_given_up(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    loop_advance(b.loop, 5001);
    turn();
    assert_true(starts(&b.got, "HTTP/1.1 504 Gateway Timeout\r\n"));
    assert_true(b.targets[0].is_done && b.targets[0].done_err < 0);
}

static void a_client_that_does_not_send_its_body_is_told(void **state)
{
    ask("POST /x HTTP/1.1\r\n" HEAD "Content-Length: 10\r\n\r\n");
    let_pass();
    loop_advance(b.loop, 5001);
    turn();
    assert_true(starts(&b.got, "HTTP/1.1 408 Request Timeout\r\n"));
    assert_true(has(&b.got, "connection: close\r\n"));
    assert_true(b.targets[0].is_done && b.targets[0].done_err < 0);
}

static void a_broken_body_cuts_the_request_at_its_target(void **state)
{
    ask("POST /x HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let_pass();
    ask("zz\r\n");
    assert_true(starts(&b.got, "HTTP/1.1 400 Bad Request\r\n"));
    assert_true(b.targets[0].is_done && b.targets[0].done_err < 0);
    assert_false(has(&b.targets[0].got, "\r\n0\r\n\r\n"));
}

static void a_client_that_leaves_takes_its_request_along(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    close(b.client);
    b.client = -1;
    turn();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx");
    assert_true(b.targets[0].is_done);
}

static void a_client_may_leave_before_it_is_decided(void **state)
{
    ask("POST /x HTTP/1.1\r\n" HEAD "Content-Length: 10\r\n\r\nx");
    close(b.client);
    b.client = -1;
    turn();
    let_pass();
    assert_int_equal(b.n_targets, 0);
    assert_int_equal(gateway_stats(b.gateway)->exchanges, 0);
}

static void a_web_socket_becomes_bytes_both_ways(void **state)
{
    ask("GET /ws HTTP/1.1\r\n" HEAD "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: k\r\n\r\nearly");
    let_pass();
    assert_true(has(&b.targets[0].got, "Upgrade: websocket\r\n"));
    assert_false(has(&b.targets[0].got, "early")); /* not before it is agreed */
    say(b.targets[0].fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\n\x81hi");
    assert_true(has(&b.got, "sec-websocket-accept: a\r\n"));
    assert_true(has(&b.got, "\r\n\r\n\x81hi"));
    assert_true(has(&b.targets[0].got, "\r\n\r\nearly"));
    ask("\x82later");
    assert_true(has(&b.targets[0].got, "early\x82later"));
    shutdown(b.client, SHUT_WR);
    turn();
    assert_true(b.targets[0].got_end);
    shutdown(b.targets[0].fd, SHUT_WR);
    turn();
    assert_true(b.got_end);
}

static void a_change_of_protocol_nobody_asked_for_is_an_error(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    let_pass();
    assert_false(has(&b.targets[0].got, "h2c"));
    say(b.targets[0].fd, "HTTP/1.1 101 Switching Protocols\r\n\r\nsmuggled");
    assert_true(starts(&b.got, "HTTP/1.1 502 Bad Gateway\r\n"));
    assert_false(has(&b.got, "smuggled"));
}

static void bytes_after_an_answer_are_nobodys(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n");
    hang_up(0); /* it is not used again */
    assert_true(b.targets[0].is_done);
    ask("GET /y HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    assert_int_equal(b.n_targets, 2);
}

static void expectations_are_answered_once_the_request_passes(void **state)
{
    ask("POST /x HTTP/1.1\r\n" HEAD "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_int_equal(b.got.len, 0);
    let_pass();
    assert_true(starts(&b.got, "HTTP/1.1 100 Continue\r\n\r\n"));
    ask("hi");
    assert_true(has(&b.targets[0].got, "\r\n\r\nhi"));
    assert_false(has(&b.targets[0].got, "Expect"));
    say(b.targets[0].fd,
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_true(has(&b.got, "HTTP/1.1 200 OK\r\n"));
}

static void paths_of_our_own_come_with_their_body(void **state)
{
    ask("POST /.warren/login HTTP/1.1\r\n" HEAD "Content-Length: 7\r\n\r\ntok");
    assert_int_equal(b.n_asked, 0);
    ask("en=x");
    assert_int_equal(b.n_asked, 1);
    assert_string_equal(b.last_body, "token=x");
    let_pass(); /* never to the target, whatever was decided */
    assert_int_equal(b.n_targets, 0);
    assert_true(starts(&b.got, "HTTP/1.1 404 Not Found\r\n"));
    buf_clear(&b.got);
    ask("POST /.warren/x HTTP/1.1\r\n" HEAD "Content-Length: 99999\r\n\r\n");
    assert_true(starts(&b.got, "HTTP/1.1 413 Content Too Large\r\n"));
}

static void a_decision_may_be_an_answer(void **state)
{
    static const struct http_header headers[] = {{"www-authenticate", "Basic"}, {NULL, NULL}};
    const struct gateway_decision d = {.status = 401, .body = "who?", .headers = headers};
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    gateway_decide(b.asked[b.n_decided++], &d);
    turn();
    assert_true(starts(&b.got, "HTTP/1.1 401 Unauthorized\r\n"));
    assert_true(has(&b.got, "www-authenticate: Basic\r\n") && has(&b.got, "\"detail\":\"who?\""));
    assert_false(b.got_end);
}

static void draining_ends_connections_after_their_answers(void **state)
{
    ask("GET /x HTTP/1.1\r\n" HEAD "\r\n");
    let_pass();
    gateway_drain(b.gateway);
    say(b.targets[0].fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    assert_true(has(&b.got, "connection: close\r\n") && has(&b.got, "\r\n\r\nx"));
    assert_true(b.got_end);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_answer_comes_back_and_the_stream_is_used_again),
        TEST(requests_are_taken_one_by_one),
        TEST(a_body_without_length_is_chunked_on_both_sides),
        TEST(the_target_is_held_back_by_its_client_and_the_client_by_its_target),
        TEST(an_upload_is_held_back_by_its_target),
        TEST(an_answer_until_the_end_needs_a_proper_end),
        TEST(a_stream_that_fails_tells_why),
        TEST(a_stream_that_was_closed_while_idle_is_replaced),
        TEST(a_stream_of_an_earlier_generation_is_closed_and_not_used),
        TEST(what_cannot_be_repeated_is_not),
        TEST(a_target_that_does_not_answer_is_given_up),
        TEST(a_client_that_does_not_send_its_body_is_told),
        TEST(a_broken_body_cuts_the_request_at_its_target),
        TEST(a_client_that_leaves_takes_its_request_along),
        TEST(a_client_may_leave_before_it_is_decided),
        TEST(a_web_socket_becomes_bytes_both_ways),
        TEST(a_change_of_protocol_nobody_asked_for_is_an_error),
        TEST(bytes_after_an_answer_are_nobodys),
        TEST(expectations_are_answered_once_the_request_passes),
        TEST(paths_of_our_own_come_with_their_body),
        TEST(a_decision_may_be_an_answer),
        TEST(draining_ends_connections_after_their_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
