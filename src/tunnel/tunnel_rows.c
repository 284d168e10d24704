/*
 * Rows of tunnels that another hub has changed, or that are not as they were thought to be: they
 * are read again, and the objects follow. When a hub dies, others hear of thousands of claims in
 * seconds: those of one reading of the feed are read many by a statement. Main loop.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct tunnel_reread {
    struct tunnels *tunnels;
    struct exposure_turned *turned; /* who waits for the answer, of one row; NULL: nobody */
    size_t n;
    struct reread_row {
        char id[ID_SIZE];
        bool is_undone;            /* a fail-over of the database has lost what was known of it */
        int err;                   /* it cannot be read */
        struct tunnel_stored *row; /* NULL: not there */
    } rows[STORE_ROWS_MAX];
};

static struct reread_row *find(struct tunnel_reread *r, const char *id)
{
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->rows[i].id, id) == 0)
            return &r->rows[i];
    }
    return NULL;
}

/* ---- reading ---- */

static void keep_row(void *arg, const struct tunnel_stored *s, int err)
{
    struct reread_row *row = find(arg, s->t.id);
    if (!row)
        return;
    row->err = err;
    if (err >= 0 && !row->row)
        row->row = mem_dup(s, sizeof(*s));
}

static int read_rows(struct tx *tx, void *arg)
{
    struct tunnel_reread *r = arg;
    struct store_value ids[STORE_ROWS_MAX];
    size_t room = STORE_ROWS_MAX;
    while (room / 2 >= r->n)
        room /= 2; /* as texts are few so; the last id fills it */
    for (size_t i = 0; i < room; i++)
        ids[i] = STORE_TEXT(r->rows[MIN(i, r->n - 1)].id);
    for (size_t i = 0; i < r->n; i++)
        mem_free(TAKE(r->rows[i].row)); /* of an attempt that was lost */
    return tunnel_store_read(tx, ids, room, keep_row, r);
}

/* ---- following ---- */

static struct tunnel_object *add_from(struct tunnels *ts, const struct tunnel_stored *row)
{
    struct tunnel_object *o = tunnel_add(ts, &row->t, row->ends, &row->past);
    o->route = row->route;
    o->is_followed = true;
    tunnel_target_take(o, row);
    tunnel_begin(o);
    tunnel_settle_route(o);
    return o;
}

/* The port that the hub chose at which the tunnel was made or changed; this one, if that has not.
 */
static void take_port(struct tunnel_object *o, const struct tunnel_stored *row)
{
    if (!tunnel_listens_here(o)) {
        snprintf(o->t.endpoint, sizeof(o->t.endpoint), "%s", row->t.endpoint);
        return;
    }
    bool chooses = !tunnel_follows_port(o) && o->listen_fd < 0 && o->t.spec.has_endpoint &&
                   o->t.phase != TUNNEL_FAILED && !tunnel_phase_is_over(o->t.phase);
    if (!chooses && (!tunnel_awaits_port(o) || !row->t.endpoint[0]))
        return;
    snprintf(o->t.endpoint, sizeof(o->t.endpoint), "%s", row->t.endpoint);
    if (!o->rebind) /* else it will listen there when what stops has stopped */
        tunnel_listen_late(o);
}

static void take_row(struct tunnels *ts, const struct tunnel_stored *row)
{
    struct tunnel_object *o = tunnel_find(ts, row->t.id);
    if (o && strcmp(o->t.spec.network, row->t.spec.network) != 0) {
        tunnel_remove(o);
        o = NULL;
    }
    if (!o) {
        add_from(ts, row);
        return;
    }
    if (row->t.version > o->t.version) {
        o->is_followed = true;
        tunnel_change(o, &row->t, row->ends);
    }
    take_port(o, row);
    tunnel_take_route(o, &row->route);
    if (tunnel_target_take(o, row))
        tunnel_refresh_phase(o);
}

static void follow_row(struct tunnels *ts, const struct reread_row *r)
{
    struct tunnel_object *o = tunnel_find(ts, r->id);
    const struct tunnel_stored *row = r->row;
    if (row && r->is_undone && o && o->t.version > row->t.version)
        tunnel_remove(o); /* what follows from commits that were lost must not outlive them */
    else if (row && r->is_undone && o && o->route.epoch > row->route.epoch)
        tunnel_restore_if_held(o); /* but who serves is no matter of the database's memory */
    else if (row && r->is_undone && o && o->route.epoch == row->route.epoch)
        tunnel_unrelease(o, &row->route);
    if (row)
        take_row(ts, row);
    else if (r->err < 0)
        LOG_ERROR("cannot follow the feed", LOG_STR("id", r->id), LOG_ERR(r->err));
    else if (o)
        tunnel_remove(o);
}

static void rows_read(void *arg, int err)
{
    CLEANUP(mem_free) struct tunnel_reread *r = arg;
    for (size_t i = 0; i < r->n; i++) {
        struct reread_row *row = &r->rows[i];
        if (err < 0) {
            row->err = err;
            mem_free(TAKE(row->row));
        }
        if (!r->tunnels->is_draining)
            follow_row(r->tunnels, row);
        mem_free(row->row);
    }
    if (r->turned)
        tunnel_turned_decide(r->tunnels, r->turned);
}

/* ---- gathering ---- */

static struct tunnel_reread *reread_new(struct tunnels *ts)
{
    struct tunnel_reread *r = NEW(struct tunnel_reread);
    r->tunnels = ts;
    return r;
}

static struct reread_row *add_row(struct tunnel_reread *r, const char *id)
{
    struct reread_row *row = &r->rows[r->n++];
    snprintf(row->id, sizeof(row->id), "%s", id);
    return row;
}

static void read_gathered(struct tunnels *ts)
{
    if (ts->reread)
        store_reread(ts->store, read_rows, rows_read, TAKE(ts->reread));
}

static struct reread_row *gather(struct tunnels *ts, const char *id)
{
    struct reread_row *row = ts->reread ? find(ts->reread, id) : NULL;
    if (row)
        return row;
    if (ts->reread && ts->reread->n == STORE_ROWS_MAX)
        read_gathered(ts);
    if (!ts->reread)
        ts->reread = reread_new(ts);
    return add_row(ts->reread, id);
}

void tunnel_reread(struct tunnels *ts, const char *id)
{
    gather(ts, id);
    loop_defer(ts->loop, &ts->read_rows);
}

static void on_defer(struct defer *d)
{
    read_gathered(container_of(d, struct tunnels, read_rows));
}

void tunnel_reread_for(struct tunnels *ts, struct exposure_turned *t)
{
    struct tunnel_reread *r = reread_new(ts);
    add_row(r, t->tunnel);
    r->turned = t;
    store_run(ts->store, STORE_READ, read_rows, rows_read, r);
}

/* ---- the feed ---- */

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    struct tunnels *ts = container_of(sub, struct tunnels, feed);
    if (!change->is_elsewhere || strcmp(change->kind, "tunnel") != 0 || change->op == STORE_STATE)
        return;
    gather(ts, change->id)->is_undone |= change->is_undone;
}

static void on_told(struct store_subscriber *sub)
{
    read_gathered(container_of(sub, struct tunnels, feed));
}

void tunnel_rows_init(struct tunnels *ts)
{
    ts->read_rows.fn = on_defer;
    ts->feed.fn = on_change;
    ts->feed.on_told = on_told;
    store_subscribe(ts->store, &ts->feed);
}

void tunnel_rows_free(struct tunnels *ts)
{
    if (ts->feed.store)
        store_unsubscribe(&ts->feed);
    loop_defer_cancel(&ts->read_rows);
    mem_free(TAKE(ts->reread));
}
