#include "net/h2conn.h"

#include "base/error.h"
#include "base/time.h"
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct end {
    struct h2conn *hc;
    struct h2_stream *stream;
    int requests, closes, stream_closes, err;
    uint32_t goaway;
    bool got_goaway;
};

static void on_stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct end *e = arg;
    e->stream_closes++;
    e->stream = NULL;
}

static const struct h2_stream_ops stream_ops = {.on_close = on_stream_close};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct end *e = arg;
    e->requests++;
    e->stream = s;
    h2_stream_set(s, &stream_ops, e);
    assert_ptr_equal(h2conn_of(s), e->hc);
}

static void on_goaway(void *arg, uint32_t error)
{
    struct end *e = arg;
    e->got_goaway = true;
    e->goaway = error;
}

static void on_close(void *arg, int err)
{
    struct end *e = arg;
    assert_int_equal(e->stream_closes, e->requests); /* streams first */
    e->closes++;
    e->err = err;
    e->hc = NULL;
}

static const struct h2conn_ops ops = {
    .on_request = on_request, .on_goaway = on_goaway, .on_close = on_close};

static struct h2conn *make(struct loop *l, int fd, bool is_server, struct end *e)
{
    struct conn *c;
    struct h2conn_config cfg = {.h2 = {.is_server = is_server}, .ping_ms = 150, .dead_ms = 450};
    assert_int_equal(conn_new_plain(l, fd, NULL, &c), 0);
    e->hc = h2conn_new(c, &cfg, &ops, e);
    return e->hc;
}

struct pair {
    struct loop *loop;
    struct end client, server;
};

static void pair_new(struct pair *p)
{
    int fds[2];
    memset(p, 0, sizeof(*p));
    assert_int_equal(loop_new(&p->loop), 0);
    test_tcp_pair(fds);
    make(p->loop, fds[0], false, &p->client);
    make(p->loop, fds[1], true, &p->server);
}

static void request(struct pair *p)
{
    assert_int_equal(h2_request(h2conn_session(p->client.hc),
                                H2_HEADERS({":method", "GET"}, {":scheme", "https"},
                                           {":authority", "h"}, {":path", "/"}),
                                4, false, &stream_ops, &p->client, &p->client.stream),
                     0);
    p->client.requests++;
    wait_for(p->loop, p->server.requests == 1);
}

static void answer(struct pair *p)
{
    h2_respond(p->server.stream, H2_HEADERS({":status", "204"}), 1, false);
}

static void an_idle_connection_is_kept_alive_by_pings(void **state)
{
    struct pair p;
    pair_new(&p);
    uint64_t start = time_mono_ms();
    while (time_mono_ms() - start < 1500) /* more than twice what silence would end */
        test_turn(p.loop);
    assert_int_equal(p.client.closes + p.server.closes, 0);
    h2conn_abort(p.client.hc, ERR_CANCELED);
    wait_for(p.loop, p.client.closes && p.server.closes);
    assert_int_equal(p.client.err, ERR_CANCELED);
    loop_free(p.loop);
}

static void a_peer_that_says_nothing_is_found_dead(void **state)
{
    struct end e = {0};
    struct loop *l;
    int fds[2];
    assert_int_equal(loop_new(&l), 0);
    test_tcp_pair(fds);
    make(l, fds[0], false, &e);
    uint64_t start = time_mono_ms();
    wait_for(l, e.closes);
    assert_int_equal(e.err, ERR_TIMEOUT);
    assert_in_range(time_mono_ms() - start, 550, 5000);
    close(fds[1]);
    loop_free(l);
}

/* Longer than silence would take to end a connection; nothing is run meanwhile. */
static void hold_up(void)
{
    uint64_t start = time_mono_ms();
    while (time_mono_ms() - start < 800)
        ;
}

static void a_loop_that_was_held_up_asks_before_it_finds_a_peer_dead(void **state)
{
    struct pair p;
    pair_new(&p);
    request(&p);
    hold_up();
    uint64_t start = time_mono_ms();
    while (time_mono_ms() - start < 1000)
        test_turn(p.loop);
    assert_int_equal(p.client.closes + p.server.closes, 0);
    h2conn_abort(p.client.hc, ERR_CANCELED);
    wait_for(p.loop, p.client.closes && p.server.closes);
    loop_free(p.loop);
}

static void an_answer_that_lies_unread_is_an_answer(void **state)
{
    struct end client = {0}, server = {0};
    struct loop *late, *other;
    int fds[2];
    assert_int_equal(loop_new(&late), 0);
    assert_int_equal(loop_new(&other), 0);
    test_tcp_pair(fds);
    struct conn *c = h2conn_conn(make(late, fds[0], false, &client));
    make(other, fds[1], true, &server);
    wait_for(late, conn_bytes_out(c));
    wait_for(other, conn_has_unread(c));
    wait_for(late, !conn_has_unread(c));
    uint64_t sent = conn_bytes_out(c), read = conn_bytes_in(c);
    wait_for(late, conn_bytes_out(c) > sent); /* a ping */
    hold_up();
    wait_for(other, conn_has_unread(c));
    wait_for(late, conn_bytes_in(c) > read);
    assert_int_equal(client.closes, 0);
    h2conn_abort(client.hc, ERR_CANCELED);
    wait_for(late, client.closes);
    wait_for(other, server.closes);
    loop_free(late);
    loop_free(other);
}

static void a_shutdown_waits_for_open_streams(void **state)
{
    struct pair p;
    pair_new(&p);
    request(&p);
    h2conn_shutdown(p.server.hc, 5000);
    wait_for(p.loop, p.client.got_goaway);
    assert_int_equal(p.client.goaway, H2_NO_ERROR);
    assert_int_equal(p.server.closes, 0);
    answer(&p);
    wait_for(p.loop, p.client.closes && p.server.closes);
    assert_int_equal(p.server.err, 0);
    assert_int_equal(p.client.err, 0);
    loop_free(p.loop);
}

static void a_shutdown_ends_at_its_grace(void **state)
{
    struct pair p;
    pair_new(&p);
    request(&p);
    h2conn_shutdown(p.server.hc, 50);
    wait_for(p.loop, p.client.closes && p.server.closes);
    assert_int_equal(p.client.stream_closes, 1);
    assert_int_equal(p.server.err, 0);
    loop_free(p.loop);
}

static void garbage_is_answered_with_goaway_and_the_end(void **state)
{
    struct end e = {0};
    struct loop *l;
    int fds[2];
    char answer_bytes[256];
    ssize_t n;
    size_t got = 0;
    assert_int_equal(loop_new(&l), 0);
    test_tcp_pair(fds);
    make(l, fds[0], true, &e);
    send(fds[1], "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, 0);
    wait_for(l, (n = recv(fds[1], answer_bytes, sizeof(answer_bytes), 0)) == 0 ||
                    (n > 0 && (got += (size_t)n, 0)));
    assert_true(got > 9);
    close(fds[1]);
    wait_for(l, e.closes);
    assert_int_equal(e.err, ERR_PROTO);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_connection_is_kept_alive_by_pings),
        cmocka_unit_test(a_peer_that_says_nothing_is_found_dead),
        cmocka_unit_test(a_loop_that_was_held_up_asks_before_it_finds_a_peer_dead),
        cmocka_unit_test(an_answer_that_lies_unread_is_an_answer),
        cmocka_unit_test(a_shutdown_waits_for_open_streams),
        cmocka_unit_test(a_shutdown_ends_at_its_grace),
        cmocka_unit_test(garbage_is_answered_with_goaway_and_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
