#include "cli/yaml_load.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Every document in turn, as compact JSON with a line each. */
static int collect(void *arg, const struct yaml_document *document)
{
    char *text = json_dumps(document->value, JSON_COMPACT | JSON_ENCODE_ANY);
    buf_printf(arg, "%zu:%u:%s\n", document->number, document->line, text);
    free(text);
    return 0;
}

static int load(const char *text, struct buf *out, unsigned *line, struct diag *d)
{
    *line = 0;
    *d = (struct diag){0};
    buf_clear(out);
    return yaml_load(text, strlen(text), collect, out, line, d);
}

static void assert_reads(const char *yaml, const char *expected)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf out = {0};
    unsigned line;
    struct diag d;
    assert_int_equal(load(yaml, &out, &line, &d), 0);
    assert_string_equal(buf_text(&out), expected);
}

static void assert_refuses(const char *yaml, int code, unsigned at, const char *text)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf out = {0};
    unsigned line;
    struct diag d;
    assert_int_equal(load(yaml, &out, &line, &d), code);
    assert_int_equal(line, at);
    if (!strstr(diag_text(&d), text))
        fail_msg("\"%s\" does not say \"%s\"", diag_text(&d), text);
}

static void plain_scalars_follow_the_core_schema_of_yaml_1_2(void **state)
{
    assert_reads("[1, -7, 0x1F, 0o17, 1.5, 1e3, .5, ~, null, '', true, False]",
                 "1:1:[1,-7,31,15,1.5,1000.0,0.5,null,null,\"\",true,false]\n");
    assert_reads("[yes, no, on, 0.0.0.0:0, 1.2.3, 12h, '1', \"true\", !!str 5, 0x, 1e, 1_000]",
                 "1:1:[\"yes\",\"no\",\"on\",\"0.0.0.0:0\",\"1.2.3\",\"12h\",\"1\",\"true\",\"5\","
                 "\"0x\",\"1e\",\"1_000\"]\n");
    assert_reads("99999999999999999999", "1:1:1e20\n");
}

static void each_document_comes_with_its_number_and_line(void **state)
{
    assert_reads("# one\na: 1\n---\n---\n- b\n...\n---\nc\n",
                 "1:2:{\"a\":1}\n3:5:[\"b\"]\n4:8:\"c\"\n");
    assert_reads("", "");
    assert_reads("# nothing\n", "");
}

static int check_lines(void *arg, const struct yaml_document *document)
{
    assert_int_equal(json_integer_value(json_object_get(document->lines, "spec")), 2);
    assert_int_equal(json_integer_value(json_object_get(document->lines, "spec.target.address")),
                     4);
    assert_int_equal(json_integer_value(json_object_get(document->lines, "list[1].x")), 7);
    return 0;
}

static void members_know_their_lines(void **state)
{
    const char *text = "name: x\nspec:\n  target:\n    address: y\nlist:\n- a\n- x: 1\n";
    unsigned line;
    assert_int_equal(yaml_load(text, strlen(text), check_lines, NULL, &line, NULL), 0);
}

static void an_alias_is_a_copy(void **state)
{
    assert_reads("a: &t {x: 1}\nb: *t\n", "1:1:{\"a\":{\"x\":1},\"b\":{\"x\":1}}\n");
    assert_refuses("a: *t\n", ERR_INVALID, 1, "alias");
    assert_refuses("a: &t [*t]\n", ERR_INVALID, 1, "alias");
    assert_refuses("a: &t 1\n---\nb: *t\n", ERR_INVALID, 3, "alias");
}

static void a_billion_laughs_are_too_many(void **state)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    buf_puts(&text, "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 12; i++) {
        buf_printf(&text, "a%d: &a%d [", i, i);
        for (int k = 0; k < 10; k++)
            buf_printf(&text, "%s*a%d", k ? ", " : "", i - 1);
        buf_puts(&text, "]\n");
    }
    assert_refuses(buf_text(&text), ERR_TOO_LARGE, 6, "too many values");
}

static void depth_is_limited(void **state)
{
    char text[2 * YAML_DEPTH_MAX + 8];
    memset(text, 0, sizeof(text));
    memset(text, '[', YAML_DEPTH_MAX);
    memset(text + YAML_DEPTH_MAX, ']', YAML_DEPTH_MAX);
    __attribute__((cleanup(buf_done_cleanup))) struct buf out = {0};
    unsigned line;
    struct diag d;
    assert_int_equal(load(text, &out, &line, &d), 0);
    memset(text, '[', YAML_DEPTH_MAX + 1);
    assert_refuses(text, ERR_TOO_LARGE, 1, "deep");
}

static void what_json_cannot_say_is_refused_with_its_line(void **state)
{
    assert_refuses("a: 1\n? [x]\n: 2\n", ERR_INVALID, 2, "key");
    assert_refuses("a: 1\nb: 2\na: 3\n", ERR_INVALID, 3, "'a' occurs twice");
    assert_refuses("a: !!binary aGk=\n", ERR_INVALID, 1, "tag");
    assert_refuses("b: &b {x: 1}\na:\n  <<: *b\n", ERR_INVALID, 3, "merge");
    assert_refuses("a: \"\\0\"\n", ERR_INVALID, 1, "NUL");
    assert_refuses("a: [1\nb: 2\n", ERR_INVALID, 2, "not YAML");
    assert_refuses("\ta: 1\n", ERR_INVALID, 1, "not YAML");
}

static int stop(void *arg, const struct yaml_document *document)
{
    ++*(int *)arg;
    return ERR_CANCELED;
}

static void the_reader_can_stop(void **state)
{
    int n = 0;
    unsigned line;
    assert_int_equal(yaml_load("a\n---\nb\n", 8, stop, &n, &line, NULL), ERR_CANCELED);
    assert_int_equal(n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_scalars_follow_the_core_schema_of_yaml_1_2),
        cmocka_unit_test(each_document_comes_with_its_number_and_line),
        cmocka_unit_test(members_know_their_lines),
        cmocka_unit_test(an_alias_is_a_copy),
        cmocka_unit_test(a_billion_laughs_are_too_many),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(what_json_cannot_say_is_refused_with_its_line),
        cmocka_unit_test(the_reader_can_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
