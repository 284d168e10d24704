/*
 * Texts drawn from the command table: help on the terminal, and man pages.
 */
#pragma once

#include "cli/command.h"

void help_command(const struct program *p, const struct command *cmd, FILE *out);
/* The commands that begin with `words` ("": all of them). */
void help_group(const struct program *p, const char *words, FILE *out);

/* "warren tunnel create --name NAME [flags] ARGS" */
void help_usage(const struct program *p, const struct command *cmd, FILE *out);

/* man(7) text of the whole program: every command with its flags. */
void man_page(const struct program *p, FILE *out);
