#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char line[16384];

/* What `value` becomes in a line of the log. */
static const char *logged(enum log_format format, const char *value)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    log_setup(LOG_LEVEL_INFO, format, fds[1]);
    LOG_INFO("told", LOG_STR("value", value));
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, STDERR_FILENO);
    ssize_t n = read(fds[0], line, sizeof(line) - 1);
    assert_true(n > 0);
    line[n] = '\0';
    close(fds[0]);
    close(fds[1]);
    return line;
}

static void values_are_quoted_where_they_could_be_taken_for_more(void **state)
{
    assert_non_null(strstr(logged(LOG_FORMAT_TEXT, "plain"), "told value=plain\n"));
    assert_non_null(strstr(logged(LOG_FORMAT_TEXT, ""), "value=\"\"\n"));
    assert_non_null(strstr(logged(LOG_FORMAT_TEXT, "a=b c"), "value=\"a=b c\"\n"));
    assert_non_null(strstr(logged(LOG_FORMAT_TEXT, "a\"b"), "value=\"a\\\"b\"\n"));
}

static void control_characters_do_not_reach_a_terminal(void **state)
{
    static const char *const texts[] = {"a\nb",
                                        "a\rb",
                                        "a\033[2Kb",
                                        "a\bb",
                                        "a\vb",
                                        "a\x7f"
                                        "b"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (enum log_format f = LOG_FORMAT_TEXT; f <= LOG_FORMAT_JSON; f++) {
            const char *s = logged(f, texts[i]);
            assert_non_null(strstr(s, "a\\u00"));
            assert_int_equal(strcspn(s, "\r\n\033\b\v\x7f"), strlen(s) - 1);
        }
    }
}

static void a_line_that_is_too_long_still_ends(void **state)
{
    static char value[10000];
    memset(value, 'x', sizeof(value) - 1);
    for (enum log_format f = LOG_FORMAT_TEXT; f <= LOG_FORMAT_JSON; f++) {
        const char *s = logged(f, value);
        assert_int_equal(strcspn(s, "\n"), strlen(s) - 1);
        assert_non_null(
            strstr(s, f == LOG_FORMAT_JSON ? "xxx\",\"cut\":true}\n" : "xxx cut=true\n"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_quoted_where_they_could_be_taken_for_more),
        cmocka_unit_test(control_characters_do_not_reach_a_terminal),
        cmocka_unit_test(a_line_that_is_too_long_still_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
