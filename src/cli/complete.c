#include "cli/complete.h"

#include "base/macro.h"

#include <string.h>

/* What the words before the unfinished one say. */
struct context {
    const struct program *program;
    const struct command *command;
    char words[COMMAND_WORDS_SIZE];
    const struct flag_row *pending; /* its value comes next */
    const struct conf_row *pending_conf;
    size_t n_args;
};

static void note_flag(struct context *x, const char *arg)
{
    const struct command *cmd = x->command;
    if (!cmd || strchr(arg, '='))
        return;
    const struct flag_row *row = arg[1] == '-' ? command_flag(cmd, arg, 0)
                                 : arg[2]      ? NULL
                                               : command_flag(cmd, NULL, arg[1]);
    if (row && row->type != FLAG_SWITCH)
        x->pending = row;
    const struct conf_row *conf = !row && cmd->conf ? conf_find_flag(cmd->conf, arg) : NULL;
    if (conf && conf->type != CONF_BOOL)
        x->pending_conf = conf;
}

static bool is_prefix_of_row(const struct program *p, const char *words)
{
    size_t len = strlen(words);
    const struct command *row = NULL;
    while ((row = command_next(p, row)))
        if (strncmp(row->words, words, len) == 0 && (!row->words[len] || row->words[len] == ' '))
            return true;
    return false;
}

static void note_word(struct context *x, const char *arg)
{
    if (x->pending || x->pending_conf) {
        x->pending = NULL;
        x->pending_conf = NULL;
        return;
    }
    if (arg[0] == '-' && arg[1]) {
        note_flag(x, arg);
        return;
    }
    char longer[COMMAND_WORDS_SIZE];
    int len = snprintf(longer, sizeof(longer), "%s%s%s", x->words, x->words[0] ? " " : "", arg);
    if (x->n_args == 0 && len < (int)sizeof(longer) && is_prefix_of_row(x->program, longer)) {
        memcpy(x->words, longer, (size_t)len + 1);
        const struct command *found = command_find(x->program, longer);
        x->command = found ? found : x->command;
    } else {
        x->n_args++;
    }
}

static void offer(FILE *out, const char *typed, const char *candidate, const char *text)
{
    if (strncmp(candidate, typed, strlen(typed)) == 0)
        fprintf(out, "%s\t%s\n", candidate, text ? text : "");
}

static void offer_choices(FILE *out, const char *typed, const char *const *choices)
{
    for (; choices && *choices; choices++)
        offer(out, typed, *choices, NULL);
}

static void offer_kind(const struct program *p, enum candidates kind, const char *const *choices,
                       const char *typed, FILE *out)
{
    if (kind == CANDIDATES_FILE)
        fputs(":file\n", out);
    else if (kind == CANDIDATES_DIR)
        fputs(":dir\n", out);
    else if (kind == CANDIDATES_CHOICES)
        offer_choices(out, typed, choices);
    else if (kind != CANDIDATES_NONE && p->list_names)
        p->list_names(kind, out);
}

static void offer_conf_value(const struct conf_row *row, const char *typed, FILE *out)
{
    if (row->choices)
        offer_choices(out, typed, row->choices);
    else if (row->type == CONF_PATH)
        fputs(row->metavar && strcmp(row->metavar, "DIR") == 0 ? ":dir\n" : ":file\n", out);
}

/* The next words of all commands that begin with those typed, each once (rows of a group are
 * neighbours). */
static void offer_words(const struct context *x, const char *typed, FILE *out)
{
    char last[COMMAND_WORDS_SIZE] = "", next[COMMAND_WORDS_SIZE];
    size_t len = strlen(x->words);
    const struct command *row = NULL;
    while ((row = command_next(x->program, row))) {
        if (row->is_hidden || strncmp(row->words, x->words, len) != 0)
            continue;
        const char *rest = row->words + len;
        if (len > 0 && *rest++ != ' ')
            continue;
        size_t n = strcspn(rest, " ");
        snprintf(next, sizeof(next), "%.*s", (int)n, rest);
        if (strcmp(next, last) != 0)
            offer(out, typed, next, rest[n] ? NULL : row->summary);
        memcpy(last, next, sizeof(last));
    }
}

static void offer_flags(const struct command *cmd, const char *typed, FILE *out)
{
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++)
            offer(out, typed, cmd->flags[s]->rows[i].name, cmd->flags[s]->rows[i].help);
    for (size_t i = 0; cmd->conf && i < cmd->conf->n_rows; i++)
        if (cmd->conf->rows[i].flag)
            offer(out, typed, cmd->conf->rows[i].flag, cmd->conf->rows[i].help);
    offer(out, typed, "--help", "Shows what the command does.");
}

void complete_words(const struct program *p, const char *const *words, size_t n, FILE *out)
{
    struct context x = {.program = p};
    const char *typed = n > 0 ? words[n - 1] : "";
    for (size_t i = 0; i + 1 < n; i++)
        note_word(&x, words[i]);
    const struct command *cmd = x.command;
    if (x.pending)
        offer_kind(p, x.pending->candidates, x.pending->choices, typed, out);
    else if (x.pending_conf)
        offer_conf_value(x.pending_conf, typed, out);
    else if (typed[0] == '-' && cmd)
        offer_flags(cmd, typed, out);
    else {
        if (x.n_args == 0)
            offer_words(&x, typed, out);
        if (cmd && x.n_args < cmd->max_args)
            offer_kind(p, cmd->arg_candidates, cmd->arg_choices, typed, out);
    }
}

/* --- the shells' side ------------------------------------------------------------------------ */

/* Function names may not have the program's hyphen. */
static void function_name(const struct program *p, char out[64])
{
    snprintf(out, 64, "_%s", p->name);
    for (char *s = out; *s; s++)
        *s = *s == '-' ? '_' : *s;
}

void complete_script_bash(const struct program *p, FILE *out)
{
    char fn[64];
    function_name(p, fn);
    fprintf(out,
            "# bash completion of %s; use: source <(%s completion bash)\n"
            "%s() {\n"
            "    local cur=${COMP_WORDS[COMP_CWORD]} line\n"
            "    COMPREPLY=()\n"
            "    while IFS= read -r line; do\n"
            "        case $line in\n"
            "        :file) compopt -o filenames; COMPREPLY+=($(compgen -f -- \"$cur\")) ;;\n"
            "        :dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- \"$cur\")) ;;\n"
            "        *) line=${line%%%%$'\\t'*}; [[ $line == \"$cur\"* ]] && "
            "COMPREPLY+=(\"$line\") ;;\n"
            "        esac\n"
            "    done < <(%s __complete -- \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
            "}\n"
            "complete -F %s %s\n",
            p->name, p->name, fn, p->name, fn, p->name);
}

void complete_script_zsh(const struct program *p, FILE *out)
{
    char fn[64];
    function_name(p, fn);
    fprintf(out,
            "#compdef %s\n"
            "# zsh completion of %s; use: source <(%s completion zsh)\n"
            "%s() {\n"
            "    local line; local -a found\n"
            "    while IFS= read -r line; do\n"
            "        case $line in\n"
            "        :file) _files ;;\n"
            "        :dir) _files -/ ;;\n"
            "        *) found+=(\"${${line%%%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}\") ;;\n"
            "        esac\n"
            "    done < <(%s __complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)\n"
            "    (( $#found )) && _describe '%s' found\n"
            "}\n"
            "if [[ $funcstack[1] == %s ]]; then %s; else compdef %s %s; fi\n",
            p->name, p->name, p->name, fn, p->name, p->name, fn, fn, fn, p->name);
}

void complete_script_fish(const struct program *p, FILE *out)
{
    char fn[64];
    function_name(p, fn);
    fprintf(out,
            "# fish completion of %s; use: %s completion fish | source\n"
            "function %s\n"
            "    set -l words (commandline -opc) (commandline -ct)\n"
            "    for line in (%s __complete -- $words[2..] 2>/dev/null)\n"
            "        switch $line\n"
            "            case ':file'\n"
            "                __fish_complete_path (commandline -ct)\n"
            "            case ':dir'\n"
            "                __fish_complete_directories (commandline -ct)\n"
            "            case '*'\n"
            "                echo $line\n"
            "        end\n"
            "    end\n"
            "end\n"
            "complete -c %s -f -a '(%s)'\n",
            p->name, p->name, fn, p->name, p->name, fn);
}
