#include "cli/commands.h"

#include "base/macro.h"
#include "cli/object_cmd.h"

static const struct column columns[] = {
    {"NAME", "name"},
    {"ONLINE", "status.agents.online"},
    {"AGENTS", "status.agents.total"},
    {"TUNNELS", "status.tunnels"},
    {"CREATED", "created", COLUMN_AGE},
    {"ID", "id"},
};
static const struct view view = {"networks", "network", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    return object_list(c, &view, remote_path("networks", NULL, NULL), 0);
}

static int run_get(struct call *c)
{
    return object_get(c, &view);
}

static int run_create(struct call *c)
{
    return object_create_named(c, &view);
}

static int run_delete(struct call *c)
{
    return object_delete(c, &view);
}

static int run_merge(struct call *c)
{
    return object_action_with(c, &view, "merge", json_pack("{s:s}", "into", c->args[1]));
}

static const struct command rows[] = {
    {.words = "network list",
     .summary = "Lists networks and how many of their agents are online.",
     .run = run_list,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "network get",
     .summary = "Shows a network.",
     .run = run_get,
     .args = "NETWORK",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "network create",
     .summary = "Creates a network that agents can then join.",
     .run = run_create,
     .args = "NAME",
     .min_args = 1,
     .max_args = 1,
     .flags = REMOTE_FLAGS()},
    {.words = "network merge",
     .summary = "Makes a network part of another one, for good.",
     .run = run_merge,
     .args = "NETWORK INTO",
     .min_args = 2,
     .max_args = 2,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = REMOTE_FLAGS(&if_version_flags),
     .details =
         "Agents, tunnels and tokens of the first become the second's; streams go on. Its id "
         "and name stay valid as other names of the second. Networks that nobody named are "
         "merged by the hub itself when their agents hear each other on a LAN."},
    {.words = "network delete",
     .summary = "Deletes networks without tunnels and agents.",
     .run = run_delete,
     .args = "NETWORK...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = REMOTE_FLAGS(&if_version_flags)},
};
const struct command_set network_commands = {rows, ARRAY_SIZE(rows)};
