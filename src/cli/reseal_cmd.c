/* warren ca reseal: the keys of the CA under another key file or passphrase. */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"
#include "identity/identity.h"
#include "loop/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reseal {
    struct ca_keeper from;
    struct ca_source to;
    size_t n;
};

static int audit(struct tx *tx)
{
    char tenant[ID_SIZE];
    struct rows rows = tx_query(tx, "SELECT id FROM tenant WHERE name = 'default'");
    if (TRY(row_next(&rows)) == 0)
        return 0;
    snprintf(tenant, sizeof(tenant), "%s", row_text(&rows, 0));
    rows_done(&rows);
    return identity_audit(
        tx, time_wall_ms(),
        &(struct audit_entry){.tenant = tenant, .actor = "warren", .action = "ca.reseal"});
}

static int reseal_work(struct tx *tx, void *arg)
{
    struct reseal *r = arg;
    TRY(ca_store_reseal(tx, &r->from, &r->to, &r->n));
    return audit(tx);
}

static int reseal(struct call *c, struct loop *loop, struct reseal *r)
{
    struct store *store;
    TRY(db_open(c, loop, &store));
    int rc = store_run_wait(store, STORE_WRITE, reseal_work, r);
    store_close(store);
    if (rc < 0 && r->from.d.code)
        c->diag = r->from.d;
    else if (rc < 0)
        diag_set(&c->diag, rc, "the CA is sealed as it was: %s", error_text(rc));
    return rc;
}

static int run_reseal(struct call *c)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret phrase = {0};
    struct reseal r = {
        .from = {.source = {.key_file = call_text(c, "--ca-key-file"),
                            .passphrase_file = call_text(c, "--ca-passphrase-file")}},
        .to = {.key_file = call_text(c, "--new-key-file"),
               .passphrase_file = call_text(c, "--new-passphrase-file")}};
    const char *text = getenv("WARREN_CA_PASSPHRASE");
    struct loop *loop;
    if (!ca_source_is_given(&r.from.source) && text && *text) {
        secret_set(&phrase, text, strlen(text));
        r.from.source.passphrase = &phrase;
    }
    if (!ca_source_is_given(&r.from.source) || !ca_source_is_given(&r.to))
        return call_fail(c, ERR_USAGE, NULL,
                         "give what the CA is sealed under now (--ca-key-file or "
                         "--ca-passphrase-file), and what is to be in its place (--new-key-file or "
                         "--new-passphrase-file)");
    TRY(loop_new(&loop));
    int rc = reseal(c, loop, &r);
    seal_key_done(&r.from.seal);
    loop_free(loop);
    if (rc == 0)
        fprintf(c->out, "%zu keys are sealed anew; now start each hub with the new %s\n", r.n,
                r.to.key_file ? "key file" : "passphrase");
    return rc;
}

static const struct flag_row flag_rows[] = {
    {"--db", 0, FLAG_TEXT, "URL", "The hubs' database: postgres://... or sqlite:PATH.",
     .is_required = true},
    {"--db-password-file", 0, FLAG_TEXT, "FILE", "Holds the password for PostgreSQL.",
     .candidates = CANDIDATES_FILE},
    {"--ca-key-file", 0, FLAG_TEXT, "FILE", "What the CA is sealed under now.",
     .candidates = CANDIDATES_FILE},
    {"--ca-passphrase-file", 0, FLAG_TEXT, "FILE",
     "The same, if that is a passphrase [WARREN_CA_PASSPHRASE has the passphrase itself].",
     .candidates = CANDIDATES_FILE},
    {"--new-key-file", 0, FLAG_TEXT, "FILE", "What is to be in its place.",
     .candidates = CANDIDATES_FILE},
    {"--new-passphrase-file", 0, FLAG_TEXT, "FILE", "The same, if that is a passphrase.",
     .candidates = CANDIDATES_FILE},
};
static const struct flag_set flags = {"Flags", flag_rows, ARRAY_SIZE(flag_rows)};

static const struct command rows[] = {
    {.words = "ca reseal",
     .summary = "Seals the CA in the database under another key file or passphrase.",
     .run = run_reseal,
     .flags = {&flags},
     .details = "All keys or none, in one transaction. Hubs that share a PostgreSQL database may "
                "go on meanwhile; those that run take no step of a rotation before they are "
                "started with the new key. A hub on one file has to be stopped first.",
     .examples = "warren ca reseal --db postgres://warren@db.example/warren \\\n"
                 "    --ca-key-file old.key --new-key-file new.key"},
};
const struct command_set reseal_commands = {rows, ARRAY_SIZE(rows)};
