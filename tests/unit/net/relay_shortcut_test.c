/*
 * A relay that goes on past the hub between, on one loop:
 *
 *     client ─ near ═══ lane ─ pair ─ far ═══ agent ─ target
 *                ╚════════ shortcut ════════════╝
 */
#include "net/relay.h"

#include "base/error.h"
#include "base/macro.h"
#include "fixture.h"
#include "traffic.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TAG "hub_1/0/0123"

enum link { LINK_NEAR, LINK_FAR, LINK_SHORTCUT, LINK_COUNT };

/* One of the four relays of a client. */
struct side {
    struct relay_set set;
    struct relay_result result;
    int ends;
};

struct rig {
    struct loop *loop;
    struct h2conn *client[LINK_COUNT], *server[LINK_COUNT]; /* of HTTP/2; NULL: gone */
    struct h2conn **slots[2 * LINK_COUNT];
    struct side near, lane, far, agent;
    struct relay_tags tags;
    struct relay *relay; /* the newest of the near one's */
    int listening;       /* the target */
    struct addr target;
    int opens, busy, refused, closed;
};
static struct rig *the_rig;

static void note_end(struct side *s, const struct relay_result *res)
{
    s->result = *res;
    s->ends++;
}

static void on_end(void *arg, struct relay *r, const struct relay_result *res)
{
    note_end(arg, res);
}

static void on_open(void *arg, struct relay *r)
{
    the_rig->opens++;
}

static void on_busy(void *arg, struct relay *r)
{
    the_rig->busy++;
}

/* Its argument is the lane's relay. */
static void on_far_open(void *arg, struct relay *r)
{
    relay_confirm(arg, NULL, 0);
}

static void on_far_end(void *arg, struct relay *r, const struct relay_result *res)
{
    note_end(&the_rig->far, res);
}

static const struct relay_ops near_ops = {.on_open = on_open, .on_busy = on_busy, .on_end = on_end};
static const struct relay_ops far_ops = {.on_open = on_far_open, .on_end = on_far_end};
static const struct relay_ops end_ops = {.on_end = on_end};

static void on_lane_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = the_rig;
    struct relay_pair *pair = relay_pair_new();
    struct relay *r = relay_await(s, &rig->lane.set, &end_ops, &rig->lane), *far;
    const struct relay_open_params p = {.authority = h2_headers_get(h, ":authority"),
                                        .set = &rig->far.set,
                                        .ops = &far_ops,
                                        .arg = r,
                                        .pair = pair};
    assert_int_equal(relay_open(rig->client[LINK_FAR], -1, &p, &far), 0);
    relay_begin_pair(r, pair);
}

static void on_agent_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = the_rig;
    struct relay_accept_params p = {.tag = TAG,
                                    .tags = &rig->tags,
                                    .set = &rig->agent.set,
                                    .ops = &end_ops,
                                    .arg = &rig->agent};
    assert_int_equal(host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL), 0);
    relay_accept(s, &p);
}

static void on_shortcut_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    int rc = relay_accept_shortcut(s, &the_rig->tags, h);
    if (rc == 0)
        return;
    the_rig->refused++;
    relay_refuse(s, rc);
}

static void on_link_close(void *arg, int err)
{
    *(struct h2conn **)arg = NULL;
    the_rig->closed++;
}

static const struct h2conn_ops client_ops = {.on_close = on_link_close};
static const struct h2conn_ops server_ops[LINK_COUNT] = {
    {.on_request = on_lane_request, .on_close = on_link_close},
    {.on_request = on_agent_request, .on_close = on_link_close},
    {.on_request = on_shortcut_request, .on_close = on_link_close},
};
static const struct h2conn_config client_config = {.h2 = {.stream_window_max = 1 << 20}};
static const struct h2conn_config server_config = {.h2 = {.is_server = true,
                                                          .enable_connect = true,
                                                          .max_streams = 20000,
                                                          .stream_window_max = 1 << 20,
                                                          .peer_is_trusted = true}};

static void rig_new(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    the_rig = rig;
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->listening = test_listen(&rig->target);
    for (size_t i = 0; i < LINK_COUNT; i++) {
        int fds[2];
        struct conn *c, *s;
        test_tcp_pair(fds);
        assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &c), 0);
        assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &s), 0);
        rig->client[i] = h2conn_new(c, &client_config, &client_ops, &rig->client[i]);
        rig->server[i] = h2conn_new(s, &server_config, &server_ops[i], &rig->server[i]);
    }
    for (size_t i = 0; i < LINK_COUNT; i++)
        wait_for(rig->loop, h2conn_takes_protocols(rig->client[i]));
}

static void cut_link(struct rig *rig, enum link i)
{
    int before = rig->closed;
    h2conn_abort(rig->client[i], ERR_CANCELED);
    wait_for(rig->loop, rig->closed == before + 2);
}

static void rig_done(struct rig *rig)
{
    for (size_t i = 0; i < LINK_COUNT; i++) {
        if (rig->client[i])
            cut_link(rig, i);
    }
    assert_null(rig->near.set.head);
    assert_null(rig->lane.set.head);
    assert_null(rig->far.set.head);
    assert_null(rig->agent.set.head);
    assert_null(rig->tags.all);
    close(rig->listening);
    loop_free(rig->loop);
}

static void open_pair(struct rig *rig, int *client, int *target)
{
    int before = rig->opens, fds[2];
    char authority[ADDR_TEXT_SIZE];
    addr_format(&rig->target, authority, sizeof(authority));
    test_tcp_pair(fds);
    const struct relay_open_params p = {
        .authority = authority, .set = &rig->near.set, .ops = &near_ops, .arg = &rig->near};
    assert_int_equal(relay_open(rig->client[LINK_NEAR], fds[1], &p, &rig->relay), 0);
    *client = fds[0];
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

static int take_shortcut(struct rig *rig)
{
    return relay_take_shortcut(rig->relay, rig->client[LINK_SHORTCUT], TAG);
}

static bool all_ended(const struct rig *rig, int n)
{
    return rig->near.ends == n && rig->lane.ends == n && rig->far.ends == n && rig->agent.ends == n;
}

static size_t streams(const struct rig *rig, enum link i)
{
    return h2_stream_count(h2conn_session(rig->client[i]));
}

/* Nothing is left, and all four say that all went well. */
static void expect_finished(struct rig *rig, int n)
{
    wait_for(rig->loop, all_ended(rig, n));
    assert_int_equal(rig->near.result.end, RELAY_END_FINISHED);
    assert_int_equal(rig->lane.result.end, RELAY_END_FINISHED);
    assert_int_equal(rig->far.result.end, RELAY_END_FINISHED);
    assert_int_equal(rig->agent.result.end, RELAY_END_FINISHED);
    for (size_t i = 0; i < LINK_COUNT; i++)
        wait_for(rig->loop, !streams(rig, i));
}

static void bytes_go_past_the_hub_between_and_it_keeps_the_stream(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    test_transfer(rig.loop, client, target, 3000);
    test_transfer(rig.loop, target, client, 5000);
    assert_int_equal(take_shortcut(&rig), 0);
    assert_true(relay_is_on_shortcut(rig.relay));
    assert_int_equal(take_shortcut(&rig), ERR_UNAVAILABLE); /* once */
    for (int i = 0; i < 20; i++) {
        test_transfer(rig.loop, client, target, 1);
        test_transfer(rig.loop, target, client, 1);
    }
    assert_ptr_equal(relay_conn(rig.relay), rig.client[LINK_SHORTCUT]);
    const struct conn *near = h2conn_conn(rig.client[LINK_NEAR]);
    uint64_t before = conn_bytes_in(near) + conn_bytes_out(near);
    test_transfer(rig.loop, client, target, 3000000);
    test_transfer(rig.loop, target, client, 5000000);
    assert_true(conn_bytes_in(near) + conn_bytes_out(near) - before < 1000);
    assert_int_equal(streams(&rig, LINK_NEAR), 1);
    assert_int_equal(streams(&rig, LINK_FAR), 1);
    assert_int_equal(streams(&rig, LINK_SHORTCUT), 1);
    assert_int_equal(take_shortcut(&rig), ERR_UNAVAILABLE);
    shutdown(client, SHUT_WR);
    wait_for(rig.loop, test_is_end(target));
    test_transfer(rig.loop, target, client, 100000); /* half closed */
    close(target);
    wait_for(rig.loop, test_is_end(client));
    expect_finished(&rig, 1);
    assert_int_equal(rig.near.result.bytes_read, 3003020);
    assert_int_equal(rig.near.result.bytes_written, 5105020);
    assert_int_equal(rig.agent.result.bytes_read, 5105020);
    close(client);
    rig_done(&rig);
}

/* Connections that deliver at random, so that the two streams overtake each other in every way. */
static void hold_some(struct rig *rig, unsigned *seed)
{
    for (size_t i = 0; i < LINK_COUNT; i++) {
        struct conn *c = h2conn_conn(rand_r(seed) % 2 ? rig->client[i] : rig->server[i]);
        if (rand_r(seed) % 3)
            conn_resume(c);
        else
            conn_pause(c);
    }
}

static bool is_over(struct way *w, bool *is_shut)
{
    if (w->sent == w->bytes && !*is_shut) {
        *is_shut = true;
        shutdown(w->from, SHUT_WR);
    }
    return w->got == w->bytes && *is_shut;
}

static void random_life(struct rig *rig, unsigned seed)
{
    int client, target, ends = rig->near.ends;
    size_t most = seed % 3 ? 3000 : 2000000;
    bool up_shut = false, down_shut = false;
    open_pair(rig, &client, &target);
    struct way up = {client, target, 1 + (size_t)rand_r(&seed) % most, 0, 0};
    struct way down = {target, client, 1 + (size_t)rand_r(&seed) % most, 0, 0};
    uint64_t end = test_deadline();
    while (!is_over(&up, &up_shut) || !is_over(&down, &down_shut)) {
        if (rig->near.ends == ends && rand_r(&seed) % 4 == 0)
            take_shortcut(rig);
        hold_some(rig, &seed);
        if (rand_r(&seed) % 3)
            way_move(&up);
        if (rand_r(&seed) % 3)
            way_move(&down);
        test_turn(rig->loop);
        test_check_deadline(end, "both ways");
    }
    for (size_t i = 0; i < LINK_COUNT; i++) {
        conn_resume(h2conn_conn(rig->client[i]));
        conn_resume(h2conn_conn(rig->server[i]));
    }
    expect_finished(rig, ends + 1);
    close(client);
    close(target);
}

static void no_order_of_events_loses_or_repeats_a_byte(void **state)
{
    struct rig rig;
    rig_new(&rig);
    for (unsigned seed = 1; seed <= 150; seed++)
        random_life(&rig, seed);
    rig_done(&rig);
}

static void a_shortcut_that_is_refused_changes_nothing(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    assert_int_equal(relay_take_shortcut(rig.relay, rig.client[LINK_SHORTCUT], "hub_1/0/another"),
                     0);
    test_transfer(rig.loop, client, target, 300000);
    test_transfer(rig.loop, target, client, 300000);
    wait_for(rig.loop, rig.refused == 1);
    wait_for(rig.loop, !relay_is_on_shortcut(rig.relay));
    assert_int_equal(take_shortcut(&rig), 0); /* the next one is not */
    test_transfer(rig.loop, client, target, 300000);
    wait_for(rig.loop, relay_conn(rig.relay) == rig.client[LINK_SHORTCUT]);
    close(client);
    wait_for(rig.loop, test_is_end(target));
    close(target);
    expect_finished(&rig, 1);
    rig_done(&rig);
}

/* Whichever is lost: the hub between has the last word, as it had before. */
static void a_link_that_is_lost_resets_both_ends(void **state)
{
    for (enum link lost = 0; lost < LINK_COUNT; lost++) {
        for (int turns = 0; turns < 12; turns++) { /* amid the move, and after it */
            struct rig rig;
            int client, target;
            rig_new(&rig);
            open_pair(&rig, &client, &target);
            assert_int_equal(take_shortcut(&rig), 0);
            for (int i = 0; i < turns; i++)
                test_turn(rig.loop);
            cut_link(&rig, lost);
            wait_for(rig.loop, all_ended(&rig, 1));
            assert_int_not_equal(rig.near.result.end, RELAY_END_FINISHED);
            assert_int_not_equal(rig.agent.result.end, RELAY_END_FINISHED);
            assert_true(test_is_reset(client));
            assert_true(test_is_reset(target));
            close(client);
            close(target);
            rig_done(&rig);
        }
    }
}

static void a_reset_is_carried_either_way(void **state)
{
    for (int by_client = 0; by_client < 2; by_client++) {
        for (int turns = 0; turns < 12; turns++) {
            struct rig rig;
            int client, target;
            rig_new(&rig);
            open_pair(&rig, &client, &target);
            assert_int_equal(take_shortcut(&rig), 0);
            for (int i = 0; i < turns; i++)
                test_turn(rig.loop);
            test_reset(by_client ? client : target);
            wait_for(rig.loop, all_ended(&rig, 1));
            wait_for(rig.loop, test_is_reset(by_client ? target : client));
            close(by_client ? target : client);
            rig_done(&rig);
        }
    }
}

static void small_messages_make_it_busy(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    open_pair(&rig, &client, &target);
    for (int i = 0; i < RELAY_BUSY_PIECES; i++) {
        test_transfer(rig.loop, client, target, 1);
        test_transfer(rig.loop, target, client, 1);
    }
    assert_true(rig.busy >= 1 && rig.busy <= 2);
    close(client);
    close(target);
    wait_for(rig.loop, all_ended(&rig, 1));
    rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_past_the_hub_between_and_it_keeps_the_stream),
        cmocka_unit_test(no_order_of_events_loses_or_repeats_a_byte),
        cmocka_unit_test(a_shortcut_that_is_refused_changes_nothing),
        cmocka_unit_test(a_link_that_is_lost_resets_both_ends),
        cmocka_unit_test(a_reset_is_carried_either_way),
        cmocka_unit_test(small_messages_make_it_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
