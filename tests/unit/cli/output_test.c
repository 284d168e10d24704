#include "cli/output.h"

#include "base/macro.h"
#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct column columns[] = {
    {"NAME", "name"},
    {"PHASE", "status.phase", COLUMN_PHASE},
    {"NETWORK", "network", COLUMN_REF, "networks"},
    {"IN", "bytes", COLUMN_BYTES},
    {"SEEN", "seen", COLUMN_AGE},
};
static const struct view view = {"things", "thing", columns, ARRAY_SIZE(columns)};

static const char *name_of(void *arg, const char *collection, const char *id)
{
    assert_string_equal(collection, "networks");
    return strcmp(id, "net_1") == 0 ? "shop" : NULL;
}

static struct output output_to(FILE *f, enum output_format format)
{
    struct output o = {.file = f, .format = format, .name_of = name_of};
    assert_int_equal(time_parse("2026-11-21T12:00:00.000Z", &o.now_ms), 0);
    return o;
}

static json_t *things(void)
{
    json_t *list =
        json_loads("[{\"id\":\"a1\",\"name\":\"w\xc3\xa9"
                   "b\",\"status\":{\"phase\":\"active\"},"
                   "\"network\":\"net_1\",\"bytes\":1536,\"seen\":\"2026-11-21T11:57:00.000Z\"},"
                   "{\"id\":\"a2\",\"name\":\"e\\u001b[31m\\u0007vil\",\"status\":{\"phase\":null},"
                   "\"network\":\"net_2\",\"bytes\":0,\"seen\":\"2026-11-22T12:00:00.000Z\"}]",
                   0, NULL);
    assert_non_null(list);
    return list;
}

static void expect_list(struct output o, char **text, const char *expected)
{
    json_t *list = things();
    assert_int_equal(output_list(&o, &view, list), 0);
    fflush(o.file);
    assert_string_equal(*text, expected);
    json_decref(list);
}

static void tables_are_aligned_and_cannot_move_the_cursor(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    expect_list(output_to(f, OUTPUT_TABLE), &text,
                "NAME        PHASE   NETWORK  IN       SEEN\n"
                "w\xc3\xa9"
                "b         active  shop     1.5 KiB  3m ago\n"
                "e?[31m?vil  -       net_2    0 B      in 24h\n");
    fclose(f);
    free(text);
}

static void quiet_lists_are_ids(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct output o = output_to(f, OUTPUT_JSON);
    o.is_quiet = true;
    expect_list(o, &text, "a1\na2\n");
    fclose(f);
    free(text);
}

static void colours_are_there_only_when_asked_for(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    json_t *list = things();
    struct output o = output_to(f, OUTPUT_TABLE);
    o.is_coloured = true;
    assert_int_equal(output_list(&o, &view, list), 0);
    assert_non_null(strstr(text, "\x1b[32mactive\x1b[0m  shop"));
    json_decref(list);
    fclose(f);
    free(text);
}

static void json_lists_are_plain_arrays(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    json_t *list = things();
    struct output o = output_to(f, OUTPUT_JSON);
    assert_int_equal(output_list(&o, &view, list), 0);
    fflush(f);
    json_t *again = json_loads(text, 0, NULL);
    assert_true(json_equal(again, list));
    json_decref(again);
    json_decref(list);
    fclose(f);
    free(text);
}

static void streamed_objects_are_one_line_each(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct output o = output_to(f, OUTPUT_JSON);
    json_t *obj = json_pack("{s:s, s:{s:i}}", "id", "x", "a", "b", 1);
    assert_int_equal(output_item(&o, obj), 0);
    assert_int_equal(output_item(&o, obj), 0);
    assert_string_equal(text, "{\"id\":\"x\",\"a\":{\"b\":1}}\n{\"id\":\"x\",\"a\":{\"b\":1}}\n");
    json_decref(obj);
    fclose(f);
    free(text);
}

static void an_object_is_a_line_for_each_member(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct output o = output_to(f, OUTPUT_TABLE);
    json_t *obj = json_loads("{\"id\":\"x\",\"status\":{\"ok\":true,\"why\":null},"
                             "\"list\":[\"a\",2]}",
                             0, NULL);
    assert_int_equal(output_object(&o, obj), 0);
    fflush(f);
    assert_string_equal(text, "id          x\n"
                              "status.ok   yes\n"
                              "status.why  -\n"
                              "list        a, 2\n");
    json_decref(obj);
    fclose(f);
    free(text);
}

static void yaml_keeps_the_types(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    json_t *obj = json_loads(
        "{\"id\":\"x\",\"no\":\"no\",\"n\":\"12\",\"i\":12,\"t\":true,\"z\":null,\"e\":\"\","
        "\"l\":[\"a: b\",{\"k\":[]}],\"o\":{},\"multi\":\"a\\nb\",\"addr\":\"127.0.0.1:80\"}",
        0, NULL);
    assert_int_equal(yaml_write(f, obj, false), 0);
    fflush(f);
    assert_string_equal(text, "id: x\n"
                              "\"no\": \"no\"\n"
                              "\"n\": \"12\"\n"
                              "i: 12\n"
                              "t: true\n"
                              "z: null\n"
                              "e: \"\"\n"
                              "l:\n"
                              "- 'a: b'\n"
                              "- k: []\n"
                              "o: {}\n"
                              "multi: |-\n  a\n  b\n"
                              "addr: \"127.0.0.1:80\"\n");
    json_decref(obj);
    fclose(f);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_aligned_and_cannot_move_the_cursor),
        cmocka_unit_test(quiet_lists_are_ids),
        cmocka_unit_test(colours_are_there_only_when_asked_for),
        cmocka_unit_test(json_lists_are_plain_arrays),
        cmocka_unit_test(streamed_objects_are_one_line_each),
        cmocka_unit_test(an_object_is_a_line_for_each_member),
        cmocka_unit_test(yaml_keeps_the_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
