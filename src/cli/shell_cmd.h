/*
 * Rows that both programs have: completion, man, version.
 */
#pragma once

#include "cli/command.h"

extern const struct command_set shell_commands;
