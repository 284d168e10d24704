#include "loop/notify.h"

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

static int manager;

/* The next datagram, or "" when there is none. */
static const char *received(void)
{
    static char text[512];
    ssize_t n = recv(manager, text, sizeof(text) - 1, MSG_DONTWAIT);
    text[n < 0 ? 0 : n] = '\0';
    return text;
}

static void listen_as_manager(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(sa_family_t); /* the kernel chooses an abstract name */
    char name[64];
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(manager, (struct sockaddr *)&a, len), 0);
    len = sizeof(a);
    getsockname(manager, (struct sockaddr *)&a, &len);
    snprintf(name, sizeof(name), "@%.*s", (int)(len - sizeof(sa_family_t) - 1), a.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
}

static void the_manager_hears_of_each_phase_and_the_watchdog_is_fed(void **state)
{
    struct loop *l;
    struct notify n;
    char pid[16];
    listen_as_manager();
    setenv("WATCHDOG_USEC", "10000000", 1);
    snprintf(pid, sizeof(pid), "%d", getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(loop_new_virtual(&l, 0), 0);
    notify_init(&n, l);
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_null(getenv("WATCHDOG_USEC"));

    loop_advance(l, 20000);
    assert_string_equal(received(), "");
    notify_ready(&n);
    assert_string_equal(received(), "READY=1");
    assert_string_equal(received(), "WATCHDOG=1");
    loop_advance(l, 4999);
    assert_string_equal(received(), "");
    loop_advance(l, 1);
    assert_string_equal(received(), "WATCHDOG=1");
    notify_status(&n, "%d agents\nREADY=1", 3);
    assert_string_equal(received(), "STATUS=3 agents READY=1");
    notify_reloading(&n);
    assert_int_equal(strncmp(received(), "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
    notify_stopping(&n);
    assert_string_equal(received(), "STOPPING=1");
    notify_done(&n);
    loop_advance(l, 60000);
    assert_string_equal(received(), "");
    loop_free(l);
    close(manager);
}

static void the_watchdog_of_another_process_is_left_alone(void **state)
{
    struct loop *l;
    struct notify n;
    listen_as_manager();
    setenv("WATCHDOG_USEC", "1000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(loop_new_virtual(&l, 0), 0);
    notify_init(&n, l);
    notify_ready(&n);
    assert_string_equal(received(), "READY=1");
    loop_advance(l, 10000);
    assert_string_equal(received(), "");
    notify_done(&n);
    loop_free(l);
    close(manager);
}

static void without_a_manager_nothing_happens(void **state)
{
    struct loop *l;
    struct notify n;
    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(loop_new_virtual(&l, 0), 0);
    notify_init(&n, l);
    notify_ready(&n);
    notify_status(&n, "fine");
    notify_done(&n);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_manager_hears_of_each_phase_and_the_watchdog_is_fed),
        cmocka_unit_test(the_watchdog_of_another_process_is_left_alone),
        cmocka_unit_test(without_a_manager_nothing_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
