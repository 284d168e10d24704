#include "cli/help.h"

#include "base/macro.h"

#include <string.h>

#define LINE_COLUMNS 96
#define TEXT_INDENT  30

/* Breaks `text` at spaces; its own line ends stay. The first line begins at column `at`. */
static void wrapped(FILE *out, const char *text, int at, int indent)
{
    int column = at;
    if (column > 0 && column > indent - 2) {
        fputc('\n', out);
        column = 0;
    }
    fprintf(out, "%*s", indent - column, "");
    column = indent;
    while (*text) {
        int len = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + len > LINE_COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", len, text);
        column += len;
        text += len;
        if (*text == '\n') {
            fputc('\n', out);
            if (text[1])
                fprintf(out, "%*s", text[1] == '\n' ? 0 : indent, "");
            column = indent;
        }
        text += *text != '\0';
    }
    fputc('\n', out);
}

static void flag_lines(FILE *out, const struct flag_row *row)
{
    char text[512], letter[8] = "    ";
    if (row->letter)
        snprintf(letter, sizeof(letter), "-%c, ", row->letter);
    int n = fprintf(out, "  %s%s%s%s", letter, row->name, row->metavar ? " " : "",
                    row->metavar ? row->metavar : "");
    const char *again = row->type == FLAG_LIST ? " (may be repeated)" : "";
    if (row->fallback)
        snprintf(text, sizeof(text), "%s (default %s)%s", row->help, row->fallback, again);
    else
        snprintf(text, sizeof(text), "%s%s", row->help, again);
    wrapped(out, text, n, TEXT_INDENT);
}

static void conf_lines(FILE *out, const struct conf_row *row)
{
    char text[512];
    int n = fprintf(out, "      %s%s%s", row->flag, row->type == CONF_BOOL ? "" : " ",
                    row->type == CONF_BOOL ? "" : row->metavar);
    size_t len = (size_t)snprintf(text, sizeof(text), "%s", row->help);
    if (row->fallback && len < sizeof(text))
        len += (size_t)snprintf(text + len, sizeof(text) - len, " (default %s)", row->fallback);
    if (row->env && len < sizeof(text))
        snprintf(text + len, sizeof(text) - len, " [%s]", row->env);
    wrapped(out, text, n, TEXT_INDENT);
}

void help_usage(const struct program *p, const struct command *cmd, FILE *out)
{
    fprintf(out, "%s %s", p->name, cmd->words);
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; i < cmd->flags[s]->n; i++) {
            const struct flag_row *row = &cmd->flags[s]->rows[i];
            if (row->is_required)
                fprintf(out, " %s %s", row->name, row->metavar);
        }
    for (size_t i = 0; cmd->conf && i < cmd->conf->n_rows; i++) {
        const struct conf_row *row = &cmd->conf->rows[i];
        if (row->flag && row->flags & CONF_REQUIRED)
            fprintf(out, " %s %s", row->flag, row->metavar);
    }
    fputs(cmd->flags[0] || cmd->conf ? " [flags]" : "", out);
    if (cmd->args && cmd->min_args)
        fprintf(out, " %s", cmd->args);
    else if (cmd->args)
        fprintf(out, " [%s]", cmd->args);
    fputc('\n', out);
}

static void indented(FILE *out, const char *lines)
{
    while (*lines) {
        int len = (int)strcspn(lines, "\n");
        fprintf(out, "  %.*s\n", len, lines);
        lines += len + (lines[len] == '\n');
    }
}

void help_command(const struct program *p, const struct command *cmd, FILE *out)
{
    fputs("Usage: ", out);
    help_usage(p, cmd, out);
    fprintf(out, "\n%s\n", cmd->summary);
    if (cmd->details) {
        fputc('\n', out);
        wrapped(out, cmd->details, 0, 0);
    }
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++) {
        if (s == 0 || strcmp(cmd->flags[s]->title, cmd->flags[s - 1]->title) != 0)
            fprintf(out, "\n%s:\n", cmd->flags[s]->title);
        for (size_t i = 0; i < cmd->flags[s]->n; i++)
            flag_lines(out, &cmd->flags[s]->rows[i]);
    }
    if (cmd->conf) {
        fputs("\nSettings, also in the TOML file and the environment:\n", out);
        for (size_t i = 0; i < cmd->conf->n_rows; i++)
            if (cmd->conf->rows[i].flag)
                conf_lines(out, &cmd->conf->rows[i]);
    }
    if (cmd->examples) {
        fputs("\nExamples:\n", out);
        indented(out, cmd->examples);
    }
}

static bool begins_with_words(const char *longer, const char *words)
{
    size_t len = strlen(words);
    return len == 0 || (strncmp(longer, words, len) == 0 && (!longer[len] || longer[len] == ' '));
}

static void command_line(FILE *out, const struct command *cmd)
{
    int n = fprintf(out, "  %s", cmd->words);
    if (cmd->args && strlen(cmd->words) + strlen(cmd->args) < TEXT_INDENT - 6)
        n += cmd->min_args ? fprintf(out, " %s", cmd->args) : fprintf(out, " [%s]", cmd->args);
    wrapped(out, cmd->summary, n, TEXT_INDENT);
}

void help_group(const struct program *p, const char *words, FILE *out)
{
    fprintf(out, "Usage: %s %s%sCOMMAND [flags]\n", p->name, words, *words ? " " : "");
    if (!*words) {
        fputc('\n', out);
        wrapped(out, p->description, 0, 0);
    }
    fputs("\nCommands:\n", out);
    const struct command *row = NULL;
    while ((row = command_next(p, row)))
        if (!row->is_hidden && begins_with_words(row->words, words))
            command_line(out, row);
    if (!*words && p->notes)
        fprintf(out, "\n%s", p->notes);
    fprintf(out, "\n\"%s COMMAND --help\" tells more about a command.\n", p->name);
}
