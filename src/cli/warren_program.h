/*
 * The whole command table of `warren`.
 */
#pragma once

#include "cli/command.h"

extern const struct program warren_program;
