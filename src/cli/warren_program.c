#include "cli/warren_program.h"

#include "base/macro.h"
#include "cli/commands.h"
#include "cli/names.h"
#include "cli/notes.h"
#include "cli/shell_cmd.h"

static const struct command_set *const sets[] = {
    &hub_commands,     &hubs_commands,  &login_commands,  &status_commands, &token_commands,
    &network_commands, &agent_commands, &tunnel_commands, &apply_commands,  &connect_commands,
    &forward_commands, &mount_commands, &scan_commands,   &audit_commands,  &tenant_commands,
    &db_commands,      &ca_commands,    &reseal_commands, &shell_commands,
};

const struct program warren_program = {
    .name = "warren",
    .summary = "reach and run what sits behind other people's firewalls",
    .description = WARREN_DESCRIPTION,
    .sets = sets,
    .n_sets = ARRAY_SIZE(sets),
    .notes = WARREN_NOTES,
    .list_names = names_list,
};
