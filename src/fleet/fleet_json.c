/* Agents and networks as JSON (api/openapi.yaml: agent, network). */
#include "fleet/lan_hub.h"

#include "base/time.h"
#include "http/rest.h"

#include <utlist.h>

static json_t *session_json(const struct fleet *f, const struct fleet_agent *a)
{
    if (!fleet_agent_is_online(a))
        return json_null();
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:o?, s:o?, s:o}", "epoch", (json_int_t)a->epoch,
                     "hub", a->call ? f->cfg.hub.id : a->hub, "address", a->address, "hostname",
                     a->hostname, "software", a->software, "allow", json_loads(a->allow, 0, NULL),
                     "addresses", json_loads(a->addresses, 0, NULL), "connected",
                     rest_time(a->connected));
}

static const char *phase_of(const struct fleet_agent *a, const struct fleet_agent_load *load)
{
    return a->revoked                        ? "revoked"
           : a->pending                      ? "pending"
           : !fleet_agent_is_online(a)       ? "offline"
           : a->draining || load->is_leaving ? "draining"
                                             : "online";
}

static json_t *reason_of(const struct fleet_agent *a, const struct fleet_agent_load *load)
{
    bool is_draining = a->draining || load->is_leaving;
    if (a->pending && !a->revoked)
        return json_string("asks to renew an expired certificate; approve or revoke it");
    if (fleet_clone_reason(a))
        return json_string(fleet_clone_reason(a));
    if (!is_draining || a->revoked)
        return json_null();
    if (!fleet_agent_is_online(a))
        return json_string("it is offline, and gets no tunnels until it is undrained");
    if (!load->tunnels && !load->streams)
        return json_string("it holds no tunnel and has no stream");
    return json_sprintf("%s: %zu tunnels to move, %llu streams to end",
                        load->is_leaving ? "it stops" : "it is being drained", load->tunnels,
                        (unsigned long long)load->streams);
}

json_t *fleet_agent_json(const struct fleet *f, const struct fleet_agent *a)
{
    struct fleet_agent_load load = {0};
    struct fleet_observer *o;
    LL_FOREACH (f->observers, o)
        o->describe(o, a, &load);
    int64_t seen = fleet_agent_is_online(a) ? time_wall_ms()
                   : a->disconnected        ? a->disconnected
                                            : a->connected;
    json_t *status = json_pack(
        "{s:s, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "phase", phase_of(a, &load), "reason",
        reason_of(a, &load), "draining", rest_time(a->draining), "tunnels",
        (json_int_t)load.tunnels, "lingering", (json_int_t)load.lingering, "streams",
        (json_int_t)load.streams, "last_seen", rest_time(seen), "session", session_json(f, a),
        "placement", fleet_placement_json(a), "discovery", fleet_discovery_json(a));
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:{s:s, s:o}, s:o, s:o, s:o}", "id", a->id, "name",
                     a->name, "version", (json_int_t)a->version, "network", a->network->id, "token",
                     a->token, "certificate", "serial", a->serial, "expires",
                     rest_time(a->not_after), "created", rest_time(a->created), "revoked",
                     rest_time(a->revoked), "status", status);
}

json_t *fleet_network_json(const struct fleet *f, const struct fleet_network *n)
{
    json_int_t online = 0, total = 0, tunnels = 0;
    struct fleet_agent *a;
    struct fleet_observer *o;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        online += fleet_agent_is_online(a);
        total += !a->revoked;
    }
    LL_FOREACH (f->observers, o)
        tunnels += (json_int_t)o->count_in_network(o, n->id);
    return json_pack("{s:s, s:s, s:I, s:b, s:o, s:o, s:{s:{s:I, s:I}, s:I, s:o}}", "id", n->id,
                     "name", n->name, "version", (json_int_t)n->version, "automatic",
                     n->is_automatic, "aliases", fleet_aliases_json(f, n), "created",
                     rest_time(n->created), "status", "agents", "online", online, "total", total,
                     "tunnels", tunnels, "reason", fleet_conflict_json(f, n));
}
