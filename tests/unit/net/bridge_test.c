#include "net/bridge.h"

#include "base/error.h"
#include "base/macro.h"
#include "fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BIG (4u << 20)

/* peer ── TCP ── conn ─ bridge ─ socketpair ── local */
struct rig {
    struct loop *loop;
    struct bridge *bridge;
    int peer, local, bridged; /* bridged: the connection's */
    int ends, err;
};

static void on_end(void *arg, int err)
{
    struct rig *r = arg;
    r->ends++;
    r->err = err;
}

static const struct bridge_ops ops = {.on_end = on_end};

static int set_up(void **state)
{
    static struct rig r;
    int tcp[2], pair[2];
    struct conn *c;
    r = (struct rig){0};
    assert_int_equal(loop_new(&r.loop), 0);
    test_tcp_pair(tcp);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    r.peer = tcp[0];
    r.bridged = tcp[1];
    r.local = pair[0];
    assert_int_equal(conn_new_plain(r.loop, tcp[1], NULL, &c), 0);
    assert_int_equal(bridge_new(c, pair[1], &ops, &r, &r.bridge), 0);
    *state = &r;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    if (!r->ends)
        bridge_finish(r->bridge, ERR_CANCELED);
    loop_settle(r->loop);
    assert_int_equal(r->ends, 1);
    if (r->peer >= 0)
        close(r->peer);
    if (r->local >= 0)
        close(r->local);
    loop_free(r->loop);
    return 0;
}

/* What recv gives: bytes, 0 at the end, -errno; turns the loop while there is nothing. */
static int get(struct rig *r, int fd, void *data, size_t len)
{
    uint64_t end = test_deadline();
    for (;;) {
        ssize_t n = recv(fd, data, len, 0);
        if (n >= 0 || errno != EAGAIN)
            return n >= 0 ? (int)n : -errno;
        test_turn(r->loop);
        test_check_deadline(end, "something to read");
    }
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void expect(struct rig *r, int fd, const char *text)
{
    char got[64];
    assert_int_equal(get(r, fd, got, sizeof(got)), strlen(text));
    assert_memory_equal(got, text, strlen(text));
}

static void test_bytes_pass_both_ways(void **state)
{
    struct rig *r = *state;
    say(r->peer, "to the local side");
    expect(r, r->local, "to the local side");
    say(r->local, "and back");
    expect(r, r->peer, "and back");
}

static void test_what_the_owner_says_comes_before_the_local_bytes(void **state)
{
    struct rig *r = *state;
    say(r->local, "second");
    bridge_say(r->bridge, "first ", 6);
    expect(r, r->peer, "first second");
}

static void test_each_direction_ends_for_itself(void **state)
{
    struct rig *r = *state;
    char c;
    shutdown(r->peer, SHUT_WR);
    assert_int_equal(get(r, r->local, &c, 1), 0);
    say(r->local, "still talking");
    expect(r, r->peer, "still talking");
    assert_int_equal(r->ends, 0);
    shutdown(r->local, SHUT_WR);
    bridge_finish(r->bridge, 0);
    assert_int_equal(get(r, r->peer, &c, 1), 0);
    wait_for(r->loop, r->ends);
    assert_int_equal(r->err, 0);
}

static void test_the_local_side_may_end_first(void **state)
{
    struct rig *r = *state;
    char c;
    say(r->local, "last words");
    shutdown(r->local, SHUT_WR);
    expect(r, r->peer, "last words");
    assert_int_equal(get(r, r->peer, &c, 1), 0);
    say(r->peer, "an answer");
    expect(r, r->local, "an answer");
    shutdown(r->peer, SHUT_WR);
    assert_int_equal(get(r, r->local, &c, 1), 0);
    assert_int_equal(r->ends, 0); /* until the owner says so */
    bridge_finish(r->bridge, 0);
    wait_for(r->loop, r->ends);
    assert_int_equal(r->err, 0);
}

static void test_a_closed_local_side_is_no_end_before_the_owner_says_which(void **state)
{
    struct rig *r = *state;
    char c;
    close(r->local);
    r->local = -1;
    for (int i = 0; i < 20; i++)
        test_turn(r->loop);
    assert_int_equal(recv(r->peer, &c, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
    bridge_finish(r->bridge, ERR_RESET);
    assert_int_equal(get(r, r->peer, &c, 1), -ECONNRESET);
    wait_for(r->loop, r->ends);
    assert_int_equal(r->err, ERR_RESET);
}

static void test_the_last_bytes_of_a_finished_side_arrive(void **state)
{
    struct rig *r = *state;
    char c;
    say(r->local, "bye");
    close(r->local);
    r->local = -1;
    bridge_finish(r->bridge, 0);
    expect(r, r->peer, "bye");
    assert_int_equal(get(r, r->peer, &c, 1), 0);
    shutdown(r->peer, SHUT_WR);
    wait_for(r->loop, r->ends);
    assert_int_equal(r->err, 0);
}

static void test_a_reset_of_the_peer_is_told_while_the_local_side_is_open(void **state)
{
    struct rig *r = *state;
    struct linger zero = {.l_onoff = 1};
    setsockopt(r->peer, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    close(r->peer);
    r->peer = -1;
    wait_for(r->loop, r->ends);
    assert_int_equal(r->err, ERR_RESET);
}

/* Sends BIG bytes from one side; the other begins to read when nothing more fits. */
static void carry_much(struct rig *r, int from, int to)
{
    static uint8_t data[BIG], got[BIG];
    size_t sent = 0, received = 0;
    for (size_t i = 0; i < BIG; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    int idle = 0;
    while (idle < 50) {
        ssize_t n = send(from, data + sent, BIG - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        loop_turn(r->loop, false);
    }
    assert_true(sent < BIG); /* nothing swallows without end */
    while (received < BIG) {
        ssize_t n = send(from, data + sent, BIG - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        int m = get(r, to, got + received, BIG - received);
        assert_true(m > 0);
        received += (size_t)m;
    }
    assert_memory_equal(data, got, BIG);
}

/* They do not grow then. */
static void small_buffers(int fd)
{
    int size = 64 << 10;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

static void test_a_slow_local_side_holds_the_peer(void **state)
{
    struct rig *r = *state;
    small_buffers(r->peer);
    small_buffers(r->bridged);
    carry_much(r, r->peer, r->local);
}

static void test_a_slow_peer_holds_the_local_side(void **state)
{
    struct rig *r = *state;
    small_buffers(r->peer);
    small_buffers(r->bridged);
    carry_much(r, r->local, r->peer);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_bytes_pass_both_ways),
        TEST(test_what_the_owner_says_comes_before_the_local_bytes),
        TEST(test_each_direction_ends_for_itself),
        TEST(test_the_local_side_may_end_first),
        TEST(test_a_closed_local_side_is_no_end_before_the_owner_says_which),
        TEST(test_the_last_bytes_of_a_finished_side_arrive),
        TEST(test_a_reset_of_the_peer_is_told_while_the_local_side_is_open),
        TEST(test_a_slow_local_side_holds_the_peer),
        TEST(test_a_slow_peer_holds_the_local_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
