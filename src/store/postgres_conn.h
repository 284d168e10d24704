/*
 * One session with PostgreSQL: statements go out in groups (libpq's pipelines), so that a group
 * costs one round trip, and every wait has a deadline. Statements are unnamed and nothing of the
 * session outlives a transaction: a transaction pooler may stand in between. One thread at a time.
 */
#pragma once

#include "store/store.h"

#include <libpq-fe.h>

/* pg_type.dat of PostgreSQL; these numbers never change. */
#define OID_BYTEA 17
#define OID_INT8  20
#define OID_TEXT  25

struct postgres_conn {
    PGconn *pg;      /* NULL: not connected, or the connection was lost */
    size_t sent;     /* statements of the present group */
    int err;         /* the group's first failure */
    char error[320]; /* its text */

    void (*on_slow)(void *arg); /* see backend_ops; NULL: nobody to tell */
    void *on_slow_arg;
    uint64_t asked_ms; /* monotonic clock: when the present group was sent */
};

/* Blocks for as long as `connect_timeout` says (3 s), for each host of the URL. Picks the host that
 * takes writes, unless the URL says otherwise. ERR_UNAVAILABLE, ERR_DENIED, ERR_NOT_FOUND (no such
 * database), ERR_INVALID (the URL). */
int postgres_connect(struct postgres_conn *c, const char *url, const char *password_file);
void postgres_disconnect(struct postgres_conn *c);

/* False when the server has closed the connection meanwhile; asks nobody. */
bool postgres_is_connected(struct postgres_conn *c);

/* Adds a statement to the group, which postgres_flush sends and waits for. When one fails, those
 * behind it are not run. Result: that of the last statement, for PQclear. An error that left the
 * connection unusable has closed it (`pg` is NULL): ERR_UNAVAILABLE. */
void postgres_add(struct postgres_conn *c, const char *sql, const struct store_value *values,
                  size_t n);
int postgres_flush(struct postgres_conn *c, uint32_t wait_ms, PGresult **ret);

/* Statements separated by semicolons, without values. */
int postgres_script(struct postgres_conn *c, const char *sql, uint32_t wait_ms);

/* Notes and returns an error of our own making; logs `sql`. */
int postgres_bug(struct postgres_conn *c, const char *sql, const char *reason);
