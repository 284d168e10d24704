/* Tunnels from end to end in one process: leases, fail-over, and everything that ends a stream. */
#include "bench.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static const char *holder(const struct tunnel_object *o)
{
    const struct tunnel_lease *l = tunnel_holder(o);
    return l ? l->agent : "";
}

static uint64_t epoch_of(const struct tunnel_object *o)
{
    const struct tunnel_lease *l = tunnel_holder(o);
    return l ? l->l.epoch : 0;
}

/* A client and the target's end of its stream, proven in both directions. */
static int open_stream(struct bench *b, struct tunnel_object *o, int *ret_client)
{
    size_t before = b->n_served;
    *ret_client = bench_connect(b, o);
    wait_for(b->loop, b->n_served == before + 1);
    bench_pass(b, *ret_client, b->served[before], "to the target");
    bench_pass(b, b->served[before], *ret_client, "to the client");
    return b->served[before];
}

static void a_client_reaches_the_target(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    assert_string_equal(holder(o), AGENT_1);
    int target = open_stream(b, o, &client);
    assert_int_equal(tunnels_streams_open(b->tunnels), 1);
    shutdown(client, SHUT_WR);
    wait_for(b->loop, bench_is_ended(target));
    bench_pass(b, target, client, "after the half-close");
    shutdown(target, SHUT_WR);
    wait_for(b->loop, bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'closed' AND "
                                     "bytes_in = 13 AND bytes_out = 33") == 1);
    close(client);
    bench_agent_stop(&a);
}

static void clients_wait_while_the_hub_does_not_know_who_serves(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    fleet_set_sure_until(b->fleet, 1); /* it has slept since */
    int client = bench_connect(b, o);
    wait_for(b->loop, b->tunnels->n_turned_clients == 1);
    assert_int_equal(b->n_served, 0);
    fleet_set_sure_until(b->fleet, UINT64_MAX);
    tunnels_may_claim(b->tunnels);
    wait_for(b->loop, b->n_served == 1);
    bench_pass(b, client, b->served[0], "kept meanwhile");
    close(client);
    bench_agent_stop(&a);
}

static void the_other_agent_serves_when_the_holder_leaves(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, other;
    int client, second;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    uint64_t epoch = epoch_of(o);
    bench_agent_start(b, &other, AGENT_2);
    open_stream(b, o, &client);
    bench_agent_stop(&a);
    wait_for(b->loop, bench_is_ended(client));
    wait_for(b->loop, strcmp(holder(o), AGENT_2) == 0 && o->t.phase == TUNNEL_ACTIVE);
    assert_true(epoch_of(o) > epoch);
    open_stream(b, o, &second);
    close(client);
    close(second);
    bench_agent_stop(&other);
}

static size_t count_leases(const struct tunnel_object *o)
{
    const struct tunnel_lease *l;
    size_t n = 0;
    DL_COUNT(o->leases, l, n);
    return n;
}

static void a_tunnel_that_moves_keeps_its_streams(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, other;
    int clients[2], targets[2], later;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o[] = {bench_tunnel(b, "one", "127.0.0.1:0", 0),
                                 bench_tunnel(b, "two", "127.0.0.1:0", 0)};
    for (int i = 0; i < 2; i++) {
        bench_wait_active(b, o[i]);
        targets[i] = open_stream(b, o[i], &clients[i]);
    }
    bench_agent_start(b, &other, AGENT_2);
    wait_for(b->loop, strcmp(holder(o[0]), AGENT_2) == 0 || strcmp(holder(o[1]), AGENT_2) == 0);
    int moved = strcmp(holder(o[0]), AGENT_2) == 0 ? 0 : 1;
    assert_string_equal(holder(o[1 - moved]), AGENT_1);
    assert_int_equal(count_leases(o[moved]), 2);
    assert_string_equal(tunnel_holder(o[moved])->reason,
                        "spread evenly: agt_0000000000000001 held more");
    bench_pass(b, clients[moved], targets[moved], "still there");
    open_stream(b, o[moved], &later);
    assert_int_equal(tunnel_agent_streams(other.tunnels), 1);
    assert_int_equal(tunnel_agent_streams(a.tunnels), 2);
    close(clients[moved]);
    shutdown(targets[moved], SHUT_WR);
    wait_for(b->loop, count_leases(o[moved]) == 1);
    wait_for(b->loop, tunnel_agent_leases(a.tunnels) == 1);
    bench_pass(b, later, b->served[2], "the new one");
    close(clients[1 - moved]);
    close(later);
    bench_agent_stop(&a);
    wait_for(b->loop, strcmp(holder(o[1 - moved]), AGENT_2) == 0);
    bench_agent_stop(&other);
}

static void an_agent_that_leaves_takes_nothing_and_keeps_its_streams(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, other;
    int client;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    int target = open_stream(b, o, &client);
    tunnel_agent_leave(a.tunnels, 1000);
    wait_for(b->loop, o->t.phase == TUNNEL_PENDING);
    assert_string_equal(o->t.reason, "its agents are being drained: agt_0000000000000001");
    bench_pass(b, client, target, "still there");
    bench_agent_start(b, &other, AGENT_2);
    wait_for(b->loop, strcmp(holder(o), AGENT_2) == 0);
    bench_pass(b, target, client, "and now");
    close(client);
    shutdown(target, SHUT_WR);
    wait_for(b->loop, tunnel_agent_leases(a.tunnels) == 0);
    bench_agent_stop(&a);
    bench_agent_stop(&other);
}

static void an_agent_that_comes_and_goes_gets_nothing_for_a_while(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, restless;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o[] = {bench_tunnel(b, "one", NULL, 0), bench_tunnel(b, "two", NULL, 0)};
    bench_wait_active(b, o[0]);
    bench_wait_active(b, o[1]);
    for (int i = 0; i < 3; i++) {
        bench_agent_start(b, &restless, AGENT_2);
        assert_false(tunnel_peer_is_silent(tunnel_peer_of(b->tunnels, AGENT_2)));
        bench_agent_stop(&restless);
        wait_for(b->loop, fleet_online(b->fleet) == 1);
    }
    bench_agent_start(b, &restless, AGENT_2);
    assert_true(tunnel_peer_is_silent(tunnel_peer_of(b->tunnels, AGENT_2)));
    bench_agent_stop(&a); /* better than nobody */
    wait_for(b->loop, strcmp(holder(o[0]), AGENT_2) == 0 && strcmp(holder(o[1]), AGENT_2) == 0);
    bench_agent_stop(&restless);
}

static void what_could_not_be_served_for_lack_of_descriptors_is_served_later(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct rlimit was, low;
    bench_agent_start(b, &a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 0);
    struct tunnel_object *other = bench_tunnel(b, "other", NULL, 0); /* keeps the connection */
    bench_wait_active(b, o);
    bench_wait_active(b, other);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    low = was;
    low.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    tunnel_lose_all(o, ERR_UNAVAILABLE, "test");
    wait_for(b->loop, timer_is_running(&b->tunnels->serve_timer));
    assert_int_equal(o->t.phase, TUNNEL_PENDING);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    bench_wait_active(b, o);
    bench_agent_stop(&a);
}

static void a_deleted_tunnel_cuts_its_streams_and_frees_its_address(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client, again;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    char address[ADDR_TEXT_SIZE];
    snprintf(address, sizeof(address), "%s", o->t.endpoint);
    open_stream(b, o, &client);
    bench_delete(b, o);
    struct tunnel_object *next = bench_tunnel(b, "web", address, 0);
    assert_string_equal(next->t.endpoint, address);
    wait_for(b->loop, bench_is_ended(client));
    bench_wait_active(b, next);
    open_stream(b, next, &again);
    /* The first one's access log went with it, though its last stream ended later. */
    wait_for(b->loop, b->tunnels->n_exposures == 1);
    loop_settle(b->loop);
    assert_int_equal(bench_query(b, "SELECT COUNT(*) FROM connection"), 0);
    close(client);
    close(again);
    bench_agent_stop(&a);
}

static void a_tunnel_moves_to_another_address(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client, again;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    open_stream(b, o, &client);
    struct tunnel to = o->t;
    snprintf(to.spec.listen.host, sizeof(to.spec.listen.host), "127.0.0.2");
    tunnel_change(o, &to, 0);
    wait_for(b->loop, strncmp(o->t.endpoint, "127.0.0.2:", 10) == 0);
    bench_wait_active(b, o);
    assert_true(bench_is_ended(client));
    open_stream(b, o, &again);
    close(client);
    close(again);
    bench_agent_stop(&a);
}

static void a_tunnel_ends_with_its_ttl(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 300);
    open_stream(b, o, &client);
    wait_for(b->loop, o->t.phase == TUNNEL_EXPIRED);
    wait_for(b->loop, bench_is_ended(client));
    assert_true(o->listen_fd < 0);
    wait_for(b->loop,
             bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'expired'") == 1);
    wait_for(b->loop, bench_query(b, "SELECT COUNT(*) FROM tunnel WHERE phase = 'expired'") == 1);
    close(client);
    bench_agent_stop(&a);
}

static void a_revoked_agent_is_cut_and_its_streams_say_so(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    open_stream(b, o, &client);
    fleet_cut_revoked(b->fleet, AGENT_1);
    wait_for(b->loop, bench_is_ended(client) && a.downs == 1);
    wait_for(b->loop, !b->tunnels->n_exposures);
    wait_for(b->loop,
             bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'revoked'") == 1);
    close(client);
    bench_agent_stop(&a);
}

static void a_newer_session_of_the_same_agent_supersedes(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, copy;
    int client;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    bench_agent_start(b, &copy, AGENT_1);
    wait_for(b->loop, a.downs == 1);
    assert_int_equal(fleet_online(b->fleet), 1);
    bench_wait_active(b, o);
    open_stream(b, o, &client);
    assert_int_equal(tunnel_agent_streams(copy.tunnels), 1);
    assert_int_equal(tunnel_agent_streams(a.tunnels), 0);
    close(client);
    bench_agent_stop(&a);
    bench_agent_stop(&copy);
}

static void hundreds_of_tunnels_are_taken_without_pauses(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    char name[32];
    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        bench_tunnel(b, name, NULL, 0);
    }
    bench_agent_start(b, &a, AGENT_1);
    uint64_t started = time_mono_ms();
    struct tunnels_stats stats;
    wait_for(b->loop, (tunnels_stats(b->tunnels, &stats), stats.phases[TUNNEL_ACTIVE] == 400));
    assert_true(time_mono_ms() - started < 5000);
    bench_agent_stop(&a);
}

static size_t count_held(struct bench *b, const char *agent)
{
    size_t n = 0;
    for (struct tunnel_object *o = b->tunnels->objects; o; o = o->hh.next)
        n += strcmp(holder(o), agent) == 0;
    return n;
}

static void new_tunnels_go_to_the_agents_that_hold_least(void **state)
{
    struct bench *b = *state;
    struct bench_agent a, other;
    char name[32];
    bench_agent_start(b, &a, AGENT_1);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "old%d", i);
        bench_tunnel(b, name, NULL, 0);
    }
    wait_for(b->loop, count_held(b, AGENT_1) == 3);
    bench_agent_start(b, &other, AGENT_2);
    for (int i = 0; i < 9; i++) {
        snprintf(name, sizeof(name), "new%d", i);
        bench_tunnel(b, name, NULL, 0);
    }
    wait_for(b->loop, count_held(b, AGENT_1) == 6 && count_held(b, AGENT_2) == 6);
    assert_int_equal(tunnel_peer_of(b->tunnels, AGENT_1)->load, 6);
    assert_int_equal(tunnel_peer_of(b->tunnels, AGENT_2)->load, 6);
    bench_agent_stop(&a);
    wait_for(b->loop, count_held(b, AGENT_2) == 12);
    assert_int_equal(tunnel_peer_of(b->tunnels, AGENT_2)->load, 12);
    bench_agent_stop(&other);
}

#define CLAIMS 70 /* more than a statement takes */

struct claims {
    struct tunnel_claim list[CLAIMS + 2];
    size_t n;
};

static void add_claim(struct claims *c, const char *tunnel, uint64_t seen, const char *hub)
{
    struct tunnel_claim *claim = &c->list[c->n++];
    *claim = (struct tunnel_claim){.seen = seen, .route = {.hub_epoch = 1}};
    snprintf(claim->tunnel, sizeof(claim->tunnel), "%s", tunnel);
    snprintf(claim->route.hub, sizeof(claim->route.hub), "%s", hub);
    snprintf(claim->route.agent, sizeof(claim->route.agent), "%s", AGENT_1);
}

static int write_claims(struct tx *tx, void *arg)
{
    struct claims *c = arg;
    return tunnel_store_claim(tx, c->list, c->n);
}

static int write_release(struct tx *tx, void *arg)
{
    struct claims *c = arg;
    return tunnel_store_release(tx, c->list, c->n);
}

static void many_routes_are_claimed_at_once_and_each_is_judged_alone(void **state)
{
    struct bench *b = *state;
    struct claims first = {0}, again = {0};
    char name[32], id[ID_SIZE];
    for (int i = 0; i < CLAIMS; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        add_claim(&first, bench_tunnel(b, name, NULL, 0)->t.id, 0, "hub_1");
    }
    snprintf(id, sizeof(id), "%s", first.list[0].tunnel);
    add_claim(&first, id, 0, "hub_1"); /* of another agent, as it were */
    add_claim(&first, "tun_unknown", 0, "hub_1");
    bench_write(b, write_claims, &first);
    for (int i = 0; i < CLAIMS; i++)
        assert_true(first.list[i].route.epoch > 0);
    assert_true(first.list[CLAIMS].route.epoch > first.list[0].route.epoch);
    assert_int_equal(first.list[CLAIMS + 1].route.epoch, 0);

    /* Another hub has seen what each third has become; hub_1 lives no more. */
    for (int i = 0; i < CLAIMS; i++) {
        uint64_t epoch = first.list[i ? i : CLAIMS].route.epoch;
        add_claim(&again, first.list[i].tunnel, i % 3 ? epoch - 1 : epoch, "hub_2");
    }
    bench_write(b, write_claims, &again);
    for (int i = 0; i < CLAIMS; i++)
        assert_int_equal(again.list[i].route.epoch > 0, i % 3 == 0);
    assert_int_equal(bench_query(b, "SELECT COUNT(*) FROM tunnel WHERE lease_hub = 'hub_2'"), 24);

    bench_write(b, write_release, &first); /* of what is not its own any more nothing happens */
    assert_int_equal(bench_query(b, "SELECT COUNT(*) FROM tunnel WHERE lease_hub = 'hub_2'"), 24);
    assert_int_equal(bench_query(b, "SELECT COUNT(*) FROM tunnel WHERE lease_hub IS NULL"), 46);
}

struct lease_row {
    int64_t epoch, expires;
};

static int write_lease(struct tx *tx, void *arg)
{
    const struct lease_row *row = arg;
    return tx_exec(tx,
                   "INSERT INTO hub_lease (hub, epoch, address, expires) VALUES ('hub_1', $1, '', "
                   "$2) ON CONFLICT (hub) DO UPDATE SET epoch = $1, expires = $2",
                   STORE_INT(row->epoch), STORE_INT(row->expires));
}

/* Whether the second start of hub_1 may, when its row is this one. */
static bool may_claim(struct bench *b, const char *tunnel, int64_t epoch, int64_t expires)
{
    struct lease_row row = {epoch, expires};
    struct claims c = {0};
    bench_write(b, write_lease, &row);
    add_claim(&c, tunnel, 0, "hub_1");
    c.list[0].route.hub_epoch = 2;
    bench_write(b, write_claims, &c);
    return c.list[0].route.epoch > 0;
}

static void a_hub_that_slept_until_its_lease_was_over_claims_nothing(void **state)
{
    struct bench *b = *state;
    const char *tunnel = bench_tunnel(b, "web", NULL, 0)->t.id;
    assert_true(may_claim(b, tunnel, 2, INT64_MAX));
    assert_false(may_claim(b, tunnel, 2, 1));
    assert_false(may_claim(b, tunnel, 3, INT64_MAX)); /* a later start has it */
    assert_true(may_claim(b, tunnel, 1, 1));          /* its own row was lost in a fail-over */
}

static void an_address_that_was_taken_is_tried_again(void **state)
{
    struct bench *b = *state;
    struct addr taken;
    char address[ADDR_TEXT_SIZE];
    int fd = test_listen(&taken);
    addr_format(&taken, address, sizeof(address));
    struct tunnel_object *o = bench_tunnel(b, "web", address, 0);
    assert_int_equal(o->t.phase, TUNNEL_FAILED);
    close(fd);
    wait_for(b->loop, o->t.phase == TUNNEL_PENDING);
    assert_string_equal(o->t.endpoint, address);
}

static void keep(void *arg, const struct tunnel_stored *s)
{
    *(struct tunnel_stored *)arg = *s;
}

static int read_all(struct tx *tx, void *arg)
{
    return tunnel_store_each(tx, keep, arg);
}

static void objects_come_back_as_they_were_stored(void **state)
{
    struct bench *b = *state;
    struct tunnel_stored stored = {0};
    struct tunnel_object *o = bench_tunnel(b, "web", "127.0.0.1:0", 60000);
    wait_for(b->loop, !b->tunnels->dirty);
    assert_int_equal(store_run_wait(b->store, STORE_READ, read_all, &stored), 0);
    assert_string_equal(stored.t.id, o->t.id);
    assert_string_equal(stored.t.name, "web");
    assert_string_equal(stored.t.endpoint, o->t.endpoint);
    assert_string_equal(stored.t.reason, "no agent of its network is connected");
    assert_memory_equal(&stored.t.spec.target, &o->t.spec.target, sizeof(o->t.spec.target));
    assert_int_equal(stored.t.spec.ttl_ms, 60000);
    assert_int_equal(stored.ends, o->ends);
    assert_int_equal(stored.t.version, 1);
}

static void a_lost_link_is_dialled_again_and_serves(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int client, again;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    uint64_t epoch = epoch_of(o);
    open_stream(b, o, &client);
    fleet_cut_links(fleet_agent_find(b->fleet, AGENT_1));
    wait_for(b->loop, bench_is_ended(client));
    open_stream(b, o, &again); /* waits in the queue until the link is back */
    assert_int_equal(epoch_of(o), epoch);
    assert_int_equal(a.downs, 0);
    close(client);
    close(again);
    bench_agent_stop(&a);
}

static void count_listed(void *arg, const struct exposure_record *records, size_t n)
{
    --*(int *)arg;
}

static void a_refusing_target_is_the_reason_until_it_answers(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct addr closed;
    int client, again;
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    close(test_listen(&closed));
    bench_change_target(o, addr_port(&closed));
    bench_settle_worker(b, o);
    client = bench_connect(b, o);
    wait_for(b->loop, strstr(o->t.reason, "connection_refused"));
    wait_for(b->loop, bench_is_ended(client));
    bench_change_target(o, addr_port(&b->target_address));
    bench_settle_worker(b, o);
    open_stream(b, o, &again);
    wait_for(b->loop, o->t.reason[0] == '\0');
    close(client);
    close(again);
    bench_agent_stop(&a);
}

/* Whatever may meet: clients, listings, new targets and addresses, lost links, lost leases. */
static void everything_at_once_leaves_nothing_behind(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct tunnel_object *o[4];
    int clients[200], n = 0, listings = 0;
    char name[16];
    bench_agent_start(b, &a, AGENT_1);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        o[i] = bench_tunnel(b, name, "127.0.0.1:0", 0);
        bench_wait_active(b, o[i]);
        bench_change_target(o[i], 9);
    }
    for (int i = 0; i < 200; i++) {
        struct tunnel_object *t = o[i % 4];
        struct exposure *e;
        if (t->t.endpoint[0] && t->listen_fd >= 0)
            clients[n++] = bench_connect(b, t);
        if (i % 50 == 49)
            fleet_cut_links(fleet_agent_find(b->fleet, AGENT_1));
        if (i % 30 == 29)
            tunnel_lose_all(t, ERR_UNAVAILABLE, "test");
        for (e = t->exposures; e; e = exposure_next(e)) {
            listings++;
            exposure_list_open(e, count_listed, &listings);
        }
        bench_change_target(t, i % 2 ? 9 : 10);
        if (i % 20 == 19) {
            struct tunnel to = t->t;
            snprintf(to.spec.listen.host, sizeof(to.spec.listen.host), "127.0.0.%d", 1 + i / 20);
            tunnel_change(t, &to, 0);
        }
        if (i % 70 == 69) {
            snprintf(name, sizeof(name), "n%d", i);
            bench_delete(b, t);
            o[i % 4] = bench_tunnel(b, name, "127.0.0.1:0", 0);
        }
        loop_turn(b->loop, false);
    }
    wait_for(b->loop, listings == 0);
    for (int i = 0; i < 4; i++)
        bench_wait_active(b, o[i]);
    for (int i = 0; i < n; i++)
        close(clients[i]);
    wait_for(b->loop, tunnels_streams_open(b->tunnels) == 0);
    bench_agent_stop(&a);
}

static void a_hub_that_stops_amid_streams_ends_them_all(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    int clients[5];
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        open_stream(b, o, &clients[i]);
    tunnels_drain(b->tunnels);
    bench_agent_stop(&a);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        wait_for(b->loop, bench_is_ended(clients[i]));
        close(clients[i]);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, bench_set_up, bench_tear_down)
    const struct CMUnitTest tests[] = {
        T(a_client_reaches_the_target),
        T(clients_wait_while_the_hub_does_not_know_who_serves),
        T(the_other_agent_serves_when_the_holder_leaves),
        T(a_tunnel_that_moves_keeps_its_streams),
        T(an_agent_that_leaves_takes_nothing_and_keeps_its_streams),
        T(an_agent_that_comes_and_goes_gets_nothing_for_a_while),
        T(what_could_not_be_served_for_lack_of_descriptors_is_served_later),
        T(a_deleted_tunnel_cuts_its_streams_and_frees_its_address),
        T(a_tunnel_moves_to_another_address),
        T(a_tunnel_ends_with_its_ttl),
        T(a_revoked_agent_is_cut_and_its_streams_say_so),
        T(a_newer_session_of_the_same_agent_supersedes),
        T(hundreds_of_tunnels_are_taken_without_pauses),
        T(new_tunnels_go_to_the_agents_that_hold_least),
        T(many_routes_are_claimed_at_once_and_each_is_judged_alone),
        T(a_hub_that_slept_until_its_lease_was_over_claims_nothing),
        T(an_address_that_was_taken_is_tried_again),
        T(objects_come_back_as_they_were_stored),
        T(a_lost_link_is_dialled_again_and_serves),
        T(a_refusing_target_is_the_reason_until_it_answers),
        T(everything_at_once_leaves_nothing_behind),
        T(a_hub_that_stops_amid_streams_ends_them_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
