/*
 * Shell completion. The shells run `PROGRAM __complete WORD...` (the words so far, the last one
 * unfinished) and get candidates, one a line: "candidate<TAB>description". A line ":file" or ":dir"
 * asks the shell for file names instead.
 */
#pragma once

#include "cli/command.h"

void complete_words(const struct program *p, const char *const *words, size_t n, FILE *out);

/* The code that connects a shell to the above. */
void complete_script_bash(const struct program *p, FILE *out);
void complete_script_zsh(const struct program *p, FILE *out);
void complete_script_fish(const struct program *p, FILE *out);
