/* Checks of targets: the rules, and real sockets. */
#include "tunnel/tunnel_check.h"

#include "../net/fixture.h"
#include "base/error.h"
#include "base/macro.h"
#include "net/listener.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void a_target_counts_as_missed_after_fall_failures_in_a_row(void **state)
{
    struct check_state s = {0};
    assert_false(check_state_note(&s, 2, 3, ERR_REFUSED));
    assert_false(check_state_note(&s, 2, 3, ERR_TIMEOUT));
    assert_false(check_state_note(&s, 2, 3, 0));
    assert_false(check_state_note(&s, 2, 3, ERR_REFUSED));
    assert_false(check_state_note(&s, 2, 3, ERR_REFUSED));
    assert_true(check_state_note(&s, 2, 3, ERR_TIMEOUT));
    assert_int_equal(s.err, ERR_TIMEOUT);
    assert_false(check_state_note(&s, 2, 3, ERR_TIMEOUT));
    assert_true(check_state_note(&s, 2, 3, ERR_REFUSED)); /* another reason */
}

static void a_missed_target_counts_as_reached_after_rise_successes_in_a_row(void **state)
{
    struct check_state s = {.err = ERR_REFUSED};
    assert_false(check_state_note(&s, 2, 1, 0));
    assert_false(check_state_note(&s, 2, 1, ERR_REFUSED));
    assert_false(check_state_note(&s, 2, 1, 0));
    assert_true(check_state_note(&s, 2, 1, 0));
    assert_int_equal(s.err, 0);
}

static int answer(const char *text)
{
    return check_http_answer(text, strlen(text));
}

static void an_http_answer_is_good_by_its_status(void **state)
{
    assert_int_equal(answer("HTTP/1.1 200 OK\r\n"), 0);
    assert_int_equal(answer("HTTP/1.0 302 Found"), 0);
    assert_int_equal(answer("HTTP/1.1 404 No"), ERR_UNAVAILABLE);
    assert_int_equal(answer("HTTP/1.1 503 "), ERR_UNAVAILABLE);
    assert_int_equal(answer("HTTP/1.1x200"), ERR_UNAVAILABLE);
    assert_int_equal(answer("SSH-2.0-Open"), ERR_PROTO);
    assert_int_equal(answer(""), 1);
    assert_int_equal(answer("HTTP/1.1 20"), 1);
}

/* ---- with sockets ---- */

struct world {
    struct loop *loop;
    struct checker *checker;
    struct check_user user;
    int err, changes, answers;
    int target, accepted;
    struct listener *listener;
    struct addr at;
    const char *says;
    bool is_denied;
};

static int allowed(void *arg, const struct addr *a)
{
    return ((struct world *)arg)->is_denied ? ERR_DENIED : 0;
}

static void on_change(struct check_user *u, int err)
{
    struct world *w = container_of(u, struct world, user);
    w->changes++;
    w->err = err;
}

static void on_answer(struct check_user *u, int err)
{
    struct world *w = container_of(u, struct world, user);
    w->answers++;
    w->err = err;
}

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct world *w = arg;
    w->accepted++;
    if (w->says)
        send(fd, w->says, strlen(w->says), MSG_NOSIGNAL);
    close(fd);
}

static struct check_params params_of(const struct world *w, bool is_http)
{
    struct check_params p = {.is_http = is_http, .interval_ms = 100, .rise = 2, .fall = 2};
    snprintf(p.target.host, sizeof(p.target.host), "127.0.0.1");
    p.target.port = addr_port(&w->at);
    snprintf(p.path, sizeof(p.path), "/up");
    return p;
}

static int set_up(void **state)
{
    static struct world w;
    w = (struct world){.user = {.on_change = on_change, .on_answer = on_answer}};
    assert_int_equal(loop_new(&w.loop), 0);
    w.target = test_listen(&w.at);
    assert_int_equal(listener_start(w.loop, w.target, on_accept, &w, &w.listener), 0);
    w.checker = checker_new(&(struct checker_config){w.loop, allowed, &w});
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    check_unuse(&w->user);
    checker_free(w->checker);
    if (w->listener)
        listener_stop(w->listener);
    if (w->target >= 0)
        close(w->target);
    loop_settle(w->loop);
    loop_free(w->loop);
    return 0;
}

static void stop_target(struct world *w)
{
    listener_stop(TAKE(w->listener));
    close(w->target);
    w->target = -1;
}

static void ask(struct world *w)
{
    int before = w->answers;
    check_ask(&w->user);
    wait_for(w->loop, w->answers == before + 1);
}

static void the_program_behind_the_port_never_hears_of_a_tcp_check(void **state)
{
    struct world *w = *state;
    struct check_params p = params_of(w, false);
    check_use(w->checker, &p, &w->user);
    for (int i = 0; i < 20; i++) {
        ask(w);
        assert_int_equal(w->err, 0);
    }
    assert_int_equal(w->accepted, 0);
    assert_int_equal(w->changes, 0);
}

static void a_target_that_goes_and_comes_back_is_told_of_twice(void **state)
{
    struct world *w = *state;
    struct check_params p = params_of(w, false);
    check_use(w->checker, &p, &w->user);
    check_hold(&w->user, true);
    ask(w);
    stop_target(w);
    wait_for(w->loop, w->changes == 1);
    assert_int_equal(w->err, ERR_REFUSED);
    assert_int_equal(check_err(&w->user), ERR_REFUSED);
    check_note(&w->user, 0); /* a stream has reached it: that proves more than a check */
    assert_int_equal(w->changes, 2);
    assert_int_equal(w->err, 0);
    wait_for(w->loop, w->changes == 3);
}

static void one_failure_is_enough_for_who_asks_and_does_not_hold(void **state)
{
    struct world *w = *state;
    struct check_params p = params_of(w, false);
    p.interval_ms = 3600000;
    p.fall = 100;
    check_use(w->checker, &p, &w->user);
    stop_target(w);
    ask(w);
    assert_int_equal(w->err, ERR_REFUSED);
    assert_int_equal(check_err(&w->user), ERR_REFUSED);
}

static void the_owners_ceiling_holds_for_checks(void **state)
{
    struct world *w = *state;
    struct check_params p = params_of(w, false);
    w->is_denied = true;
    check_use(w->checker, &p, &w->user);
    ask(w);
    assert_int_equal(w->err, ERR_DENIED);
}

static void an_http_check_needs_a_good_answer(void **state)
{
    struct world *w = *state;
    struct check_params p = params_of(w, true);
    w->says = "HTTP/1.1 204 No Content\r\n\r\n";
    check_use(w->checker, &p, &w->user);
    ask(w);
    assert_int_equal(w->err, 0);
    assert_true(w->accepted >= 1);
    w->says = "HTTP/1.1 500 Oh\r\n\r\n";
    ask(w);
    assert_int_equal(w->err, ERR_UNAVAILABLE);
    w->says = "HTTP/1.1 5";
    wait_for(w->loop, w->err != ERR_UNAVAILABLE);
}

static void a_hundred_targets_share_what_may_run_at_once(void **state)
{
    struct world *w = *state;
    static struct check_user users[100];
    memset(users, 0, sizeof(users));
    for (int i = 0; i < 100; i++) {
        struct check_params p = params_of(w, false);
        p.interval_ms = 1000 + (uint32_t)i; /* a check of its own */
        users[i] = w->user;
        users[i].on_answer = on_answer;
        check_use(w->checker, &p, &users[i]);
    }
    for (int i = 0; i < 100; i += 2)
        check_unuse(&users[i]);
    struct check_params p = params_of(w, false);
    check_use(w->checker, &p, &w->user);
    ask(w);
    for (int i = 1; i < 100; i += 2)
        check_unuse(&users[i]);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_counts_as_missed_after_fall_failures_in_a_row),
        cmocka_unit_test(a_missed_target_counts_as_reached_after_rise_successes_in_a_row),
        cmocka_unit_test(an_http_answer_is_good_by_its_status),
        T(the_program_behind_the_port_never_hears_of_a_tcp_check),
        T(a_target_that_goes_and_comes_back_is_told_of_twice),
        T(one_failure_is_enough_for_who_asks_and_does_not_hold),
        T(the_owners_ceiling_holds_for_checks),
        T(an_http_check_needs_a_good_answer),
        T(a_hundred_targets_share_what_may_run_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
