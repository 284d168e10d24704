/*
 * Agents and networks that this hub or another one has changed: their rows are read again, and the
 * view follows. When a hub dies, the others hear of thousands of logins in seconds: those of one
 * reading of the feed are read AGENTS_AT_ONCE by a statement. What a session here writes is in the
 * view already.
 */
#include "fleet/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define AGENTS_AT_ONCE 32

struct fleet_reload {
    struct fleet *f;
    size_t n;
    struct reload_agent {
        char id[ID_SIZE];
        bool is_undone;        /* a fail-over of the database has lost what was known of it */
        struct fleet_row *row; /* NULL: not there */
    } agents[AGENTS_AT_ONCE];
};

struct reload_network {
    struct fleet *f;
    bool is_undone;
    char id[ID_SIZE];
    struct fleet_network_row row;
};

/* ---- agents ---- */

static struct reload_agent *find_in(struct fleet_reload *r, const char *id)
{
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->agents[i].id, id) == 0)
            return &r->agents[i];
    }
    return NULL;
}

static void take_row(void *arg, const struct fleet_row *row)
{
    struct reload_agent *a = find_in(arg, row->id);
    if (a && !a->row)
        a->row = mem_dup(row, sizeof(*row));
}

static int read_agents(struct tx *tx, void *arg)
{
    struct fleet_reload *r = arg;
    struct store_value ids[AGENTS_AT_ONCE];
    for (size_t i = 0; i < r->n; i++) {
        ids[i] = STORE_TEXT(r->agents[i].id);
        mem_free(TAKE(r->agents[i].row)); /* of an attempt that was lost */
    }
    return fleet_rows_read(tx, ids, r->n, take_row, r);
}

static bool is_here(const struct fleet *f, const struct fleet_row *r)
{
    return strcmp(r->hub, f->cfg.hub.id) == 0 && r->hub_epoch == f->cfg.hub.epoch;
}

/* Its login is not in the database any more, or not that it left; or nobody heard that its login
 * had been written. Where it is connected to another hub, that one sees to it. */
static void correct_session(struct fleet *f, const struct reload_agent *read)
{
    const struct fleet_agent *a = fleet_agent_find(f, read->id);
    struct fleet_row *row = read->row;
    bool is_connected = a && a->call;
    if (is_connected && read->is_undone && a->epoch > (uint64_t)row->epoch && !row->revoked)
        fleet_session_restore(f, a);
    else if (!is_connected && is_here(f, row) && !row->disconnected && !f->is_stopping)
        fleet_session_end_again(f, row);
}

static void follow_agent(struct fleet *f, const struct fleet_row *row)
{
    struct fleet_agent *was = fleet_agent_find(f, row->id);
    int64_t draining = was ? was->draining : 0, grace_ms = was ? was->drain_grace_ms : 0;
    bool was_online = was && fleet_agent_is_online(was);
    uint64_t epoch = was ? was->epoch : 0;
    bool has_left = was && was->call && (uint64_t)row->epoch > epoch && !is_here(f, row);
    if (has_left && fleet_session_may_leave(f, was) && !row->revoked)
        fleet_session_leave(f, was);
    else if (has_left)
        fleet_session_superseded(f, was);
    struct fleet_agent *a = fleet_view_put_agent(f, row);
    struct fleet_observer *o;
    if (a->revoked)
        fleet_cut(f, a, "revoked");
    if (a->epoch != epoch || fleet_agent_is_online(a) != was_online) {
        LL_FOREACH (f->observers, o)
            o->on_elsewhere(o, a);
    }
    if (a->draining == draining && a->drain_grace_ms == grace_ms)
        return;
    LL_FOREACH (f->observers, o)
        o->on_drain(o, a);
}

static void say_trouble(const struct fleet *f, const char *id, int err)
{
    if (err < 0 && err != ERR_NOT_FOUND && !f->is_stopping)
        LOG_ERROR("cannot follow the feed", LOG_STR("id", id), LOG_ERR(err));
}

static void agents_read(void *arg, int err)
{
    CLEANUP(mem_free) struct fleet_reload *r = arg;
    say_trouble(r->f, r->agents[0].id, err);
    for (size_t i = 0; i < r->n; i++) {
        struct reload_agent *a = &r->agents[i];
        if (err == 0 && a->row) {
            correct_session(r->f, a);
            follow_agent(r->f, a->row);
        } else if (err == 0 && a->is_undone)
            fleet_view_remove_agent(r->f, a->id);
        mem_free(a->row);
    }
}

static void read_gathered(struct store_subscriber *sub)
{
    struct fleet *f = container_of(sub, struct fleet, feed);
    if (f->reload)
        store_reread(f->cfg.store, read_agents, agents_read, TAKE(f->reload));
}

static void reload_agent(struct fleet *f, const struct store_change *change)
{
    struct reload_agent *a = f->reload ? find_in(f->reload, change->id) : NULL;
    if (!a && f->reload && f->reload->n == AGENTS_AT_ONCE)
        read_gathered(&f->feed);
    if (!f->reload) {
        f->reload = NEW(struct fleet_reload);
        f->reload->f = f;
    }
    if (!a) {
        a = &f->reload->agents[f->reload->n++];
        snprintf(a->id, sizeof(a->id), "%s", change->id);
    }
    a->is_undone |= change->is_undone;
}

/* ---- networks ---- */

static int read_network(struct tx *tx, void *arg)
{
    struct reload_network *r = arg;
    return fleet_network_row_read(tx, r->id, &r->row);
}

static void network_read(void *arg, int err)
{
    CLEANUP(mem_free) struct reload_network *r = arg;
    say_trouble(r->f, r->id, err);
    if (err == 0)
        fleet_view_put_network(r->f, &r->row);
    else if (err == ERR_NOT_FOUND && r->is_undone)
        fleet_view_remove_network(r->f, r->id);
}

static void reload_network(struct fleet *f, const struct store_change *change)
{
    struct reload_network *r = NEW(struct reload_network);
    r->f = f;
    r->is_undone = change->is_undone;
    snprintf(r->id, sizeof(r->id), "%s", change->id);
    store_reread(f->cfg.store, read_network, network_read, r);
}

/* ---- the feed ---- */

static void on_change(struct store_subscriber *sub, const struct store_change *change)
{
    struct fleet *f = container_of(sub, struct fleet, feed);
    bool is_agent = strcmp(change->kind, "agent") == 0;
    if (!is_agent && strcmp(change->kind, "network") != 0)
        return;
    if (change->op == STORE_DELETE && is_agent)
        fleet_view_remove_agent(f, change->id);
    else if (change->op == STORE_DELETE)
        fleet_view_remove_network(f, change->id);
    else if (!is_agent)
        reload_network(f, change);
    else if (change->op != STORE_STATE || change->is_elsewhere)
        reload_agent(f, change);
}

void fleet_follow(struct fleet *f)
{
    f->feed.fn = on_change;
    f->feed.on_told = read_gathered;
    store_subscribe(f->cfg.store, &f->feed);
}

void fleet_follow_free(struct fleet *f)
{
    if (f->feed.store)
        store_unsubscribe(&f->feed);
    mem_free(TAKE(f->reload));
}
