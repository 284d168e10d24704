/*
 * Rows of `warren-agent` that set the agent up as a service of this machine.
 */
#pragma once

#include "cli/command.h"

extern const struct command_set service_commands;
