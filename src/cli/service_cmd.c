/* warren-agent install, uninstall, status: the agent as a service of systemd. */
#include "cli/service_cmd.h"

#include "agent/agent_service.h"
#include "agent/settings.h"
#include "base/error.h"
#include "base/macro.h"

#include <inttypes.h>

static struct agent_service service_of(const struct call *c)
{
    const char *root = call_text(c, "--root");
    return (struct agent_service){
        .root = root ? root : "",
        .is_offline = root != NULL,
        .is_dry_run = call_is_given(c, "--dry-run"),
        .program = call_text(c, "--program"),
        .flags = c->conf_flags,
        .n_flags = c->n_conf_flags,
        .out = c->out,
    };
}

/* The settings are checked here, where someone reads the answer, and not only at the start of the
 * service. */
static int check_settings(const struct call *c, struct diag *d)
{
    struct conf *conf;
    struct conf_sources sources = {.flags = c->conf_flags, .n_flags = c->n_conf_flags};
    TRY(conf_load(&agent_conf_table, &sources, &conf, d));
    conf_free(conf);
    return 0;
}

static int run_install(struct call *c)
{
    struct agent_service s = service_of(c);
    TRY(check_settings(c, &c->diag));
    return agent_service_install(&s, &c->diag);
}

static int run_uninstall(struct call *c)
{
    struct agent_service s = service_of(c);
    return agent_service_uninstall(&s, &c->diag);
}

static const char *yes_no(bool is_so)
{
    return is_so ? "yes" : "no";
}

static int run_status(struct call *c)
{
    struct agent_service s = service_of(c);
    struct agent_service_state state;
    TRY(agent_service_status(&s, &state, &c->diag));
    fprintf(c->out, "installed  %s\nenabled    %s\nstate      %s\n", yes_no(state.is_installed),
            yes_no(state.is_enabled), state.state);
    if (state.status[0])
        fprintf(c->out, "status     %s\n", state.status);
    if (state.pid)
        fprintf(c->out, "pid        %" PRId64 "\nrestarts   %" PRId64 "\n", state.pid,
                state.restarts);
    if (state.is_running || s.is_offline)
        return 0;
    return call_fail(c, ERR_UNAVAILABLE, NULL, "the service is %s", state.state);
}

#define ROOT_ROW                                                                             \
    {                                                                                        \
        .name = "--root", .type = FLAG_TEXT, .metavar = "DIR", .candidates = CANDIDATES_DIR, \
        .help = "Prepare the system below DIR, such as an image; nothing is started."        \
    }
#define DRY_RUN_ROW                                        \
    {                                                      \
        .name = "--dry-run", .type = FLAG_SWITCH,          \
        .help = "Show what would be done, and do nothing." \
    }

static const struct flag_row place_rows[] = {
    ROOT_ROW,
};
static const struct flag_row act_rows[] = {
    ROOT_ROW,
    DRY_RUN_ROW,
};
static const struct flag_row install_rows[] = {
    ROOT_ROW,
    DRY_RUN_ROW,
    {.name = "--program",
     .type = FLAG_TEXT,
     .metavar = "FILE",
     .help = "The warren-agent that the service runs; this one if not given.",
     .candidates = CANDIDATES_FILE},
};
static const struct flag_set place_flags = {"Flags", place_rows, ARRAY_SIZE(place_rows)};
static const struct flag_set act_flags = {"Flags", act_rows, ARRAY_SIZE(act_rows)};
static const struct flag_set install_flags = {"Flags", install_rows, ARRAY_SIZE(install_rows)};

static const struct command rows[] = {
    {.words = "install",
     .summary = "Makes the agent a service that starts with the machine.",
     .run = run_install,
     .flags = {&install_flags},
     .conf = &agent_conf_table,
     .details = "Enrol first, as root, into /var/lib/warren-agent. The service runs as a user that "
                "exists only while it runs, without any capability, and is restarted whenever it "
                "ends. Installing again changes its settings.",
     .examples = "warren-agent enroll --hub https://hub.example:8443 --token-file token "
                 "--data /var/lib/warren-agent\n"
                 "warren-agent install --allow 10.0.0.0/8:80,443\n"
                 "warren-agent install --dry-run"},
    {.words = "uninstall",
     .summary = "Stops the service and removes it; key and certificate stay.",
     .run = run_uninstall,
     .flags = {&act_flags}},
    {.words = "status",
     .summary = "Shows whether the service is installed and runs.",
     .run = run_status,
     .flags = {&place_flags}},
};
const struct command_set service_commands = {rows, ARRAY_SIZE(rows)};
