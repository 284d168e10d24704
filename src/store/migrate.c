/* Brings a database to the tables this program knows, or refuses to touch it. Programs of different
 * versions may use one at the same time, as long as steps only add (scripts/sql_to_c.py). */
#include "store/backend.h"

#include "base/arena.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"

#include <string.h>

static const struct store_schema *find(const struct tx *tx, const struct store_options *o,
                                       const char *capability)
{
    if (strcmp(capability, tx->ops->schema->capability) == 0)
        return tx->ops->schema;
    for (size_t i = 0; i < o->n_schemas; i++) {
        if (strcmp(o->schemas[i]->capability, capability) == 0)
            return o->schemas[i];
    }
    return NULL;
}

/* What a newer program has added is nothing to us, unless it says otherwise. */
static int refuse_broken(struct tx *tx, const struct store_options *o, struct diag *d)
{
    struct rows rows = tx_query(tx, "SELECT capability, number FROM migration_breaking");
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        const char *capability = row_text(&rows, 0);
        const struct store_schema *schema = find(tx, o, capability);
        size_t known = schema ? schema->n_steps : 0;
        if ((size_t)row_int(&rows, 1) > known)
            return diag_set(d, ERR_STALE,
                            "database %s was written by a newer Warren: its '%.40s' tables need "
                            "step %lld, this program knows %zu. Run the newer program, or restore "
                            "a backup from before the upgrade",
                            o->db, capability, (long long)row_int(&rows, 1), known);
    }
    return rc;
}

static int note_breaking(struct tx *tx, const struct store_schema *schema)
{
    if (!schema->breaking)
        return 0;
    return tx_exec(tx,
                   "INSERT INTO migration_breaking (capability, number) VALUES ($1, $2) "
                   "ON CONFLICT (capability) DO UPDATE SET number = excluded.number "
                   "WHERE migration_breaking.number < excluded.number",
                   STORE_TEXT(schema->capability), STORE_INT(schema->breaking));
}

static int apply(struct tx *tx, const struct store_options *o, const struct store_schema *schema,
                 struct diag *d)
{
    int64_t done;
    TRY(tx_query_int(tx, &done,
                     "SELECT COALESCE(MAX(number), 0) FROM migration WHERE capability = $1",
                     STORE_TEXT(schema->capability)));
    for (size_t i = (size_t)done; i < schema->n_steps; i++) {
        int rc = tx->ops->script(tx->backend, schema->steps[i]);
        if (rc < 0)
            return diag_set(d, rc, "database %s: step %zu of '%s' failed: %s", o->db, i + 1,
                            schema->capability, tx->ops->last_error(tx->backend));
        TRY(tx_exec(tx, "INSERT INTO migration (capability, number, at) VALUES ($1, $2, $3)",
                    STORE_TEXT(schema->capability), STORE_INT(i + 1), STORE_INT(time_wall_ms())));
    }
    return note_breaking(tx, schema);
}

static int migrate_in(struct tx *tx, const struct store_options *o, struct diag *d)
{
    TRY(tx->ops->script(tx->backend,
                        "CREATE TABLE IF NOT EXISTS migration (capability TEXT NOT NULL, number "
                        "BIGINT NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (capability, number));"
                        "CREATE TABLE IF NOT EXISTS migration_breaking (capability TEXT PRIMARY "
                        "KEY, number BIGINT NOT NULL)"));
    TRY(refuse_broken(tx, o, d));
    TRY(apply(tx, o, tx->ops->schema, d));
    for (size_t i = 0; i < o->n_schemas; i++)
        TRY(apply(tx, o, o->schemas[i], d));
    return 0;
}

int store_migrate(const struct backend_ops *ops, struct backend *b, const struct store_options *o,
                  struct diag *d)
{
    struct arena arena = {0};
    struct diag why = {0};
    struct tx tx;
    int rc = ops->begin_migration(b);
    if (rc >= 0) {
        tx_init(&tx, ops, b, STORE_WRITE, &arena);
        rc = migrate_in(&tx, o, &why);
        ops->end_all(b);
        if (rc >= 0)
            rc = ops->commit_migration(b);
    }
    if (rc < 0) {
        if (!why.code)
            diag_set(&why, rc, "database %s cannot be used: %s", o->db, ops->last_error(b));
        ops->rollback(b);
        if (d)
            *d = why;
    }
    arena_done(&arena);
    return rc;
}
