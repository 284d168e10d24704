/* Which hub, as whom: what is stronger, and that a token stays with the hub it was given for. */
#include "cli/remote_settings.h"

#include "base/error.h"
#include "base/macro.h"
#include "cli/contexts.h"
#include "cli/remote.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/warren-remote-XXXXXX";
static const struct command command = {.words = "x", .flags = {&remote_flags}};
static struct call call;
static struct remote_settings found;

static int set_up(void **state)
{
    struct contexts cs = {0};
    struct diag d = {0};
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    unlink(path);
    setenv("WARREN_CONTEXTS", path, 1);
    if (contexts_load(&cs, &d) < 0)
        return -1;
    contexts_put(&cs, &(struct context){"home", "https://home:8443", "wat_home", "PEM"});
    contexts_put(&cs, &(struct context){"lab", "https://lab", "wat_lab", NULL});
    contexts_use(&cs, "home");
    int r = contexts_save(&cs, &d);
    contexts_done(&cs);
    return r;
}

static int tear_down(void **state)
{
    return unlink(path);
}

static int clean(void **state)
{
    unsetenv("WARREN_HUB");
    unsetenv("WARREN_TOKEN");
    unsetenv("WARREN_TOKEN_FILE");
    unsetenv("WARREN_CA");
    return 0;
}

static int forget(void **state)
{
    remote_settings_done(&found);
    free(call.values);
    call = (struct call){0};
    return clean(state);
}

static void give(const char *flag, const char *value)
{
    call.values = realloc(call.values, (call.n_values + 1) * sizeof(*call.values));
    call.values[call.n_values++] = (struct call_value){command_flag(&command, flag, 0), value};
}

static int find(void)
{
    call.command = &command;
    return remote_settings_find(&call, &found);
}

static void the_current_context_is_used_when_nothing_is_said(void **state)
{
    assert_int_equal(find(), 0);
    assert_string_equal(found.hub, "https://home:8443");
    assert_string_equal(found.token, "wat_home");
    assert_string_equal(found.ca_pem, "PEM");
}

static void the_environment_is_stronger_and_gets_no_token_of_another_hub(void **state)
{
    setenv("WARREN_HUB", "https://evil", 1);
    assert_int_equal(find(), 0);
    assert_string_equal(found.hub, "https://evil");
    assert_null(found.token);
    assert_null(found.ca_pem);
}

static void a_flag_gets_no_token_of_another_hub_either(void **state)
{
    give("--hub", "evil:1");
    assert_int_equal(find(), 0);
    assert_string_equal(found.hub, "https://evil:1");
    assert_null(found.token);
}

static void the_same_address_has_the_token_of_its_context(void **state)
{
    give("--hub", "home:8443/");
    assert_int_equal(find(), 0);
    assert_string_equal(found.token, "wat_home");
    assert_string_equal(found.ca_pem, "PEM");
}

static void a_named_context_is_stronger_than_the_environment(void **state)
{
    setenv("WARREN_HUB", "https://other", 1);
    setenv("WARREN_TOKEN", "wat_other", 1);
    give("--context", "lab");
    assert_int_equal(find(), 0);
    assert_string_equal(found.hub, "https://lab");
    assert_string_equal(found.token, "wat_lab");
}

static void an_unknown_context_is_not_found(void **state)
{
    give("--context", "nowhere");
    assert_int_equal(find(), ERR_NOT_FOUND);
    assert_non_null(strstr(call.diag.text, "nowhere"));
}

static void only_https_is_spoken(void **state)
{
    give("--hub", "http://home:8443");
    assert_int_equal(find(), ERR_USAGE);
}

static void a_fingerprint_pins_the_ca(void **state)
{
    setenv("WARREN_CA",
           "sha256:00:01:02:03:04:05:06:07:08:09:0A:0b:0c:0d:0e:0f:"
           "10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:ff",
           1);
    assert_int_equal(find(), 0);
    assert_true(found.has_pin);
    assert_int_equal(found.pin[10], 0x0a);
    assert_int_equal(found.pin[31], 0xff);
    assert_null(found.ca_pem);
}

static void fingerprints_of_another_length_or_alphabet_are_refused(void **state)
{
    static const char *const wrong[] = {"", "sha256:", "00", "zz", "00:"};
    uint8_t out[32];
    char almost[66];
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_int_equal(remote_parse_fingerprint(wrong[i], out), ERR_INVALID);
    memset(almost, 'a', 65);
    almost[65] = '\0';
    assert_int_equal(remote_parse_fingerprint(almost, out), ERR_INVALID);
    almost[64] = '\0';
    assert_int_equal(remote_parse_fingerprint(almost, out), 0);
    almost[63] = '\0';
    assert_int_equal(remote_parse_fingerprint(almost, out), ERR_INVALID);
}

static void paths_and_queries_are_escaped(void **state)
{
    char *p = remote_path("tunnels", "a/../b?c d\xc3\xa9", ":revoke");
    assert_string_equal(p, "/api/v1/tunnels/a%2F..%2Fb%3Fc%20d%C3%A9:revoke");
    free(p);
    p = remote_path("agents", NULL, NULL);
    remote_query(&p, "network", "x&y=1");
    remote_query(&p, "none", NULL);
    remote_query(&p, "page_size", "5");
    assert_string_equal(p, "/api/v1/agents?network=x%26y%3D1&page_size=5");
    free(p);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, clean, forget)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_current_context_is_used_when_nothing_is_said),
        TEST(the_environment_is_stronger_and_gets_no_token_of_another_hub),
        TEST(a_flag_gets_no_token_of_another_hub_either),
        TEST(the_same_address_has_the_token_of_its_context),
        TEST(a_named_context_is_stronger_than_the_environment),
        TEST(an_unknown_context_is_not_found),
        TEST(only_https_is_spoken),
        TEST(a_fingerprint_pins_the_ca),
        TEST(fingerprints_of_another_length_or_alphabet_are_refused),
        TEST(paths_and_queries_are_escaped),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
