#include "cli/commands.h"

#include "base/macro.h"
#include "base/time.h"
#include "cli/object_cmd.h"

static const struct column audit_columns[] = {
    {"TIME", "time", COLUMN_TIME}, {"ACTION", "action"},
    {"OBJECT", "object"},          {"OUTCOME", "outcome", COLUMN_PHASE},
    {"ACTOR", "actor.id"},         {"FROM", "actor.address"},
    {"DETAIL", "detail"},
};
static const struct view audit_view = {"audit", "audit row", audit_columns,
                                       ARRAY_SIZE(audit_columns)};

static int run_audit_list(struct call *c)
{
    char since[TIME_TEXT_SIZE];
    int64_t ago_ms = call_duration_ms(c, "--last", -1);
    char *path = remote_path("audit", NULL, NULL);
    remote_query(&path, "action", call_text(c, "--action"));
    remote_query(&path, "actor", call_text(c, "--actor"));
    remote_query(&path, "object", call_text(c, "--object"));
    if (ago_ms >= 0) {
        time_format(time_wall_ms() - ago_ms, since);
        remote_query(&path, "since", since);
    }
    return object_list(c, &audit_view, path, (size_t)call_int(c, "--limit", 0));
}

static const struct flag_row audit_rows[] = {
    {.name = "--last",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help = "Only what happened in the last hours or days, such as 24h."},
    {.name = "--action",
     .type = FLAG_TEXT,
     .metavar = "ACTION",
     .help = "Only this act, such as tunnel.create."},
    {.name = "--actor",
     .type = FLAG_TEXT,
     .metavar = "ID",
     .help = "Only what this token or agent did."},
    {.name = "--object",
     .type = FLAG_TEXT,
     .metavar = "ID",
     .help = "Only what was done to this object."},
    {.name = "--limit",
     .type = FLAG_INT,
     .metavar = "N",
     .fallback = "100",
     .help = "At most so many; 0 for all."},
};
static const struct flag_set audit_flags = {"Flags", audit_rows, ARRAY_SIZE(audit_rows)};

static const struct command rows[] = {
    {.words = "audit list",
     .summary = "Lists who did what, the newest first.",
     .run = run_audit_list,
     .flags = REMOTE_FLAGS(&audit_flags)},
};
const struct command_set audit_commands = {rows, ARRAY_SIZE(rows)};
