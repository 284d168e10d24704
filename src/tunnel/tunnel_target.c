/*
 * What is known of a tunnel's target, so that each hub gives the same reason: with which error it
 * answered last, and that no agent reaches it. Who sees that change tells it in the tunnel's row;
 * the others read the row. Streams are seen by the hub that serves, whichever hub their clients
 * came to; what datagrams are answered with is in capsules, which only the hub reads that has their
 * client. The last who tells is right.
 *
 * It is told under a lease, whose end voids it; on change only, and once a second at most, for all
 * tunnels at a time. Main loop.
 */
#include "tunnel/internal.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define TELL_MS        1000
#define TARGETS_BATCH  512 /* in one transaction */
#define TARGET_COLUMNS 4

/* As they were when the transaction was queued. */
struct target_batch {
    struct tunnels *tunnels;
    size_t n;
    struct target_row {
        char tunnel[ID_SIZE];
        uint64_t epoch;
        struct tunnel_target target;
    } rows[];
};

/* ---- writing ---- */

static const char *text_or_null(const char *s)
{
    return s[0] ? s : NULL;
}

/* Those that are the same already, as others may have told them, are not told again. */
static int write_some(struct tx *tx, const struct target_row *rows, size_t n)
{
    struct store_value values[STORE_ROWS_MAX * TARGET_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    int rc;
    for (size_t i = 0; i < n; i++) {
        int err = rows[i].target.err;
        *v++ = STORE_TEXT(rows[i].tunnel);
        *v++ = STORE_INT(rows[i].epoch);
        *v++ = STORE_TEXT(err ? proxy_status_token(err) : NULL);
        *v++ = STORE_TEXT(text_or_null(rows[i].target.unreached));
    }
    TRY(store_rows_sql(&sql,
                       "UPDATE tunnel SET target_epoch = told.column2, "
                       "target_error = told.column3, target_unreached = told.column4 "
                       "FROM (VALUES ",
                       1, n, TARGET_COLUMNS,
                       ") AS told WHERE id = told.column1 AND lease_epoch = told.column2 AND "
                       "(target_epoch <> told.column2 OR "
                       "COALESCE(target_error, '') <> COALESCE(told.column3, '') OR "
                       "COALESCE(target_unreached, '') <> COALESCE(told.column4, '')) "
                       "RETURNING id, tenant"));
    struct rows told = tx_query_values(tx, buf_text(&sql), values, n * TARGET_COLUMNS);
    while ((rc = row_next(&told)) > 0)
        TRY(store_publish(tx, row_text(&told, 1), "tunnel", row_text(&told, 0), STORE_PUT));
    return rc;
}

static int write_targets(struct tx *tx, void *arg)
{
    const struct target_batch *b = arg;
    for (size_t i = 0, some; i < b->n; i += some) {
        some = store_rows_at_once(b->n - i);
        TRY(write_some(tx, b->rows + i, some));
    }
    return 0;
}

static void tell_later(struct tunnels *ts)
{
    uint64_t since = loop_now_ms(ts->loop) - ts->targets_told_ms;
    if (ts->targets && !ts->is_telling && !timer_is_running(&ts->target_timer))
        timer_start(&ts->target_timer, since < TELL_MS ? TELL_MS - since : 0);
}

static void forget_change(struct tunnel_object *o)
{
    if (o->target_state == TARGET_CHANGED)
        DL_DELETE2(o->owner->targets, o, target_prev, target_next);
    o->target_state = TARGET_TOLD;
}

/* A hub that is alone has nobody to tell. */
static void tell(struct tunnel_object *o)
{
    if (o->target_state == TARGET_CHANGED || o->is_deleted || !fleet_hubs(o->owner->fleet))
        return;
    o->target_state = TARGET_CHANGED;
    DL_APPEND2(o->owner->targets, o, target_prev, target_next);
    tell_later(o->owner);
}

static void targets_written(void *arg, int err)
{
    CLEANUP(mem_free) struct target_batch *b = arg;
    struct tunnels *ts = b->tunnels;
    ts->is_telling = false;
    if (err < 0)
        LOG_WARN("why targets are not reached could not be stored", LOG_INT("tunnels", b->n),
                 LOG_ERR(err));
    for (size_t i = 0; i < b->n; i++) {
        struct tunnel_object *o = tunnel_find(ts, b->rows[i].tunnel);
        if (!o || o->target_state != TARGET_TELLING)
            continue;
        forget_change(o);
        if (err < 0)
            tell(o);
    }
    tell_later(ts);
}

static void on_timer(struct timer *t)
{
    struct tunnels *ts = container_of(t, struct tunnels, target_timer);
    struct target_batch *b = mem_new(sizeof(*b) + TARGETS_BATCH * sizeof(b->rows[0]));
    b->tunnels = ts;
    while (ts->targets && b->n < TARGETS_BATCH) {
        struct tunnel_object *o = ts->targets;
        struct target_row *row = &b->rows[b->n++];
        forget_change(o);
        o->target_state = TARGET_TELLING;
        *row = (struct target_row){.epoch = o->route.epoch, .target = o->target};
        snprintf(row->tunnel, sizeof(row->tunnel), "%s", o->t.id);
    }
    ts->targets_told_ms = loop_now_ms(ts->loop);
    ts->is_telling = true;
    store_run(ts->store, STORE_WRITE, write_targets, targets_written, b);
}

/* ---- what this hub sees ---- */

bool tunnel_target_is_seen(const struct tunnel_object *o, uint64_t lease_epoch)
{
    const struct tunnel_lease *l = tunnel_lease_find(o, lease_epoch);
    if (l)
        return l->l.state == LEASE_HELD;
    return o->t.spec.protocol == TUNNEL_UDP && tunnel_is_forwarded(o) &&
           o->route.epoch == lease_epoch;
}

void tunnel_target_answered(struct tunnel_object *o, int err)
{
    if (o->target.err == err)
        return;
    o->target.err = err;
    tell(o);
}

void tunnel_target_unreached(struct tunnel_object *o, const char *agents)
{
    if (strcmp(o->target.unreached, agents) == 0)
        return;
    snprintf(o->target.unreached, sizeof(o->target.unreached), "%s", agents);
    tell(o);
}

void tunnel_target_tell_again(struct tunnel_object *o)
{
    if (tunnel_holder(o) && (o->target.err || o->target.unreached[0]))
        tell(o);
}

void tunnel_target_forget(struct tunnel_object *o)
{
    forget_change(o);
    o->target = (struct tunnel_target){0};
}

/* ---- what others see ---- */

bool tunnel_target_take(struct tunnel_object *o, const struct tunnel_stored *row)
{
    const struct tunnel_target *t = &row->target;
    bool is_void = !row->target_epoch || row->target_epoch != row->route.epoch ||
                   row->target_epoch != o->route.epoch || row->t.version != o->t.version;
    if (is_void || o->target_state != TARGET_TOLD ||
        (t->err == o->target.err && strcmp(t->unreached, o->target.unreached) == 0))
        return false;
    o->target.err = t->err;
    if (!tunnel_holder(o)) /* who holds it knows its agents */
        o->target = *t;
    for (struct exposure *e = o->exposures; e; e = exposure_next(e))
        exposure_learn_target(e, t->err);
    return true;
}

void tunnel_target_read(const struct rows *rows, int column, struct tunnel_stored *ret)
{
    const char *error = row_text(rows, column + 1), *unreached = row_text(rows, column + 2);
    ret->target_epoch = (uint64_t)row_int(rows, column);
    ret->target.err = error ? proxy_status_error(error) : 0;
    snprintf(ret->target.unreached, sizeof(ret->target.unreached), "%s",
             unreached ? unreached : "");
}

void tunnel_targets_init(struct tunnels *ts)
{
    timer_init(&ts->target_timer, ts->loop, on_timer);
}
