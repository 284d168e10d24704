/* Relays that do not come to be: targets that are not reached, clients that leave before. */
#include "relay_rig.h"

#include "base/error.h"
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

static int deny(void *arg, const struct addr *a)
{
    return ERR_DENIED;
}

static void expect_failure(struct relay_rig *rig, const char *target, uint16_t port, int err)
{
    struct addr a;
    int ends = rig->hub_ends;
    assert_int_equal(addr_parse(target, port, &a), 0);
    int client = relay_rig_open_to(rig, &a, NULL);
    wait_for(rig->loop, test_is_reset(client));
    wait_for(rig->loop, rig->hub_ends == ends + 1 && rig->agent_ends == ends + 1);
    assert_int_equal(rig->hub_result.end, RELAY_END_NOT_OPENED);
    assert_int_equal(rig->hub_result.err, err);
    assert_int_equal(rig->agent_result.err, err);
    close(client);
}

static void each_failure_to_reach_the_target_has_its_own_error(void **state)
{
    struct relay_rig rig;
    struct addr nobody;
    relay_rig_new(&rig);
    close(test_listen(&nobody));
    expect_failure(&rig, "127.0.0.1", addr_port(&nobody), ERR_REFUSED);
    expect_failure(&rig, "224.0.0.1", 80, ERR_UNREACHABLE);
    rig.check = deny;
    expect_failure(&rig, "127.0.0.1", addr_port(&rig.target), ERR_DENIED);
    relay_rig_done(&rig);
}

static void a_kept_socket_can_still_tell_its_client_why(void **state)
{
    struct relay_rig rig;
    struct addr nobody;
    char authority[ADDR_TEXT_SIZE], got[8] = {0};
    int fds[2];
    struct relay *r;
    relay_rig_new(&rig);
    close(test_listen(&nobody));
    addr_format(&nobody, authority, sizeof(authority));
    test_tcp_pair(fds);
    const struct relay_open_params p = {.authority = authority,
                                        .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                        .n_headers = 1,
                                        .set = &rig.hub_set,
                                        .ops = &relay_rig_hub_ops,
                                        .arg = &rig,
                                        .keeps_fd = true};
    assert_int_equal(relay_open(rig.hub, fds[1], &p, &r), 0);
    wait_for(rig.loop, rig.hub_ends == 1);
    assert_int_equal(rig.hub_result.end, RELAY_END_NOT_OPENED);
    assert_int_equal(rig.hub_result.err, ERR_REFUSED);
    assert_int_equal(rig.hub_result.fd, fds[1]);
    assert_int_equal(send(fds[1], "why", 3, 0), 3);
    wait_for(rig.loop, recv(fds[0], got, sizeof(got), 0) == 3);
    assert_string_equal(got, "why");
    close(fds[0]);
    close(fds[1]);
    relay_rig_done(&rig);
}

static void a_target_that_does_not_answer_is_a_timeout(void **state)
{
    struct relay_rig rig;
    struct addr full;
    int others[2];
    relay_rig_new(&rig);
    rig.deadline_ms = 200;
    int fd = test_listen(&full);
    listen(fd, 0); /* its queue holds one */
    for (int i = 0; i < 2; i++) {
        others[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(others[i], &full.sa, full.len);
    }
    expect_failure(&rig, "127.0.0.1", addr_port(&full), ERR_TIMEOUT);
    close(others[0]);
    close(others[1]);
    close(fd);
    relay_rig_done(&rig);
}

static void a_client_that_leaves_while_the_target_is_dialled_ends_the_dial(void **state)
{
    struct relay_rig rig;
    struct addr full;
    relay_rig_new(&rig);
    int fd = test_listen(&full), filler[2];
    listen(fd, 0);
    for (int i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler[i], &full.sa, full.len);
    }
    int client = relay_rig_open_to(&rig, &full, NULL);
    wait_for(rig.loop, rig.agent_set.open == 1);
    test_reset(client);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.agent_result.end, RELAY_END_NOT_OPENED);
    close(filler[0]);
    close(filler[1]);
    close(fd);
    relay_rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failure_to_reach_the_target_has_its_own_error),
        cmocka_unit_test(a_kept_socket_can_still_tell_its_client_why),
        cmocka_unit_test(a_target_that_does_not_answer_is_a_timeout),
        cmocka_unit_test(a_client_that_leaves_while_the_target_is_dialled_ends_the_dial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
