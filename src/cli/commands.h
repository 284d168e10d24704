/*
 * The rows of `warren`, by the noun they begin with. A new capability adds its file and its set
 * here and in main.c.
 */
#pragma once

#include "cli/command.h"
#include "cli/output.h"

extern const struct command_set hub_commands;
extern const struct command_set hubs_commands;
extern const struct command_set db_commands;
extern const struct command_set ca_commands;
extern const struct command_set reseal_commands;
extern const struct command_set login_commands;
extern const struct command_set status_commands;
extern const struct command_set token_commands;
extern const struct command_set tenant_commands;
extern const struct command_set network_commands;
extern const struct command_set agent_commands;
extern const struct command_set tunnel_commands;
extern const struct command_set apply_commands;
extern const struct command_set audit_commands;
extern const struct command_set connect_commands;
extern const struct command_set forward_commands;
extern const struct command_set mount_commands;
extern const struct command_set scan_commands;

/* db_cmd.c: the hubs' database itself, which --db and --db-password-file name. */
struct loop;
struct store;
int db_open(struct call *c, struct loop *loop, struct store **ret);

/* Rows with the flags of a hub and of output after their own. */
#define REMOTE_FLAGS(...)                                        \
    {                                                            \
        __VA_ARGS__ __VA_OPT__(, ) & output_flags, &remote_flags \
    }
