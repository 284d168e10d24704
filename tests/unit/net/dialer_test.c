#include "net/dialer.h"

#include "base/error.h"
#include "base/time.h"
#include "fixture.h"
#include "net/listener.h"
#include "net/spare_sockets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct outcome {
    struct dial_result r;
    bool is_done;
    int asked;
    int verdict;
};

static void on_done(void *arg, const struct dial_result *r)
{
    struct outcome *o = arg;
    assert_false(o->is_done);
    o->r = *r;
    o->is_done = true;
}

static int check(void *arg, const struct addr *a)
{
    struct outcome *o = arg;
    o->asked++;
    return o->verdict;
}

static struct outcome dial(struct dial_params *p)
{
    struct outcome o = {0};
    struct loop *l;
    assert_int_equal(loop_new(&l), 0);
    o.verdict = p->arg ? ERR_DENIED : 0;
    p->check = p->arg ? check : NULL;
    p->on_done = on_done;
    p->arg = &o;
    dial_start(l, p);
    assert_false(o.is_done); /* always later */
    wait_for(l, o.is_done);
    loop_free(l);
    if (o.r.fd >= 0)
        close(o.r.fd);
    return o;
}

static void a_name_is_resolved_and_connected(void **state)
{
    struct addr a;
    int fd = test_listen(&a);
    struct outcome o = dial(&(struct dial_params){.target = {"localhost", addr_port(&a)}});
    assert_int_equal(o.r.err, 0);
    assert_true(o.r.fd >= 0);
    assert_true(addr_equal_ip(&o.r.peer, &a));
    close(fd);
}

static void failures_are_told_apart(void **state)
{
    struct addr a, full;
    struct outcome o;
    close(test_listen(&a));
    o = dial(&(struct dial_params){.target = {"127.0.0.1", addr_port(&a)}});
    assert_int_equal(o.r.err, ERR_REFUSED);
    assert_true(o.r.is_answered);
    o = dial(&(struct dial_params){.target = {"224.0.0.1", 80}});
    assert_int_equal(o.r.err, ERR_UNREACHABLE);
    assert_false(o.r.is_answered);
    o = dial(&(struct dial_params){.target = {"name.invalid", 80}});
    assert_int_equal(o.r.err, ERR_DNS);
    o = dial(&(struct dial_params){.target = {"localhost", 80}, .arg = &o});
    assert_int_equal(o.r.err, ERR_DENIED);
    assert_true(o.asked > 0);

    int fd = test_listen(&full), filler[2];
    listen(fd, 0);
    for (int i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler[i], &full.sa, full.len);
    }
    o = dial(&(struct dial_params){.target = {"127.0.0.1", addr_port(&full)}, .deadline_ms = 100});
    assert_int_equal(o.r.err, ERR_TIMEOUT);
    assert_false(o.r.is_answered);
    close(filler[0]);
    close(filler[1]);
    close(fd);
}

static void a_refused_socket_serves_the_next_dial_to_the_same_address(void **state)
{
    struct addr shut, open, other;
    close(test_listen(&shut));
    int fd = test_listen(&open);
    spare_sockets_close();
    for (int i = 0; i < 3; i++) {
        struct outcome o = dial(&(struct dial_params){.target = {"127.0.0.1", addr_port(&shut)},
                                                      .wants_cause = i == 2});
        assert_int_equal(o.r.err, ERR_REFUSED);
    }
    assert_int_equal(addr_parse("127.0.0.2", addr_port(&shut), &other), 0);
    assert_int_equal(spare_socket_take(&other, SPARE_PLAIN), -1);
    int spare = spare_socket_take(&shut, SPARE_PLAIN);
    assert_true(spare >= 0);
    assert_int_equal(spare_socket_take(&shut, SPARE_PLAIN), -1);
    spare_socket_keep(spare, &shut, SPARE_PLAIN);

    struct outcome o = dial(&(struct dial_params){.target = {"127.0.0.1", addr_port(&open)}});
    assert_int_equal(o.r.err, 0);
    assert_int_equal(o.r.fd, spare);
    assert_int_equal(spare_socket_take(&open, SPARE_PLAIN), -1);
    spare = spare_socket_take(&open, SPARE_WATCHED);
    assert_true(spare >= 0);
    close(spare);
    close(fd);
}

static void spare_sockets_are_few(void **state)
{
    struct addr a;
    assert_int_equal(addr_parse("192.0.2.1", 1, &a), 0);
    spare_sockets_close();
    for (int i = 0; i < 2 * SPARE_SOCKETS_MAX; i++)
        spare_socket_keep(socket(AF_INET, SOCK_STREAM, 0), &a, SPARE_PLAIN);
    int n = 0;
    for (int fd; (fd = spare_socket_take(&a, SPARE_PLAIN)) >= 0; n++)
        close(fd);
    assert_int_equal(n, SPARE_SOCKETS_MAX);
}

static void a_persistent_dial_uses_a_target_that_comes_back(void **state)
{
    struct loop *l;
    struct outcome o = {0};
    struct addr full;
    int fd = test_listen(&full), filler[2], taken;
    listen(fd, 0);
    for (int i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler[i], &full.sa, full.len);
    }
    assert_int_equal(loop_new(&l), 0);
    struct dial_params p = {.target = {"127.0.0.1", addr_port(&full)},
                            .is_persistent = true,
                            .on_done = on_done,
                            .arg = &o};
    dial_start(l, &p);
    uint64_t start = time_mono_ms();
    while (time_mono_ms() - start < 300)
        test_turn(l);
    assert_false(o.is_done);
    listen(fd, 16);
    while ((taken = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0)
        close(taken);
    start = time_mono_ms();
    wait_for(l, o.is_done);
    assert_int_equal(o.r.err, 0);
    assert_true(time_mono_ms() - start < 1500);
    close(o.r.fd);
    close(filler[0]);
    close(filler[1]);
    close(fd);
    loop_free(l);
}

static void a_cancelled_dial_is_silent(void **state)
{
    struct loop *l;
    struct outcome o = {0};
    assert_int_equal(loop_new(&l), 0);
    struct dial_params p = {.target = {"localhost", 9}, .on_done = on_done, .arg = &o};
    dial_cancel(dial_start(l, &p)); /* resolving */
    strcpy(p.target.host, "127.0.0.1");
    dial_cancel(dial_start(l, &p)); /* refused already, not told yet */
    for (int i = 0; i < 20; i++)
        test_turn(l);
    assert_false(o.is_done);
    loop_free(l);
}

struct accepted {
    struct listener *listener;
    int count;
};

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct accepted *a = arg;
    assert_true(peer->len > 0);
    close(fd);
    if (++a->count == 3)
        listener_stop(a->listener);
}

static void a_listener_pauses_and_stops(void **state)
{
    struct loop *l;
    struct addr addr;
    struct accepted a = {0};
    int fd = test_listen(&addr), clients[5];
    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(listener_start(l, fd, on_accept, &a, &a.listener), 0);
    listener_pause(a.listener);
    for (int i = 0; i < 5; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(clients[i], &addr.sa, addr.len), 0);
        test_turn(l);
    }
    assert_int_equal(a.count, 0);
    listener_resume(a.listener);
    wait_for(l, a.count == 3);
    for (int i = 0; i < 5; i++) {
        test_turn(l);
        close(clients[i]);
    }
    assert_int_equal(a.count, 3);
    close(fd);
    loop_free(l);
}

static void binding_says_what_is_wrong(void **state)
{
    struct addr a, elsewhere;
    struct diag d;
    int fd = test_listen(&a), second;
    assert_int_equal(listener_bind(&a, false, &second, NULL, &d), ERR_EXISTS);
    assert_int_equal(addr_parse("192.0.2.1", 0, &elsewhere), 0);
    assert_int_equal(listener_bind(&elsewhere, false, &second, NULL, &d), ERR_UNREACHABLE);
    assert_non_null(strstr(d.text, "192.0.2.1"));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_resolved_and_connected),
        cmocka_unit_test(failures_are_told_apart),
        cmocka_unit_test(a_refused_socket_serves_the_next_dial_to_the_same_address),
        cmocka_unit_test(spare_sockets_are_few),
        cmocka_unit_test(a_persistent_dial_uses_a_target_that_comes_back),
        cmocka_unit_test(a_cancelled_dial_is_silent),
        cmocka_unit_test(a_listener_pauses_and_stops),
        cmocka_unit_test(binding_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
