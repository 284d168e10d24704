#include "cli/shell_cmd.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/complete.h"
#include "cli/help.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const shells[] = {"bash", "zsh", "fish", NULL};

static int run_completion(struct call *c)
{
    const char *shell = c->args[0];
    if (strcmp(shell, "bash") == 0)
        complete_script_bash(c->program, c->out);
    else if (strcmp(shell, "zsh") == 0)
        complete_script_zsh(c->program, c->out);
    else
        complete_script_fish(c->program, c->out);
    return 0;
}

static int run_complete(struct call *c)
{
    complete_words(c->program, c->args, c->n_args, c->out);
    return 0;
}

static int run_man(struct call *c)
{
    const char *dir = call_text(c, "--dir");
    if (!dir) {
        man_page(c->program, c->out);
        return 0;
    }
    char *path = mem_printf("%s/%s.1", dir, c->program->name);
    FILE *f = fopen(path, "we");
    if (!f) {
        int errnum = errno;
        free(path);
        return call_fail(c, ERR_IO, "name a folder that exists and can be written",
                         "cannot write to %s: %s", dir, strerror(errnum));
    }
    man_page(c->program, f);
    bool is_whole = !ferror(f);
    is_whole = fclose(f) == 0 && is_whole;
    free(path);
    return is_whole ? 0 : call_fail(c, ERR_NO_SPACE, NULL, "cannot write to %s", dir);
}

static int run_version(struct call *c)
{
    fprintf(c->out, "%s %s\n", c->program->name, WARREN_VERSION);
    return 0;
}

static const struct flag_row man_flags[] = {
    {.name = "--dir",
     .type = FLAG_TEXT,
     .metavar = "DIR",
     .candidates = CANDIDATES_DIR,
     .help = "Write the page into this folder instead of printing it."},
};
static const struct flag_set man_set = {"Flags", man_flags, ARRAY_SIZE(man_flags)};

static const struct command rows[] = {
    {.words = "completion",
     .summary = "Prints code that teaches a shell to complete commands.",
     .run = run_completion,
     .args = "bash|zsh|fish",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_CHOICES,
     .arg_choices = shells},
    {.words = "man", .summary = "Prints the manual page.", .run = run_man, .flags = {&man_set}},
    {.words = "version", .summary = "Prints the version.", .run = run_version},
    {.words = "__complete",
     .summary = "Candidates for a shell.",
     .run = run_complete,
     .args = "WORD...",
     .max_args = ARGS_ANY,
     .is_hidden = true},
};

const struct command_set shell_commands = {rows, ARRAY_SIZE(rows)};
