/* The feed of changes and the hub's row: plain SQL over tx_*, the same for every back end. */
#include "store/backend.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"

#include <stdio.h>

struct change *tx_add_change(struct tx *tx, const struct store_change *c)
{
    struct change *change = arena_alloc(tx->arena, sizeof(*change));
    change->c = *c;
    change->c.tenant = arena_strdup(tx->arena, c->tenant);
    change->c.kind = arena_strdup(tx->arena, c->kind);
    change->c.id = arena_strdup(tx->arena, c->id);
    *tx->changes_tail = change;
    tx->changes_tail = &change->next;
    tx->n_changes++;
    return change;
}

/* It gets its number, and its row, with all others of the transaction: store_feed_append. */
int store_publish(struct tx *tx, const char *tenant, const char *kind, const char *id,
                  enum store_op op)
{
    if (tx->err < 0)
        return tx->err;
    if (tx->mode == STORE_READ)
        return tx->err = ERR_BUG;
    tx_add_change(tx,
                  &(struct store_change){
                      .tenant = tenant, .kind = kind, .id = id, .op = op, .at_ms = time_wall_ms()});
    return 0;
}

#define APPEND_COLUMNS 6

/* One writer at a time, so the next number is the newest one's and one more: no gaps, and visible
 * in their order. */
static int append_some(struct tx *tx, struct change *const *changes, size_t n)
{
    struct store_value values[STORE_ROWS_MAX * APPEND_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    int64_t first = INT64_MAX;
    int rc;
    for (size_t i = 0; i < n; i++) {
        const struct store_change *c = &changes[i]->c;
        *v++ = STORE_INT(i + 1);
        *v++ = STORE_TEXT(c->tenant);
        *v++ = STORE_TEXT(c->kind);
        *v++ = STORE_TEXT(c->id);
        *v++ = STORE_INT(c->op);
        *v++ = STORE_INT(c->at_ms);
    }
    TRY(store_rows_sql(&sql,
                       "INSERT INTO feed (seq, tenant, kind, id, op, at) SELECT column1 + "
                       "COALESCE((SELECT MAX(seq) FROM feed), (SELECT seq FROM feed_floor)), "
                       "column2, column3, column4, column5, column6 FROM (VALUES ",
                       1, n, APPEND_COLUMNS, ") AS change RETURNING seq"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), values, n * APPEND_COLUMNS);
    while ((rc = row_next(&rows)) > 0)
        first = MIN(first, row_int(&rows, 0));
    TRY(rc);
    for (size_t i = 0; i < n; i++)
        changes[i]->c.seq = first + (int64_t)i;
    return 0;
}

int store_feed_append(struct tx *tx, struct change *const *changes, size_t n)
{
    for (size_t i = 0, some; i < n; i += some) {
        some = store_rows_at_once(n - i);
        TRY(append_some(tx, changes + i, some));
    }
    return 0;
}

int store_feed_range(struct tx *tx, int64_t *ret_oldest, int64_t *ret_newest)
{
    int64_t floor, newest;
    TRY(tx_query_int(tx, &floor, "SELECT seq FROM feed_floor"));
    TRY(tx_query_int(tx, &newest, "SELECT COALESCE(MAX(seq), 0) FROM feed"));
    *ret_oldest = floor;
    *ret_newest = MAX(newest, floor);
    return 0;
}

int store_feed_read(struct tx *tx, const char *tenant, int64_t seq, int limit,
                    void (*fn)(void *arg, const struct store_change *change), void *arg)
{
    int64_t oldest, newest;
    TRY(store_feed_range(tx, &oldest, &newest));
    if (seq < oldest || seq > newest)
        return ERR_EXPIRED;
    struct rows rows = tx_query(tx,
                                "SELECT seq, tenant, kind, id, op, at FROM feed WHERE seq > $1 AND "
                                "($2 IS NULL OR tenant = $2) ORDER BY seq LIMIT $3",
                                STORE_INT(seq), STORE_TEXT(tenant), STORE_INT(limit));
    int rc, n = 0;
    while ((rc = row_next(&rows)) > 0) {
        struct store_change change = {
            .seq = row_int(&rows, 0),
            .tenant = row_text(&rows, 1),
            .kind = row_text(&rows, 2),
            .id = row_text(&rows, 3),
            .op = (enum store_op)row_int(&rows, 4),
            .at_ms = row_int(&rows, 5),
        };
        fn(arg, &change);
        n++;
    }
    return rc < 0 ? rc : n;
}

int store_feed_trim(struct tx *tx, int64_t now_ms, int64_t keep_ms, int64_t keep_rows)
{
    int64_t oldest, newest, first_young;
    TRY(store_feed_range(tx, &oldest, &newest));
    int rc =
        tx_query_int(tx, &first_young, "SELECT seq FROM feed WHERE at >= $1 ORDER BY seq LIMIT 1",
                     STORE_INT(now_ms - keep_ms));
    if (rc == ERR_NOT_FOUND)
        first_young = newest + 1;
    else
        TRY(rc);
    int64_t floor = MAX(first_young - 1, newest - keep_rows);
    if (floor <= oldest)
        return 0;
    TRY(tx_exec(tx, "DELETE FROM feed WHERE seq <= $1", STORE_INT(floor)));
    return tx_exec(tx, "UPDATE feed_floor SET seq = $1", STORE_INT(floor));
}

int tx_now_ms(struct tx *tx, int64_t *ret)
{
    return tx_query_int(tx, ret, tx->ops->now_sql);
}

static int find_hub(struct tx *tx, char ret[ID_SIZE])
{
    struct rows rows = tx_query(tx, "SELECT id FROM hub ORDER BY started DESC LIMIT 1");
    if (TRY(row_next(&rows)))
        snprintf(ret, ID_SIZE, "%s", row_text(&rows, 0));
    rows_done(&rows);
    return 0;
}

int store_hub_start(struct tx *tx, bool is_alone, const char *version, int64_t now_ms,
                    struct store_hub *hub)
{
    struct store_hub started = *hub;
    if (!started.id[0] && is_alone)
        TRY(find_hub(tx, started.id));
    if (!started.id[0])
        id_new(started.id, "hub");
    TRY(tx_query_int(tx, &started.epoch,
                     "INSERT INTO hub (id, epoch, started, version) "
                     "VALUES ($1, next_epoch(0), $2, $3) "
                     "ON CONFLICT (id) DO UPDATE SET epoch = next_epoch(hub.epoch), "
                     "started = excluded.started, version = excluded.version RETURNING epoch",
                     STORE_TEXT(started.id), STORE_INT(now_ms), STORE_TEXT(version)));
    *hub = started;
    return 0;
}
