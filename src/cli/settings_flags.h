/*
 * The flags and steps that commands with settings share: --config, --check-config, --dump-config.
 */
#pragma once

#include "cli/command.h"

extern const struct flag_set settings_flags;

/* The sources of the call's settings: file, environment, flags. Borrow from the call. */
struct conf_sources settings_sources(const struct call *c);

/* For --check-config and --dump-config: loads, prints, and returns 1 when the command is thereby
 * done; 0: run it; negative: the settings are wrong (in the call's diagnosis). */
int settings_checked(struct call *c);
