#include "tunnel/internal.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "identity/identity.h"
#include "wire/proxy_status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORDS_KEEP  10000 /* ended connections kept per tunnel, */
#define RECORDS_PRUNE 1000  /* and so many more before the oldest go */

/* As it is stored; for free(). */
static char *spec_text(const struct tunnel_spec *spec)
{
    json_t *json = tunnel_spec_stored(spec);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

static struct store_value nonzero(int64_t v)
{
    return v ? STORE_INT(v) : STORE_NULL;
}

int tunnel_store_insert(struct tx *tx, struct tunnel *t, int64_t ends)
{
    TRY(tunnel_access_hash(&t->spec.who));
    TRY(tunnel_check_quota(tx, t->tenant));
    char *spec = spec_text(&t->spec);
    int rc = tx_exec(
        tx,
        "INSERT INTO tunnel (id, tenant, name, version, network, spec, ends, phase, reason, "
        "lease_epoch, streams_total, bytes_in, bytes_out, created, idle_ms) VALUES ($1, $2, "
        "$3, $4, $5, $6, $7, $8, '', 0, 0, 0, 0, $9, $10)",
        STORE_TEXT(t->id), STORE_TEXT(t->tenant), STORE_TEXT(t->name), STORE_INT(t->version),
        STORE_TEXT(t->spec.network), STORE_TEXT(spec), nonzero(ends),
        STORE_TEXT(tunnel_phase_name(t->phase)), STORE_INT(t->created), nonzero(t->idle_ms));
    free(spec);
    return rc < 0 ? rc : store_publish(tx, t->tenant, "tunnel", t->id, STORE_PUT);
}

int tunnel_store_update(struct tx *tx, struct tunnel *t, int64_t ends, uint64_t if_version,
                        bool moves)
{
    TRY(tunnel_access_hash(&t->spec.who));
    char *spec = spec_text(&t->spec);
    int rc = tx_exec(tx,
                     "UPDATE tunnel SET name = $1, version = version + 1, spec = $2, ends = $3, "
                     "target_epoch = 0, endpoint = CASE WHEN $6 = 1 THEN NULL ELSE endpoint END "
                     "WHERE id = $4 AND version = $5",
                     STORE_TEXT(t->name), STORE_TEXT(spec), nonzero(ends), STORE_TEXT(t->id),
                     STORE_INT(if_version), STORE_INT(moves));
    free(spec);
    TRY(rc);
    if (tx_changed(tx) == 0)
        return ERR_STALE;
    return store_publish(tx, t->tenant, "tunnel", t->id, STORE_PUT);
}

int tunnel_store_delete(struct tx *tx, const struct tunnel *t, uint64_t if_version)
{
    TRY(tx_exec(tx, "DELETE FROM tunnel WHERE id = $1 AND (version = $2 OR $2 = 0)",
                STORE_TEXT(t->id), STORE_INT(if_version)));
    if (tx_changed(tx) == 0)
        return ERR_STALE;
    TRY(tx_exec(tx, "DELETE FROM connection WHERE tunnel = $1", STORE_TEXT(t->id)));
    TRY(identity_applied_forget(tx, t->id));
    return store_publish(tx, t->tenant, "tunnel", t->id, STORE_DELETE);
}

static void copy(char *out, size_t size, const char *in)
{
    snprintf(out, size, "%s", in ? in : "");
}

static int read_spec(const char *text, struct tunnel_spec *ret)
{
    char network[TUNNEL_NAME_SIZE];
    json_t *json = json_loads(text, 0, NULL);
    int rc = tunnel_spec_parse(json, ret, network, NULL);
    json_decref(json);
    return rc;
}

static int read_row(const struct rows *rows, struct tunnel_stored *s)
{
    struct tunnel *t = &s->t;
    *s = (struct tunnel_stored){0};
    copy(t->id, sizeof(t->id), row_text(rows, 0));
    copy(t->tenant, sizeof(t->tenant), row_text(rows, 1));
    copy(t->name, sizeof(t->name), row_text(rows, 2));
    t->version = (uint64_t)row_int(rows, 3);
    TRY(read_spec(row_text(rows, 5), &t->spec));
    copy(t->spec.network, sizeof(t->spec.network), row_text(rows, 4));
    s->ends = row_int(rows, 6);
    TRY(tunnel_phase_parse(row_text(rows, 7), &t->phase));
    copy(t->reason, sizeof(t->reason), row_text(rows, 8));
    copy(t->endpoint, sizeof(t->endpoint), row_text(rows, 9));
    s->route.epoch = (uint64_t)row_int(rows, 10);
    copy(s->route.hub, sizeof(s->route.hub), row_text(rows, 21));
    s->route.hub_epoch = (uint64_t)row_int(rows, 22);
    copy(s->route.agent, sizeof(s->route.agent), row_text(rows, 23));
    s->route.session = (uint64_t)row_int(rows, 24);
    s->past.streams_total = (uint64_t)row_int(rows, 11);
    s->past.bytes_in = (uint64_t)row_int(rows, 12);
    s->past.bytes_out = (uint64_t)row_int(rows, 13);
    s->past.datagrams.in = (uint64_t)row_int(rows, 18);
    s->past.datagrams.out = (uint64_t)row_int(rows, 19);
    s->past.datagrams.dropped = (uint64_t)row_int(rows, 20);
    t->created = row_int(rows, 14);
    t->started = row_int(rows, 15);
    t->closed = row_int(rows, 16);
    t->idle_ms = row_int(rows, 17);
    tunnel_target_read(rows, 25, s);
    return 0;
}

#define TUNNEL_COLUMNS                                                                     \
    "SELECT id, tenant, name, version, network, spec, ends, phase, reason, endpoint, "     \
    "lease_epoch, streams_total, bytes_in, bytes_out, created, started, closed, idle_ms, " \
    "datagrams_in, datagrams_out, datagrams_dropped, lease_hub, lease_hub_epoch, "         \
    "lease_agent, lease_session, " TUNNEL_TARGET_COLUMNS " FROM tunnel "

int tunnel_store_each(struct tx *tx, void (*fn)(void *arg, const struct tunnel_stored *s),
                      void *arg)
{
    struct tunnel_stored s;
    int rc;
    struct rows rows = tx_query(tx, TUNNEL_COLUMNS "ORDER BY created");
    while ((rc = row_next(&rows)) > 0) {
        if (read_row(&rows, &s) < 0)
            LOG_ERROR("a stored tunnel cannot be read", LOG_STR("tunnel", s.t.id));
        else
            fn(arg, &s);
    }
    return rc;
}

int tunnel_store_read(struct tx *tx, const struct store_value *ids, size_t n,
                      void (*fn)(void *arg, const struct tunnel_stored *s, int err), void *arg)
{
    CLEANUP(buf_done) struct buf sql = {0};
    struct tunnel_stored s;
    int rc;
    TRY(store_rows_sql(&sql, TUNNEL_COLUMNS "WHERE id IN ", 1, 1, n, ""));
    struct rows rows = tx_query_values(tx, buf_text(&sql), ids, n);
    while ((rc = row_next(&rows)) > 0) {
        int err = read_row(&rows, &s);
        fn(arg, &s, err);
    }
    return rc;
}

/* ---- writes that nobody waits for ---- */

static void written(void *arg, int err)
{
    if (err < 0)
        LOG_ERROR("a tunnel's state could not be stored", LOG_ERR(err));
    mem_free(arg);
}

/* What has been carried since the last time: other hubs add theirs. */
struct traffic_row {
    char tunnel[ID_SIZE];
    struct tunnel_traffic traffic;
};

struct traffic_batch {
    struct tunnels *tunnels;
    size_t n;
    struct traffic_row rows[];
};

#define TRAFFIC_COLUMNS 7

static int add_some_traffic(struct tx *tx, const struct traffic_row *rows, size_t n)
{
    struct store_value values[STORE_ROWS_MAX * TRAFFIC_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    for (size_t i = 0; i < n; i++) {
        const struct tunnel_traffic *t = &rows[i].traffic;
        *v++ = STORE_TEXT(rows[i].tunnel);
        *v++ = STORE_INT(t->streams_total);
        *v++ = STORE_INT(t->bytes_in);
        *v++ = STORE_INT(t->bytes_out);
        *v++ = STORE_INT(t->datagrams.in);
        *v++ = STORE_INT(t->datagrams.out);
        *v++ = STORE_INT(t->datagrams.dropped);
    }
    TRY(store_rows_sql(&sql,
                       "UPDATE tunnel SET streams_total = streams_total + more.column2, "
                       "bytes_in = bytes_in + more.column3, bytes_out = bytes_out + more.column4, "
                       "datagrams_in = datagrams_in + more.column5, "
                       "datagrams_out = datagrams_out + more.column6, "
                       "datagrams_dropped = datagrams_dropped + more.column7 FROM (VALUES ",
                       1, n, TRAFFIC_COLUMNS, ") AS more WHERE id = more.column1"));
    return tx_exec_values(tx, buf_text(&sql), values, n * TRAFFIC_COLUMNS);
}

static int write_traffic(struct tx *tx, void *arg)
{
    const struct traffic_batch *b = arg;
    for (size_t i = 0, some; i < b->n; i += some) {
        some = store_rows_at_once(b->n - i);
        TRY(add_some_traffic(tx, &b->rows[i], some));
    }
    return 0;
}

/* `sum` becomes `sum` + `sign` * `t`. */
static void add_traffic(struct tunnel_traffic *sum, const struct tunnel_traffic *t, int64_t sign)
{
    uint64_t by = (uint64_t)sign;
    sum->streams_total += by * t->streams_total;
    sum->bytes_in += by * t->bytes_in;
    sum->bytes_out += by * t->bytes_out;
    sum->datagrams.in += by * t->datagrams.in;
    sum->datagrams.out += by * t->datagrams.out;
    sum->datagrams.dropped += by * t->datagrams.dropped;
}

/* What was not stored is stored the next time. */
static void traffic_written(void *arg, int err)
{
    CLEANUP(mem_free) struct traffic_batch *b = arg;
    if (err >= 0)
        return;
    LOG_ERROR("the counters of tunnels could not be stored", LOG_ERR(err));
    for (size_t i = 0; i < b->n; i++) {
        struct tunnel_object *o = tunnel_find(b->tunnels, b->rows[i].tunnel);
        if (o)
            add_traffic(&o->saved, &b->rows[i].traffic, -1);
    }
}

void tunnel_save_traffic(struct tunnels *ts)
{
    struct traffic_batch *b =
        mem_new(sizeof(*b) + HASH_COUNT(ts->objects) * sizeof(struct traffic_row));
    b->tunnels = ts;
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        struct tunnel_traffic now;
        tunnel_traffic(o, &now);
        if (now.streams_total == o->saved.streams_total && now.bytes_in == o->saved.bytes_in &&
            now.bytes_out == o->saved.bytes_out &&
            now.datagrams.dropped == o->saved.datagrams.dropped)
            continue;
        struct traffic_row *row = &b->rows[b->n++];
        copy(row->tunnel, ID_SIZE, o->t.id);
        row->traffic = now;
        add_traffic(&row->traffic, &o->saved, -1);
        o->saved = now;
    }
    if (b->n)
        store_run(ts->store, STORE_WRITE, write_traffic, traffic_written, b);
    else
        mem_free(b);
}

/* ---- the access log ---- */

#define RECORD_COLUMNS  11
#define RECORDS_AT_ONCE 32

struct record_batch {
    char hub[ID_SIZE];
    bool prunes;
    size_t n;
    struct exposure_record records[];
};

/* One row of the statement; its texts live in `ids` and `clients`. */
static void record_values(const struct record_batch *b, const struct exposure_record *r,
                          struct store_value v[RECORD_COLUMNS], char id[ID_SIZE],
                          char client[ADDR_TEXT_SIZE])
{
    id_new_at(id, "con", r->closed);
    addr_format(&r->client, client, ADDR_TEXT_SIZE);
    const struct store_value row[RECORD_COLUMNS] = {
        STORE_TEXT(id),
        STORE_TEXT(r->tunnel),
        STORE_TEXT(r->agent),
        STORE_TEXT(b->hub),
        STORE_TEXT(client),
        STORE_INT(r->opened),
        STORE_INT(r->closed),
        STORE_INT(r->bytes_in),
        STORE_INT(r->bytes_out),
        STORE_TEXT(r->end),
        STORE_TEXT(r->error ? proxy_status_token(r->error) : NULL)};
    memcpy(v, row, sizeof(row));
}

static int write_some(struct tx *tx, const struct record_batch *b, size_t first, size_t n)
{
    struct store_value values[RECORDS_AT_ONCE * RECORD_COLUMNS];
    char ids[RECORDS_AT_ONCE][ID_SIZE], clients[RECORDS_AT_ONCE][ADDR_TEXT_SIZE];
    CLEANUP(buf_done) struct buf sql = {0};
    for (size_t i = 0; i < n; i++)
        record_values(b, &b->records[first + i], &values[i * RECORD_COLUMNS], ids[i], clients[i]);
    TRY(store_rows_sql(&sql,
                       "INSERT INTO connection (id, tunnel, agent, hub, client, opened, closed, "
                       "bytes_in, bytes_out, ended, error) VALUES ",
                       1, n, RECORD_COLUMNS, ""));
    return tx_exec_values(tx, buf_text(&sql), values, n * RECORD_COLUMNS);
}

static int write_records(struct tx *tx, void *arg)
{
    const struct record_batch *b = arg; /* all of one tunnel */
    int64_t there;
    TRY(tx_query_int(tx, &there, "SELECT COUNT(*) FROM tunnel WHERE id = $1",
                     STORE_TEXT(b->records[0].tunnel)));
    if (!there)
        return 0; /* deleted, and its access log with it */
    for (size_t i = 0, some; i < b->n; i += some) {
        some = store_rows_at_once(MIN(b->n - i, (size_t)RECORDS_AT_ONCE));
        TRY(write_some(tx, b, i, some));
    }
    if (!b->prunes)
        return 0;
    return tx_exec(tx,
                   "DELETE FROM connection WHERE tunnel = $1 AND opened < (SELECT opened FROM "
                   "connection WHERE tunnel = $1 ORDER BY opened DESC LIMIT 1 OFFSET $2)",
                   STORE_TEXT(b->records[0].tunnel), STORE_INT(RECORDS_KEEP));
}

/* Finding the oldest row to keep is a walk over all that are kept. */
static bool is_to_prune(struct tunnel_object *o, size_t added)
{
    if (!o || (o->n_unpruned += added) < RECORDS_PRUNE)
        return false;
    o->n_unpruned = 0;
    return true;
}

void tunnel_save_records(struct tunnels *ts, const struct exposure_record *records, size_t n)
{
    struct record_batch *b = mem_new(sizeof(*b) + n * sizeof(*records));
    copy(b->hub, sizeof(b->hub), fleet_hub(ts->fleet)->id);
    b->n = n;
    b->prunes = is_to_prune(tunnel_find(ts, records[0].tunnel), n);
    memcpy(b->records, records, n * sizeof(*records));
    store_run(ts->store, STORE_WRITE, write_records, written, b);
}
