/* Sweeps of this machine's own addresses, 127.0.0.0/8. */
#include "scan/sweep.h"

#include "base/error.h"
#include "base/time.h"
#include "net/dial_gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct table {
    struct loop *loop;
    struct dial_gate *gate;
    struct sweep *sweep;
    struct sweep_counts counts;
    struct addr denied; /* its address and port may not be asked; len 0: all may */
    uint16_t open;      /* port of the last host, if it has one */
    size_t n_hosts, n_open, n_closed;
    bool is_over, is_all_denied;
};

static void on_host(void *arg, const struct sweep_host *h)
{
    struct table *t = arg;
    t->n_hosts++;
    t->n_open += h->n_open;
    t->n_closed += h->n_closed;
    if (h->n_open)
        t->open = h->open[0];
}

static void on_end(void *arg, int err)
{
    struct table *t = arg;
    assert_int_equal(err, 0);
    sweep_get_counts(t->sweep, &t->counts);
    t->is_over = true;
}

static const struct sweep_ops ops = {.on_host = on_host, .on_end = on_end};

static int check(void *arg, const struct addr *a)
{
    const struct table *t = arg;
    bool is_it = addr_equal_ip(a, &t->denied) && addr_port(a) == addr_port(&t->denied);
    return is_it || t->is_all_denied ? ERR_DENIED : 0;
}

static int set_up(void **state)
{
    static struct table t;
    t = (struct table){0};
    assert_int_equal(loop_new(&t.loop), 0);
    t.gate = dial_gate_new(
        &(struct dial_gate_config){.loop = t.loop, .max = 64, .per_target = 16, .spare_ms = 100});
    *state = &t;
    return 0;
}

static int tear_down(void **state)
{
    struct table *t = *state;
    sweep_free(t->sweep);
    dial_gate_free(t->gate);
    loop_settle(t->loop);
    loop_free(t->loop);
    return 0;
}

static void begin(struct table *t, const char *address, uint16_t port, uint16_t other)
{
    struct scan_request r;
    json_t *o = json_pack("{s:[s], s:o}", "addresses", address, "ports",
                          json_sprintf("%u,%u", port, other));
    assert_int_equal(scan_request_read(o, &r, NULL), 0);
    json_decref(o);
    t->sweep = sweep_new(&(struct sweep_config){.loop = t->loop,
                                                .request = &r,
                                                .gate = t->gate,
                                                .check = check,
                                                .check_arg = t,
                                                .ops = &ops,
                                                .arg = t});
}

static void run(struct table *t)
{
    uint64_t end = time_mono_ms() + 60000;
    while (!t->is_over && time_mono_ms() < end)
        loop_turn(t->loop, true);
    assert_true(t->is_over);
}

/* A socket that is bound to a port; `is_listening` or its connections are refused. */
static int take_port(bool is_listening, uint16_t *ret)
{
    struct addr a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(addr_parse("127.0.0.1", 0, &a), 0);
    a.in4.sin_addr.s_addr = INADDR_ANY;
    assert_int_equal(bind(fd, &a.sa, a.len), 0);
    assert_int_equal(getsockname(fd, &a.sa, &a.len), 0);
    if (is_listening)
        assert_int_equal(listen(fd, 16), 0);
    *ret = addr_port(&a);
    return fd;
}

static void hosts_are_found_with_their_ports(void **state)
{
    struct table *t = *state;
    uint16_t open, closed;
    int a = take_port(true, &open), b = take_port(false, &closed);
    begin(t, "127.0.0.8/29", open, closed);
    run(t);
    assert_int_equal(t->n_hosts, 8);
    assert_int_equal(t->n_open, 8);
    assert_int_equal(t->n_closed, 8);
    assert_int_equal(t->open, open);
    assert_int_equal(t->counts.done, 8);
    assert_int_equal(t->counts.up, 8);
    assert_true(t->counts.part > 0.99);
    close(a);
    close(b);
}

static void what_is_not_allowed_is_not_asked(void **state)
{
    struct table *t = *state;
    uint16_t open, closed;
    int a = take_port(true, &open), b = take_port(false, &closed);
    assert_int_equal(addr_parse("127.0.0.9", open, &t->denied), 0);
    begin(t, "127.0.0.8/31", open, closed);
    run(t);
    assert_int_equal(t->n_hosts, 2);
    assert_int_equal(t->n_open, 1);
    sweep_free(t->sweep);
    t->is_all_denied = true;
    t->is_over = false;
    begin(t, "127.0.0.8/31", open, closed);
    run(t);
    assert_int_equal(t->n_hosts, 2); /* as before */
    assert_int_equal(t->counts.denied, 2);
    assert_int_equal(t->counts.probes, 0);
    close(a);
    close(b);
}

static void a_sweep_can_be_ended_at_any_time(void **state)
{
    struct table *t = *state;
    for (int turns = 0; turns < 20; turns++) {
        begin(t, "127.0.0.0/24", 1, 2);
        for (int i = 0; i < turns; i++)
            loop_turn(t->loop, true);
        sweep_free(t->sweep);
        t->sweep = NULL;
        assert_int_equal(dial_gate_pending(t->gate), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hosts_are_found_with_their_ports, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_allowed_is_not_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_sweep_can_be_ended_at_any_time, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
