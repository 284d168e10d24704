#include "wire/proxy_status.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void each_failure_survives_the_trip(void **state)
{
    static const int codes[] = {ERR_REFUSED,   ERR_TIMEOUT, ERR_UNREACHABLE, ERR_DNS,
                                ERR_DENIED,    ERR_LIMIT,   ERR_STALE,       ERR_RESET,
                                ERR_NOT_FOUND, ERR_IO};
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        char field[PROXY_STATUS_SIZE];
        int status = proxy_status_format(codes[i], field);
        assert_int_equal(proxy_status_parse(status, field), codes[i]);
    }
}

static void an_answer_without_the_field_is_judged_by_its_status(void **state)
{
    assert_int_equal(proxy_status_parse(200, NULL), 0);
    assert_int_equal(proxy_status_parse(504, NULL), ERR_TIMEOUT);
    assert_int_equal(proxy_status_parse(502, "x; details=\"error=\""), ERR_IO);
    assert_int_equal(proxy_status_parse(418, NULL), ERR_PROTO);
    assert_int_equal(proxy_status_parse(502, "nginx; a=b;error=connection_refused; x=y"),
                     ERR_REFUSED);
}

static void the_icmp_error_behind_a_failure_survives_the_trip(void **state)
{
    static const struct icmp_cause causes[] = {
        {4, 3, 13, {[10] = 0xff, 0xff, 10, 0, 0, 1}},
        {4, 11, 0, {0}},
        {6, 1, 3, {0xfd, 0, [15] = 0x17}},
        {6,
         1,
         255,
         {0xff, 0xee, 0xff, 0xee, 0xff, 0xee, 0xff, 0xee, 0xff, 0xee, 0xff, 0xee, 0xff, 0xee, 0xff,
          0xee}},
        {6, 3, 0, {0}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
        char field[PROXY_STATUS_SIZE];
        struct icmp_cause got;
        proxy_status_format(ERR_UNREACHABLE, field);
        proxy_status_add_cause(field, &causes[i]);
        proxy_status_cause(field, &got);
        assert_memory_equal(&got, &causes[i], sizeof(got));
        assert_int_equal(proxy_status_parse(502, field), ERR_UNREACHABLE);
    }
}

static void what_is_no_icmp_error_is_none(void **state)
{
    static const char *const fields[] = {
        NULL,
        "warren; error=connection_refused",
        "warren; icmp=\"3.4 10.0.0.1\"",   /* too big */
        "warren; icmp=\"0.0 10.0.0.1\"",   /* an answer */
        "warren; icmp=\"3.1 10.0.0\"",     /* no address */
        "warren; icmp=\"3.256 10.0.0.1\"", /* no byte */
        "warren; icmp=\"1.4 10.0.0.1\"",   /* the other version's */
        "warren; icmp=\"3.1 10.0.0.1 \"",
        "warren; icmp=\"3.1\"",
        "warren; icmp=\"",
        "warren; details=\"icmp=\"",
    };
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        struct icmp_cause got = {.version = 9};
        proxy_status_cause(fields[i], &got);
        assert_int_equal(got.version, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failure_survives_the_trip),
        cmocka_unit_test(an_answer_without_the_field_is_judged_by_its_status),
        cmocka_unit_test(the_icmp_error_behind_a_failure_survives_the_trip),
        cmocka_unit_test(what_is_no_icmp_error_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
