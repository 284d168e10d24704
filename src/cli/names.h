/*
 * Names of objects for the shell completion.
 */
#pragma once

#include "cli/command.h"

void names_list(enum candidates kind, FILE *out);
