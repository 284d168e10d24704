/* What `--db` may say. */
#include "store/backend.h"

#include "base/error.h"
#include "base/macro.h"

#include <libpq-fe.h>
#include <string.h>

static bool has_prefix(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool store_is_shared(const char *db)
{
    return has_prefix(db, "postgres://") || has_prefix(db, "postgresql://");
}

const char *store_path(const char *db)
{
    return has_prefix(db, "sqlite:") ? db + strlen("sqlite:") : db;
}

static bool has_password(const PQconninfoOption *options)
{
    for (const PQconninfoOption *o = options; o->keyword; o++) {
        if (o->val &&
            (strcmp(o->keyword, "password") == 0 || strcmp(o->keyword, "sslpassword") == 0))
            return true;
    }
    return false;
}

/* Nothing of the text is repeated in a diagnosis: it may hold a password. */
static int check_postgres(const char *db, struct diag *d)
{
    char *why = NULL;
    PQconninfoOption *options = PQconninfoParse(db, &why);
    int rc = 0;
    if (!options)
        rc =
            diag_set(d, ERR_INVALID, "not a URL such as postgres://USER@HOST/DATABASE?sslmode=...");
    else if (has_password(options))
        rc = diag_set(
            d, ERR_INVALID,
            "a password does not belong into the URL, where others see it; name a file with "
            "db_password_file, or set PGPASSWORD or PGPASSFILE");
    PQconninfoFree(options);
    PQfreemem(why);
    return rc;
}

int store_check_url(const char *db, struct diag *d)
{
    if (store_is_shared(db))
        return check_postgres(db, d);
    if (strstr(db, "://"))
        return diag_set(d, ERR_INVALID, "neither postgres://... nor sqlite:PATH");
    return *store_path(db) ? 0 : diag_set(d, ERR_INVALID, "sqlite: needs a path");
}
