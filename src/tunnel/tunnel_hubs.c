/*
 * At which hubs of a cluster a tunnel is reached from outside (spec.access.endpoint.hubs), and
 * which of them does what one has to do for all: choose a free port, tell the status. Main loop.
 */
#include "tunnel/internal.h"

#include <string.h>

bool tunnel_listens_here(const struct tunnel_object *o)
{
    const struct fleet *f = o->owner->fleet;
    return tunnel_spec_selects(&o->t.spec, fleet_hub(f)->id, fleet_hub_name(f));
}

static bool is_selected(const struct tunnel_object *o, const struct fleet_hub *h)
{
    return tunnel_spec_selects(&o->t.spec, h->id, h->name) &&
           fleet_hub_is_live(o->owner->fleet, h->id, h->epoch);
}

bool tunnel_is_served_at(const struct tunnel_object *o, const char *hub)
{
    const struct fleet *f = o->owner->fleet;
    const struct fleet_hub *h = fleet_hub_find(f, hub);
    return strcmp(hub, fleet_hub(f)->id) == 0 ? tunnel_listens_here(o) : h && is_selected(o, h);
}

/* NULL: none that lives. */
static const char *first_selected(const struct tunnel_object *o)
{
    const struct fleet *f = o->owner->fleet;
    const char *first = tunnel_listens_here(o) ? fleet_hub(f)->id : NULL;
    for (const struct fleet_hub *h = fleet_hubs(f); h; h = h->hh.next) {
        if (is_selected(o, h) && (!first || strcmp(h->id, first) < 0))
            first = h->id;
    }
    return first;
}

bool tunnel_is_nowhere(const struct tunnel_object *o)
{
    return o->t.spec.n_hubs && !first_selected(o);
}

static bool is_first_selected(const struct tunnel_object *o)
{
    const char *first = first_selected(o);
    return first && strcmp(first, fleet_hub(o->owner->fleet)->id) == 0;
}

/* With a selection it may be a hub that does not listen at which the tunnel was made. */
bool tunnel_follows_port(const struct tunnel_object *o)
{
    return o->t.spec.n_hubs ? !is_first_selected(o) : o->is_followed;
}

/* Who serves it, if that one listens too: others would not hear that an address is taken. */
bool tunnel_tells_for_serving(const struct tunnel_object *o, const char *serving)
{
    const char *own = fleet_hub(o->owner->fleet)->id;
    if (!o->t.spec.n_hubs || tunnel_is_served_at(o, serving) || tunnel_is_nowhere(o))
        return strcmp(serving, own) == 0;
    return is_first_selected(o);
}
