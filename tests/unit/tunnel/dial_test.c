/* Streams that the main loop opens. */
#include "bench.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/relay.h"
#include "tunnel/tunnel_lane.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

struct dialled {
    struct exposure_dial *dial;
    int fd, opens, ends, err;
};

static void on_dial_open(void *arg)
{
    ((struct dialled *)arg)->opens++;
}

static void on_dial_end(void *arg, int err)
{
    struct dialled *d = arg;
    d->ends++;
    d->err = err;
}

static const struct exposure_dial_ops dial_ops = {.on_open = on_dial_open, .on_end = on_dial_end};

static void dial_tunnel(struct bench *b, struct tunnel_object *o, struct dialled *d,
                        const char *token)
{
    int fds[2];
    struct addr client;
    struct exposure_goal goal = {0};
    *d = (struct dialled){0};
    snprintf(goal.token, sizeof(goal.token), "%s", token);
    assert_int_equal(addr_parse("192.0.2.7", 1234, &client), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(tunnel_dial(o, &goal, fds[1], &client, &dial_ops, d, &d->dial), 0);
    d->fd = fds[0];
}

static void end_dial(struct dialled *d, int err)
{
    exposure_dial_done(d->dial, err);
    close(d->fd);
}

static void the_main_loop_opens_a_stream_that_ends_properly(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled d;
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.opens == 1 && b->n_served == 1);
    bench_pass(b, d.fd, b->served[0], "question");
    shutdown(d.fd, SHUT_WR);
    wait_for(b->loop, bench_is_ended(b->served[0]));
    bench_pass(b, b->served[0], d.fd, "answer");
    close(b->served[0]);
    b->served[0] = -1;
    wait_for(b->loop, d.ends == 1);
    assert_int_equal(d.err, 0);
    assert_int_equal(read(d.fd, &(char){0}, 1), 0);
    end_dial(&d, 0);
    wait_for(b->loop, bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'closed' AND "
                                     "client = '192.0.2.7:1234'") == 1);
    bench_agent_stop(&a);
}

static void a_stream_of_the_main_loop_is_reset_from_either_side(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled d;
    struct linger zero = {.l_onoff = 1};
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.opens == 1 && b->n_served == 1);
    end_dial(&d, ERR_RESET);
    wait_for(b->loop, bench_is_ended(b->served[0]));
    assert_int_equal(d.ends, 0);
    wait_for(b->loop,
             bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'client_reset'") == 1);

    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.opens == 1 && b->n_served == 2);
    setsockopt(b->served[1], SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    close(b->served[1]);
    b->served[1] = -1;
    wait_for(b->loop, d.ends == 1);
    assert_int_equal(d.err, ERR_RESET);
    end_dial(&d, 0);
    bench_agent_stop(&a);
}

static void a_stream_of_the_main_loop_tells_why_the_target_is_not_reached(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled d;
    struct addr closed;
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    close(test_listen(&closed));
    bench_change_target(o, addr_port(&closed));
    bench_settle_worker(b, o);
    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.ends == 1);
    assert_int_equal(d.opens, 0);
    assert_int_equal(d.err, ERR_REFUSED);
    end_dial(&d, 0);
    bench_agent_stop(&a);
}

static void a_stream_of_the_main_loop_is_cut_with_its_tunnel(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled d;
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.opens == 1);
    bench_delete(b, o);
    wait_for(b->loop, d.ends == 1 && !b->tunnels->n_exposures);
    assert_true(d.err < 0);
    end_dial(&d, d.err);
    bench_agent_stop(&a);
}

static void the_streams_of_a_revoked_token_are_cut_and_no_others(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled cut, other;
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    dial_tunnel(b, o, &other, "tok_1");
    wait_for(b->loop, other.opens == 1 && b->n_served == 1);
    dial_tunnel(b, o, &cut, "tok_2");
    wait_for(b->loop, cut.opens == 1 && b->n_served == 2);
    tunnels_cut_token(b->tunnels, "tok_2");
    wait_for(b->loop, cut.ends == 1 && bench_is_ended(b->served[1]));
    assert_int_equal(cut.err, ERR_REVOKED);
    bench_pass(b, other.fd, b->served[0], "goes on");
    assert_int_equal(other.ends, 0);
    end_dial(&cut, cut.err);
    end_dial(&other, 0);
    wait_for(b->loop,
             bench_query(b, "SELECT COUNT(*) FROM connection WHERE ended = 'revoked'") == 1);
    bench_agent_stop(&a);
}

static int write_port(struct tx *tx, void *arg)
{
    return tx_exec(tx, "UPDATE tunnel SET endpoint = $1", STORE_TEXT(arg));
}

/* As at a hub whose agent serves a tunnel that was made at another one, which chooses its port. */
static void a_port_that_is_known_late_cuts_no_stream(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct dialled d;
    char port[ADDR_TEXT_SIZE];
    struct tunnel_object *o = bench_serve(b, &a, "127.0.0.1:0", 0);
    snprintf(port, sizeof(port), "%s", o->t.endpoint);
    tunnel_stop_listening(o);
    tunnel_stop_exposures(o, ERR_CANCELED);
    o->t.endpoint[0] = '\0';
    o->is_followed = true;
    wait_for(b->loop,
             o->exposures && exposure_is_serving(o->exposures) && !exposure_next(o->exposures));
    assert_true(tunnel_awaits_port(o));

    dial_tunnel(b, o, &d, "");
    wait_for(b->loop, d.opens == 1 && b->n_served == 1);
    bench_pass(b, d.fd, b->served[0], "before");
    bench_write(b, write_port, port);
    tunnel_reread(b->tunnels, o->t.id);
    wait_for(b->loop, o->listen_fd >= 0);
    assert_string_equal(o->t.endpoint, port);
    int client = bench_connect(b, o);
    wait_for(b->loop, b->n_served == 2);
    bench_pass(b, client, b->served[1], "it listens");
    bench_pass(b, d.fd, b->served[0], "after");
    assert_int_equal(d.ends, 0);
    close(client);
    end_dial(&d, 0);
    bench_agent_stop(&a);
}

/* ---- on the worker ---- */

/* What one step on the exposure's worker finds and does. */
struct on_worker {
    struct bench *bench;
    struct tunnel_object *tunnel;
    const struct exposure_index *index;
    uint64_t epoch;
    bool dials;
    struct exposure_dial *dial;
    struct relay_pair *pair;
    bool is_found;
    _Atomic int steps, opens, ends;
};

static void on_open_here(void *arg)
{
    ((struct on_worker *)arg)->opens++;
}

static void on_end_here(void *arg, int err)
{
    ((struct on_worker *)arg)->ends++;
}

static const struct exposure_dial_ops here_ops = {.on_open = on_open_here, .on_end = on_end_here};

static void look_on_worker(void *arg)
{
    struct on_worker *w = arg;
    const struct exposure_goal goal = {0};
    struct addr client = {0};
    struct exposure *e = exposure_find(w->index, w->tunnel->t.id, w->epoch);
    w->is_found = e != NULL;
    if (e && w->dials) {
        w->pair = relay_pair_new();
        assert_int_equal(exposure_dial_here(e, &goal, w->pair, &client, &here_ops, w, &w->dial), 0);
    }
    w->steps++;
}

static void leave_on_worker(void *arg)
{
    struct on_worker *w = arg;
    relay_pair_drop(w->pair);
    exposure_dial_done(w->dial, ERR_RESET);
    w->steps++;
}

static void run_on_worker(struct on_worker *w, void (*fn)(void *arg))
{
    int before = w->steps;
    loop_post((struct loop *)exposure_loop(w->tunnel->exposures), fn, w);
    wait_for(w->bench->loop, w->steps > before);
}

static void a_worker_opens_another_hubs_stream_by_itself(void **state)
{
    struct bench *b = *state;
    struct bench_agent a;
    struct tunnel_lane *lanes[BENCH_WORKERS];
    for (size_t i = 0; i < BENCH_WORKERS; i++)
        lanes[i] = tunnel_lane_new(b->tunnels, worker_loop(b->workers[i]));
    struct tunnel_object *o = bench_serve(b, &a, NULL, 0);
    struct exposure *e = o->exposures;
    struct on_worker w = {.bench = b,
                          .tunnel = o,
                          .index = tunnel_lane_index(b->tunnels, exposure_loop(e)),
                          .epoch = exposure_epoch(e) + 1};
    run_on_worker(&w, look_on_worker);
    assert_false(w.is_found); /* not that lease */
    assert_int_equal(exposure_passed_ms(e), 0);

    w.epoch--;
    w.dials = true;
    run_on_worker(&w, look_on_worker);
    assert_true(w.is_found);
    wait_for(b->loop, w.opens == 1 && b->n_served == 1);
    assert_true(exposure_passed_ms(e) > 0);
    assert_int_equal(exposure_load(e), 1);
    run_on_worker(&w, leave_on_worker);
    wait_for(b->loop, bench_is_ended(b->served[0]) && !exposure_load(e));
    assert_int_equal(w.ends, 0);
    assert_int_equal(bench_query(b, "SELECT COUNT(*) FROM connection"), 0); /* the other hub's */

    w.dials = false;
    exposure_linger(e);
    run_on_worker(&w, look_on_worker);
    assert_false(w.is_found); /* for new ones it serves no more */
    bench_agent_stop(&a);
    bench_delete(b, o);
    wait_for(b->loop, !b->tunnels->n_exposures);
    for (size_t i = 0; i < BENCH_WORKERS; i++)
        tunnel_lane_free(lanes[i]);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, bench_set_up, bench_tear_down)
    const struct CMUnitTest tests[] = {
        T(the_main_loop_opens_a_stream_that_ends_properly),
        T(a_stream_of_the_main_loop_is_reset_from_either_side),
        T(a_stream_of_the_main_loop_tells_why_the_target_is_not_reached),
        T(a_stream_of_the_main_loop_is_cut_with_its_tunnel),
        T(the_streams_of_a_revoked_token_are_cut_and_no_others),
        T(a_port_that_is_known_late_cuts_no_stream),
        T(a_worker_opens_another_hubs_stream_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
