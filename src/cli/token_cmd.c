#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/object_cmd.h"

#include <string.h>
#include <unistd.h>

static const struct column columns[] = {
    {"NAME", "name"},
    {"KIND", "kind"},
    {"ROLE", "role"},
    {"NETWORK", "network", COLUMN_REF, "networks"},
    {"USED", "uses.count"},
    {"OF", "uses.limit"},
    {"EXPIRES", "expires", COLUMN_AGE},
    {"REVOKED", "revoked", COLUMN_AGE},
    {"ID", "id"},
};
static const struct view view = {"tokens", "token", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    char *path = remote_path("tokens", NULL, NULL);
    remote_query(&path, "kind", call_text(c, "--kind"));
    remote_query(&path, "tenant", call_text(c, "--tenant"));
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

/* --- create ---------------------------------------------------------------------------------- */

static void set_text(json_t *body, const char *member, const char *value)
{
    if (value)
        json_object_set_new(body, member, json_string(value));
}

static int check_create(struct call *c)
{
    bool is_api = strcmp(call_text(c, "--kind"), "api") == 0;
    const char *wrong = is_api && call_is_given(c, "--network") ? "--network"
                        : is_api && call_is_given(c, "--uses")  ? "--uses"
                        : !is_api && call_is_given(c, "--role") ? "--role"
                                                                : NULL;
    if (wrong)
        return call_fail(c, ERR_USAGE, NULL, "%s does not go with --kind %s", wrong,
                         call_text(c, "--kind"));
    return 0;
}

static json_t *create_body(const struct call *c)
{
    json_t *body = json_pack("{s:s}", "kind", call_text(c, "--kind"));
    set_text(body, "name", call_text(c, "--name"));
    set_text(body, "tenant", call_text(c, "--tenant"));
    set_text(body, "network", call_text(c, "--network"));
    set_text(body, "role", call_text(c, "--role"));
    if (call_is_given(c, "--uses")) {
        int64_t uses = call_int(c, "--uses", 0);
        json_object_set_new(body, "uses", uses ? json_integer(uses) : json_null());
    }
    int64_t ttl_ms = call_duration_ms(c, "--ttl", -1);
    if (ttl_ms == 0)
        json_object_set_new(body, "ttl", json_null());
    else
        set_text(body, "ttl", call_text(c, "--ttl"));
    return body;
}

/* The secret goes to stdout alone, so that it can be sent into a file or a pipe. */
static void print_secret(struct call *c, const struct remote *r, const json_t *obj)
{
    const char *secret = json_string_value(json_object_get(obj, "token"));
    const char *kind = json_string_value(json_object_get(obj, "kind"));
    fprintf(c->out, "%s\n", secret ? secret : "");
    if (!isatty(fileno(c->out)) || !isatty(fileno(c->err)))
        return;
    fprintf(c->err, "It is shown this once. Use it with:\n");
    if (kind && strcmp(kind, "api") == 0)
        fprintf(c->err, "  warren login %s --token-file -\n", remote_hub(r));
    else
        fprintf(c->err, "  warren-agent enroll --hub %s --token-file - --data DIR\n",
                remote_hub(r));
}

static int run_create(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *obj = NULL;
    TRY(check_create(c));
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    TRY(object_create(c, r, &view, create_body(c), &obj));
    int result = 0;
    if (o.is_quiet || o.format == OUTPUT_TABLE)
        print_secret(c, r, obj);
    else
        result = output_object(&o, obj);
    json_decref(obj);
    return result;
}

/* --- rows ------------------------------------------------------------------------------------ */

static const char *const kinds[] = {"bootstrap", "api", NULL};
static const char *const roles[] = {"operator", "admin", NULL};

static const struct flag_row create_rows[] = {
    {.name = "--kind",
     .type = FLAG_CHOICE,
     .metavar = "bootstrap|api",
     .fallback = "bootstrap",
     .choices = kinds,
     .candidates = CANDIDATES_CHOICES,
     .help = "A token that admits agents, or one for this program and scripts."},
    {.name = "--name",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "A name to find it by, unique in its tenant."},
    {.name = "--network",
     .type = FLAG_TEXT,
     .metavar = "NETWORK",
     .candidates = CANDIDATES_NETWORK,
     .help = "The network its agents join; a new name makes a new network. Without it, "
             "their LAN decides: docs/networks.md."},
    {.name = "--uses",
     .type = FLAG_INT,
     .metavar = "N",
     .help = "How many agents it admits, 0 for any number; one if not given."},
    {.name = "--ttl",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help = "How long it is good, 0s for ever; if not given, 24h for bootstrap tokens and for "
             "ever for API tokens."},
    {.name = "--role",
     .type = FLAG_CHOICE,
     .metavar = "operator|admin",
     .choices = roles,
     .candidates = CANDIDATES_CHOICES,
     .help = "Of an API token: operator of its tenant, or administrator of the hub."},
    {.name = "--tenant",
     .type = FLAG_TEXT,
     .metavar = "TENANT",
     .candidates = CANDIDATES_TENANT,
     .help = "For another tenant than one's own (administrators)."},
};
static const struct flag_set create_flags = {"Flags", create_rows, ARRAY_SIZE(create_rows)};

static const struct flag_row filter_rows[] = {
    {.name = "--kind",
     .type = FLAG_CHOICE,
     .metavar = "bootstrap|api",
     .choices = kinds,
     .candidates = CANDIDATES_CHOICES,
     .help = "Only this kind."},
    {.name = "--tenant",
     .type = FLAG_TEXT,
     .metavar = "TENANT",
     .candidates = CANDIDATES_TENANT,
     .help = "Those of another tenant than one's own (administrators)."},
};
static const struct flag_set filter_flags = {"Flags", filter_rows, ARRAY_SIZE(filter_rows)};

static const struct command rows[] = {
    {.words = "token create",
     .summary = "Creates a token and prints its secret, this once.",
     .run = run_create,
     .flags = REMOTE_FLAGS(&create_flags),
     .details = "A bootstrap token admits agents to a network. It carries the fingerprint of the "
                "hub's CA, so that an agent cannot be fooled at first contact.",
     .examples = "warren token create --network shop-17 --ttl 1h > shop-17.token\n"
                 "warren token create -o json | jq -r .token\n"
                 "warren token create --kind api --name ci > ci.token"},
    {.words = "token list",
     .summary = "Lists tokens, without their secrets.",
     .run = run_list,
     .flags = REMOTE_FLAGS(&filter_flags, &list_flags)},
    {.words = "token get",
     .summary = "Shows a token, without its secret; self is one's own.",
     .run = run_get,
     .args = "TOKEN",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TOKEN,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "token revoke",
     .summary = "Ends tokens for good.",
     .run = run_revoke,
     .args = "TOKEN...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_TOKEN,
     .flags = REMOTE_FLAGS(&if_version_flags),
     .details = "A revoked bootstrap token admits no agent any more, and those it admitted cannot "
                "renew their certificates. To cut an agent at once, revoke the agent."},
};
const struct command_set token_commands = {rows, ARRAY_SIZE(rows)};
