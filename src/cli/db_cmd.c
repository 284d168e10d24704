#include "cli/commands.h"

#include "base/macro.h"
#include "hub/hub.h"
#include "store/store.h"

#include <inttypes.h>

static void say_table(void *arg, const char *table, int64_t rows)
{
    const struct call *c = arg;
    fprintf(c->out, "%-16s %" PRId64 " rows\n", table, rows);
}

static int run_copy(struct call *c)
{
    const char *from = call_text(c, "--from"), *to = call_text(c, "--to");
    struct store_options options = {.db_password_file = call_text(c, "--db-password-file")};
    options.schemas = hub_schemas(&options.n_schemas);
    TRY(store_check_url(from, &c->diag));
    TRY(store_check_url(to, &c->diag));
    TRY(store_copy(from, to, &options, say_table, c, &c->diag));
    fprintf(c->out, "Now start the hub with the same --data and --db %s\n", to);
    return 0;
}

static const struct flag_row copy_rows[] = {
    {"--from", 0, FLAG_TEXT, "URL", "The database to read: sqlite:PATH or postgres://...",
     .is_required = true},
    {"--to", 0, FLAG_TEXT, "URL", "The database to fill; one that holds nothing yet.",
     .is_required = true},
    {"--db-password-file", 0, FLAG_TEXT, "FILE", "Holds the password for PostgreSQL.",
     .candidates = CANDIDATES_FILE},
};
static const struct flag_set copy_flags = {"Databases", copy_rows, ARRAY_SIZE(copy_rows)};

static const struct command rows[] = {
    {.words = "db copy",
     .summary = "Copies a hub's database into another one, such as from one file to PostgreSQL.",
     .run = run_copy,
     .flags = {&copy_flags},
     .details = "Stop the hub first; it goes on with the new database as if nothing had happened: "
                "agents keep their certificates, tunnels and tokens their ids, watchers their "
                "place in the feed. Everything is copied or nothing, and the source stays as it "
                "is. Keys and the CA stay in the hub's folder.",
     .examples = "warren db copy --from sqlite:/var/lib/warren/warren.db \\\n"
                 "    --to 'postgres://warren@db.example/warren?sslmode=verify-full'"},
};
const struct command_set db_commands = {rows, ARRAY_SIZE(rows)};
