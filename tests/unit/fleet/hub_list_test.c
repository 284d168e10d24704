#include "fleet/hub_list.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define A "hub_aaaaaaaaaaaaaaaa"
#define B "hub_bbbbbbbbbbbbbbbb"
#define C "hub_cccccccccccccccc"

static struct host_port at(const char *host)
{
    struct host_port hp = {.port = 8443};
    snprintf(hp.host, sizeof(hp.host), "%s", host);
    return hp;
}

static struct hub_list *list_of_three(void)
{
    static const struct hub_told told[] = {
        {A, "10.0.0.1:8443", false}, {B, "10.0.0.2:8443", false}, {C, "10.0.0.3:8443", false}};
    struct hub_list *l = NEW(struct hub_list);
    struct host_port front = at("front.example");
    assert_int_equal(hub_list_configure(l, &front), 0);
    hub_list_replace(l, told, 3);
    return l;
}

static void measure(struct hub_list *l, uint32_t a, uint32_t b, uint32_t c)
{
    l->entries[1].rtt_us = a;
    l->entries[2].rtt_us = b;
    l->entries[3].rtt_us = c;
}

static void what_was_not_measured_comes_after_what_was_configured(void **state)
{
    struct hub_list *l = list_of_three();
    assert_string_equal(hub_list_next(l, "", 7)->at.host, "front.example");
    assert_string_equal(hub_list_next(l, "", 7)->id, A);
    mem_free(l);
}

static void near_ones_come_first_and_any_of_them(void **state)
{
    struct hub_list *l = list_of_three();
    measure(l, 100000, 20000, 24000);
    assert_string_equal(hub_list_next(l, "", 0)->id, B);
    hub_list_reset(l);
    assert_string_equal(hub_list_next(l, "", 1)->id, C);
    assert_string_equal(hub_list_next(l, "", 1)->id, B);
    assert_string_equal(hub_list_next(l, "", 1)->id, A);
    assert_true(hub_list_has_untried(l, ""));
    assert_string_equal(hub_list_next(l, "", 1)->id, "");
    assert_false(hub_list_has_untried(l, ""));
    assert_string_equal(hub_list_next(l, "", 0)->id, B); /* anew */
    mem_free(l);
}

static void who_is_passed_over_is_not_the_next(void **state)
{
    struct hub_list *l = list_of_three();
    measure(l, 100, 100, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_string_not_equal(hub_list_next(l, B, i)->id, B);
    mem_free(l);
}

static void those_that_leave_are_the_last_resort(void **state)
{
    static const struct hub_told told[] = {{A, "10.0.0.1:8443", true}, {B, "10.0.0.2:8443", false}};
    struct hub_list *l = list_of_three();
    measure(l, 1, 90000, 1);
    hub_list_replace(l, told, 2);
    assert_string_equal(hub_list_next(l, "", 0)->id, B);
    assert_string_equal(hub_list_next(l, "", 0)->id, "");
    assert_string_equal(hub_list_next(l, "", 0)->id, A);
    mem_free(l);
}

static void a_configured_hub_is_never_lost(void **state)
{
    struct hub_list *l = list_of_three();
    hub_list_replace(l, NULL, 0);
    assert_int_equal(l->n, 1);
    for (int i = 0; i < 3; i++)
        assert_string_equal(hub_list_next(l, "", 0)->at.host, "front.example");
    mem_free(l);
}

static void lists_are_bounded_and_bad_entries_left_out(void **state)
{
    struct hub_told told[HUB_LIST_CLUSTER + 20];
    char ids[HUB_LIST_CLUSTER + 20][ID_SIZE];
    struct hub_list *l = list_of_three();
    for (size_t i = 0; i < HUB_LIST_CLUSTER + 20; i++) {
        snprintf(ids[i], ID_SIZE, "hub_%016zu", i);
        told[i] = (struct hub_told){ids[i], "10.0.0.9:1", false};
    }
    told[0].id = "agt_0000000000000000";
    told[1].address = "no port";
    told[2].id = told[3].id;
    told[4].address = "10.0.0.9:0";
    told[5].id = NULL;
    told[6].address = NULL;
    hub_list_replace(l, told, HUB_LIST_CLUSTER + 20);
    assert_int_equal(l->n, 1 + HUB_LIST_CLUSTER);
    assert_string_equal(l->entries[1].id, ids[3]);
    assert_string_equal(l->entries[2].id, ids[7]);
    mem_free(l);
}

static void what_was_measured_is_kept_for_the_same_place_only(void **state)
{
    static const struct hub_told told[] = {{A, "10.0.0.1:8443", false},
                                           {B, "10.9.9.9:8443", false}};
    struct hub_list *l = list_of_three();
    measure(l, 11, 22, 33);
    hub_list_replace(l, told, 2);
    assert_int_equal(l->entries[1].rtt_us, 11);
    assert_int_equal(l->entries[2].rtt_us, 0);
    mem_free(l);
}

static void a_list_survives_in_its_file(void **state)
{
    struct hub_list *l = list_of_three(), *again = NEW(struct hub_list);
    struct host_port front = at("front.example");
    measure(l, 11, 0, 33);
    json_t *json = hub_list_json(l);
    json_array_append_new(json, json_pack("{s:i, s:s}", "id", 7, "address", "x:1"));
    json_array_append_new(json, json_string("nonsense"));
    hub_list_configure(again, &front);
    hub_list_load(again, json);
    assert_int_equal(again->n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(again->entries[i].id, l->entries[i].id);
        assert_string_equal(again->entries[i].at.host, l->entries[i].at.host);
        assert_int_equal(again->entries[i].rtt_us, l->entries[i].rtt_us);
    }
    hub_list_load(again, NULL);
    assert_int_equal(again->n, 1);
    json_decref(json);
    mem_free(again);
    mem_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_not_measured_comes_after_what_was_configured),
        cmocka_unit_test(near_ones_come_first_and_any_of_them),
        cmocka_unit_test(who_is_passed_over_is_not_the_next),
        cmocka_unit_test(those_that_leave_are_the_last_resort),
        cmocka_unit_test(a_configured_hub_is_never_lost),
        cmocka_unit_test(lists_are_bounded_and_bad_entries_left_out),
        cmocka_unit_test(what_was_measured_is_kept_for_the_same_place_only),
        cmocka_unit_test(a_list_survives_in_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
