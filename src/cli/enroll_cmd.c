/* warren-agent enroll, run, inspect. */
#include "cli/enroll_cmd.h"

#include "agent/agent.h"
#include "agent/agent_view.h"
#include "agent/settings.h"
#include "base/addr.h"
#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "cli/settings_flags.h"
#include "identity/agent.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKEN_FILE_MAX 4096

static int run_run(struct call *c)
{
    if (TRY(settings_checked(c)))
        return 0;
    struct conf_sources sources = settings_sources(c);
    return agent_main(&sources);
}

/* --- enroll ---------------------------------------------------------------------------------- */

static const char *data_folder(const struct call *c)
{
    const char *given = call_text(c, "--data");
    const char *by_env = getenv("WARREN_AGENT_DATA");
    return given ? given : by_env && *by_env ? by_env : AGENT_DATA;
}

static json_t *identity_json(const struct agent_identity *a)
{
    char expires[TIME_TEXT_SIZE];
    json_t *hubs = json_array();
    time_format(a->not_after_ms, expires);
    for (size_t i = 0; i < a->n_hubs; i++)
        json_array_append_new(hubs, json_string(a->hubs[i]));
    return json_pack("{s:s, s:s, s:o, s:{s:s, s:s, s:b}}", "id", a->id, "trust_domain",
                     a->trust_domain, "hubs", hubs, "certificate", "serial", a->serial, "expires",
                     expires, "expired", agent_identity_is_expired(a, time_wall_ms()));
}

static int print_json(struct call *c, json_t *value)
{
    int r = json_dumpf(value, c->out, JSON_INDENT(2));
    json_decref(value);
    fputc('\n', c->out);
    return r < 0 ? ERR_IO : 0;
}

static bool wants_json(const struct call *c)
{
    return strcmp(call_text(c, "--output"), "json") == 0;
}

static int collect_allow(struct call *c, const char **allow, size_t *n)
{
    const char *item;
    struct addr_rule rule;
    *n = 0;
    while ((item = call_item(c, "--allow", *n))) {
        if (*n == AGENT_ALLOW_MAX)
            return call_fail(c, ERR_USAGE, NULL, "at most %d rules can be given with --allow",
                             AGENT_ALLOW_MAX);
        TRY(addr_rule_parse(item, &rule, &c->diag));
        allow[(*n)++] = item;
    }
    return 0;
}

static int enroll(struct call *c, const struct secret *token, struct agent_identity *ret)
{
    const char *allow[AGENT_ALLOW_MAX];
    struct agent_enroll_options options = {
        .hub = call_text(c, "--hub"),
        .dir = data_folder(c),
        .token = token,
        .name = call_text(c, "--name"),
        .allow = allow,
        .force = call_is_given(c, "--force"),
    };
    TRY(collect_allow(c, allow, &options.n_allow));
    return agent_enroll(&options, ret, &c->diag);
}

/* A bootstrap token is short-lived and often made by `> file` with an ordinary umask: one that
 * others can read is worth a warning, not a refusal. */
static int read_token(struct call *c, struct secret *ret)
{
    const char *path = call_text(c, "--token-file");
    int r = conf_read_secret(path, ret, &c->diag);
    if (r != ERR_DENIED || access(path, R_OK) < 0)
        return r;
    struct buf text = {0};
    c->diag = (struct diag){0};
    r = file_read(path, TOKEN_FILE_MAX, false, &text, &c->diag);
    if (!r) {
        secret_set(ret, buf_text(&text), text.len);
        fprintf(c->err, "warning: %s can be read by others; delete it after use\n", path);
    }
    if (text.data)
        explicit_bzero(text.data, text.cap);
    buf_done(&text);
    return r;
}

static int run_enroll(struct call *c)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret token = {0};
    struct agent_identity identity = {0};
    TRY(read_token(c, &token));
    TRY(enroll(c, &token, &identity));
    int r = 0;
    if (wants_json(c))
        r = print_json(c, identity_json(&identity));
    else
        fprintf(c->out, "enrolled as %s\nnow: warren-agent run --data %s\n", identity.id,
                data_folder(c));
    agent_identity_done(&identity);
    return r;
}

/* --- inspect --------------------------------------------------------------------------------- */

static int run_inspect(struct call *c)
{
    CLEANUP(buf_done) struct buf text = {0};
    TRY(agent_view_read(data_folder(c), &text, &c->diag));
    fputs(buf_text(&text), c->out);
    return 0;
}

/* --- rows ------------------------------------------------------------------------------------ */

static const char *const outputs[] = {"text", "json", NULL};

#define DATA_ROW                                                                             \
    {                                                                                        \
        .name = "--data", .type = FLAG_TEXT, .metavar = "DIR", .candidates = CANDIDATES_DIR, \
        .help = "Folder of the key and the certificate [WARREN_AGENT_DATA]; " AGENT_DATA     \
                " if not given."                                                             \
    }
#define OUTPUT_ROW                                                                      \
    {                                                                                   \
        .name = "--output", .letter = 'o', .type = FLAG_CHOICE, .metavar = "text|json", \
        .fallback = "text", .choices = outputs, .candidates = CANDIDATES_CHOICES,       \
        .help = "How to print the result."                                              \
    }

static const struct flag_row enroll_rows[] = {
    {.name = "--hub",
     .type = FLAG_TEXT,
     .metavar = "URL",
     .is_required = true,
     .help = "Address of the hub."},
    {.name = "--token-file",
     .type = FLAG_TEXT,
     .metavar = "FILE",
     .is_required = true,
     .candidates = CANDIDATES_FILE,
     .help = "File with the bootstrap token, - for the standard input."},
    DATA_ROW,
    {.name = "--name",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "The name it wants; the machine's if not given."},
    {.name = "--allow",
     .type = FLAG_LIST,
     .metavar = "CIDR[:PORTS]",
     .help = "What a hub may reach through this agent, whatever it asks for; none means "
             "everything."},
    {.name = "--force", .type = FLAG_SWITCH, .help = "Replace an enrolment that is there."},
    OUTPUT_ROW,
};
static const struct flag_row inspect_rows[] = {DATA_ROW};
static const struct flag_set inspect_flags = {"Flags", inspect_rows, ARRAY_SIZE(inspect_rows)};
static const struct flag_set enroll_flags = {"Flags", enroll_rows, ARRAY_SIZE(enroll_rows)};

static const struct command rows[] = {
    {.words = "enroll",
     .summary = "Joins this machine to a hub with a bootstrap token.",
     .run = run_enroll,
     .flags = {&enroll_flags},
     .details = "Makes a key that never leaves this machine. The hub must prove itself by the CA "
                "whose fingerprint the token carries before the token is sent.",
     .examples = "warren-agent enroll --hub https://hub.example:8443 --token-file shop.token"},
    {.words = "run",
     .summary = "Runs the agent.",
     .run = run_run,
     .flags = {&settings_flags},
     .conf = &agent_conf_table,
     .details = "Needs no privileges. SIGHUP reads the settings again, SIGTERM lets open streams "
                "finish first."},
    {.words = "inspect",
     .summary = "Shows what the running agent holds.",
     .run = run_inspect,
     .flags = {&inspect_flags},
     .details = "Its session, the leases of tunnels that it serves, and its open streams, as JSON; "
                "asked over a socket in its data folder, so by root or the agent's own user."},
};
const struct command_set enroll_commands = {rows, ARRAY_SIZE(rows)};
