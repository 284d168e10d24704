#include "loop/io.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static char trace[64];

static void note(const char *s)
{
    strncat(trace, s, sizeof(trace) - strlen(trace) - 1);
}

struct named {
    struct timer timer;
    struct defer defer;
    const char *name;
    struct loop *loop;
    int again;
};

static void on_timer(struct timer *t)
{
    note(container_of(t, struct named, timer)->name);
}

static void timers_fire_in_order_of_time_and_not_after_stop(void **state)
{
    struct loop *l;
    assert_int_equal(loop_new_virtual(&l, 1000), 0);
    trace[0] = '\0';
    struct named a = {.name = "a"}, b = {.name = "b"}, c = {.name = "c"};
    timer_init(&a.timer, l, on_timer);
    timer_init(&b.timer, l, on_timer);
    timer_init(&c.timer, l, on_timer);
    timer_start(&a.timer, 30);
    timer_start(&b.timer, 10);
    timer_start(&c.timer, 20);
    timer_stop(&c.timer);
    loop_advance(l, 29);
    assert_string_equal(trace, "b");
    loop_advance(l, 1);
    assert_string_equal(trace, "ba");
    assert_int_equal(loop_now_ms(l), 1030);
    loop_free(l);
}

static void on_defer(struct defer *d)
{
    struct named *n = container_of(d, struct named, defer);
    note(n->name);
    if (n->again-- > 0)
        loop_defer(n->loop, d);
}

static void a_deferred_call_runs_once_and_can_defer_itself_to_the_next_run(void **state)
{
    struct loop *l;
    assert_int_equal(loop_new(&l), 0);
    trace[0] = '\0';
    struct named a = {.name = "a", .loop = l, .again = 1, .defer.fn = on_defer};
    struct named b = {.name = "b", .loop = l, .defer.fn = on_defer};
    struct named c = {.name = "c", .loop = l, .defer.fn = on_defer};
    loop_defer(l, &a.defer);
    loop_defer(l, &a.defer);
    loop_defer(l, &b.defer);
    loop_defer(l, &c.defer);
    loop_defer_cancel(&b.defer);
    while (strlen(trace) < 3)
        loop_turn(l, true);
    assert_string_equal(trace, "aca");
    loop_free(l);
}

static void on_posted(void *arg)
{
    note(arg);
}

static void posted_calls_run_later_and_in_order(void **state)
{
    struct loop *l;
    assert_int_equal(loop_new(&l), 0);
    trace[0] = '\0';
    loop_post(l, on_posted, (char[]){"1"});
    loop_post(l, on_posted, (char[]){"2"});
    assert_string_equal(trace, "");
    loop_turn(l, true);
    assert_string_equal(trace, "12");
    loop_free(l);
}

struct pair {
    struct io a, b;
    int events;
};

static void on_pair_event(struct io *io)
{
    struct pair *p = container_of(io, struct pair, a);
    p->events++;
    io_close(&p->b);
}

static void on_other_event(struct io *io)
{
    struct pair *p = container_of(io, struct pair, b);
    p->events++;
    io_close(&p->a);
}

static void an_event_already_collected_does_not_reach_a_closed_descriptor(void **state)
{
    struct loop *l;
    struct pair p = {0};
    int fds[2];
    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(io_start(&p.a, l, fds[0], on_pair_event), 0);
    assert_int_equal(io_start(&p.b, l, fds[1], on_other_event), 0);
    loop_turn(l, true);
    assert_int_equal(p.events, 1);
    io_close(&p.a);
    io_close(&p.b);
    loop_free(l);
}

struct late {
    struct timer timer;
    struct named named;
};

static void on_late(struct timer *t)
{
    struct late *late = container_of(t, struct late, timer);
    loop_defer(late->named.loop, &late->named.defer);
}

static void a_turn_does_not_sleep_over_what_a_timer_deferred(void **state)
{
    struct loop *l;
    assert_int_equal(loop_new(&l), 0);
    trace[0] = '\0';
    struct late late = {.named = {.name = "d", .loop = l, .defer.fn = on_defer}};
    timer_init(&late.timer, l, on_late);
    timer_start(&late.timer, 1);
    alarm(10); /* it slept for ever */
    while (!trace[0])
        loop_turn(l, true);
    alarm(0);
    assert_string_equal(trace, "d");
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_of_time_and_not_after_stop),
        cmocka_unit_test(a_deferred_call_runs_once_and_can_defer_itself_to_the_next_run),
        cmocka_unit_test(posted_calls_run_later_and_in_order),
        cmocka_unit_test(an_event_already_collected_does_not_reach_a_closed_descriptor),
        cmocka_unit_test(a_turn_does_not_sleep_over_what_a_timer_deferred),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
