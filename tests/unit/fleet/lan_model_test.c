#include "base/mem.h"
#include "fleet/lan_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void a_place_is_a_subnet_and_a_router_if_that_is_known(void **state)
{
    char place[LAN_PLACE_SIZE];
    lan_place_format("10.0.0.0/24", "52:54:00:12:34:56", place);
    assert_string_equal(place, "10.0.0.0/24 52:54:00:12:34:56");
    lan_place_format("10.0.0.0/24", "", place);
    assert_string_equal(place, "10.0.0.0/24");
    lan_place_format("", "52:54:00:12:34:56", place);
    assert_string_equal(place, "");
    assert_true(lan_place_same("10.0.0.0/24 aa", "10.0.0.0/24"));
    assert_true(lan_place_same("10.0.0.0/24 aa", "10.0.0.0/24 aa"));
    assert_false(lan_place_same("10.0.0.0/24 aa", "10.0.0.0/24 bb"));
    assert_false(lan_place_same("10.0.0.0/24", "10.0.0.0/2"));
}

static void only_so_many_places_are_kept(void **state)
{
    char *places = NULL, place[LAN_PLACE_SIZE];
    assert_false(lan_places_have(NULL, "10.0.0.0/24"));
    for (int i = 0; i < 20; i++) {
        snprintf(place, sizeof(place), "10.0.%d.0/24", i);
        places = lan_places_add(places, place);
        assert_true(lan_places_have(places, place));
    }
    assert_false(lan_places_have(places, "10.0.11.0/24"));
    assert_true(lan_places_have(places, "10.0.12.0/24"));
    assert_false(lan_places_have(places, "10.0.1"));
    mem_free(places);
}

static void the_same_network_survives_whichever_is_asked_first(void **state)
{
    const struct lan_network all[] = {
        {"net_b", true, 0, 50}, {"net_a", false, 3, 90},  {"net_c", false, 1, 100},
        {"net_d", false, 0, 1}, {"net_e", false, 0, 200}, {"net_f", false, 0, 200},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        for (size_t k = i + 1; k < sizeof(all) / sizeof(all[0]); k++) {
            assert_true(lan_network_prevails(&all[i], &all[k]));
            assert_false(lan_network_prevails(&all[k], &all[i]));
        }
    }
}

static void what_follows_from_a_pair(void **state)
{
    const struct lan_end settled = {0}, named = {.is_named = true}, away = {.is_away = true},
                         named_away = {.is_named = true, .is_away = true},
                         elsewhere = {.speaks_for_none = true};
    assert_int_equal(lan_decide(&settled, &settled, false), LAN_MERGE);
    assert_int_equal(lan_decide(&settled, &named, false), LAN_MERGE);
    assert_int_equal(lan_decide(&named, &named, false), LAN_CONFLICT);
    assert_int_equal(lan_decide(&away, &named, false), LAN_MOVE_FIRST);
    assert_int_equal(lan_decide(&named, &away, false), LAN_MOVE_SECOND);
    assert_int_equal(lan_decide(&named_away, &named, false), LAN_MOVE_FIRST);
    assert_int_equal(lan_decide(&away, &away, false), LAN_STAY);
    assert_int_equal(lan_decide(&elsewhere, &settled, false), LAN_STAY);
    assert_int_equal(lan_decide(&settled, &elsewhere, false), LAN_STAY);
    assert_int_equal(lan_decide(&settled, &settled, true), LAN_STAY);
    assert_int_equal(lan_decide(&away, &settled, true), LAN_STAY);
}

static void a_new_place_becomes_home_with_most_of_the_network(void **state)
{
    assert_true(lan_is_settled(1, 1, 1, 10, 0));  /* somebody of it is at home there */
    assert_false(lan_is_settled(0, 1, 0, 10, 0)); /* two laptops on one visit */
    assert_false(lan_is_settled(0, 4, 0, 10, 0)); /* half */
    assert_true(lan_is_settled(0, 5, 0, 10, 0));  /* the LAN got new addresses */
    assert_false(lan_is_settled(0, 1, 1, 3, 0));  /* the third has stayed at home */
    assert_false(lan_is_settled(0, 0, 0, 2, LAN_SETTLE_MS));
    assert_false(lan_is_settled(0, 0, 0, 1, LAN_SETTLE_MS - 1)); /* alone: after a while */
    assert_true(lan_is_settled(0, 0, 0, 1, LAN_SETTLE_MS));
}

static void two_that_take_turns_are_clones_and_a_restart_is_not(void **state)
{
    struct lan_lineage l = {0};
    assert_false(lan_lineage_login(&l, "a", false, 0));
    assert_false(lan_lineage_login(&l, "a", true, 1000)); /* it came again itself */
    assert_false(lan_lineage_login(&l, "b", true, 2000)); /* restarted, or a copy: who knows */
    assert_false(lan_lineage_login(&l, "c", true, 3000));
    assert_true(lan_lineage_login(&l, "b", true, 4000)); /* who was restarted is no more */
    assert_true(lan_lineage_login(&l, "c", true, 5000));
    assert_false(lan_lineage_login(&l, "b", true, 5000 + LAN_CLONE_MS));
    assert_false(lan_lineage_login(&l, "c", false, 5001 + LAN_CLONE_MS)); /* nobody was there */
    assert_false(lan_lineage_login(&l, "", true, 6000 + LAN_CLONE_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_is_a_subnet_and_a_router_if_that_is_known),
        cmocka_unit_test(only_so_many_places_are_kept),
        cmocka_unit_test(the_same_network_survives_whichever_is_asked_first),
        cmocka_unit_test(what_follows_from_a_pair),
        cmocka_unit_test(a_new_place_becomes_home_with_most_of_the_network),
        cmocka_unit_test(two_that_take_turns_are_clones_and_a_restart_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
