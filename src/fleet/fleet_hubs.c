/*
 * The other hubs as this one sees them, and what follows for the agents that are there. Who they
 * are is read from the database by peer/, which also knows whether they answer.
 */
#include "fleet/internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

struct fleet_hub *fleet_hub_find(const struct fleet *f, const char *id)
{
    struct fleet_hub *h;
    HASH_FIND_STR(f->hubs, id, h);
    return h;
}

struct fleet_hub *fleet_hub_put(struct fleet *f, const char *id)
{
    struct fleet_hub *h = fleet_hub_find(f, id);
    if (h)
        return h;
    h = NEW(struct fleet_hub);
    snprintf(h->id, sizeof(h->id), "%s", id);
    HASH_ADD_STR(f->hubs, id, h);
    return h;
}

void fleet_hub_remove(struct fleet *f, struct fleet_hub *h)
{
    HASH_DEL(f->hubs, h);
    mem_free(h);
}

struct fleet_hub *fleet_hubs(const struct fleet *f)
{
    return f->hubs;
}

void fleet_hubs_changed(struct fleet *f)
{
    struct fleet_observer *o;
    LL_FOREACH (f->observers, o)
        o->on_hubs(o);
}

static bool is_alive(const struct fleet *f, const struct fleet_hub *h)
{
    return h->is_linked || h->ends_ms > loop_now_ms(f->cfg.loop);
}

bool fleet_hub_is_live(const struct fleet *f, const char *id, uint64_t epoch)
{
    if (strcmp(id, f->cfg.hub.id) == 0)
        return epoch == (uint64_t)f->cfg.hub.epoch;
    const struct fleet_hub *h = fleet_hub_find(f, id);
    return h && h->epoch == epoch && is_alive(f, h);
}

bool fleet_hub_is_first(const struct fleet *f)
{
    for (const struct fleet_hub *h = f->hubs; h; h = h->hh.next) {
        if (is_alive(f, h) && strcmp(h->id, f->cfg.hub.id) < 0)
            return false;
    }
    return true;
}

bool fleet_agent_is_online(const struct fleet_agent *a)
{
    if (a->call)
        return true;
    return a->connected && !a->disconnected && !a->revoked && a->hub[0] &&
           strcmp(a->hub, a->fleet->cfg.hub.id) != 0 &&
           fleet_hub_is_live(a->fleet, a->hub, a->hub_epoch);
}

bool fleet_network_is_online(const struct fleet_network *n)
{
    const struct fleet_agent *a;
    if (n->online)
        return true;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (fleet_agent_is_online(a))
            return true;
    }
    return false;
}
