/* The hubs of a cluster: shown, drained. */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "cli/object_cmd.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS         300
#define WAIT_DEFAULT_MS 600000

static const struct column hub_columns[] = {
    {"NAME", "name"},
    {"PHASE", "phase", COLUMN_PHASE},
    {"ADDRESS", "address"},
    {"AGENTS", "agents"},
    {"TUNNELS", "tunnels"},
    {"SOFTWARE", "software"},
    {"STARTED", "started", COLUMN_AGE},
    {"ID", "id"},
};
static const struct view hub_view = {"hubs", "hub", hub_columns, ARRAY_SIZE(hub_columns)};

static int run_list(struct call *c)
{
    return object_list(c, &hub_view, remote_path("hubs", NULL, NULL), 0);
}

static int run_undrain(struct call *c)
{
    return object_action(c, &hub_view, "undrain");
}

static int start_drain(struct call *c, struct remote *r, json_t **ret)
{
    CLEANUP(mem_free) char *path = remote_path("hubs", c->args[0], ":drain");
    const char *grace = call_text(c, "--grace");
    json_t *body = grace ? json_pack("{s:s}", "grace", grace) : json_object();
    char doing[128];
    snprintf(doing, sizeof(doing), "drain the hub \"%.60s\"", c->args[0]);
    return remote_send(r, "POST", path, body, 0, doing, ret);
}

static const char *phase_of(const json_t *hub)
{
    const char *phase = json_string_value(json_object_get(hub, "phase"));
    return phase ? phase : "";
}

/* One line that is written over, for who looks on. */
static void show_progress(struct call *c, const json_t *hub)
{
    if (isatty(fileno(c->err)))
        fprintf(c->err, "\r%s: %lld agents, %lld tunnels \033[K", phase_of(hub),
                (long long)json_integer_value(json_object_get(hub, "agents")),
                (long long)json_integer_value(json_object_get(hub, "tunnels")));
}

/* `*hub`: as it was seen last. */
static int wait_drained(struct call *c, struct remote *r, json_t **hub)
{
    CLEANUP(mem_free) char *path = remote_path("hubs", c->args[0], NULL);
    uint64_t ends = time_mono_ms() + (uint64_t)call_duration_ms(c, "--timeout", WAIT_DEFAULT_MS);
    int result = 0;
    show_progress(c, *hub);
    while (result == 0 && strcmp(phase_of(*hub), "draining") == 0) {
        if (time_mono_ms() > ends) {
            result = call_fail(c, ERR_TIMEOUT, NULL, "the hub is not drained in time");
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        json_decref(TAKE(*hub));
        result = remote_get(r, path, "look at the hub", hub);
        if (result == 0)
            show_progress(c, *hub);
    }
    if (isatty(fileno(c->err)))
        fputs("\n", c->err);
    return result;
}

static int run_drain(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *hub = NULL;
    TRY(remote_open(c, &r));
    TRY(start_drain(c, r, &hub));
    int result = call_is_given(c, "--wait") ? wait_drained(c, r, &hub) : 0;
    struct output o = output_of(c, r);
    if (result == 0)
        result = output_object(&o, hub);
    json_decref(hub);
    return result;
}

static const struct flag_row drain_rows[] = {
    {.name = "--grace",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .fallback = "60s",
     .help = "How long streams that are open may go on."},
    {.name = "--wait",
     .type = FLAG_SWITCH,
     .help =
         "Return when it has no agent and no stream any more; shows on a terminal how far it is."},
    {.name = "--timeout",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .fallback = "10m",
     .help = "How long --wait waits."},
};
static const struct flag_set drain_flags = {"Flags", drain_rows, ARRAY_SIZE(drain_rows)};

static const struct command rows[] = {
    {.words = "hub list",
     .summary = "Lists the hubs of the cluster.",
     .run = run_list,
     .flags = REMOTE_FLAGS()},
    {.words = "hub drain",
     .summary = "Sends a hub's agents to the other hubs.",
     .run = run_drain,
     .args = "HUB",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_HUB,
     .flags = REMOTE_FLAGS(&drain_flags),
     .details =
         "Any hub of the cluster takes the command. Each agent has its session at another hub "
         "before the one here ends, so that new clients find their tunnels at all times; "
         "streams that are open get a grace time. The hub is not ready for load balancers, "
         "and takes no agents, until it is started anew or undrained. It goes on serving "
         "clients that come to it.",
     .examples = "warren hub drain hub_01j9w2 --grace 5m --wait && systemctl restart warren"},
    {.words = "hub undrain",
     .summary = "Lets a hub take agents again.",
     .run = run_undrain,
     .args = "HUB...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_HUB,
     .flags = REMOTE_FLAGS()},
    {.words = "hubs",
     .summary = "Lists the hubs of the cluster (the same as \"hub list\").",
     .run = run_list,
     .flags = REMOTE_FLAGS()},
};
const struct command_set hubs_commands = {rows, ARRAY_SIZE(rows)};
