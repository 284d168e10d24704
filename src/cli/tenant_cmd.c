#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/limit_flags.h"
#include "cli/object_cmd.h"

static const struct column columns[] = {
    {"NAME", "name"},
    {"TUNNELS MAX", "limits.tunnels"},
    {"AGENTS MAX", "limits.agents"},
    {"STREAMS MAX", "limits.streams"},
    {"BYTES/S MAX", "limits.bandwidth", COLUMN_BYTES},
    {"CREATED", "created", COLUMN_AGE},
    {"ID", "id"},
};
static const struct view view = {"tenants", "tenant", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    return object_list(c, &view, remote_path("tenants", NULL, NULL), 0);
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

static int run_limit(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    CLEANUP(mem_free) char *path = remote_path("tenants", c->args[0], NULL);
    json_t *limits = NULL, *obj = NULL;
    TRY(limit_flags_read(c, &tenant_limit_flags, &limits));
    if (!limits)
        return call_fail(c, ERR_USAGE, NULL, "no limit is given");
    json_t *body = json_pack("{s:o}", "limits", limits);
    int result = remote_open(c, &r);
    if (result < 0) {
        json_decref(body);
        return result;
    }
    struct output o = output_of(c, r);
    TRY(remote_send(r, "PATCH", path, body, (uint64_t)call_int(c, "--if-version", 0),
                    "set the tenant's limits", &obj));
    result = output_object(&o, obj);
    json_decref(obj);
    return result;
}

static const struct command rows[] = {
    {.words = "tenant list",
     .summary = "Lists tenants.",
     .run = run_list,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "tenant get",
     .summary = "Shows a tenant.",
     .run = run_get,
     .args = "TENANT",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TENANT,
     .flags = REMOTE_FLAGS()},
    {.words = "tenant create",
     .summary = "Creates a tenant, apart from all others.",
     .run = run_create,
     .args = "NAME",
     .min_args = 1,
     .max_args = 1,
     .flags = REMOTE_FLAGS(),
     .details = "Its first user comes in with an API token: "
                "warren token create --kind api --tenant NAME."},
    {.words = "tenant limit",
     .summary = "Sets what a tenant may use.",
     .run = run_limit,
     .args = "TENANT",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TENANT,
     .flags = REMOTE_FLAGS(&tenant_limit_flags, &if_version_flags),
     .details = "Only an administrator of the hub may. What is there already stays when a limit is "
                "below it.",
     .examples = "warren tenant limit acme --tunnels 50 --bandwidth 100MiB\n"
                 "warren tenant limit acme --hosts acme.example.org"},
    {.words = "tenant delete",
     .summary = "Deletes tenants that have no networks any more.",
     .run = run_delete,
     .args = "TENANT...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_TENANT,
     .flags = REMOTE_FLAGS(&if_version_flags)},
};
const struct command_set tenant_commands = {rows, ARRAY_SIZE(rows)};
