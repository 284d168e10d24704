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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failure_survives_the_trip),
        cmocka_unit_test(an_answer_without_the_field_is_judged_by_its_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
