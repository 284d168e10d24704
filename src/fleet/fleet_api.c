#include "fleet/fleet_api.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/watch.h"
#include "http/rest.h"
#include "identity/identity.h"

#include <stdio.h>
#include <string.h>

struct fleet_api {
    struct fleet_api_config cfg;
    struct hub_api *hubs;
};

/* ---- agents ---- */

static json_t *render_agent(void *ctx, void *agent)
{
    return fleet_agent_json(((struct fleet_api *)ctx)->cfg.fleet, agent);
}

static void each_agent(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    struct fleet_api *api = ctx;
    struct fleet_agent *a, *next;
    for (a = fleet_agents(api->cfg.fleet); a; a = next) {
        next = a->hh.next;
        fn(arg, a->id);
    }
}

/* What a watch renders is of its tenant, and perhaps of one network. */
struct scope {
    struct fleet_api *api;
    char tenant[ID_SIZE], network[ID_SIZE];
};

static json_t *render_scoped_agent(void *ctx, const char *id)
{
    struct scope *s = ctx;
    struct fleet_agent *a = fleet_agent_find(s->api->cfg.fleet, id);
    if (!a || strcmp(a->tenant, s->tenant) != 0 ||
        (s->network[0] && strcmp(a->network->id, s->network) != 0))
        return NULL;
    return render_agent(s->api, a);
}

static void each_scoped_agent(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    each_agent(((struct scope *)ctx)->api, fn, arg);
}

static json_t *render_scoped_network(void *ctx, const char *id)
{
    struct scope *s = ctx;
    struct fleet_network *n = fleet_network_find(s->api->cfg.fleet, id);
    return n && strcmp(n->tenant, s->tenant) == 0 ? fleet_network_json(s->api->cfg.fleet, n) : NULL;
}

static void each_scoped_network(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    struct scope *s = ctx;
    for (struct fleet_network *n = fleet_networks(s->api->cfg.fleet); n; n = n->hh.next)
        fn(arg, n->id);
}

/* 1: the request asked to watch, and is answered. `only` NULL: all of the kind. */
static int maybe_watch(struct fleet_api *api, struct http_request *req, const char *kind,
                       const char *only, const char *network)
{
    struct diag d = {0};
    bool watch = false, agents = strcmp(kind, "agent") == 0;
    int64_t after;
    if (rest_watch(req, &watch, &after, &d) < 0) {
        http_respond_diag(req, &d);
        return 1;
    }
    if (!watch)
        return 0;
    struct scope *s = NEW(struct scope);
    s->api = api;
    snprintf(s->tenant, sizeof(s->tenant), "%s", identity_caller(req)->tenant);
    snprintf(s->network, sizeof(s->network), "%s", network ? network : "");
    const struct watch_source source = {.store = fleet_store(api->cfg.fleet),
                                        .kind = kind,
                                        .tenant = s->tenant,
                                        .only = only,
                                        .render =
                                            agents ? render_scoped_agent : render_scoped_network,
                                        .each = agents ? each_scoped_agent : each_scoped_network,
                                        .done = mem_free,
                                        .ctx = s};
    watch_start(req, &source, after);
    return 1;
}

/* The caller's network that ?network= names; 1: named none; negative: refused and answered. */
static int query_network(struct fleet_api *api, struct http_request *req,
                         struct fleet_network **ret)
{
    const char *ref = http_query(req, "network");
    *ret = NULL;
    if (!ref)
        return 0;
    *ret = fleet_network_lookup(api->cfg.fleet, identity_caller(req)->tenant, ref);
    if (*ret)
        return 0;
    http_respond_error(req, ERR_NOT_FOUND, "there is no network '%.64s'", ref);
    return ERR_NOT_FOUND;
}

static void list_agents(struct http_request *req, void *ctx)
{
    struct fleet_api *api = ctx;
    const struct identity_caller *caller = identity_caller(req);
    struct fleet_agent *head = fleet_agents(api->cfg.fleet);
    struct fleet_network *network;
    size_t n = 0;
    if (query_network(api, req, &network) < 0 ||
        maybe_watch(api, req, "agent", NULL, network ? network->id : NULL))
        return;
    struct rest_entry *list = mem_new(HASH_COUNT(head) * sizeof(*list));
    for (struct fleet_agent *a = head; a; a = a->hh.next) {
        if (strcmp(a->tenant, caller->tenant) == 0 && (!network || a->network == network))
            list[n++] = (struct rest_entry){a->created, a->id, a};
    }
    rest_respond_list(req, list, n, render_agent, api);
}

/* The agent that the path names; NULL: answered with 404. */
static struct fleet_agent *path_agent(struct fleet_api *api, struct http_request *req)
{
    const char *ref = http_param(req, "agent");
    struct fleet_agent *a = fleet_agent_lookup(api->cfg.fleet, identity_caller(req)->tenant, ref);
    if (!a)
        http_respond_error(req, ERR_NOT_FOUND, "there is no agent '%.64s'", ref);
    return a;
}

static void get_agent(struct http_request *req, void *ctx)
{
    struct fleet_api *api = ctx;
    struct fleet_agent *a = path_agent(api, req);
    if (a && !maybe_watch(api, req, "agent", a->id, NULL))
        http_respond_json(req, 200, fleet_agent_detail(api->cfg.fleet, a), (uint64_t)a->version);
}

struct act {
    struct fleet_api *api;
    struct http_request *req;
    char agent[ID_SIZE];
};

/* The view follows the feed with a read of its own, queued before this one. */
static void answer_agent(void *arg, int err)
{
    CLEANUP(mem_free) struct act *act = arg;
    struct fleet_agent *a = fleet_agent_find(act->api->cfg.fleet, act->agent);
    if (a)
        http_respond_json(act->req, 200, fleet_agent_json(act->api->cfg.fleet, a),
                          (uint64_t)a->version);
    else
        http_respond_error(act->req, ERR_NOT_FOUND, "the agent is gone");
}

static void acted(void *arg, const struct diag *result)
{
    struct act *act = arg;
    if (result->code < 0) {
        http_respond_diag(act->req, result);
        mem_free(act);
        return;
    }
    store_follow(fleet_store(act->api->cfg.fleet), answer_agent, act);
}

/* What the request acts on; NULL: it was answered. */
static struct act *act_new(struct fleet_api *api, struct http_request *req, uint64_t *ret_version)
{
    struct diag d = {0};
    struct fleet_agent *a = path_agent(api, req);
    if (!a)
        return NULL;
    if (rest_if_match(req, false, ret_version, &d) < 0) {
        http_respond_diag(req, &d);
        return NULL;
    }
    struct act *act = NEW(struct act);
    act->api = api;
    act->req = req;
    snprintf(act->agent, sizeof(act->agent), "%s", a->id);
    return act;
}

static void act_on_agent(struct http_request *req, struct fleet_api *api,
                         void (*fn)(struct identity *, const struct identity_caller *,
                                    const char *agent, uint64_t version, identity_done *done,
                                    void *arg))
{
    uint64_t version = 0;
    struct act *act = act_new(api, req, &version);
    if (act)
        fn(api->cfg.identity, identity_caller(req), act->agent, version, acted, act);
}

static void drain_agent(struct http_request *req, void *ctx)
{
    static const char *const members[] = {"grace", NULL};
    struct fleet_api *api = ctx;
    struct diag d = {0};
    uint64_t version = 0;
    int64_t grace_ms = 0;
    json_t *body;
    if (rest_body(req, &body, &d) < 0 || rest_only(body, "", members, &d) < 0 ||
        rest_duration_ms(body, "grace", false, &grace_ms, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct act *act = act_new(api, req, &version);
    if (act)
        identity_agent_drain(api->cfg.identity, identity_caller(req), act->agent, version, grace_ms,
                             acted, act);
}

static void undrain_agent(struct http_request *req, void *ctx)
{
    act_on_agent(req, ctx, identity_agent_undrain);
}

static void revoke_agent(struct http_request *req, void *ctx)
{
    act_on_agent(req, ctx, identity_agent_revoke);
}

static void approve_agent(struct http_request *req, void *ctx)
{
    act_on_agent(req, ctx, identity_agent_approve);
}

/* ---- networks ---- */

static json_t *render_network(void *ctx, void *network)
{
    return fleet_network_json(((struct fleet_api *)ctx)->cfg.fleet, network);
}

static void list_networks(struct http_request *req, void *ctx)
{
    struct fleet_api *api = ctx;
    struct fleet_network *head = fleet_networks(api->cfg.fleet);
    size_t n = 0;
    if (maybe_watch(api, req, "network", NULL, NULL))
        return;
    struct rest_entry *list = mem_new(HASH_COUNT(head) * sizeof(*list));
    for (struct fleet_network *net = head; net; net = net->hh.next) {
        if (strcmp(net->tenant, identity_caller(req)->tenant) == 0)
            list[n++] = (struct rest_entry){net->created, net->id, net};
    }
    rest_respond_list(req, list, n, render_network, api);
}

static struct fleet_network *path_network(struct fleet_api *api, struct http_request *req)
{
    const char *ref = http_param(req, "network");
    struct fleet_network *n =
        fleet_network_lookup(api->cfg.fleet, identity_caller(req)->tenant, ref);
    if (!n)
        http_respond_error(req, ERR_NOT_FOUND, "there is no network '%.64s'", ref);
    return n;
}

static void get_network(struct http_request *req, void *ctx)
{
    struct fleet_api *api = ctx;
    struct fleet_network *n = path_network(api, req);
    if (n && !maybe_watch(api, req, "network", n->id, NULL))
        http_respond_json(req, 200, fleet_network_detail(api->cfg.fleet, n), (uint64_t)n->version);
}

struct network_write {
    struct fleet_api *api;
    struct http_request *req;
    struct identity_caller by;
    char id[ID_SIZE], name[FLEET_NAME_SIZE];
    int64_t now;
    uint64_t version;
    struct diag d;
};

static struct network_write *network_write_new(struct fleet_api *api, struct http_request *req)
{
    struct network_write *w = NEW(struct network_write);
    w->api = api;
    w->req = req;
    w->by = *identity_caller(req);
    w->now = time_created_ms();
    return w;
}

static int write_network(struct tx *tx, void *arg)
{
    struct network_write *w = arg;
    return identity_network_create(tx, &w->by, w->id, w->name, w->now, &w->d);
}

static void answer_network(void *arg, int err)
{
    CLEANUP(mem_free) struct network_write *w = arg;
    struct fleet_network *n = fleet_network_find(w->api->cfg.fleet, w->id);
    if (n)
        http_respond_json(w->req, 201, fleet_network_json(w->api->cfg.fleet, n),
                          (uint64_t)n->version);
    else
        http_respond_error(w->req, ERR_NOT_FOUND, "the network is gone");
}

static void network_written(void *arg, int err)
{
    struct network_write *w = arg;
    if (err == 0) {
        store_follow(fleet_store(w->api->cfg.fleet), answer_network, w);
        return;
    }
    if (err == ERR_EXISTS)
        http_respond_error(w->req, err, "there is a network '%s' already", w->name);
    else if (err == ERR_CONFLICT)
        http_respond_diag(w->req, &w->d);
    else
        http_respond_error(w->req, err, "the network was not created: %s", error_text(err));
    mem_free(w);
}

static void create_network(struct http_request *req, void *ctx)
{
    static const char *const members[] = {"name", NULL};
    struct diag d = {0};
    json_t *body;
    const char *name = NULL;
    if (rest_body(req, &body, &d) < 0 || rest_only(body, "", members, &d) < 0 ||
        rest_name(body, "name", true, &name, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct network_write *w = network_write_new(ctx, req);
    id_new(w->id, "net");
    snprintf(w->name, sizeof(w->name), "%s", name);
    store_run(fleet_store(w->api->cfg.fleet), STORE_WRITE, write_network, network_written, w);
}

/* Revoked agents go with their network. */
static int delete_agents(struct tx *tx, const struct network_write *w)
{
    int rc;
    TRY(tx_exec(
        tx, "DELETE FROM agent_session WHERE agent IN (SELECT id FROM agent WHERE network = $1)",
        STORE_TEXT(w->id)));
    TRY(tx_exec(tx,
                "DELETE FROM agent_place WHERE agent IN (SELECT id FROM agent WHERE network = $1)",
                STORE_TEXT(w->id)));
    struct rows rows =
        tx_query(tx, "DELETE FROM agent WHERE network = $1 RETURNING id", STORE_TEXT(w->id));
    while ((rc = row_next(&rows)) > 0)
        TRY(store_publish(tx, w->by.tenant, "agent", row_text(&rows, 0), STORE_DELETE));
    return rc;
}

/* Asked in the transaction, not of the view: a tunnel may be in the making. */
static int write_deletion(struct tx *tx, void *arg)
{
    const struct network_write *w = arg;
    int64_t users;
    TRY(tx_query_int(tx, &users,
                     "SELECT (SELECT COUNT(*) FROM tunnel WHERE network = $1) + "
                     "(SELECT COUNT(*) FROM agent WHERE network = $1 AND revoked IS NULL)",
                     STORE_TEXT(w->id)));
    if (users)
        return ERR_CONFLICT;
    TRY(delete_agents(tx, w));
    TRY(tx_exec(tx, "DELETE FROM network_alias WHERE network = $1", STORE_TEXT(w->id)));
    TRY(tx_exec(tx, "DELETE FROM network_apart WHERE a = $1 OR b = $1", STORE_TEXT(w->id)));
    TRY(tx_exec(tx, "DELETE FROM network WHERE id = $1 AND (version = $2 OR $2 = 0)",
                STORE_TEXT(w->id), STORE_INT(w->version)));
    if (tx_changed(tx) == 0)
        return ERR_STALE;
    TRY(identity_applied_forget(tx, w->id));
    TRY(identity_audit_act(tx, &w->by, "network.delete", w->id, w->name));
    return store_publish(tx, w->by.tenant, "network", w->id, STORE_DELETE);
}

static void deletion_written(void *arg, int err)
{
    CLEANUP(mem_free) struct network_write *w = arg;
    if (err == 0)
        http_respond_empty(w->req, 204);
    else if (err == ERR_CONFLICT)
        http_respond_error(w->req, err,
                           "the network '%s' still has tunnels or agents; delete the tunnels and "
                           "revoke the agents first",
                           w->name);
    else
        http_respond_error(w->req, err, "the network was not deleted: %s", error_text(err));
}

static void delete_network(struct http_request *req, void *ctx)
{
    struct fleet_api *api = ctx;
    struct diag d = {0};
    uint64_t version = 0;
    struct fleet_network *n = path_network(api, req);
    if (!n)
        return;
    if (rest_if_match(req, false, &version, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct network_write *w = network_write_new(api, req);
    snprintf(w->id, sizeof(w->id), "%s", n->id);
    snprintf(w->name, sizeof(w->name), "%s", n->name);
    w->version = version;
    store_run(fleet_store(api->cfg.fleet), STORE_WRITE, write_deletion, deletion_written, w);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/agents", HTTP_VIEWER, 0, list_agents, "Lists agents"},
    {"GET", "/api/v1/agents/{agent}", HTTP_VIEWER, 0, get_agent, "Shows an agent"},
    {"POST", "/api/v1/agents/{agent}:revoke", HTTP_OPERATOR, REST_BODY_MAX, revoke_agent,
     "Ends an agent's admission for good"},
    {"POST", "/api/v1/agents/{agent}:approve", HTTP_OPERATOR, REST_BODY_MAX, approve_agent,
     "Lets a pending agent renew its expired certificate once"},
    {"POST", "/api/v1/agents/{agent}:drain", HTTP_OPERATOR, REST_BODY_MAX, drain_agent,
     "Moves an agent's tunnels to others, without cutting streams"},
    {"POST", "/api/v1/agents/{agent}:undrain", HTTP_OPERATOR, REST_BODY_MAX, undrain_agent,
     "Lets an agent hold tunnels again"},
    {"GET", "/api/v1/networks", HTTP_VIEWER, 0, list_networks, "Lists networks"},
    {"POST", "/api/v1/networks", HTTP_OPERATOR, REST_BODY_MAX, create_network, "Creates a network"},
    {"GET", "/api/v1/networks/{network}", HTTP_VIEWER, 0, get_network, "Shows a network"},
    {"DELETE", "/api/v1/networks/{network}", HTTP_OPERATOR, 0, delete_network,
     "Deletes a network that is no longer used"},
};

struct fleet_api *fleet_api_new(const struct fleet_api_config *cfg, struct http_server *http)
{
    struct fleet_api *api = NEW(struct fleet_api);
    api->cfg = *cfg;
    api->hubs = hub_api_new(cfg, http);
    http_server_add(http, routes, ARRAY_SIZE(routes), api);
    fleet_network_routes(cfg->fleet, http);
    fleet_serve_declared(cfg->fleet, http);
    return api;
}

void fleet_api_free(struct fleet_api *api)
{
    if (api)
        hub_api_free(api->hubs);
    mem_free(api);
}
