#include "tunnel/tunnel_access.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct tunnel_access *ret, struct diag *d)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    *d = (struct diag){0};
    int rc = tunnel_access_parse(json, ret, d);
    json_decref(json);
    return rc;
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"{\"auth\": \"none\"}", "spec.access.auth"},
        {"{\"auth\": \"basic\"}", "spec.access.users"},
        {"{\"users\": [{\"name\": \"a\"}]}", "spec.access.users"},
        {"{\"auth\": \"basic\", \"users\": [{\"name\": \"a:b\"}]}", "spec.access.users.name"},
        {"{\"auth\": \"basic\", \"users\": [{\"name\": \"\"}]}", "spec.access.users.name"},
        {"{\"auth\": \"basic\", \"users\": [{\"name\": \"a\"}, {\"name\": \"a\"}]}",
         "spec.access.users.name"},
        {"{\"auth\": \"basic\", \"users\": [{\"name\": \"a\", \"hash\": \"$1$x$y\"}]}",
         "spec.access.users.hash"},
        {"{\"auth\": \"basic\", \"users\": [{\"name\": \"a\", \"x\": 1}]}", "spec.access.users.x"},
        {"{\"auth\": \"basic\", \"users\": {}}", "spec.access.users"},
        {"{\"sources\": [\"10.0.0.0/33\"]}", "spec.access.sources"},
        {"{\"sources\": [\"10.0.0.0/8:80\"]}", "spec.access.sources"},
        {"{\"sources\": [7]}", "spec.access.sources"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct tunnel_access a;
        struct diag d;
        assert_int_equal(parse(cases[i].text, &a, &d), ERR_INVALID);
        assert_string_equal(d.field, cases[i].field);
    }
}

static void passwords_become_hashes_that_are_stored_and_not_shown(void **state)
{
    struct tunnel_access a, again;
    struct diag d;
    assert_int_equal(parse("{\"auth\": \"basic\", \"users\": [{\"name\": \"ann\", \"password\": "
                           "\"secret\"}]}",
                           &a, &d),
                     0);
    assert_true(tunnel_access_has_news(&a, &a));
    assert_int_equal(tunnel_access_keep(&a, NULL, &d), 0);
    assert_int_equal(tunnel_access_hash(&a), 0);
    assert_int_equal(strncmp(a.users[0].secret, "$argon2id$v=19$m=19456,t=2,p=1$", 31), 0);
    assert_false(tunnel_access_has_news(&a, &a));
    json_t *shown = json_object(), *stored = json_object();
    tunnel_access_json(&a, false, shown);
    tunnel_access_json(&a, true, stored);
    char *text = json_dumps(shown, 0);
    assert_null(strstr(text, "argon2"));
    free(text);
    assert_int_equal(tunnel_access_parse(stored, &again, &d), 0);
    assert_memory_equal(&again, &a, sizeof(a));
    /* shown, then given back: the password stays */
    assert_int_equal(tunnel_access_parse(shown, &again, &d), 0);
    assert_int_equal(tunnel_access_keep(&again, NULL, &d), ERR_INVALID);
    assert_int_equal(tunnel_access_keep(&again, &a, &d), 0);
    assert_string_equal(again.users[0].secret, a.users[0].secret);
    json_decref(shown);
    json_decref(stored);
}

static void ranges_admit_their_own_family_only(void **state)
{
    struct tunnel_access a;
    struct diag d;
    struct addr v4, mapped, v6;
    assert_int_equal(addr_parse("192.0.2.7", 1, &v4), 0);
    assert_int_equal(addr_parse("::ffff:192.0.2.7", 1, &mapped), 0);
    assert_int_equal(addr_parse("2001:db8::7", 1, &v6), 0);
    assert_int_equal(parse("{}", &a, &d), 0);
    assert_true(tunnel_access_admits(&a, &v4) && tunnel_access_admits(&a, &v6));
    assert_int_equal(parse("{\"sources\": [\"::/0\"]}", &a, &d), 0);
    assert_true(tunnel_access_admits(&a, &v6));
    assert_false(tunnel_access_admits(&a, &v4) || tunnel_access_admits(&a, &mapped));
    assert_int_equal(parse("{\"sources\": [\"192.0.2.0/24\", \"10.0.0.1\"]}", &a, &d), 0);
    assert_true(tunnel_access_admits(&a, &v4) && tunnel_access_admits(&a, &mapped));
    assert_false(tunnel_access_admits(&a, &v6));
    json_t *json = json_object();
    tunnel_access_json(&a, false, json);
    json_t *sources = json_object_get(json, "sources");
    assert_string_equal(json_string_value(json_array_get(sources, 0)), "192.0.2.0/24");
    assert_string_equal(json_string_value(json_array_get(sources, 1)), "10.0.0.1/32");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(passwords_become_hashes_that_are_stored_and_not_shown),
        cmocka_unit_test(ranges_admit_their_own_family_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
