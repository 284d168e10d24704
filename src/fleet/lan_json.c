/* Who hears whom, as the REST interface shows it (api/openapi.yaml: agent, network). */
#include "base/time.h"
#include "fleet/lan_hub.h"
#include "http/rest.h"

#include <string.h>
#include <utlist.h>

#define PAIRS_MAX 100 /* of a network; the total is told */

static json_t *text_or_null(const char *s)
{
    return s && s[0] ? json_string(s) : json_null();
}

json_t *fleet_placement_json(const struct fleet_agent *a)
{
    const struct fleet_lan *lan = a->lan;
    if (!lan || !lan->how[0])
        return json_pack("{s:s, s:n, s:n}", "by", "enrolment", "at", "reason");
    return json_pack("{s:s, s:o, s:o}", "by", lan->how, "at", rest_time(lan->placed_at), "reason",
                     text_or_null(lan->why));
}

json_t *fleet_discovery_json(const struct fleet_agent *a)
{
    const struct fleet_lan *lan = a->lan;
    json_t *links = json_array();
    if (!a->call || !lan)
        return json_decref(links), json_null();
    for (size_t i = 0; i < lan->n_links; i++) {
        json_int_t peers = 0;
        for (size_t k = 0; k < lan->n_peers; k++)
            peers += lan->peers[k].link == i;
        json_array_append_new(links, json_pack("{s:s, s:o, s:I}", "interface",
                                               lan->links[i].interface, "prefix",
                                               text_or_null(lan->links[i].prefix), "peers", peers));
    }
    return json_pack("{s:b, s:o, s:{s:I, s:{s:I, s:I, s:I, s:I}}}", "enabled", lan->is_enabled,
                     "links", links, "beacons", "heard", (json_int_t)lan->heard, "refused",
                     "foreign", (json_int_t)lan->foreign, "replayed", (json_int_t)lan->replayed,
                     "elsewhere", (json_int_t)lan->elsewhere, "dropped", (json_int_t)lan->dropped);
}

/* One thing that an agent hears; NULL: an agent of no concern. */
static json_t *sighting_json(struct fleet *f, const struct fleet_agent *a,
                             const struct fleet_lan_peer *p)
{
    const struct fleet_lan_peer *back;
    const struct fleet_lan_link *link = &a->lan->links[p->link];
    struct fleet_agent *b = fleet_agent_find(f, p->agent);
    if (!b || strcmp(b->tenant, a->tenant) != 0)
        return NULL;
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:b}", "agent", b->id, "name", b->name,
                     "network", b->network->id, "address", p->address, "interface", link->interface,
                     "prefix", text_or_null(link->prefix), "since", rest_time(p->since), "mutual",
                     fleet_lan_partner(f, a, p, &back) != NULL);
}

json_t *fleet_agent_detail(struct fleet *f, const struct fleet_agent *a)
{
    json_t *agent = fleet_agent_json(f, a), *list = json_array();
    for (size_t i = 0; a->call && a->lan && i < a->lan->n_peers; i++) {
        json_t *s = sighting_json(f, a, &a->lan->peers[i]);
        if (s)
            json_array_append_new(list, s);
    }
    json_object_set_new(agent, "sightings", list);
    return agent;
}

/* Each pair once: from the smaller id. */
static json_t *pair_json(struct fleet *f, const struct fleet_agent *a,
                         const struct fleet_lan_peer *p)
{
    const struct fleet_lan_peer *back;
    const struct fleet_lan_link *link = &a->lan->links[p->link];
    struct fleet_agent *b = fleet_lan_partner(f, a, p, &back);
    if (!b || strcmp(a->id, b->id) > 0)
        return NULL;
    return json_pack("{s:[{s:s, s:s, s:s, s:s}, {s:s, s:s, s:s, s:s}], s:o, s:o}", "agents", "id",
                     a->id, "name", a->name, "network", a->network->id, "address", back->address,
                     "id", b->id, "name", b->name, "network", b->network->id, "address", p->address,
                     "prefix", text_or_null(link->prefix), "since",
                     rest_time(p->since > back->since ? p->since : back->since));
}

json_t *fleet_network_detail(struct fleet *f, const struct fleet_network *n)
{
    json_t *network = fleet_network_json(f, n), *list = json_array();
    struct fleet_agent *a;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        for (size_t i = 0; a->call && a->lan && i < a->lan->n_peers; i++) {
            json_t *pair = pair_json(f, a, &a->lan->peers[i]);
            if (pair && json_array_size(list) < PAIRS_MAX)
                json_array_append_new(list, pair);
            else
                json_decref(pair);
        }
    }
    json_object_set_new(network, "sightings", list);
    return network;
}

json_t *fleet_aliases_json(const struct fleet *f, const struct fleet_network *n)
{
    json_t *list = json_array();
    for (const struct fleet_alias *a = f->aliases; a; a = a->hh.next) {
        if (strcmp(a->network, n->id) == 0)
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:o, s:s}", "id", a->id, "name", a->name,
                                            "merged", rest_time(a->at), "reason", a->why));
    }
    return list;
}

json_t *fleet_conflict_json(const struct fleet *f, const struct fleet_network *n)
{
    const struct fleet_agent *a;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        struct fleet_network *other = a->call && a->lan && a->lan->conflict[0]
                                          ? fleet_network_find((struct fleet *)f, a->lan->conflict)
                                          : NULL;
        if (other && other != n)
            return json_sprintf(
                "agents of the network %s (%s) are on the same LAN; both were named "
                "by an operator, so they stay two until: warren network merge %s %s",
                other->name, other->id, other->name, n->name);
    }
    return json_null();
}

/* ---- for the metrics ---- */

void fleet_lan_stats(struct fleet *f, struct fleet_lan_stats *ret)
{
    *ret = f->lan_stats;
    ret->sightings = 0;
    for (const struct fleet_agent *a = f->agents; a; a = a->hh.next)
        ret->sightings += a->lan ? a->lan->n_peers : 0;
}
