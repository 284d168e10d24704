#include "cli/commands.h"

#include "base/macro.h"
#include "base/mem.h"
#include "cli/object_cmd.h"
#include "cli/watch.h"

#include <stdio.h>

#define WAIT_DEFAULT_MS 600000

static const struct column columns[] = {
    {"NAME", "name"},
    {"PHASE", "status.phase", COLUMN_PHASE},
    {"NETWORK", "network", COLUMN_REF, "networks"},
    {"TUNNELS", "status.tunnels"},
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

static int drain_one(struct call *c, struct remote *r, const char *name, json_t **ret)
{
    CLEANUP(mem_free) char *path = remote_path("agents", name, ":drain");
    const char *grace = call_text(c, "--grace");
    json_t *body = grace ? json_pack("{s:s}", "grace", grace) : json_object();
    char doing[128];
    snprintf(doing, sizeof(doing), "drain the agent \"%s\"", name);
    return remote_send(r, "POST", path, body, (uint64_t)call_int(c, "--if-version", 0), doing, ret);
}

static int run_drain(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *done = json_array();
    int result = remote_open(c, &r);
    for (size_t i = 0; i < c->n_args && result == 0; i++) {
        json_t *obj = NULL;
        result = drain_one(c, r, c->args[i], &obj);
        if (result == 0 && call_is_given(c, "--wait")) {
            json_decref(TAKE(obj));
            result = watch_until_drained(c, r, c->args[i],
                                         call_duration_ms(c, "--timeout", WAIT_DEFAULT_MS), &obj);
        }
        if (obj)
            json_array_append_new(done, obj);
    }
    struct output o = output_of(c, r);
    if (json_array_size(done) == 1 && o.format != OUTPUT_TABLE)
        output_object(&o, json_array_get(done, 0));
    else if (json_array_size(done) > 0)
        output_list(&o, &view, done);
    json_decref(done);
    return result;
}

static int run_undrain(struct call *c)
{
    return object_action(c, &view, "undrain");
}

static const struct flag_row drain_rows[] = {
    {.name = "--grace",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help =
         "Cut streams that are still open after this time; without it, they end by themselves."},
    {.name = "--wait",
     .type = FLAG_SWITCH,
     .help = "Return when it holds no tunnel and has no stream any more."},
    {.name = "--timeout",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .fallback = "10m",
     .help = "How long --wait waits for each."},
};
static const struct flag_set drain_flags = {"Flags", drain_rows, ARRAY_SIZE(drain_rows)};

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
    {.words = "agent drain",
     .summary = "Moves agents' tunnels to others, without cutting streams.",
     .run = run_drain,
     .args = "AGENT...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&drain_flags, &if_version_flags),
     .details =
         "Other agents of the network serve what is new, streams that are open go on. It stays "
         "so, over restarts of agent and hub, until \"warren agent undrain\". A tunnel that no "
         "other agent can serve waits.",
     .examples = "warren agent drain shop-17-a --grace 10m --wait"},
    {.words = "agent undrain",
     .summary = "Lets agents hold tunnels again.",
     .run = run_undrain,
     .args = "AGENT...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_AGENT,
     .flags = REMOTE_FLAGS(&if_version_flags)},
};
const struct command_set agent_commands = {rows, ARRAY_SIZE(rows)};
