/*
 * Rows of `warren-agent` that join a hub and run the agent.
 */
#pragma once

#include "cli/command.h"

extern const struct command_set enroll_commands;
