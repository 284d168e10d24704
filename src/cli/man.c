#include "cli/help.h"

#include "base/macro.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Text for troff: hyphens as such, backslashes and leading control characters made harmless. */
static void troff(FILE *out, const char *s)
{
    bool at_start = true;
    for (; *s; s++) {
        if (at_start && (*s == '.' || *s == '\''))
            fputs("\\&", out);
        if (*s == '\\')
            fputs("\\e", out);
        else if (*s == '-')
            fputs("\\-", out);
        else
            fputc(*s, out);
        at_start = *s == '\n';
    }
}

static void troff_upper(FILE *out, const char *s)
{
    char upper[64];
    size_t n = 0;
    for (; *s && n < sizeof(upper) - 1; s++)
        upper[n++] = (char)toupper((unsigned char)*s);
    upper[n] = '\0';
    troff(out, upper);
}

static void paragraphs(FILE *out, const char *text)
{
    for (const char *p = text; *p;) {
        const char *end = strstr(p, "\n\n");
        char part[2048];
        size_t len = end ? (size_t)(end - p) : strlen(p);
        snprintf(part, sizeof(part), "%.*s", (int)len, p);
        troff(out, part);
        fputs(end ? "\n.PP\n" : "\n", out);
        p += len + (end ? 2 : 0);
    }
}

static void verbatim(FILE *out, const char *text)
{
    fputs(".PP\n.RS 4\n.nf\n", out);
    troff(out, text);
    if (!*text || text[strlen(text) - 1] != '\n')
        fputc('\n', out);
    fputs(".fi\n.RE\n", out);
}

static void flag_entry(FILE *out, const struct flag_row *row)
{
    fputs(".TP\n\\fB", out);
    if (row->letter)
        fprintf(out, "\\-%c\\fR, \\fB", row->letter);
    troff(out, row->name);
    fputs("\\fR", out);
    if (row->metavar) {
        fputs(" \\fI", out);
        troff(out, row->metavar);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    troff(out, row->help);
    if (row->fallback) {
        fputs(" (default ", out);
        troff(out, row->fallback);
        fputc(')', out);
    }
    fputs(row->type == FLAG_LIST ? " May be repeated.\n" : "\n", out);
}

static void conf_entry(FILE *out, const struct conf_row *row)
{
    fputs(".TP\n\\fB", out);
    troff(out, row->flag ? row->flag : row->name);
    fputs("\\fR \\fI", out);
    troff(out, row->metavar ? row->metavar : "");
    fputs("\\fR\n", out);
    troff(out, row->help);
    fputs("\nIn the file: \\fB", out);
    troff(out, row->name);
    fputs("\\fR", out);
    if (row->env) {
        fputs("; in the environment: \\fB", out);
        troff(out, row->env);
        fputs("\\fR", out);
    }
    if (row->fallback) {
        fputs("; default ", out);
        troff(out, row->fallback);
    }
    fputs(".\n", out);
}

static void usage_line(const struct program *p, const struct command *cmd, FILE *out)
{
    char *text = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&text, &len);
    if (!mem)
        return;
    help_usage(p, cmd, mem);
    fclose(mem);
    troff(out, text);
    free(text);
}

/* Flags that several commands share have a section of their own. */
static bool is_shared(const struct flag_set *set)
{
    return strcmp(set->title, "Flags") != 0;
}

static void command_entry(const struct program *p, const struct command *cmd, FILE *out)
{
    fputs(".SS ", out);
    usage_line(p, cmd, out);
    troff(out, cmd->summary);
    fputc('\n', out);
    if (cmd->details) {
        fputs(".PP\n", out);
        paragraphs(out, cmd->details);
    }
    for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++)
        for (size_t i = 0; !is_shared(cmd->flags[s]) && i < cmd->flags[s]->n; i++)
            flag_entry(out, &cmd->flags[s]->rows[i]);
    for (size_t i = 0; cmd->conf && i < cmd->conf->n_rows; i++)
        conf_entry(out, &cmd->conf->rows[i]);
    if (cmd->examples)
        verbatim(out, cmd->examples);
}

static void shared_sections(const struct program *p, FILE *out)
{
    const struct flag_set *seen[8] = {0};
    size_t n = 0;
    const struct command *cmd = NULL;
    while ((cmd = command_next(p, cmd)))
        for (size_t s = 0; s < COMMAND_SETS_MAX && cmd->flags[s]; s++) {
            const struct flag_set *set = cmd->flags[s];
            bool is_new = is_shared(set) && n < ARRAY_SIZE(seen);
            for (size_t i = 0; i < n; i++)
                is_new = is_new && seen[i] != set;
            if (!is_new)
                continue;
            seen[n++] = set;
            fputs(".SH ", out);
            troff_upper(out, set->title);
            fputc('\n', out);
            for (size_t i = 0; i < set->n; i++)
                flag_entry(out, &set->rows[i]);
        }
}

/* "Title:\n  line\n…\n\nTitle:\n…" */
static void notes_sections(const char *notes, FILE *out)
{
    while (*notes) {
        size_t title = strcspn(notes, ":\n");
        char text[2048];
        snprintf(text, sizeof(text), "%.*s", (int)title, notes);
        fputs(".SH ", out);
        troff_upper(out, text);
        fputc('\n', out);
        notes += title + strspn(notes + title, ":\n");
        const char *end = strstr(notes, "\n\n");
        size_t len = end ? (size_t)(end - notes) : strlen(notes);
        snprintf(text, sizeof(text), "%.*s", (int)len, notes);
        verbatim(out, text);
        notes += len + strspn(notes + len, "\n");
    }
}

void man_page(const struct program *p, FILE *out)
{
    fputs(".TH ", out);
    troff_upper(out, p->name);
    fputs(" 1 \"\" \"warren " WARREN_VERSION "\"\n.SH NAME\n", out);
    troff(out, p->name);
    fputs(" \\- ", out);
    troff(out, p->summary);
    fputs("\n.SH SYNOPSIS\n\\fB", out);
    troff(out, p->name);
    fputs("\\fR \\fICOMMAND\\fR [\\fIflags\\fR] [\\fIarguments\\fR]\n.SH DESCRIPTION\n", out);
    paragraphs(out, p->description);
    fputs(".SH COMMANDS\n", out);
    const struct command *cmd = NULL;
    while ((cmd = command_next(p, cmd)))
        if (!cmd->is_hidden)
            command_entry(p, cmd, out);
    shared_sections(p, out);
    if (p->notes)
        notes_sections(p->notes, out);
}
