#include "cli/commands.h"

#include "base/macro.h"
#include "cli/object_cmd.h"

static const struct column columns[] = {
    {"NAME", "name"},
    {"PHASE", "status.phase", COLUMN_PHASE},
    {"NETWORK", "network", COLUMN_REF, "networks"},
    {"ADDRESS", "status.session.address"},
    {"SOFTWARE", "status.session.software"},
    {"SEEN", "status.last_seen", COLUMN_AGE},
    {"ID", "id"},
};
static const struct view view = {"agents", "agent", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    char *path = remote_path("agents", NULL, NULL);
    remote_query(&path, "network", call_text(c, "--network"));
    return object_list(c, &view, path, 0);
}

static int run_get(struct call *c)
{
    return object_get(c, &view);
}

static int run_revoke(struct call *c)
{
    return object_action(c, &view, "revoke");
}

static int run_approve(struct call *c)
{
    return object_action(c, &view, "approve");
}

static int run_move(struct call *c)
{
    return object_action_with(c, &view, "move", json_pack("{s:s}", "network", c->args[1]));
}

static const struct flag_row filter_rows[] = {
    {.name = "--network",
     .type = FLAG_TEXT,
     .metavar = "NETWORK",
     .candidates = CANDIDATES_NETWORK,
     .help = "Only those of this network."},
};
static const struct flag_set filter_flags = {"Flags", filter_rows, ARRAY_SIZE(filter_rows)};

static const struct command rows[] = {
    {.words = "agent list",
     .summary = "Lists agents and whether they are online.",
     .run = run_list,
     .flags = REMOTE_FLAGS(&filter_flags, &list_flags)},
    {.words = "agent get",
     .summary = "Shows an agent.",
     .run = run_get,
     .args = "AGENT",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "agent revoke",
     .summary = "Ends the admission of agents, for good.",
     .run = run_revoke,
     .args = "AGENT...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&if_version_flags),
     .details = "Sessions and streams are cut within two seconds, and the certificate is refused "
                "from then on. To come back, the machine must enrol again."},
    {.words = "agent move",
     .summary = "Puts an agent into another network.",
     .run = run_move,
     .args = "AGENT NETWORK",
     .min_args = 2,
     .max_args = 2,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&if_version_flags),
     .details =
         "It logs in anew and takes leases there; its old network's tunnels stay. The hub does "
         "not merge the two networks by itself from then on: that is how a network is "
         "split."},
    {.words = "agent approve",
     .summary = "Lets agents renew certificates that have expired.",
     .run = run_approve,
     .args = "AGENT...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&if_version_flags),
     .details =
         "For agents in the phase \"pending\", where the hub's late_renewal is \"approve\"."},
};
const struct command_set agent_commands = {rows, ARRAY_SIZE(rows)};
