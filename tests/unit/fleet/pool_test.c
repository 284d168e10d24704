/* An agent's reverse connections at the hub: where they live, how many there are, who uses which.
 */
#include "../tunnel/bench.h"

#include "base/error.h"
#include "base/macro.h"
#include "fleet/internal.h"
#include "net/relay.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct fleet_pool *pool_of(struct bench *b, const char *agent)
{
    return fleet_agent_find(b->fleet, agent)->pool;
}

static void wait_active(struct bench *b, const struct tunnel_object *o)
{
    wait_for(b->loop, o->t.phase == TUNNEL_ACTIVE);
}

struct stream {
    int client, target;
};

static struct stream open_stream(struct bench *b, struct tunnel_object *o)
{
    size_t before = b->n_served;
    struct stream s = {.client = bench_connect(b, o)};
    wait_for(b->loop, b->n_served == before + 1);
    s.target = b->served[before];
    bench_pass(b, s.client, s.target, "hello");
    return s;
}

static void prove(struct bench *b, const struct stream *s)
{
    bench_pass(b, s->client, s->target, "to the target");
    bench_pass(b, s->target, s->client, "to the client");
}

/* Moves bytes in one go, so that the stream is bulk. */
static void pour(struct bench *b, const struct stream *s, size_t bytes)
{
    static char out[65536], in[65536];
    size_t sent = 0, got = 0;
    uint64_t end = test_deadline();
    while (got < bytes) {
        ssize_t n = sent < bytes ? send(s->client, out, MIN(sizeof(out), bytes - sent),
                                        MSG_DONTWAIT | MSG_NOSIGNAL)
                                 : 0;
        sent += n > 0 ? (size_t)n : 0;
        n = recv(s->target, in, sizeof(in), MSG_DONTWAIT);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        got += n > 0 ? (size_t)n : 0;
        test_turn(b->loop);
        test_check_deadline(end, "bulk");
    }
}

static uint64_t moves(struct bench *b)
{
    struct fleet_stats stats;
    fleet_stats(b->fleet, &stats);
    return stats.moves;
}

static size_t members(struct bench *b)
{
    struct fleet_stats stats;
    fleet_stats(b->fleet, &stats);
    return stats.links;
}

static void two_agents_have_different_homes(void **state)
{
    struct bench *b = *state;
    struct bench_agent one, two;
    bench_agent_start(b, &one, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "one", "127.0.0.1:0", 0);
    wait_active(b, o);
    bench_agent_start(b, &two, AGENT_2);
    struct tunnel_object *p = bench_tunnel(b, "two", "127.0.0.1:0", 0);
    wait_active(b, p);
    wait_for(b->loop, pool_of(b, AGENT_1) && pool_of(b, AGENT_2));
    assert_ptr_not_equal(pool_of(b, AGENT_1)->worker, pool_of(b, AGENT_2)->worker);
    bench_agent_stop(&one);
    bench_agent_stop(&two);
    wait_for(b->loop, b->fleet->n_pools == 0);
    for (size_t i = 0; i < b->fleet->n_homes; i++)
        assert_int_equal(b->fleet->homes[i].n_pools, 0);
}

static void a_bulk_stream_leaves_the_connection_to_the_others(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 0);
    wait_active(b, o);
    assert_int_equal(members(b), 1);
    struct stream quiet = open_stream(b, o), bulk = open_stream(b, o);
    while (!moves(b))
        pour(b, &bulk, 16 * RELAY_BULK_BYTES);
    assert_int_equal(members(b), 2);
    assert_int_equal(moves(b), 1);
    prove(b, &quiet);
    prove(b, &bulk);
    close(quiet.client);
    close(bulk.client);
    bench_agent_stop(&a);
}

static void surplus_connections_end_after_a_quiet_time(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    b->fleet->cfg.links_quiet_ms = 100;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 0);
    wait_active(b, o);
    struct stream quiet = open_stream(b, o), bulk = open_stream(b, o);
    while (moves(b) < 1)
        pour(b, &bulk, 8 * RELAY_BULK_BYTES);
    assert_int_equal(members(b), 2);
    wait_for(b->loop, members(b) == 1); /* both streams are on that one now */
    assert_int_equal(moves(b), 2);
    prove(b, &quiet);
    prove(b, &bulk);
    assert_int_equal(a.downs, 0);
    close(quiet.client);
    close(bulk.client);
    bench_agent_stop(&a);
}

static void a_limit_of_one_is_kept(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    b->fleet->cfg.links_max = 1;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 0);
    wait_active(b, o);
    struct stream quiet = open_stream(b, o), bulk = open_stream(b, o);
    pour(b, &bulk, 16 * RELAY_BULK_BYTES);
    prove(b, &quiet);
    prove(b, &bulk);
    assert_int_equal(members(b), 1);
    assert_int_equal(moves(b), 0);
    close(quiet.client);
    close(bulk.client);
    bench_agent_stop(&a);
}

/* Streams that move while connections, leases and clients go. Their pool must outlive them. */
static void whatever_ends_amid_bulk_leaves_nothing_behind(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 0);
    for (int round = 0; round < 4; round++) {
        wait_active(b, o);
        struct stream s[2] = {open_stream(b, o), open_stream(b, o)};
        pour(b, &s[0], (size_t)(8 + round) * RELAY_BULK_BYTES);
        pour(b, &s[1], 10 * RELAY_BULK_BYTES);
        if (round % 2)
            fleet_cut_links(fleet_agent_find(b->fleet, AGENT_1));
        else
            tunnel_lose_all(o, ERR_UNAVAILABLE, "the test takes it");
        wait_for(b->loop, bench_is_ended(s[0].client) && bench_is_ended(s[1].client));
        wait_for(b->loop, tunnels_streams_open(b->tunnels) == 0);
        close(s[0].client);
        close(s[1].client);
    }
    bench_agent_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(two_agents_have_different_homes, bench_set_up,
                                        bench_tear_down),
        cmocka_unit_test_setup_teardown(a_bulk_stream_leaves_the_connection_to_the_others,
                                        bench_set_up, bench_tear_down),
        cmocka_unit_test_setup_teardown(surplus_connections_end_after_a_quiet_time, bench_set_up,
                                        bench_tear_down),
        cmocka_unit_test_setup_teardown(a_limit_of_one_is_kept, bench_set_up, bench_tear_down),
        cmocka_unit_test_setup_teardown(whatever_ends_amid_bulk_leaves_nothing_behind, bench_set_up,
                                        bench_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
