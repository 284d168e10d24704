/*
 * The REST rows of hubs. That one is to be drained is a decision in its row (hub_lease), which any
 * hub may write; the one that it is about reads it there (peer/peers.h).
 */
#include "fleet/fleet_api.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"
#include "identity/identity.h"

#include <stdio.h>
#include <string.h>

#define GRACE_MS     60000
#define GRACE_MAX_MS (24 * 3600 * 1000)

struct hub_api {
    struct fleet_api_config cfg;
    int64_t started;
};

/* ---- what is shown ---- */

static json_int_t count_agents(const struct hub_api *api, const struct fleet_hub *h)
{
    json_int_t n = 0;
    for (const struct fleet_agent *a = fleet_agents(api->cfg.fleet); a; a = a->hh.next)
        n += !a->call && strcmp(a->hub, h->id) == 0 && fleet_agent_is_online(a);
    return n;
}

static const char *phase_of(const struct fleet_hub *h, bool is_live, bool is_stopping)
{
    return !is_live                     ? "gone"
           : h->draining && h->drained  ? "drained"
           : h->draining || is_stopping ? "draining"
                                        : "ready";
}

static json_t *drain_json(const struct fleet_hub *h)
{
    if (!h->draining)
        return json_null();
    return json_pack("{s:o, s:I, s:o}", "since", rest_time(h->draining), "grace_ms",
                     (json_int_t)h->drain_grace_ms, "done", rest_time(h->drained));
}

static json_t *this_hub_json(const struct hub_api *api)
{
    struct fleet *f = api->cfg.fleet;
    const struct store_hub *hub = fleet_hub(f);
    const struct fleet_hub *self = fleet_hub_self(f);
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:s, s:s, s:o, s:I, s:I}", "id", hub->id, "name",
                     api->cfg.hub_name, "epoch", (json_int_t)hub->epoch, "phase",
                     phase_of(self, true, api->cfg.is_draining(api->cfg.arg)), "drain",
                     drain_json(self), "address", api->cfg.address, "software", WARREN_VERSION,
                     "started", rest_time(api->started), "agents", (json_int_t)fleet_online(f),
                     "tunnels", (json_int_t)api->cfg.count_tunnels(api->cfg.arg, hub->id));
}

static json_t *other_hub_json(const struct hub_api *api, const struct fleet_hub *h)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:s, s:s, s:o, s:I, s:I}", "id", h->id, "name",
                     h->name, "epoch", (json_int_t)h->epoch, "phase",
                     phase_of(h, fleet_hub_is_live(api->cfg.fleet, h->id, h->epoch), false),
                     "drain", drain_json(h), "address", h->address, "software", h->software,
                     "started", rest_time(h->started), "agents", count_agents(api, h), "tunnels",
                     (json_int_t)api->cfg.count_tunnels(api->cfg.arg, h->id));
}

static json_t *hub_json(const struct hub_api *api, const struct fleet_hub *h)
{
    return h == fleet_hub_self(api->cfg.fleet) ? this_hub_json(api) : other_hub_json(api, h);
}

static void list_hubs(struct http_request *req, void *ctx)
{
    const struct hub_api *api = ctx;
    json_t *list = json_array();
    json_array_append_new(list, this_hub_json(api));
    for (const struct fleet_hub *h = fleet_hubs(api->cfg.fleet); h; h = h->hh.next)
        json_array_append_new(list, other_hub_json(api, h));
    rest_respond_page(req, list, NULL);
}

/* By id, or by the name of its machine if only one has it. */
static struct fleet_hub *find(const struct hub_api *api, const char *ref)
{
    struct fleet_hub *self = fleet_hub_self(api->cfg.fleet), *h, *found = NULL;
    size_t n = 0;
    if (strcmp(self->id, ref) == 0)
        return self;
    h = fleet_hub_find(api->cfg.fleet, ref);
    if (h)
        return h;
    for (h = fleet_hubs(api->cfg.fleet); h; h = h->hh.next) {
        if (strcmp(h->name, ref) == 0) {
            found = h;
            n++;
        }
    }
    if (strcmp(api->cfg.hub_name, ref) == 0) {
        found = self;
        n++;
    }
    return n == 1 ? found : NULL;
}

static struct fleet_hub *path_hub(const struct hub_api *api, struct http_request *req)
{
    const char *ref = http_param(req, "hub");
    struct fleet_hub *h = find(api, ref);
    if (!h)
        http_respond_error(req, ERR_NOT_FOUND, "there is no hub '%.64s', or several of that name",
                           ref);
    return h;
}

static void get_hub(struct http_request *req, void *ctx)
{
    const struct hub_api *api = ctx;
    const struct fleet_hub *h = path_hub(api, req);
    if (h)
        http_respond_json(req, 200, hub_json(api, h), 0);
}

/* ---- drain ---- */

struct hub_act {
    struct hub_api *api;
    struct http_request *req;
    struct identity_caller by;
    char hub[ID_SIZE];
    int64_t draining, grace_ms; /* 0: not any more */
};

static int write_act(struct tx *tx, void *arg)
{
    const struct hub_act *a = arg;
    TRY(tx_exec(tx,
                "UPDATE hub_lease SET drain_grace = $2, drained = CASE WHEN $3 = 0 THEN 0 ELSE "
                "drained END, draining = CASE WHEN $3 = 0 OR draining = 0 THEN $3 ELSE draining "
                "END WHERE hub = $1",
                STORE_TEXT(a->hub), STORE_INT(a->grace_ms), STORE_INT(a->draining)));
    if (tx_changed(tx) == 0)
        return ERR_NOT_FOUND;
    TRY(identity_audit_act(tx, &a->by, a->draining ? "hub.drain" : "hub.undrain", a->hub, ""));
    return store_publish(tx, a->by.tenant, "hub", a->hub, STORE_PUT);
}

static void act_written(void *arg, int err)
{
    CLEANUP(mem_free) struct hub_act *a = arg;
    struct hub_api *api = a->api;
    struct fleet_hub *h = find(api, a->hub);
    if (err < 0 || !h) {
        http_respond_error(a->req, err < 0 ? err : ERR_NOT_FOUND, "hub '%s': %s", a->hub,
                           error_text(err < 0 ? err : ERR_NOT_FOUND));
        return;
    }
    if (!h->draining || !a->draining)
        h->draining = a->draining;
    h->drain_grace_ms = a->grace_ms;
    h->drained = a->draining ? h->drained : 0;
    if (h == fleet_hub_self(api->cfg.fleet))
        api->cfg.on_self(api->cfg.arg, h);
    http_respond_json(a->req, 200, hub_json(api, h), 0);
}

static void act(struct hub_api *api, struct http_request *req, const struct fleet_hub *h,
                int64_t draining, int64_t grace_ms)
{
    struct hub_act *a = NEW(struct hub_act);
    a->api = api;
    a->req = req;
    a->by = *identity_caller(req);
    a->draining = draining;
    a->grace_ms = grace_ms;
    snprintf(a->hub, sizeof(a->hub), "%s", h->id);
    store_run(fleet_store(api->cfg.fleet), STORE_WRITE, write_act, act_written, a);
}

/* Whether agents have somewhere to go. */
static bool has_another(const struct hub_api *api, const struct fleet_hub *but)
{
    const struct fleet_hub *self = fleet_hub_self(api->cfg.fleet);
    if (self != but && !self->draining)
        return true;
    for (const struct fleet_hub *h = fleet_hubs(api->cfg.fleet); h; h = h->hh.next) {
        if (h != but && !h->draining && fleet_hub_is_live(api->cfg.fleet, h->id, h->epoch))
            return true;
    }
    return false;
}

static void drain_hub(struct http_request *req, void *ctx)
{
    static const char *const members[] = {"grace", NULL};
    struct hub_api *api = ctx;
    struct diag d = {0};
    int64_t grace_ms = GRACE_MS;
    json_t *body;
    const struct fleet_hub *h = path_hub(api, req);
    if (!h)
        return;
    if (rest_body(req, &body, &d) < 0 || rest_only(body, "", members, &d) < 0 ||
        rest_duration_ms(body, "grace", false, &grace_ms, &d) < 0) {
        http_respond_diag(req, &d);
    } else if (grace_ms > GRACE_MAX_MS) {
        diag_set_field(&d, ERR_INVALID, "grace", "at most 24h");
        http_respond_diag(req, &d);
    } else if (!has_another(api, h)) {
        http_respond_error(req, ERR_CONFLICT,
                           "there is no other hub that its agents could go to: start one, or "
                           "undrain one");
    } else {
        act(api, req, h, time_wall_ms(), grace_ms);
    }
}

static void undrain_hub(struct http_request *req, void *ctx)
{
    struct hub_api *api = ctx;
    const struct fleet_hub *h = path_hub(api, req);
    if (h)
        act(api, req, h, 0, 0);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/hubs", HTTP_VIEWER, 0, list_hubs, "Lists the hubs of the cluster"},
    {"GET", "/api/v1/hubs/{hub}", HTTP_VIEWER, 0, get_hub, "Shows a hub"},
    {"POST", "/api/v1/hubs/{hub}:drain", HTTP_ADMIN, REST_BODY_MAX, drain_hub,
     "Sends a hub's agents to the other hubs"},
    {"POST", "/api/v1/hubs/{hub}:undrain", HTTP_ADMIN, REST_BODY_MAX, undrain_hub,
     "Lets a hub take agents again"},
};

struct hub_api *hub_api_new(const struct fleet_api_config *cfg, struct http_server *http)
{
    struct hub_api *api = NEW(struct hub_api);
    api->cfg = *cfg;
    api->started = time_wall_ms();
    http_server_add(http, routes, ARRAY_SIZE(routes), api);
    return api;
}

void hub_api_free(struct hub_api *api)
{
    mem_free(api);
}
