/* The tables of both programs keep the rules that help, completion and man pages rely on. */
#include "base/macro.h"
#include "cli/agent_program.h"
#include "cli/help.h"
#include "cli/warren_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct program *const programs[] = {&warren_program, &agent_program};

static bool ends_a_sentence(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && (s[n - 1] == '.' || s[n - 1] == ']');
}

static void each_command(void (*check)(const struct program *, const struct command *))
{
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        const struct command *cmd = NULL;
        while ((cmd = command_next(programs[i], cmd)))
            check(programs[i], cmd);
    }
}

static void check_row(const struct program *p, const struct command *cmd)
{
    assert_ptr_equal(command_find(p, cmd->words), cmd); /* no two rows have the same words */
    assert_true(strlen(cmd->words) < COMMAND_WORDS_SIZE);
    assert_non_null(cmd->run);
    assert_true(ends_a_sentence(cmd->summary));
    assert_true(cmd->min_args <= cmd->max_args);
    assert_true((cmd->args != NULL) == (cmd->max_args > 0));
}

static void check_flags(const struct program *p, const struct command *cmd)
{
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++) {
            const struct flag_row *row = &cmd->flags[s]->rows[i];
            if (command_flag(cmd, row->name, 0) != row)
                fail_msg("%s %s: %s is there twice", p->name, cmd->words, row->name);
            if (row->letter)
                assert_ptr_equal(command_flag(cmd, NULL, row->letter), row);
            assert_int_equal(strncmp(row->name, "--", 2), 0);
            assert_true(ends_a_sentence(row->help));
            assert_true((row->metavar != NULL) == (row->type != FLAG_SWITCH));
            assert_true((row->choices != NULL) == (row->type == FLAG_CHOICE));
            if (cmd->conf)
                assert_null(conf_find_flag(cmd->conf, row->name));
            assert_int_not_equal(row->letter, 'h');
        }
}

static void check_no_secrets(const struct program *p, const struct command *cmd)
{
    static const char *const secrets[] = {"--token", "--password", "--secret", "--key"};
    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++)
        assert_null(command_flag(cmd, secrets[i], 0));
}

static void every_row_is_complete_and_unique(void **state)
{
    each_command(check_row);
}

static void every_flag_is_complete_and_unique_in_its_command(void **state)
{
    each_command(check_flags);
}

static void no_secret_is_a_flag(void **state)
{
    each_command(check_no_secrets);
}

static void the_calls_that_scripts_use_are_in_the_table(void **state)
{
    static const char *const words[] = {
        "hub",           "token create", "agent list",    "network list", "tunnel list",
        "tunnel create", "tunnel get",   "tunnel delete", "agent revoke", "login"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        assert_non_null(command_find(&warren_program, words[i]));
    static const char *const agent_words[] = {"enroll",  "run",       "inspect",
                                              "install", "uninstall", "status"};
    for (size_t i = 0; i < ARRAY_SIZE(agent_words); i++)
        assert_non_null(command_find(&agent_program, agent_words[i]));
}

static void the_man_page_has_every_command_and_setting(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        char *text = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);
        man_page(programs[i], f);
        fclose(f);
        const struct command *cmd = NULL;
        while ((cmd = command_next(programs[i], cmd)))
            if (!cmd->is_hidden && !strchr(cmd->summary, '-'))
                assert_non_null(strstr(text, cmd->summary));
        assert_non_null(strstr(text, ".SH EXIT CODES"));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_complete_and_unique),
        cmocka_unit_test(every_flag_is_complete_and_unique_in_its_command),
        cmocka_unit_test(no_secret_is_a_flag),
        cmocka_unit_test(the_calls_that_scripts_use_are_in_the_table),
        cmocka_unit_test(the_man_page_has_every_command_and_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
