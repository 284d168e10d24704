#include "cli/commands.h"

#include "base/macro.h"
#include "cli/settings_flags.h"
#include "hub/hub.h"
#include "hub/settings.h"

static int run_hub(struct call *c)
{
    if (TRY(settings_checked(c)))
        return 0;
    struct conf_sources sources = settings_sources(c);
    return hub_main(&sources);
}

static const struct command rows[] = {
    {.words = "hub",
     .summary = "Runs a hub: the server that agents dial and that tunnels go through.",
     .run = run_hub,
     .flags = {&settings_flags},
     .conf = &hub_conf_table,
     .details = "The first start makes the CA, the database and DIR/admin.token, the "
                "administrator's API token. SIGHUP reads the settings again, SIGTERM lets open "
                "streams finish first.",
     .examples = "warren hub --data /var/lib/warren --public-name hub.example\n"
                 "warren hub --config /etc/warren/hub.toml --check-config"},
};
const struct command_set hub_commands = {rows, ARRAY_SIZE(rows)};
