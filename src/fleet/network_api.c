/* REST rows by which an operator overrules the hub: networks that are one, agents elsewhere. */
#include "fleet/fleet_api.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/rest.h"
#include "identity/identity.h"

#include <stdio.h>
#include <string.h>

struct change {
    struct fleet *fleet;
    struct http_request *req;
    char object[ID_SIZE]; /* what the answer shows */
};

/* The network that the body's only member names; NULL: answered. */
static struct fleet_network *read_target(struct fleet *f, struct http_request *req,
                                         const char *member)
{
    const char *const members[] = {member, NULL};
    struct diag d = {0};
    json_t *body;
    const char *ref = NULL;
    struct fleet_network *n = NULL;
    if (rest_body(req, &body, &d) == 0 && rest_only(body, "", members, &d) == 0 &&
        rest_text(body, member, true, &ref, &d) == 0) {
        n = fleet_network_lookup(f, identity_caller(req)->tenant, ref);
        if (!n)
            diag_set_field(&d, ERR_INVALID, member, "there is no network '%.64s'", ref);
    }
    if (!n)
        http_respond_diag(req, &d);
    return n;
}

static bool is_current(struct http_request *req, int64_t version, const char *what)
{
    struct diag d = {0};
    uint64_t wanted = 0;
    if (rest_if_match(req, false, &wanted, &d) == 0 && wanted && wanted != (uint64_t)version)
        diag_set(&d, ERR_STALE, "the %s has changed since (its version is %lld)", what,
                 (long long)version);
    if (d.code)
        http_respond_diag(req, &d);
    return !d.code;
}

static struct change *change_new(struct fleet *f, struct http_request *req, const char *object)
{
    struct change *c = NEW(struct change);
    c->fleet = f;
    c->req = req;
    snprintf(c->object, sizeof(c->object), "%s", object);
    return c;
}

/* ---- networks ---- */

static void answer_network(void *arg, int err)
{
    CLEANUP(mem_free) struct change *c = arg;
    struct fleet_network *n = fleet_network_find(c->fleet, c->object);
    if (n)
        http_respond_json(c->req, 200, fleet_network_json(c->fleet, n), (uint64_t)n->version);
    else
        http_respond_error(c->req, ERR_NOT_FOUND, "the network is gone");
}

static void merged(void *arg, const struct diag *d)
{
    struct change *c = arg;
    if (d->code == 0) {
        store_follow(fleet_store(c->fleet), answer_network, c);
        return;
    }
    http_respond_diag(c->req, d);
    mem_free(c);
}

static void merge_network(struct http_request *req, void *ctx)
{
    struct fleet *f = ctx;
    const char *ref = http_param(req, "network");
    struct fleet_network *from = fleet_network_lookup(f, identity_caller(req)->tenant, ref);
    if (!from) {
        http_respond_error(req, ERR_NOT_FOUND, "there is no network '%.64s'", ref);
        return;
    }
    struct fleet_network *into = read_target(f, req, "into");
    if (!into || !is_current(req, from->version, "network"))
        return;
    if (from == into) {
        http_respond_error(req, ERR_CONFLICT, "the two are one network already: '%s'", from->name);
        return;
    }
    fleet_network_merge(f, identity_caller(req), from->id, into->id, merged,
                        change_new(f, req, into->id));
}

/* ---- agents ---- */

static void answer_agent(void *arg, int err)
{
    CLEANUP(mem_free) struct change *c = arg;
    struct fleet_agent *a = fleet_agent_find(c->fleet, c->object);
    if (a)
        http_respond_json(c->req, 200, fleet_agent_json(c->fleet, a), (uint64_t)a->version);
    else
        http_respond_error(c->req, ERR_NOT_FOUND, "the agent is gone");
}

static void moved(void *arg, const struct diag *d)
{
    struct change *c = arg;
    if (d->code == 0) {
        store_follow(fleet_store(c->fleet), answer_agent, c);
        return;
    }
    http_respond_diag(c->req, d);
    mem_free(c);
}

static void move_agent(struct http_request *req, void *ctx)
{
    struct fleet *f = ctx;
    const char *ref = http_param(req, "agent");
    struct fleet_agent *a = fleet_agent_lookup(f, identity_caller(req)->tenant, ref);
    if (!a) {
        http_respond_error(req, ERR_NOT_FOUND, "there is no agent '%.64s'", ref);
        return;
    }
    struct fleet_network *to = read_target(f, req, "network");
    if (to && is_current(req, a->version, "agent"))
        fleet_agent_move(f, identity_caller(req), a->id, to->id, moved, change_new(f, req, a->id));
}

static const struct http_route routes[] = {
    {"POST", "/api/v1/networks/{network}:merge", HTTP_OPERATOR, REST_BODY_MAX, merge_network,
     "Makes a network part of another one"},
    {"POST", "/api/v1/agents/{agent}:move", HTTP_OPERATOR, REST_BODY_MAX, move_agent,
     "Puts an agent into another network"},
};

void fleet_network_routes(struct fleet *f, struct http_server *http)
{
    http_server_add(http, routes, ARRAY_SIZE(routes), f);
}
