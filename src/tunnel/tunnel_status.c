/*
 * What a tunnel's row says of its state: phase, reason, the port that was chosen. Main loop; writes
 * that nobody waits for, gathered.
 */
#include "tunnel/internal.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

#define STATUS_BATCH   512 /* in one transaction */
#define STATUS_COLUMNS 8
#define RETRY_MS       1000

/* Statuses as they were when the transaction was queued. */
struct status_batch {
    struct tunnels *tunnels;
    size_t n;
    struct status {
        struct tunnel t;
        bool is_told;    /* as another hub tells it; here only watchers are to look again */
        bool is_chooser; /* of its port */
    } items[];
};

/* The hub at which a tunnel was made or changed chooses its port, whoever tells the rest. One that
 * has not heard of a change yet must not write what it chose before. */
static bool has_endpoint(const struct status *s)
{
    return s->is_chooser && (s->t.endpoint[0] || s->t.phase != TUNNEL_FAILED);
}

static struct store_value endpoint_of(const struct status *s)
{
    return STORE_TEXT(s->t.endpoint[0] ? s->t.endpoint : NULL);
}

static int publish(struct tx *tx, const struct status *s)
{
    bool is_chosen = s->is_chooser && s->t.spec.has_endpoint; /* a port that others follow */
    return store_publish(tx, s->t.tenant, "tunnel", s->t.id, is_chosen ? STORE_PUT : STORE_STATE);
}

#define ENDPOINT_COLUMNS 3

/* Of tunnels that another hub tells. */
static int write_endpoints(struct tx *tx, const struct status *const *list, size_t n)
{
    struct store_value values[STORE_ROWS_MAX * ENDPOINT_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    for (size_t i = 0; i < n; i++) {
        *v++ = STORE_TEXT(has_endpoint(list[i]) ? list[i]->t.id : NULL);
        *v++ = endpoint_of(list[i]);
        *v++ = STORE_INT(list[i]->t.version);
    }
    TRY(store_rows_sql(&sql, "UPDATE tunnel SET endpoint = chosen.column2 FROM (VALUES ", 1, n,
                       ENDPOINT_COLUMNS,
                       ") AS chosen WHERE id = chosen.column1 AND version <= chosen.column3 AND "
                       "COALESCE(endpoint, '') <> COALESCE(chosen.column2, '')"));
    TRY(tx_exec_values(tx, buf_text(&sql), values, n * ENDPOINT_COLUMNS));
    for (size_t i = 0; i < n; i++)
        TRY(publish(tx, list[i]));
    return 0;
}

static const struct status *find(const struct status *const *list, size_t n, const char *tunnel)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i]->t.id, tunnel) == 0)
            return list[i];
    }
    return NULL;
}

/* Those that were deleted meanwhile are not told of. */
static int write_some(struct tx *tx, const struct status *const *list, size_t n)
{
    struct store_value values[STORE_ROWS_MAX * STATUS_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    int rc;
    for (size_t i = 0; i < n; i++) {
        const struct tunnel *t = &list[i]->t;
        *v++ = STORE_TEXT(t->id);
        *v++ = STORE_TEXT(tunnel_phase_name(t->phase));
        *v++ = STORE_TEXT(t->reason);
        *v++ = STORE_INT(t->started);
        *v++ = STORE_INT(t->closed);
        *v++ = STORE_INT(has_endpoint(list[i]));
        *v++ = endpoint_of(list[i]);
        *v++ = STORE_INT(t->version);
    }
    TRY(store_rows_sql(&sql,
                       "UPDATE tunnel SET phase = state.column2, reason = state.column3, "
                       "started = NULLIF(state.column4, 0), closed = NULLIF(state.column5, 0), "
                       "endpoint = CASE WHEN state.column6 = 1 AND version <= state.column8 "
                       "THEN state.column7 ELSE endpoint END "
                       "FROM (VALUES ",
                       1, n, STATUS_COLUMNS, ") AS state WHERE id = state.column1 RETURNING id"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), values, n * STATUS_COLUMNS);
    while ((rc = row_next(&rows)) > 0) {
        const struct status *s = find(list, n, row_text(&rows, 0));
        TRY(s ? publish(tx, s) : ERR_BUG);
    }
    return rc;
}

static int write_all(struct tx *tx, const struct status *const *list, size_t n,
                     int (*write)(struct tx *tx, const struct status *const *list, size_t n))
{
    for (size_t i = 0, some; i < n; i += some) {
        some = store_rows_at_once(n - i);
        assert(some <= n - i);
        TRY(write(tx, list + i, some));
    }
    return 0;
}

static int write_statuses(struct tx *tx, void *arg)
{
    const struct status_batch *b = arg;
    const struct status *ours[STATUS_BATCH], *told[STATUS_BATCH];
    size_t n_ours = 0, n_told = 0;
    for (size_t i = 0; i < b->n; i++) {
        if (b->items[i].is_told)
            told[n_told++] = &b->items[i];
        else
            ours[n_ours++] = &b->items[i];
    }
    TRY(write_all(tx, told, n_told, write_endpoints));
    return write_all(tx, ours, n_ours, write_some);
}

static void save_later(struct tunnels *ts)
{
    uint64_t since = loop_now_ms(ts->loop) - ts->status_saved_ms;
    if (ts->dirty && !ts->is_saving && !timer_is_running(&ts->status_timer))
        timer_start(&ts->status_timer, since < TUNNEL_STATUS_MS ? TUNNEL_STATUS_MS - since : 0);
}

static void statuses_written(void *arg, int err)
{
    CLEANUP(mem_free) struct status_batch *b = arg;
    struct tunnels *ts = b->tunnels;
    ts->is_saving = false;
    if (err < 0) {
        LOG_ERROR("the state of tunnels could not be stored", LOG_INT("tunnels", b->n),
                  LOG_ERR(err));
        timer_start(&ts->status_timer, RETRY_MS);
    }
    for (size_t i = 0; err < 0 && i < b->n; i++) {
        struct tunnel_object *o = tunnel_find(ts, b->items[i].t.id);
        if (o)
            tunnel_save_status(o);
    }
    save_later(ts);
}

/* One batch at a time: what changes again meanwhile, as thousands of tunnels do when a hub dies,
 * is written once. */
void tunnel_status_timer(struct timer *t)
{
    struct tunnels *ts = container_of(t, struct tunnels, status_timer);
    struct status_batch *b;
    if (!ts->dirty)
        return;
    b = mem_new(sizeof(*b) + STATUS_BATCH * sizeof(b->items[0]));
    b->tunnels = ts;
    while (ts->dirty && b->n < STATUS_BATCH) {
        struct tunnel_object *o = ts->dirty;
        tunnel_forget_status(o);
        b->items[b->n++] =
            (struct status){o->t, !tunnel_is_ours_to_tell(o), !tunnel_follows_port(o)};
    }
    ts->status_saved_ms = loop_now_ms(ts->loop);
    ts->is_saving = true;
    store_run(ts->store, STORE_WRITE, write_statuses, statuses_written, b);
}

void tunnel_save_status(struct tunnel_object *o)
{
    struct tunnels *ts = o->owner;
    if (o->is_dirty || o->is_deleted)
        return;
    o->is_dirty = true;
    DL_APPEND2(ts->dirty, o, dirty_prev, dirty_next);
    save_later(ts);
}

void tunnel_forget_status(struct tunnel_object *o)
{
    if (o->is_dirty)
        DL_DELETE2(o->owner->dirty, o, dirty_prev, dirty_next);
    o->is_dirty = false;
}
