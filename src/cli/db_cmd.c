#include "cli/commands.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/time.h"
#include "hub/hub.h"
#include "identity/identity.h"
#include "loop/loop.h"
#include "store/store.h"

#include <inttypes.h>

int db_open(struct call *c, struct loop *loop, struct store **ret)
{
    struct store_options options = {.db = call_text(c, "--db"),
                                    .db_password_file = call_text(c, "--db-password-file")};
    options.schemas = hub_schemas(&options.n_schemas);
    TRY(store_check_url(options.db, &c->diag));
    return store_open(loop, &options, ret, &c->diag);
}

/* ---- db copy ---- */

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

/* ---- db add-admin ---- */

static int add_admin_work(struct tx *tx, void *arg)
{
    return identity_add_admin(tx, time_wall_ms(), arg);
}

static int add_admin(struct call *c, struct loop *loop)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret token = {0};
    struct store *store;
    TRY(db_open(c, loop, &store));
    int rc = store_run_wait(store, STORE_WRITE, add_admin_work, &token);
    store_close(store);
    if (rc == ERR_NOT_FOUND)
        return diag_set(&c->diag, rc, "no hub has started on this database yet");
    if (rc < 0)
        return diag_set(&c->diag, rc, "no token was made: %s", error_text(rc));
    fprintf(c->out, "%s\n", token.data);
    return 0;
}

static int run_add_admin(struct call *c)
{
    struct loop *loop;
    TRY(loop_new(&loop));
    int rc = add_admin(c, loop);
    loop_free(loop);
    return rc;
}

static const struct flag_row admin_rows[] = {
    {"--db", 0, FLAG_TEXT, "URL", "The hubs' database: postgres://... or sqlite:PATH.",
     .is_required = true},
    {"--db-password-file", 0, FLAG_TEXT, "FILE", "Holds the password for PostgreSQL.",
     .candidates = CANDIDATES_FILE},
};
static const struct flag_set admin_flags = {"Databases", admin_rows, ARRAY_SIZE(admin_rows)};

static const struct command rows[] = {
    {.words = "db add-admin",
     .summary = "Makes an administrator's token in the database itself, for when none is left.",
     .run = run_add_admin,
     .flags = {&admin_flags},
     .details = "Prints the token, this once; tokens that there are stay good. Hubs that share a "
                "PostgreSQL database may go on meanwhile, a hub on one file has to be stopped "
                "first.",
     .examples = "warren db add-admin --db sqlite:/var/lib/warren/warren.db > admin.token"},
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
