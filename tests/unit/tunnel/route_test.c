#include "tunnel/tunnel_route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct tunnel_route none = {.epoch = 3};
static const struct tunnel_route ours = {"hub_a", 1, "agt_x", 5, 4};
static const struct tunnel_route theirs = {"hub_b", 1, "agt_y", 5, 4};
static const struct tunnel_route shared = {"hub_b", 1, "agt_y", 0, 4};

static void each_duty_follows_from_who_lives(void **state)
{
    static const struct {
        const struct tunnel_route *route;
        struct route_view view; /* hub, may_claim, has_agent, is_hub_live, is_session_live */
        enum route_duty duty;
    } rows[] = {
        {&none, {"hub_a", true, true, false, false}, ROUTE_CLAIM},
        {&none, {"hub_a", true, false, false, false}, ROUTE_WAIT},
        {&none, {"hub_a", false, true, false, false}, ROUTE_WAIT},
        {&ours, {"hub_a", true, true, true, true}, ROUTE_SERVE},
        {&ours, {"hub_a", false, false, true, false}, ROUTE_SERVE},
        {&theirs, {"hub_a", true, true, true, true}, ROUTE_FORWARD},
        {&theirs, {"hub_a", true, true, false, true}, ROUTE_CLAIM},
        {&theirs, {"hub_a", true, true, true, false}, ROUTE_CLAIM},
        {&theirs, {"hub_a", false, true, true, false}, ROUTE_WAIT},
        {&shared, {"hub_a", true, true, true, false}, ROUTE_FORWARD},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (route_duty(rows[i].route, &rows[i].view) != rows[i].duty)
            fail_msg("row %zu", i);
    }
}

static void routes_do_not_go_back(void **state)
{
    struct tunnel_route newer = theirs, released = theirs;
    newer.epoch++;
    released.hub[0] = '\0';
    assert_true(route_is_news(&theirs, &newer));
    assert_false(route_is_news(&newer, &theirs));
    assert_false(route_is_news(&theirs, &theirs));
    assert_true(route_is_news(&theirs, &released));
    assert_false(route_is_news(&released, &theirs));
    assert_false(route_is_news(&newer, &released));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_duty_follows_from_who_lives),
        cmocka_unit_test(routes_do_not_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
