#include "wire/connect_udp.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void targets_become_paths_and_come_back(void **state)
{
    static const struct {
        struct host_port target;
        const char *path;
    } rows[] = {
        {{"10.0.0.17", 161}, "/.well-known/masque/udp/10.0.0.17/161/"},
        {{"dns.example", 53}, "/.well-known/masque/udp/dns.example/53/"},
        {{"2001:db8::42", 65535}, "/.well-known/masque/udp/2001%3Adb8%3A%3A42/65535/"},
    };
    char path[CONNECT_UDP_PATH_SIZE];
    struct host_port back;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        connect_udp_path(&rows[i].target, path);
        assert_string_equal(path, rows[i].path);
        assert_int_equal(connect_udp_parse(path, &back, NULL), 0);
        assert_string_equal(back.host, rows[i].target.host);
        assert_int_equal(back.port, rows[i].target.port);
    }
}

static void the_longest_name_fits(void **state)
{
    struct host_port target = {.port = 65535}, back;
    char path[CONNECT_UDP_PATH_SIZE];
    memset(target.host, 0xc3, sizeof(target.host) - 1);
    connect_udp_path(&target, path);
    assert_int_equal(connect_udp_parse(path, &back, NULL), 0);
    assert_string_equal(back.host, target.host);
}

static void anything_else_is_refused(void **state)
{
    static const char *const paths[] = {
        "",
        "/",
        "*",
        "/.well-known/masque/udp/",
        "/.well-known/masque/udp//53/",
        "/.well-known/masque/udp/host/",
        "/.well-known/masque/udp/host/53",
        "/.well-known/masque/udp/host/53/more",
        "/.well-known/masque/udp/host/0/",
        "/.well-known/masque/udp/host/65536/",
        "/.well-known/masque/udp/host/-1/",
        "/.well-known/masque/udp/ho%2/53/",
        "/.well-known/masque/udp/ho%zz/53/",
        "/.well-known/masque/udp/ho%00st/53/",
        "/.well-known/masque/udp/ho%0ast/53/",
        "/.well-known/masque/udp/a%2Fb/53/",
        "/.well-known/masque/udp/a%3Ab/53/",
        "/.well-known/masque/ip/host/53/",
    };
    struct host_port target;
    struct diag d = {0};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        assert_int_equal(connect_udp_parse(paths[i], &target, &d), ERR_INVALID);
        assert_true(d.text[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_become_paths_and_come_back),
        cmocka_unit_test(the_longest_name_fits),
        cmocka_unit_test(anything_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
