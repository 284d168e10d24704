#include "cli/command.h"

#include "base/error.h"
#include "cli/exit_code.h"
#include "cli/help.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* What a user of a hub can usually do about it. */
static const struct {
    int code;
    const char *hint;
} hints[] = {
    {ERR_UNAUTHENTICATED, "log in with \"warren login URL\", or set WARREN_TOKEN_FILE"},
    {ERR_DENIED, "this needs a token with more rights; \"warren status\" shows the present one"},
    {ERR_STALE, "look at the object again and repeat with its newest version"},
    {ERR_EXISTS, "choose another name, or delete the other object first"},
    {ERR_REFUSED, "is the hub running, and is its address right?"},
    {ERR_DNS, "check the host name and the resolver of this machine"},
    {ERR_TLS, "name the hub's CA with --ca or WARREN_CA, or trust it once with \"warren login\""},
    {ERR_RATE, "wait a moment and try again"},
};

static const char *hint_for(const struct call *c, int code)
{
    if (c->hint[0])
        return c->hint;
    if (!command_flag(c->command, "--hub", 0) && !command_flag(c->command, "--ca", 0))
        return NULL; /* it asks no hub */
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
        if (hints[i].code == code && strcmp(c->program->name, "warren") == 0)
            return hints[i].hint;
    return NULL;
}

/* The text, with the member at fault unless the text names it already. */
static void print_failure(const struct call *c, int code)
{
    const struct diag *d = &c->diag;
    const char *text = d->text[0] ? d->text : error_text(code);
    const char *hint = hint_for(c, code);
    fprintf(c->err, "%s: ", c->program->name);
    if (d->field[0] && !strstr(text, d->field))
        fprintf(c->err, "%s: ", d->field);
    fprintf(c->err, "%s\n", text);
    if (hint)
        fprintf(c->err, "  hint: %s\n", hint);
}

static int usage_failure(const struct call *c, const struct diag *d)
{
    const char *name = c->program->name;
    fprintf(c->err, "%s: %s\n", name, diag_text(d));
    if (c->command) {
        fputs("usage: ", c->err);
        help_usage(c->program, c->command, c->err);
        fprintf(c->err, "  \"%s %s --help\" tells more\n", name, c->command->words);
    } else {
        fprintf(c->err, "  \"%s%s%s --help\" lists the commands\n", name, c->words[0] ? " " : "",
                c->words);
    }
    return EXIT_USAGE;
}

static int run_call(struct call *c)
{
    int r = c->command->run(c);
    bool is_written = fflush(c->out) == 0 && !ferror(c->out);
    if (r >= 0 && is_written)
        return r;
    if (r >= 0) {
        fprintf(c->err, "%s: cannot write the output\n", c->program->name);
        return EXIT_FAILED;
    }
    print_failure(c, r);
    return (int)exit_code_from(r);
}

int program_run(const struct program *p, int argc, char **argv)
{
    struct call call;
    struct diag d = {0};
    int code;
    signal(SIGPIPE, SIG_IGN);
    int r = command_parse(p, argc > 0 ? (size_t)argc - 1 : 0, argv + 1, &call, &d);
    if (r == COMMAND_HELP) {
        if (call.command)
            help_command(p, call.command, stdout);
        else
            help_group(p, call.words, stdout);
        code = fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
    } else if (r < 0) {
        code = usage_failure(&call, &d);
    } else {
        code = run_call(&call);
    }
    call_done(&call);
    return code;
}
