#include "cli/commands.h"

#include "base/macro.h"
#include "cli/object_cmd.h"

static const struct column columns[] = {
    {"NAME", "name"},
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
