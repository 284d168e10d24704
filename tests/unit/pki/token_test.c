#include "pki/token.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"
#include "pki/spiffe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void a_bootstrap_token_survives_being_written_and_read(void **state)
{
    uint8_t fingerprint[32];
    struct token t, again;
    struct secret text = {0};
    memset(fingerprint, 0xa5, sizeof(fingerprint));
    token_new(TOKEN_BOOTSTRAP, fingerprint, &t);
    token_format(&t, &text);
    assert_int_equal(text.len, TOKEN_TEXT_MAX);
    assert_int_equal(token_parse(text.data, text.len, &again), 0);
    assert_int_equal(again.kind, TOKEN_BOOTSTRAP);
    assert_string_equal(again.id, t.id);
    assert_memory_equal(again.secret, t.secret, sizeof(t.secret));
    assert_memory_equal(again.fingerprint, fingerprint, sizeof(fingerprint));
    secret_done(&text);
}

static void an_api_token_has_no_fingerprint(void **state)
{
    struct token t, again;
    struct secret text = {0};
    token_new(TOKEN_API, NULL, &t);
    token_format(&t, &text);
    assert_memory_equal(text.data, "wat_", 4);
    assert_null(strchr(text.data + 21, '_')); /* so a script may split it at '_' */
    assert_int_equal(token_parse(text.data, text.len, &again), 0);
    assert_int_equal(again.kind, TOKEN_API);
    secret_done(&text);
}

static void white_space_of_a_file_is_ignored(void **state)
{
    struct token t, again;
    struct secret text = {0};
    char file[200];
    token_new(TOKEN_API, NULL, &t);
    token_format(&t, &text);
    snprintf(file, sizeof(file), "\n  %s\r\n", text.data);
    assert_int_equal(token_parse(file, strlen(file), &again), 0);
    assert_string_equal(again.id, t.id);
    secret_done(&text);
}

static void a_token_with_any_character_changed_or_missing_is_refused_or_another(void **state)
{
    uint8_t fingerprint[32] = {1};
    struct token t, again;
    struct secret text = {0};
    token_new(TOKEN_BOOTSTRAP, fingerprint, &t);
    token_format(&t, &text);
    for (size_t i = 0; i < text.len; i++) {
        char changed[TOKEN_TEXT_MAX + 1];
        memcpy(changed, text.data, text.len);
        changed[i] = '!';
        assert_int_equal(token_parse(changed, text.len, &again), ERR_INVALID);
        assert_int_equal(token_parse(text.data, i, &again), ERR_INVALID);
    }
    secret_done(&text);
}

static void hashes_are_compared_whole(void **state)
{
    struct token t;
    uint8_t a[32], b[32];
    token_new(TOKEN_API, NULL, &t);
    token_hash(&t, a);
    token_hash(&t, b);
    assert_true(token_hash_equal(a, b));
    b[31] ^= 1;
    assert_false(token_hash_equal(a, b));
}

#define TENANT "ten_0123456789abcdef"
#define AGENT  "agt_0123456789abcdef"

static void an_identity_survives_being_written_and_read(void **state)
{
    static const char text[] = "spiffe://warren.example/tenant/" TENANT "/agent/" AGENT;
    struct spiffe id;
    char out[SPIFFE_SIZE];
    assert_int_equal(spiffe_parse(text, strlen(text), &id), 0);
    assert_string_equal(id.trust_domain, "warren.example");
    assert_string_equal(id.tenant, TENANT);
    assert_string_equal(id.agent, AGENT);
    spiffe_format(&id, out);
    assert_string_equal(out, text);
}

static void identities_have_one_spelling(void **state)
{
    static const char *const bad[] = {
        "",
        "spiffe://warren",
        "spiffe:///tenant/" TENANT "/agent/" AGENT,
        "SPIFFE://warren/tenant/" TENANT "/agent/" AGENT,
        "spiffe://Warren/tenant/" TENANT "/agent/" AGENT,
        "spiffe://warren/tenant/" TENANT "/agent/" AGENT "/",
        "spiffe://warren/tenant/" TENANT "/agent/" AGENT "?a",
        "spiffe://warren/tenant/" TENANT "/agent/agt_0123456789abcdeF",
        "spiffe://warren/tenant/" TENANT "/agent/agt_%30123456789abcde",
        "spiffe://warren/tenant/" AGENT "/agent/" TENANT,
        "spiffe://warren//tenant/" TENANT "/agent/" AGENT,
        "spiffe://warren:80/tenant/" TENANT "/agent/" AGENT,
        "https://warren/tenant/" TENANT "/agent/" AGENT,
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct spiffe id;
        if (spiffe_parse(bad[i], strlen(bad[i]), &id) != ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
    }
}

static void an_identity_with_a_nul_inside_is_refused(void **state)
{
    char text[] = "spiffe://warren/tenant/" TENANT "/agent/" AGENT "\0evil";
    struct spiffe id;
    assert_int_equal(spiffe_parse(text, sizeof(text) - 1, &id), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bootstrap_token_survives_being_written_and_read),
        cmocka_unit_test(an_api_token_has_no_fingerprint),
        cmocka_unit_test(white_space_of_a_file_is_ignored),
        cmocka_unit_test(a_token_with_any_character_changed_or_missing_is_refused_or_another),
        cmocka_unit_test(hashes_are_compared_whole),
        cmocka_unit_test(an_identity_survives_being_written_and_read),
        cmocka_unit_test(identities_have_one_spelling),
        cmocka_unit_test(an_identity_with_a_nul_inside_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
