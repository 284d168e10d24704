#include "cli/complete.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const formats[] = {"table", "json", NULL};
static const struct flag_row rows[] = {
    {.name = "--output",
     .letter = 'o',
     .type = FLAG_CHOICE,
     .metavar = "F",
     .choices = formats,
     .candidates = CANDIDATES_CHOICES,
     .help = "How."},
    {.name = "--network",
     .type = FLAG_TEXT,
     .metavar = "N",
     .candidates = CANDIDATES_NETWORK,
     .help = "Where."},
    {.name = "--file",
     .type = FLAG_TEXT,
     .metavar = "F",
     .candidates = CANDIDATES_FILE,
     .help = "What."},
};
static const struct flag_set flags = {"Flags", rows, ARRAY_SIZE(rows)};
static const struct command commands[] = {
    {.words = "agent list", .summary = "Lists.", .flags = {&flags}},
    {.words = "tunnel create", .summary = "Creates.", .flags = {&flags}},
    {.words = "tunnel get",
     .summary = "Shows.",
     .args = "TUNNEL",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TUNNEL},
    {.words = "secret", .summary = "Hidden.", .is_hidden = true},
};
static const struct command_set set = {commands, ARRAY_SIZE(commands)};
static const struct command_set *const sets[] = {&set};

static void list_names(enum candidates kind, FILE *out)
{
    fputs(kind == CANDIDATES_TUNNEL ? "web\ttun_1\n" : "shop\tnet_1\n", out);
}

static const struct program program = {.name = "warren-agent",
                                       .summary = "",
                                       .description = "",
                                       .sets = sets,
                                       .n_sets = 1,
                                       .list_names = list_names};

/* The last word is the unfinished one; "_" stands for an empty one. */
static void expect(const char *line, const char *expected)
{
    char copy[256], *text = NULL;
    const char *words[16];
    size_t n = 0, len = 0;
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        words[n++] = strcmp(word, "_") == 0 ? "" : word;
    FILE *f = open_memstream(&text, &len);
    complete_words(&program, words, n, f);
    fclose(f);
    assert_string_equal(text, expected);
    free(text);
}

static void words_are_proposed_once_and_hidden_ones_never(void **state)
{
    expect("_", "agent\t\ntunnel\t\n");
    expect("tu", "tunnel\t\n");
    expect("tunnel _", "create\tCreates.\nget\tShows.\n");
    expect("se", "");
}

static void flags_and_their_values_are_proposed(void **state)
{
    expect("tunnel create --n", "--network\tWhere.\n");
    expect("tunnel create -o _", "table\t\njson\t\n");
    expect("tunnel create -o j", "json\t\n");
    expect("tunnel create --network _", "shop\tnet_1\n");
    expect("tunnel create --network shop --file _", ":file\n");
}

static void arguments_are_names_of_objects(void **state)
{
    expect("tunnel get _", "web\ttun_1\n");
    expect("tunnel get web _", "");
}

static void scripts_name_the_program(void **state)
{
    static void (*const scripts[])(const struct program *, FILE *) = {
        complete_script_bash, complete_script_zsh, complete_script_fish};
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        char *text = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);
        scripts[i](&program, f);
        fclose(f);
        assert_non_null(strstr(text, "warren-agent __complete"));
        assert_non_null(strstr(text, "_warren_agent"));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_proposed_once_and_hidden_ones_never),
        cmocka_unit_test(flags_and_their_values_are_proposed),
        cmocka_unit_test(arguments_are_names_of_objects),
        cmocka_unit_test(scripts_name_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
