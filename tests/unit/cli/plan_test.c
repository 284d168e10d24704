#include "cli/plan.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- deciding: one line a case --------------------------------------------------------------- */

struct situation {
    uint64_t file_version; /* in the file; 0: none */
    uint64_t live;         /* version; 0: there is no such object */
    uint64_t record;       /* version last applied; 0: never */
    uint64_t since;
    const char *owner, *token; /* of the record */
    bool is_same;
    const char *set; /* that is applied */
    bool overwrite, take_over;
    bool is_absent; /* from the files: to be pruned */
};

static enum plan_action decide(struct situation it)
{
    struct manifest_object source = {.version = it.file_version};
    const struct plan_rules rules = {it.set, "me", it.overwrite, it.take_over};
    struct plan p = {0};
    struct plan_step *s = plan_add(&p, kind_find("tunnel"), "x");
    s->source = it.is_absent ? NULL : &source;
    if (it.live) {
        s->live = json_pack("{s:I}", "version", (json_int_t)it.live);
        s->from = json_pack("{s:i}", "a", 1);
    }
    s->to = json_pack("{s:i}", "a", it.is_same ? 1 : 2);
    if (it.record)
        s->record =
            json_pack("{s:I, s:I, s:s?, s:s}", "version", (json_int_t)it.record, "since",
                      (json_int_t)it.since, "set", it.owner, "token", it.token ? it.token : "me");
    plan_decide(&rules, s);
    enum plan_action action = s->action;
    if (action == PLAN_CONFLICT)
        assert_true(s->why[0] && s->advice[0]);
    plan_done(&p);
    return action;
}
#define DECIDE(...) decide((struct situation){__VA_ARGS__})

static void what_is_not_there_is_created(void **state)
{
    assert_int_equal(DECIDE(.live = 0), PLAN_CREATE);
    assert_int_equal(DECIDE(.file_version = 3), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.file_version = 3, .overwrite = true), PLAN_CREATE);
}

static void what_only_applies_changed_is_updated(void **state)
{
    assert_int_equal(DECIDE(.live = 3, .record = 3), PLAN_UPDATE);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .token = "other"), PLAN_UPDATE);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .is_same = true), PLAN_UNCHANGED);
}

static void what_others_changed_is_a_conflict(void **state)
{
    assert_int_equal(DECIDE(.live = 4, .record = 3), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 4), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 4, .record = 3, .is_same = true), PLAN_UNCHANGED);
    assert_int_equal(DECIDE(.live = 4, .is_same = true), PLAN_UNCHANGED);
    assert_int_equal(DECIDE(.live = 4, .record = 3, .overwrite = true), PLAN_UPDATE);
    assert_int_equal(DECIDE(.live = 4, .overwrite = true), PLAN_UPDATE);
}

static void a_file_made_from_a_version_is_for_that_version(void **state)
{
    assert_int_equal(DECIDE(.file_version = 4, .live = 4), PLAN_UPDATE);
    assert_int_equal(DECIDE(.file_version = 4, .live = 4, .record = 3), PLAN_UPDATE);
    assert_int_equal(DECIDE(.file_version = 3, .live = 4), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.file_version = 3, .live = 4, .is_same = true), PLAN_UNCHANGED);
    assert_int_equal(DECIDE(.file_version = 3, .live = 4, .overwrite = true), PLAN_UPDATE);
}

static void ones_own_applies_since_then_do_not_count(void **state)
{
    assert_int_equal(DECIDE(.file_version = 3, .live = 6, .record = 6, .since = 3), PLAN_UPDATE);
    assert_int_equal(DECIDE(.file_version = 2, .live = 6, .record = 6, .since = 3), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.file_version = 3, .live = 7, .record = 6, .since = 3), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.file_version = 9, .live = 6, .record = 6, .since = 3), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.file_version = 3, .live = 6, .record = 6, .since = 3, .token = "bob"),
                     PLAN_CONFLICT);
}

static void an_object_belongs_to_one_set(void **state)
{
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "a"), PLAN_UPDATE);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "b"), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "b", .is_same = true),
                     PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "b", .overwrite = true),
                     PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "b", .take_over = true),
                     PLAN_UPDATE);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a"), PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .is_same = true), PLAN_UNCHANGED);
    assert_int_equal(DECIDE(.live = 3, .set = "b", .is_same = true), PLAN_ADOPT);
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "b", .set = "b", .is_same = true),
                     PLAN_UNCHANGED);
    assert_int_equal(DECIDE(.live = 4, .record = 3, .owner = "b", .set = "b", .is_same = true),
                     PLAN_ADOPT);
}

static void what_is_pruned_was_not_changed_by_others(void **state)
{
    assert_int_equal(DECIDE(.live = 3, .record = 3, .owner = "a", .set = "a", .is_absent = true),
                     PLAN_DELETE);
    assert_int_equal(DECIDE(.live = 4, .record = 3, .owner = "a", .set = "a", .is_absent = true),
                     PLAN_CONFLICT);
    assert_int_equal(DECIDE(.live = 4, .record = 3, .owner = "a", .set = "a", .is_absent = true,
                            .overwrite = true),
                     PLAN_DELETE);
}

/* --- differences ----------------------------------------------------------------------------- */

static void assert_changes(const char *from, const char *to, const char *expected)
{
    json_t *a = json_loads(from, JSON_DECODE_ANY, NULL), *b = json_loads(to, JSON_DECODE_ANY, NULL);
    json_t *changes = plan_changes(json_is_null(a) ? NULL : a, json_is_null(b) ? NULL : b);
    char *text = json_dumps(changes, JSON_COMPACT);
    assert_string_equal(text, expected);
    free(text);
    json_decref(changes);
    json_decref(a);
    json_decref(b);
}

static void differences_are_told_field_by_field(void **state)
{
    assert_changes("{\"a\":{\"b\":1,\"c\":2}}", "{\"a\":{\"b\":1,\"c\":3}}",
                   "[{\"field\":\"a.c\",\"from\":2,\"to\":3}]");
    assert_changes("{\"l\":[1,2]}", "{\"l\":[1]}", "[{\"field\":\"l\",\"from\":[1,2],\"to\":[1]}]");
    assert_changes("{\"a\":{\"x\":1}}", "{}", "[{\"field\":\"a.x\",\"from\":1,\"to\":null}]");
    assert_changes("{}", "{\"a\":{\"x\":1}}", "[{\"field\":\"a.x\",\"from\":null,\"to\":1}]");
    assert_changes("{\"a\":{\"x\":1}}", "{\"a\":null}",
                   "[{\"field\":\"a\",\"from\":{\"x\":1},\"to\":null}]");
}

static void an_absent_member_is_as_good_as_null(void **state)
{
    assert_changes("{\"a\":null}", "{}", "[]");
    assert_changes("{}", "{\"a\":null}", "[]");
    assert_changes("null", "{\"name\":\"x\",\"ttl\":null}",
                   "[{\"field\":\"name\",\"from\":null,\"to\":\"x\"}]");
}

/* --- files ----------------------------------------------------------------------------------- */

static void both_formats_say_the_same(void **state)
{
    static const char yaml[] =
        "kind: tunnel\nname: web\nversion: 4\nspec: {target: {address: 'a:1'}}\n";
    static const char toml[] =
        "[[tunnel]]\nname = 'web'\nversion = 4\n[tunnel.spec.target]\naddress = 'a:1'\n";
    struct manifest m = {0}, t = {0};
    struct diag d = {0};
    assert_int_equal(manifest_parse(&m, "x.yaml", yaml, strlen(yaml), &d), 0);
    assert_int_equal(manifest_parse(&t, "x.toml", toml, strlen(toml), &d), 0);
    assert_int_equal(m.n, 1);
    assert_int_equal(t.n, 1);
    assert_true(json_equal(m.objects[0].body, t.objects[0].body));
    assert_int_equal(m.objects[0].version, 4);
    assert_int_equal(t.objects[0].version, 4);
    assert_null(json_object_get(m.objects[0].body, "kind"));
    assert_int_equal(manifest_line(&m.objects[0], "spec.target.address"), 4);
    assert_int_equal(manifest_line(&t.objects[0], "spec.target.address"), 5);
    assert_int_equal(manifest_line(&t.objects[0], "spec.target.port"), 4);
    assert_int_equal(manifest_line(&t.objects[0], "nothing"), 1);
    manifest_done(&m);
    manifest_done(&t);
}

static void keys_of_toml_are_not_nested_without_end(void **state)
{
    char text[20000] = "a";
    struct manifest m = {0};
    struct diag d = {0};
    for (size_t i = 1; i + 8 < sizeof(text); i += 2)
        memcpy(text + i, ".a", 3);
    strcat(text, " = 1\n");
    assert_int_equal(manifest_parse(&m, "x.toml", text, strlen(text), &d), ERR_INVALID);
    const char *deep =
        "[[network]]\nname = 'a'\nx = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]"
        "]]]]]]]]]]]]]]]]]]]]]]]]]]\n";
    assert_int_equal(manifest_parse(&m, "x.toml", deep, strlen(deep), &d), ERR_INVALID);
    assert_non_null(strstr(d.text, "deep"));
    manifest_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_there_is_created),
        cmocka_unit_test(what_only_applies_changed_is_updated),
        cmocka_unit_test(what_others_changed_is_a_conflict),
        cmocka_unit_test(a_file_made_from_a_version_is_for_that_version),
        cmocka_unit_test(ones_own_applies_since_then_do_not_count),
        cmocka_unit_test(an_object_belongs_to_one_set),
        cmocka_unit_test(what_is_pruned_was_not_changed_by_others),
        cmocka_unit_test(differences_are_told_field_by_field),
        cmocka_unit_test(an_absent_member_is_as_good_as_null),
        cmocka_unit_test(both_formats_say_the_same),
        cmocka_unit_test(keys_of_toml_are_not_nested_without_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
