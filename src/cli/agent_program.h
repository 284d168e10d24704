/*
 * The whole command table of `warren-agent`.
 */
#pragma once

#include "cli/command.h"

extern const struct program agent_program;
