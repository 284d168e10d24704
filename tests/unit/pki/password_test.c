#include "pki/password.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void a_hash_fits_its_password_only(void **state)
{
    char hash[PASSWORD_HASH_SIZE], other[PASSWORD_HASH_SIZE];
    assert_int_equal(password_hash("secret", hash), 0);
    assert_int_equal(password_hash("secret", other), 0);
    assert_string_not_equal(hash, other);
    assert_true(password_fits(hash, "secret") && password_fits(other, "secret"));
    assert_false(password_fits(hash, "Secret") || password_fits(hash, "") ||
                 password_fits("", "secret") || password_fits("$argon2id$", "secret"));
    assert_true(password_hash_is_usable(hash));
}

static void hashes_that_cost_too_much_or_are_none_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "secret",
        "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=65536,t=99,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=65536,t=2,p=9$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=65536,t=2,p=1$c2FsdHNhbHRzYWx0",
        "$argon2id$v=19$m=65536,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAA AAAAA",
        "$argon2i$v=19$m=65536,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(password_hash_is_usable(bad[i]));
}

static void a_digest_depends_on_key_and_text(void **state)
{
    uint8_t key[MAC_KEY_SIZE] = {1}, a[MAC_SIZE], b[MAC_SIZE];
    mac_make(key, "text", a);
    mac_make(key, "text", b);
    assert_true(mac_equal(a, b));
    mac_make(key, "texu", b);
    assert_false(mac_equal(a, b));
    key[31] = 1;
    mac_make(key, "text", b);
    assert_false(mac_equal(a, b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hash_fits_its_password_only),
        cmocka_unit_test(hashes_that_cost_too_much_or_are_none_are_refused),
        cmocka_unit_test(a_digest_depends_on_key_and_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
