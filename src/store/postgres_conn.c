#include "store/postgres_conn.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "conf/conf.h"
#include "store/backend.h"

#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define TURN_MS 250 /* of a long wait */

/* ---- errors ---- */

static const struct {
    const char *state; /* an SQLSTATE or the beginning of one; the first that fits counts */
    int err;
} errors[] = {
    {"23505", ERR_EXISTS},      /* unique_violation */
    {"23503", ERR_CONFLICT},    /* foreign_key_violation */
    {"23", ERR_INVALID},        /* other constraints */
    {"22", ERR_INVALID},        /* data exception */
    {"53100", ERR_NO_SPACE},    /* disk_full */
    {"53", ERR_UNAVAILABLE},    /* out of memory, too many connections */
    {"54", ERR_TOO_LARGE},      /* program_limit_exceeded */
    {"08P01", ERR_BUG},         /* protocol_violation: values and placeholders differ */
    {"0A", ERR_UNAVAILABLE},    /* BEGIN READ WRITE at a standby, to which a pooler may lead */
    {"08", ERR_UNAVAILABLE},    /* connection exception */
    {"25006", ERR_UNAVAILABLE}, /* read_only_sql_transaction: a standby now */
    {"25P03", ERR_UNAVAILABLE}, /* idle_in_transaction_session_timeout */
    {"28", ERR_DENIED},         /* invalid authorization */
    {"3D", ERR_NOT_FOUND},      /* invalid_catalog_name: no such database */
    {"40", ERR_UNAVAILABLE},    /* serialization_failure, deadlock_detected */
    {"42501", ERR_DENIED},      /* insufficient_privilege */
    {"42", ERR_BUG},            /* syntax error or access rule violation */
    {"55P03", ERR_UNAVAILABLE}, /* lock_not_available */
    {"57", ERR_UNAVAILABLE},    /* operator intervention: shutdown, starting up, canceled */
};

static int map_state(const char *state)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (strncmp(state, errors[i].state, strlen(errors[i].state)) == 0)
            return errors[i].err;
    }
    return ERR_IO;
}

/* libpq ends its texts with a line feed, and puts one for each host that it tried. */
static void note_text(struct postgres_conn *c, const char *text)
{
    snprintf(c->error, sizeof(c->error), "%s", text);
    size_t n = strlen(c->error);
    while (n && c->error[n - 1] == '\n')
        c->error[--n] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (c->error[i] == '\n' || c->error[i] == '\t')
            c->error[i] = ' ';
    }
}

static int fail(struct postgres_conn *c, int err, const char *text)
{
    if (c->err < 0)
        return c->err;
    note_text(c, text);
    c->err = err;
    return err;
}

static int fail_lost(struct postgres_conn *c, const char *text)
{
    int err = fail(c, ERR_UNAVAILABLE, text ? text : PQerrorMessage(c->pg));
    postgres_disconnect(c);
    return err;
}

static int fail_result(struct postgres_conn *c, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    int err = state ? map_state(state) : ERR_UNAVAILABLE;
    return fail(c, err, text ? text : PQresultErrorMessage(res));
}

int postgres_bug(struct postgres_conn *c, const char *sql, const char *reason)
{
    c->err = 0;
    LOG_ERROR("faulty SQL", LOG_STR("reason", reason), LOG_STR("sql", sql));
    return fail(c, ERR_BUG, reason);
}

/* ---- connecting ---- */

static void on_notice(void *arg, const char *text)
{
    LOG_DEBUG("PostgreSQL", LOG_STR("notice", text));
}

/* Refusals that name no SQLSTATE in libpq's text: what the server said is the text. */
static int map_refusal(const PGconn *pg)
{
    const char *text = PQerrorMessage(pg);
    if (PQconnectionNeedsPassword(pg) || strstr(text, "authentication failed") ||
        strstr(text, "no pg_hba.conf entry"))
        return ERR_DENIED;
    return strstr(text, "does not exist") && strstr(text, "database") ? ERR_NOT_FOUND
                                                                      : ERR_UNAVAILABLE;
}

int postgres_connect(struct postgres_conn *c, const char *url, const char *password_file)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret password = {0};
    struct diag d = {0};
    postgres_disconnect(c);
    c->err = 0;
    if (password_file && conf_read_secret(password_file, &password, &d) < 0)
        return fail(c, d.code, diag_text(&d));
    /* What stands before "dbname" the URL may change, what stands behind it not. */
    const char *const keywords[] = {"application_name",
                                    "connect_timeout",
                                    "keepalives_idle",
                                    "keepalives_interval",
                                    "keepalives_count",
                                    "tcp_user_timeout",
                                    "target_session_attrs",
                                    "dbname",
                                    "client_encoding",
                                    password.len ? "password" : NULL,
                                    NULL};
    const char *const values[] = {"warren", "3",          "5", "2",    "3",
                                  "5000",   "read-write", url, "UTF8", (const char *)password.data,
                                  NULL};
    c->pg = PQconnectdbParams(keywords, values, 1);
    if (!c->pg)
        return fail(c, ERR_LIMIT, "no memory");
    if (PQstatus(c->pg) != CONNECTION_OK) {
        int err = fail(c, map_refusal(c->pg), PQerrorMessage(c->pg));
        postgres_disconnect(c);
        return err;
    }
    PQsetNoticeProcessor(c->pg, on_notice, NULL);
    if (PQsetnonblocking(c->pg, 1) != 0 || !PQenterPipelineMode(c->pg))
        return fail_lost(c, NULL);
    return 0;
}

void postgres_disconnect(struct postgres_conn *c)
{
    if (c->pg)
        PQfinish(TAKE(c->pg));
    c->sent = 0;
}

bool postgres_is_connected(struct postgres_conn *c)
{
    if (!c->pg)
        return false;
    struct pollfd p = {.fd = PQsocket(c->pg), .events = POLLIN};
    if (poll(&p, 1, 0) > 0 && !PQconsumeInput(c->pg)) {
        c->err = 0;
        fail_lost(c, NULL);
        return false;
    }
    return true;
}

/* ---- statements ---- */

struct parameters {
    const char *values[STORE_VALUES_MAX];
    int lengths[STORE_VALUES_MAX], formats[STORE_VALUES_MAX];
    Oid types[STORE_VALUES_MAX];
    uint64_t numbers[STORE_VALUES_MAX];
};

/* The types are told, as `$1 IS NULL` has none; only SQL's NULL takes that of its place. */
static void set_parameters(struct parameters *p, const struct store_value *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct store_value *v = &values[i];
        p->formats[i] = 1; /* binary */
        p->lengths[i] = (int)v->len;
        p->values[i] = v->data;
        p->types[i] = v->type == STORE_VALUE_TEXT ? OID_TEXT : 0;
        if (v->type == STORE_VALUE_BLOB) {
            p->types[i] = OID_BYTEA;
            p->values[i] = v->data ? v->data : "";
        } else if (v->type == STORE_VALUE_INT) {
            p->types[i] = OID_INT8;
            p->numbers[i] = htobe64((uint64_t)v->num);
            p->values[i] = (const char *)&p->numbers[i];
            p->lengths[i] = sizeof(p->numbers[i]);
        }
    }
}

void postgres_add(struct postgres_conn *c, const char *sql, const struct store_value *values,
                  size_t n)
{
    struct parameters p;
    if (!c->sent)
        c->err = 0;
    if (c->err < 0)
        return;
    if (n > STORE_VALUES_MAX) {
        postgres_bug(c, sql, "too many parameters");
        return;
    }
    if (!c->pg) {
        fail(c, ERR_UNAVAILABLE, "not connected");
        return;
    }
    set_parameters(&p, values, n);
    if (PQsendQueryParams(c->pg, sql, (int)n, p.types, p.values, p.lengths, p.formats, 0) != 1)
        fail_lost(c, NULL);
    else
        c->sent++;
}

/* Until libpq has a result to give, or the deadline. */
static int await(struct postgres_conn *c, uint64_t deadline)
{
    for (;;) {
        int unsent = PQflush(c->pg);
        if (unsent < 0)
            return fail_lost(c, NULL);
        if (!unsent && !PQisBusy(c->pg))
            return 0;
        uint64_t now = time_mono_ms();
        struct pollfd p = {.fd = PQsocket(c->pg),
                           .events = (short)(POLLIN | (unsent ? POLLOUT : 0))};
        if (now >= deadline)
            return fail_lost(c, "the database does not answer");
        if (c->on_slow && now - c->asked_ms >= BACKEND_SLOW_MS)
            c->on_slow(c->on_slow_arg);
        poll(&p, 1, (int)MIN(deadline - now, (uint64_t)TURN_MS));
        if ((p.revents & ~POLLOUT) && !PQconsumeInput(c->pg))
            return fail_lost(c, NULL);
    }
}

/* The result of one statement; those of a group come in order, each with a NULL behind it. */
static int take_result(struct postgres_conn *c, uint64_t deadline, PGresult **ret)
{
    TRY(await(c, deadline));
    PGresult *res = PQgetResult(c->pg);
    switch (PQresultStatus(res)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        *ret = res;
        break;
    case PGRES_PIPELINE_ABORTED: /* behind one that failed */
        PQclear(res);
        break;
    default:
        if (!res)
            return fail_lost(c, "a result is missing");
        fail_result(c, res);
        PQclear(res);
        if (PQstatus(c->pg) != CONNECTION_OK)
            return fail_lost(c, NULL);
    }
    TRY(await(c, deadline));
    PQclear(PQgetResult(c->pg));
    return 0;
}

static int take_sync(struct postgres_conn *c, uint64_t deadline)
{
    TRY(await(c, deadline));
    PGresult *res = PQgetResult(c->pg);
    bool is_sync = PQresultStatus(res) == PGRES_PIPELINE_SYNC;
    PQclear(res);
    return is_sync ? 0 : fail_lost(c, PQstatus(c->pg) != CONNECTION_OK ? NULL : "out of step");
}

int postgres_flush(struct postgres_conn *c, uint32_t wait_ms, PGresult **ret)
{
    c->asked_ms = time_mono_ms();
    uint64_t deadline = c->asked_ms + wait_ms;
    PGresult *last = NULL;
    size_t n = c->sent;
    bool is_alive = c->pg && PQpipelineSync(c->pg);
    if (c->pg && !is_alive)
        fail_lost(c, NULL);
    c->sent = 0;
    for (size_t i = 0; i < n && is_alive; i++) {
        PQclear(TAKE(last));
        is_alive = take_result(c, deadline, &last) >= 0;
    }
    if (is_alive)
        take_sync(c, deadline);
    if (c->err < 0 || !ret)
        PQclear(TAKE(last));
    if (ret)
        *ret = last;
    return c->err;
}

int postgres_script(struct postgres_conn *c, const char *sql, uint32_t wait_ms)
{
    c->asked_ms = time_mono_ms();
    uint64_t deadline = c->asked_ms + wait_ms;
    PGresult *res;
    c->err = 0;
    if (!c->pg)
        return fail(c, ERR_UNAVAILABLE, "not connected");
    if (!PQexitPipelineMode(c->pg) || !PQsendQuery(c->pg, sql))
        return fail_lost(c, NULL);
    for (;;) {
        TRY(await(c, deadline));
        res = PQgetResult(c->pg);
        if (!res)
            break;
        if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
            fail_result(c, res);
        PQclear(res);
    }
    if (PQstatus(c->pg) != CONNECTION_OK || !PQenterPipelineMode(c->pg))
        return fail_lost(c, NULL);
    return c->err;
}
