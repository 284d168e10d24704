/*
 * Networks that become one, and agents that change theirs: one transaction (network_store.c), then
 * the view. One change at a time, so that each decision sees what the one before made of things.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/lan_hub.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

/* ---- apart ---- */

static void pair_key(const char *a, const char *b, char out[2 * ID_SIZE])
{
    bool is_ordered = strcmp(a, b) < 0;
    snprintf(out, 2 * ID_SIZE, "%s %s", is_ordered ? a : b, is_ordered ? b : a);
}

bool fleet_is_apart(struct fleet *f, const char *a, const char *b)
{
    char key[2 * ID_SIZE];
    struct fleet_apart *p;
    pair_key(a, b, key);
    HASH_FIND_STR(f->apart, key, p);
    return p != NULL;
}

void fleet_put_apart(struct fleet *f, const char *a, const char *b)
{
    if (fleet_is_apart(f, a, b))
        return;
    struct fleet_apart *p = NEW(struct fleet_apart);
    pair_key(a, b, p->pair);
    HASH_ADD_STR(f->apart, pair, p);
}

/* ---- merging ---- */

struct merge {
    struct fleet *f;
    struct network_merge m;
    fleet_done *done; /* NULL: the hub's own decision */
    void *arg;
};

static int write_merge(struct tx *tx, void *arg)
{
    return network_merge_write(tx, &((struct merge *)arg)->m);
}

static void tell_agent(struct fleet_agent *a)
{
    Warren__V1__NetworkChanged m = WARREN__V1__NETWORK_CHANGED__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    m.network = a->network->id;
    m.name = a->network->name;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_NETWORK_CHANGED;
    event.network_changed = &m;
    fleet_send(a, &event);
}

static void remember_why(struct fleet_agent *a, const char *how, int64_t at, const char *why)
{
    struct fleet_lan *lan = fleet_lan_of(a);
    snprintf(lan->how, sizeof(lan->how), "%s", how);
    lan->placed_at = at;
    mem_free(lan->why);
    lan->why = mem_strdup(why);
}

static void merge_view(struct fleet *f, const struct network_merge *m)
{
    struct fleet_network *from = fleet_network_find(f, m->from);
    struct fleet_network *to = fleet_network_find(f, m->to);
    struct fleet_agent *a, *next;
    struct fleet_observer *o;
    if (!from || !to)
        return;
    DL_FOREACH_SAFE2(from->agents, a, next, next_in_network)
    {
        fleet_view_relink(a, to);
        a->was_moved = true;
        remember_why(a, "merge", m->now, m->why);
    }
    LL_FOREACH (f->observers, o)
        o->on_network_merged(o, m->from, to);
    DL_FOREACH2 (to->agents, a, next_in_network) {
        if (a->was_moved)
            tell_agent(a);
        a->was_moved = false;
    }
    fleet_view_put_alias(f, m->from, m->tenant, m->to, m->from_name, m->now, m->why);
    fleet_view_remove_network(f, m->from);
}

static void change_over(struct fleet *f)
{
    f->is_changing = false;
    fleet_lan_look(f);
}

static void explain_merge(int err, struct diag *d)
{
    if (err == ERR_LIMIT)
        diag_set(d, err, "the two networks have more tunnels than one may have");
    else if (err == ERR_CONFLICT)
        diag_set(d, err, "an operator named both networks, or keeps them apart");
    else if (err == ERR_NOT_FOUND)
        diag_set(d, err, "one of the networks is gone");
    else
        diag_set(d, err, "the networks were not merged: %s", error_text(err));
}

static void merge_written(void *arg, int err)
{
    CLEANUP(mem_free) struct merge *w = arg;
    struct fleet *f = w->f;
    struct diag d = {0};
    if (err == 0) {
        LOG_INFO("networks merged", LOG_STR("network", w->m.to), LOG_STR("name", w->m.to_name),
                 LOG_STR("merged", w->m.from), LOG_STR("merged_name", w->m.from_name),
                 LOG_STR("why", w->m.why));
        f->lan_stats.merges++;
        merge_view(f, &w->m);
        struct fleet_network *to = fleet_network_find(f, w->m.to);
        if (to)
            fleet_lan_look_at(f, to);
    } else {
        explain_merge(err, &d);
        if (!f->is_stopping)
            LOG_WARN("networks not merged", LOG_STR("a", w->m.a), LOG_STR("b", w->m.b),
                     LOG_STR("why", diag_text(&d)));
    }
    if (w->done)
        w->done(w->arg, &d);
    else if (err == 0)
        change_over(f);
    else
        f->is_changing = false; /* looked at again with the next report, not at once */
}

static struct merge *merge_new(struct fleet *f, const char *tenant, const char *a, const char *b)
{
    struct merge *w = NEW(struct merge);
    w->f = f;
    w->m.observers = f->observers;
    w->m.now = time_wall_ms();
    snprintf(w->m.tenant, sizeof(w->m.tenant), "%s", tenant);
    snprintf(w->m.a, sizeof(w->m.a), "%s", a);
    snprintf(w->m.b, sizeof(w->m.b), "%s", b);
    return w;
}

void fleet_lan_merge(struct fleet *f, struct fleet_network *a, struct fleet_network *b,
                     const char *why)
{
    struct merge *w = merge_new(f, a->tenant, a->id, b->id);
    w->m.actor.is_hub = true;
    snprintf(w->m.why, sizeof(w->m.why), "%s", why);
    f->is_changing = true;
    store_run(f->cfg.store, STORE_WRITE, write_merge, merge_written, w);
}

void fleet_network_merge(struct fleet *f, const struct identity_caller *by, const char *from,
                         const char *into, fleet_done *done, void *arg)
{
    struct merge *w = merge_new(f, by->tenant, from, into);
    w->m.actor.by = *by;
    w->m.is_given = true;
    snprintf(w->m.why, sizeof(w->m.why), "ordered by %s", by->token);
    w->done = done;
    w->arg = arg;
    store_run(f->cfg.store, STORE_WRITE, write_merge, merge_written, w);
}

/* ---- moving ---- */

struct move {
    struct fleet *f;
    struct network_move m;
    char *places;
    fleet_done *done;
    void *arg;
};

static int write_move(struct tx *tx, void *arg)
{
    return network_move_write(tx, &((struct move *)arg)->m);
}

/* Its session ends and starts anew: leases of the old network go, the new one's tunnels come. */
static void move_view(struct fleet *f, struct move *w)
{
    struct fleet_agent *a = fleet_agent_find(f, w->m.agent);
    struct fleet_network *to = fleet_network_find(f, w->m.to);
    if (!a || !to)
        return;
    fleet_session_end(f, a, "it belongs to another network now");
    fleet_view_relink(a, to);
    remember_why(a, w->m.actor.is_hub ? "move" : "operator", w->m.now, w->m.why);
    mem_free(a->lan->places);
    a->lan->places = TAKE(w->places);
    a->lan->away_since = 0;
    if (!w->m.actor.is_hub)
        fleet_put_apart(f, w->m.from, w->m.to);
}

static void move_written(void *arg, int err)
{
    struct move *w = arg;
    struct fleet *f = w->f;
    struct diag d = {0};
    if (err == 0) {
        LOG_INFO("agent moved", LOG_STR("agent", w->m.agent), LOG_STR("from", w->m.from),
                 LOG_STR("to", w->m.to), LOG_STR("why", w->m.why));
        f->lan_stats.moves++;
        move_view(f, w);
    } else if (err == ERR_STALE || err == ERR_NOT_FOUND) {
        diag_set(&d, err, "the agent or the network has changed meanwhile; try again");
    } else {
        diag_set(&d, err, "the agent was not moved: %s", error_text(err));
    }
    if (w->done)
        w->done(w->arg, &d);
    else
        change_over(f);
    mem_free(w->places);
    mem_free(w);
}

static struct move *move_new(struct fleet *f, const struct fleet_agent *a,
                             const struct fleet_network *to)
{
    struct move *w = NEW(struct move);
    w->f = f;
    w->m.now = time_wall_ms();
    w->m.places = w->places = fleet_lan_places_now(a);
    snprintf(w->m.tenant, sizeof(w->m.tenant), "%s", a->tenant);
    snprintf(w->m.agent, sizeof(w->m.agent), "%s", a->id);
    snprintf(w->m.from, sizeof(w->m.from), "%s", a->network->id);
    snprintf(w->m.to, sizeof(w->m.to), "%s", to->id);
    return w;
}

void fleet_lan_move(struct fleet *f, struct fleet_agent *a, struct fleet_network *to,
                    const char *why)
{
    struct move *w = move_new(f, a, to);
    w->m.actor.is_hub = true;
    snprintf(w->m.why, sizeof(w->m.why), "%s", why);
    f->is_changing = true;
    store_run(f->cfg.store, STORE_WRITE, write_move, move_written, w);
}

void fleet_agent_move(struct fleet *f, const struct identity_caller *by, const char *agent,
                      const char *network, fleet_done *done, void *arg)
{
    struct diag d = {0};
    struct fleet_agent *a = fleet_agent_find(f, agent);
    struct fleet_network *to = fleet_network_find(f, network);
    if (!a || !to || a->revoked || a->network == to) {
        if (!a || !to)
            diag_set(&d, ERR_NOT_FOUND, "the agent or the network is gone");
        else if (a->revoked)
            diag_set(&d, ERR_CONFLICT, "the agent was revoked");
        else
            diag_set(&d, ERR_CONFLICT, "the agent is in the network '%s' already", to->name);
        done(arg, &d);
        return;
    }
    struct move *w = move_new(f, a, to);
    w->m.actor.by = *by;
    snprintf(w->m.why, sizeof(w->m.why), "ordered by %s", by->token);
    w->done = done;
    w->arg = arg;
    store_run(f->cfg.store, STORE_WRITE, write_move, move_written, w);
}
