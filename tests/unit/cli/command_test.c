#include "cli/command.h"

#include "base/error.h"
#include "base/macro.h"
#include "cli/exit_code.h"
#include "cli/help.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int run_nothing(struct call *c)
{
    return 0;
}

static const char *const colours[] = {"red", "green", NULL};
static const struct flag_row rows[] = {
    {.name = "--name", .type = FLAG_TEXT, .metavar = "NAME", .is_required = true, .help = "N."},
    {.name = "--wait", .letter = 'w', .type = FLAG_SWITCH, .help = "W."},
    {.name = "--output",
     .letter = 'o',
     .type = FLAG_CHOICE,
     .metavar = "red|green",
     .fallback = "red",
     .choices = colours,
     .help = "O."},
    {.name = "--ttl", .type = FLAG_DURATION, .metavar = "TIME", .help = "T."},
    {.name = "--allow", .type = FLAG_LIST, .metavar = "CIDR", .help = "A."},
    {.name = "--limit", .type = FLAG_INT, .metavar = "N", .help = "L."},
};
static const struct flag_set flags = {"Flags", rows, ARRAY_SIZE(rows)};

struct settings {
    int64_t workers;
    bool loud;
};
static const struct conf_row conf_rows[] = {
    {"workers", CONF_INT, offsetof(struct settings, workers), "0", "X_WORKERS", "--workers", "N",
     "Threads."},
    {"loud", CONF_BOOL, offsetof(struct settings, loud), NULL, NULL, "--loud", NULL, "Noise."},
};
static const struct conf_table conf = {conf_rows, ARRAY_SIZE(conf_rows), sizeof(struct settings)};

static const struct command commands[] = {
    {.words = "tunnel create", .summary = "Creates.", .run = run_nothing, .flags = {&flags}},
    {.words = "tunnel get",
     .summary = "Shows.",
     .run = run_nothing,
     .args = "TUNNEL",
     .min_args = 1,
     .max_args = 1},
    {.words = "hub", .summary = "Runs.", .run = run_nothing, .conf = &conf},
    {.words = "hubs", .summary = "Lists.", .run = run_nothing},
    {.words = "say",
     .summary = "Says.",
     .run = run_nothing,
     .args = "WORD...",
     .max_args = ARGS_ANY},
};
static const struct command_set set = {commands, ARRAY_SIZE(commands)};
static const struct command_set *const sets[] = {&set};
static const struct program program = {
    .name = "warren", .summary = "s", .description = "d", .sets = sets, .n_sets = 1};

static struct call call;
static struct diag diag;

static int parse(const char *line)
{
    static char copy[512];
    char *args[32];
    size_t n = 0;
    call_done(&call);
    diag = (struct diag){0};
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        args[n++] = word;
    return command_parse(&program, n, args, &call, &diag);
}

static int tear_down(void **state)
{
    call_done(&call);
    return 0;
}

static void flags_stand_anywhere_after_the_command(void **state)
{
    assert_int_equal(parse("tunnel create --name web -o green --wait --ttl=30m"), 0);
    assert_string_equal(call.command->words, "tunnel create");
    assert_string_equal(call_text(&call, "--name"), "web");
    assert_string_equal(call_text(&call, "--output"), "green");
    assert_true(call_is_given(&call, "--wait"));
    assert_int_equal(call_duration_ms(&call, "--ttl", 0), 1800000);
    assert_int_equal(parse("tunnel create -wogreen --name web"), 0);
    assert_true(call_is_given(&call, "--wait"));
    assert_string_equal(call_text(&call, "--output"), "green");
}

static void what_is_not_given_falls_back(void **state)
{
    assert_int_equal(parse("tunnel create --name web"), 0);
    assert_string_equal(call_text(&call, "--output"), "red");
    assert_false(call_is_given(&call, "--output"));
    assert_null(call_text(&call, "--ttl"));
    assert_int_equal(call_int(&call, "--limit", 7), 7);
}

static void lists_keep_every_value_and_others_the_last(void **state)
{
    assert_int_equal(parse("tunnel create --name a --allow x --name b --allow y"), 0);
    assert_string_equal(call_text(&call, "--name"), "b");
    assert_string_equal(call_item(&call, "--allow", 0), "x");
    assert_string_equal(call_item(&call, "--allow", 1), "y");
    assert_null(call_item(&call, "--allow", 2));
}

static void settings_are_flags_too(void **state)
{
    assert_int_equal(parse("hub --workers 3 --loud"), 0);
    assert_int_equal(call.n_conf_flags, 2);
    assert_string_equal(call.conf_flags[0].flag, "--workers");
    assert_string_equal(call.conf_flags[0].value, "3");
    assert_null(call.conf_flags[1].value);
}

static void wrong_usage_is_told_exactly(void **state)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"tunel list", "did you mean \"tunnel\"?"},
        {"tunnel craete", "did you mean \"create\"?"},
        {"tunnel", "not a whole command"},
        {"tunnel create", "--name NAME is missing"},
        {"tunnel create --nmae x", "did you mean --name?"},
        {"tunnel create --name", "--name needs a value"},
        {"tunnel create --name x --wait=yes", "--wait takes no value"},
        {"tunnel create --name x -o blue", "takes red|green"},
        {"tunnel create --name x --ttl 30", "takes a time"},
        {"tunnel create --name x --limit -1", "takes a number"},
        {"tunnel create --name x y", "unexpected argument \"y\""},
        {"tunnel get", "TUNNEL is missing"},
        {"tunnel get -x web", "unknown flag -x"},
        {"--name x tunnel create", "must come after the command"},
        {"hub --worker 3", "did you mean --workers?"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse(cases[i].line), ERR_USAGE);
        if (!strstr(diag.text, cases[i].text))
            fail_msg("%s: %s", cases[i].line, diag.text);
    }
}

static void help_is_asked_for_in_many_ways(void **state)
{
    assert_int_equal(parse(""), COMMAND_HELP);
    assert_null(call.command);
    assert_int_equal(parse("--help"), COMMAND_HELP);
    assert_int_equal(parse("tunnel -h"), COMMAND_HELP);
    assert_string_equal(call.words, "tunnel");
    assert_int_equal(parse("tunnel create --help --whatever"), COMMAND_HELP);
    assert_string_equal(call.command->words, "tunnel create");
    assert_int_equal(parse("help tunnel get"), COMMAND_HELP);
    assert_string_equal(call.command->words, "tunnel get");
}

static void after_two_hyphens_all_are_arguments(void **state)
{
    assert_int_equal(parse("say -- --help -x tunnel"), 0);
    assert_int_equal(call.n_args, 3);
    assert_string_equal(call.args[0], "--help");
}

static char *text_of(void (*print)(const struct program *, const struct command *, FILE *))
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    print(&program, &commands[0], f);
    fclose(f);
    return text;
}

static void help_shows_every_flag_of_the_row(void **state)
{
    char *help = text_of(help_command);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_non_null(strstr(help, rows[i].name));
    assert_non_null(strstr(help, "Usage: warren tunnel create --name NAME [flags]"));
    assert_non_null(strstr(help, "(default red)"));
    free(help);
}

static void errors_have_their_exit_codes(void **state)
{
    assert_int_equal(exit_code_from(0), 0);
    assert_int_equal(exit_code_from(ERR_IO), 1);
    assert_int_equal(exit_code_from(ERR_USAGE), 2);
    assert_int_equal(exit_code_from(ERR_INVALID), 2);
    assert_int_equal(exit_code_from(ERR_NOT_FOUND), 3);
    assert_int_equal(exit_code_from(ERR_UNAUTHENTICATED), 4);
    assert_int_equal(exit_code_from(ERR_REVOKED), 4);
    assert_int_equal(exit_code_from(ERR_EXISTS), 5);
    assert_int_equal(exit_code_from(ERR_STALE), 5);
    assert_int_equal(exit_code_from(ERR_TIMEOUT), 6);
    assert_int_equal(exit_code_from(ERR_REFUSED), 7);
    assert_int_equal(exit_code_from(ERR_DNS), 7);
    assert_int_equal(exit_code_from(ERR_TLS), 7);
    assert_int_equal(exit_code_from(ERR_BUG), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_stand_anywhere_after_the_command),
        cmocka_unit_test(what_is_not_given_falls_back),
        cmocka_unit_test(lists_keep_every_value_and_others_the_last),
        cmocka_unit_test(settings_are_flags_too),
        cmocka_unit_test(wrong_usage_is_told_exactly),
        cmocka_unit_test(help_is_asked_for_in_many_ways),
        cmocka_unit_test(after_two_hyphens_all_are_arguments),
        cmocka_unit_test(help_shows_every_flag_of_the_row),
        cmocka_unit_test(errors_have_their_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
