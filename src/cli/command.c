/*
 * Reading a command line by the table. Flags may stand anywhere after the first word they belong
 * to; the words of the command are the longest run of plain arguments that names a row.
 */
#include "cli/command.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/nearest.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const struct command *command_next(const struct program *p, const struct command *after)
{
    bool take = after == NULL;
    for (size_t s = 0; s < p->n_sets; s++)
        for (size_t i = 0; i < p->sets[s]->n; i++) {
            const struct command *row = &p->sets[s]->rows[i];
            if (take)
                return row;
            take = row == after;
        }
    return NULL;
}

const struct command *command_find(const struct program *p, const char *words)
{
    const struct command *row = NULL;
    while ((row = command_next(p, row)) && strcmp(row->words, words) != 0)
        ;
    return row;
}

/* Whether `words` are the first ones of some longer command. */
static bool is_group(const struct program *p, const char *words)
{
    size_t len = strlen(words);
    const struct command *row = NULL;
    while ((row = command_next(p, row)))
        if (len == 0 || (strncmp(row->words, words, len) == 0 && row->words[len] == ' '))
            return true;
    return false;
}

const struct flag_row *command_flag(const struct command *cmd, const char *name, char letter)
{
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++) {
            const struct flag_row *row = &cmd->flags[s]->rows[i];
            if (name ? strcmp(row->name, name) == 0 : row->letter == letter)
                return row;
        }
    return NULL;
}

/* --- parsing --------------------------------------------------------------------------------- */

struct parser {
    struct call *call;
    size_t n, at;
    char *const *args;
    bool help;
    bool no_more_flags;
};

static void keep_value(struct call *c, const struct flag_row *row, const char *value)
{
    c->values = mem_grow(c->values, (c->n_values + 1) * sizeof(*c->values));
    c->values[c->n_values++] = (struct call_value){row, value};
}

static void keep_conf(struct call *c, const char *flag, const char *value)
{
    c->conf_flags = mem_grow(c->conf_flags, (c->n_conf_flags + 1) * sizeof(*c->conf_flags));
    c->conf_flags[c->n_conf_flags++] = (struct conf_flag){flag, value};
}

static void keep_arg(struct call *c, const char *arg)
{
    c->args = mem_grow(c->args, (c->n_args + 1) * sizeof(*c->args));
    c->args[c->n_args++] = arg;
}

static int check_value(const struct flag_row *row, const char *value, struct diag *d)
{
    uint64_t number = 0;
    int64_t ms = 0;
    switch (row->type) {
    case FLAG_INT:
        if (text_to_u64(value, INT64_MAX, &number) < 0)
            return diag_set(d, ERR_USAGE, "%s takes a number, not \"%s\"", row->name, value);
        return 0;
    case FLAG_DURATION:
        if (text_to_duration_ms(value, &ms) < 0)
            return diag_set(d, ERR_USAGE, "%s takes a time such as 30s or 24h, not \"%s\"",
                            row->name, value);
        return 0;
    case FLAG_CHOICE:
        for (size_t i = 0; row->choices[i]; i++)
            if (strcmp(row->choices[i], value) == 0)
                return 0;
        return diag_set(d, ERR_USAGE, "%s takes %s, not \"%s\"", row->name, row->metavar, value);
    default:
        return 0;
    }
}

static const struct conf_row *conf_flag_of(const struct command *cmd, const char *name)
{
    return cmd->conf ? conf_find_flag(cmd->conf, name) : NULL;
}

static int unknown_flag(const struct command *cmd, const char *name, struct diag *d)
{
    struct nearest near = nearest_to(name);
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++)
            nearest_offer(&near, cmd->flags[s]->rows[i].name);
    for (size_t i = 0; cmd->conf && i < cmd->conf->n_rows; i++)
        if (cmd->conf->rows[i].flag)
            nearest_offer(&near, cmd->conf->rows[i].flag);
    if (near.best)
        return diag_set(d, ERR_USAGE, "unknown flag %s; did you mean %s?", name, near.best);
    return diag_set(d, ERR_USAGE, "unknown flag %s", name);
}

static int unknown_word(struct parser *p, const char *word, struct diag *d)
{
    struct nearest near = nearest_to(word);
    size_t len = strlen(p->call->words);
    const struct command *row = NULL;
    char next[COMMAND_WORDS_SIZE];
    while ((row = command_next(p->call->program, row))) {
        if (row->is_hidden || strncmp(row->words, p->call->words, len) != 0)
            continue;
        const char *rest = row->words + len;
        if (len > 0 && *rest++ != ' ')
            continue;
        snprintf(next, sizeof(next), "%.*s", (int)strcspn(rest, " "), rest);
        nearest_offer(&near, next);
    }
    const char *name = p->call->program->name, *gap = len ? " " : "";
    if (near.best)
        return diag_set(d, ERR_USAGE, "unknown command \"%s %s%s%.40s\"; did you mean \"%s\"?",
                        name, p->call->words, gap, word, near.best);
    return diag_set(d, ERR_USAGE, "unknown command \"%s %s%s%.40s\"", name, p->call->words, gap,
                    word);
}

/* A plain argument: one more word of the command, or an argument of it. */
static int parse_word(struct parser *p, const char *arg, struct diag *d)
{
    struct call *c = p->call;
    char longer[COMMAND_WORDS_SIZE];
    int len = snprintf(longer, sizeof(longer), "%s%s%s", p->call->words,
                       p->call->words[0] ? " " : "", arg);
    if (c->n_args == 0 && len < (int)sizeof(longer)) {
        if (!p->call->words[0] && strcmp(arg, "help") == 0 && !command_find(c->program, "help")) {
            p->help = true;
            return 0;
        }
        const struct command *found = command_find(c->program, longer);
        if (found || is_group(c->program, longer)) {
            memcpy(p->call->words, longer, (size_t)len + 1);
            c->command = found ? found : c->command;
            return 0;
        }
    }
    if (!c->command)
        return unknown_word(p, arg, d);
    keep_arg(c, arg);
    return 0;
}

/* The value of a flag: after '=', or the next argument. */
static int take_value(struct parser *p, const char *name, const char *inlined, const char **ret,
                      struct diag *d)
{
    if (inlined)
        *ret = inlined;
    else if (p->at < p->n)
        *ret = p->args[p->at++];
    else
        return diag_set(d, ERR_USAGE, "%s needs a value", name);
    return 0;
}

static int parse_row(struct parser *p, const struct flag_row *row, const char *inlined,
                     struct diag *d)
{
    const char *value = NULL;
    if (row->type == FLAG_SWITCH) {
        if (inlined)
            return diag_set(d, ERR_USAGE, "%s takes no value", row->name);
    } else {
        TRY(take_value(p, row->name, inlined, &value, d));
        TRY(check_value(row, value, d));
    }
    keep_value(p->call, row, value);
    return 0;
}

static int parse_long(struct parser *p, const char *arg, struct diag *d)
{
    char name[64];
    const char *inlined = strchr(arg, '=');
    size_t len = inlined ? (size_t)(inlined - arg) : strlen(arg);
    if (len >= sizeof(name))
        return diag_set(d, ERR_USAGE, "unknown flag %.60s...", arg);
    memcpy(name, arg, len);
    name[len] = '\0';
    inlined = inlined ? inlined + 1 : NULL;

    if (strcmp(name, "--help") == 0) {
        p->help = true;
        return 0;
    }
    if (!p->call->words[0] && strcmp(name, "--version") == 0)
        return parse_word(p, "version", d);
    const struct command *cmd = p->call->command;
    if (!cmd)
        return diag_set(d, ERR_USAGE, "%s must come after the command", name);
    const struct flag_row *row = command_flag(cmd, name, 0);
    if (row)
        return parse_row(p, row, inlined, d);
    const struct conf_row *conf = conf_flag_of(cmd, name);
    if (!conf)
        return unknown_flag(cmd, name, d);
    const char *value = inlined;
    if (conf->type != CONF_BOOL)
        TRY(take_value(p, conf->flag, inlined, &value, d));
    keep_conf(p->call, conf->flag, value);
    return 0;
}

/* "-q", "-o json", "-ojson", "-qo json". */
static int parse_letters(struct parser *p, const char *arg, struct diag *d)
{
    for (const char *s = arg + 1; *s; s++) {
        if (*s == 'h') {
            p->help = true;
            continue;
        }
        if (!p->call->command)
            return diag_set(d, ERR_USAGE, "-%c must come after the command", *s);
        const struct flag_row *row = command_flag(p->call->command, NULL, *s);
        if (!row)
            return diag_set(d, ERR_USAGE, "unknown flag -%c", *s);
        if (row->type != FLAG_SWITCH)
            return parse_row(p, row, s[1] ? s + 1 : NULL, d);
        keep_value(p->call, row, NULL);
    }
    return 0;
}

static int check_call(struct call *c, struct diag *d)
{
    const struct command *cmd = c->command;
    if (c->n_args > cmd->max_args)
        return diag_set(d, ERR_USAGE, "unexpected argument \"%s\"", c->args[cmd->max_args]);
    if (c->n_args < cmd->min_args)
        return diag_set(d, ERR_USAGE, "%s is missing", cmd->args);
    for (size_t i = 0; cmd->arg_choices && i < c->n_args; i++) {
        const char *const *choice = cmd->arg_choices;
        while (*choice && strcmp(*choice, c->args[i]) != 0)
            choice++;
        if (!*choice)
            return diag_set(d, ERR_USAGE, "%s expected, not \"%s\"", cmd->args, c->args[i]);
    }
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++) {
            const struct flag_row *row = &cmd->flags[s]->rows[i];
            if (row->is_required && !call_is_given(c, row->name))
                return diag_set(d, ERR_USAGE, "%s %s is missing", row->name, row->metavar);
        }
    return 0;
}

static int parse_all(struct parser *p, struct diag *d)
{
    while (p->at < p->n) {
        const char *arg = p->args[p->at++];
        if (p->no_more_flags || arg[0] != '-' || !arg[1])
            TRY(parse_word(p, arg, d));
        else if (strcmp(arg, "--") == 0)
            p->no_more_flags = true;
        else if (arg[1] == '-')
            TRY(parse_long(p, arg, d));
        else
            TRY(parse_letters(p, arg, d));
    }
    return 0;
}

int command_parse(const struct program *program, size_t n_args, char *const *args, struct call *ret,
                  struct diag *d)
{
    *ret = (struct call){.program = program, .out = stdout, .err = stderr};
    struct parser p = {.call = ret, .n = n_args, .args = args};
    int r = parse_all(&p, d);
    if (p.help || (r == 0 && n_args == 0))
        return COMMAND_HELP;
    TRY(r);
    if (!ret->command)
        return diag_set(d, ERR_USAGE, "\"%s %s\" is not a whole command", program->name,
                        ret->words);
    return check_call(ret, d);
}

void call_done(struct call *c)
{
    free(c->values);
    free(c->conf_flags);
    free(c->args);
    *c = (struct call){0};
}

/* --- values ---------------------------------------------------------------------------------- */

static const struct call_value *last_value(const struct call *c, const char *name)
{
    for (size_t i = c->n_values; i-- > 0;)
        if (strcmp(c->values[i].row->name, name) == 0)
            return &c->values[i];
    return NULL;
}

const char *call_text(const struct call *c, const char *name)
{
    const struct call_value *v = last_value(c, name);
    if (v)
        return v->value;
    const struct flag_row *row = command_flag(c->command, name, 0);
    return row ? row->fallback : NULL;
}

bool call_is_given(const struct call *c, const char *name)
{
    return last_value(c, name) != NULL;
}

int64_t call_int(const struct call *c, const char *name, int64_t otherwise)
{
    uint64_t n = 0;
    const char *text = call_text(c, name);
    if (text && text_to_u64(text, INT64_MAX, &n) == 0)
        return (int64_t)n;
    return otherwise;
}

int64_t call_duration_ms(const struct call *c, const char *name, int64_t otherwise)
{
    int64_t ms = 0;
    const char *text = call_text(c, name);
    return text && text_to_duration_ms(text, &ms) == 0 ? ms : otherwise;
}

const char *call_item(const struct call *c, const char *name, size_t n)
{
    for (size_t i = 0; i < c->n_values; i++)
        if (strcmp(c->values[i].row->name, name) == 0 && n-- == 0)
            return c->values[i].value;
    return NULL;
}

int call_fail(struct call *c, int code, const char *hint, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    c->diag.code = code;
    vsnprintf(c->diag.text, sizeof(c->diag.text), format, ap);
    va_end(ap);
    snprintf(c->hint, sizeof(c->hint), "%s", hint ? hint : "");
    return code;
}
