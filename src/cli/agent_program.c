/*
 * `warren-agent` is small: the table's machinery, the agent, and what enrolment needs; nothing of
 * the hub or its REST API.
 */
#include "cli/agent_program.h"

#include "base/macro.h"
#include "cli/enroll_cmd.h"
#include "cli/notes.h"
#include "cli/service_cmd.h"
#include "cli/shell_cmd.h"

static const struct command_set *const sets[] = {
    &enroll_commands,
    &service_commands,
    &shell_commands,
};

const struct program agent_program = {
    .name = "warren-agent",
    .summary = "joins a network to a Warren hub by dialling out",
    .description = AGENT_DESCRIPTION,
    .sets = sets,
    .n_sets = ARRAY_SIZE(sets),
    .notes = AGENT_NOTES,
};
