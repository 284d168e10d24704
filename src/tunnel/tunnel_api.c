/*
 * The REST rows of tunnels (api/openapi.yaml). A write goes: check against the view, transaction
 * (object, feed, audit), and when that has committed the view follows and the answer is given.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"
#include "http/watch.h"
#include "identity/identity.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The tunnel that the path names; NULL: answered with 404. */
static struct tunnel_object *path_tunnel(struct tunnels *ts, struct http_request *req)
{
    const char *ref = http_param(req, "tunnel");
    struct tunnel_object *o = tunnel_lookup(ts, identity_caller(req)->tenant, ref);
    if (!o)
        http_respond_error(req, ERR_NOT_FOUND, "there is no tunnel '%.64s'", ref);
    return o;
}

static void respond_tunnel(struct http_request *req, int status, struct tunnel_object *o)
{
    http_respond_json(req, status, tunnel_object_json(o), o->t.version);
}

/* ---- reading ---- */

struct scope {
    struct tunnels *tunnels;
    char tenant[ID_SIZE], network[ID_SIZE];
};

static bool in_scope(const struct scope *s, const struct tunnel_object *o)
{
    return strcmp(o->t.tenant, s->tenant) == 0 &&
           (!s->network[0] || strcmp(o->t.spec.network, s->network) == 0);
}

static json_t *render_scoped(void *ctx, const char *id)
{
    struct scope *s = ctx;
    struct tunnel_object *o = tunnel_find(s->tunnels, id);
    return o && in_scope(s, o) ? tunnel_object_json(o) : NULL;
}

static void each_scoped(void *ctx, void (*fn)(void *arg, const char *id), void *arg)
{
    struct scope *s = ctx;
    for (struct tunnel_object *o = s->tunnels->objects; o; o = o->hh.next)
        fn(arg, o->t.id);
}

/* 1: the request asked to watch, and is answered. */
static int maybe_watch(struct http_request *req, const struct scope *scope, const char *only)
{
    struct diag d = {0};
    bool watch = false;
    int64_t after;
    if (rest_watch(req, &watch, &after, &d) < 0) {
        http_respond_diag(req, &d);
        return 1;
    }
    if (!watch)
        return 0;
    const struct watch_source source = {.store = scope->tunnels->store,
                                        .kind = "tunnel",
                                        .tenant = scope->tenant,
                                        .only = only,
                                        .render = render_scoped,
                                        .each = each_scoped,
                                        .done = mem_free,
                                        .ctx = mem_dup(scope, sizeof(*scope))};
    watch_start(req, &source, after);
    return 1;
}

static json_t *render_tunnel(void *ctx, void *object)
{
    return tunnel_object_json(object);
}

static void respond_list(struct http_request *req, const struct scope *scope)
{
    struct tunnels *ts = scope->tunnels;
    struct rest_entry *list = mem_new(HASH_COUNT(ts->objects) * sizeof(*list));
    size_t n = 0;
    for (struct tunnel_object *o = ts->objects; o; o = o->hh.next) {
        if (in_scope(scope, o))
            list[n++] = (struct rest_entry){o->t.created, o->t.id, o};
    }
    rest_respond_list(req, list, n, render_tunnel, ts);
}

static void list_tunnels(struct http_request *req, void *ctx)
{
    struct scope scope = {.tunnels = ctx};
    const char *ref = http_query(req, "network");
    snprintf(scope.tenant, sizeof(scope.tenant), "%s", identity_caller(req)->tenant);
    if (ref) {
        struct fleet_network *n = fleet_network_lookup(scope.tunnels->fleet, scope.tenant, ref);
        if (!n) {
            http_respond_error(req, ERR_NOT_FOUND, "there is no network '%.64s'", ref);
            return;
        }
        snprintf(scope.network, sizeof(scope.network), "%s", n->id);
    }
    if (!maybe_watch(req, &scope, NULL))
        respond_list(req, &scope);
}

static void get_tunnel(struct http_request *req, void *ctx)
{
    struct scope scope = {.tunnels = ctx};
    struct tunnel_object *o = path_tunnel(ctx, req);
    if (!o)
        return;
    snprintf(scope.tenant, sizeof(scope.tenant), "%s", o->t.tenant);
    if (!maybe_watch(req, &scope, o->t.id))
        respond_tunnel(req, 200, o);
}

/* ---- writing ---- */

struct tunnel_write {
    struct tunnels *tunnels;
    struct http_request *req;
    struct identity_caller by;
    struct tunnel t;
    char network[TUNNEL_NAME_SIZE]; /* as a create names it */
    int64_t ends;
    uint64_t if_version;
    bool moves;
    bool is_over;
};

static struct tunnel_write *write_new(struct tunnels *ts, struct http_request *req)
{
    struct tunnel_write *w = NEW(struct tunnel_write);
    w->tunnels = ts;
    w->req = req;
    w->by = *identity_caller(req);
    return w;
}

static void respond_write_error(struct tunnel_write *w, int err, const char *what)
{
    struct diag d = {0};
    if (err == ERR_LIMIT && tunnel_quota_diag(&d) < 0)
        http_respond_diag(w->req, &d);
    else if (err == ERR_EXISTS)
        http_respond_error(w->req, err, "there is a tunnel '%s' already", w->t.name);
    else if (err == ERR_STALE)
        http_respond_error(w->req, err,
                           "the tunnel was changed by somebody else meanwhile; read it again");
    else if (err == ERR_NOT_FOUND)
        http_respond_error(w->req, err, "the network or the tunnel is gone");
    else
        http_respond_error(w->req, err, "the tunnel was not %s: %s", what, error_text(err));
}

/* The network is looked up here rather than in the view, which follows a moment later. */
static int read_network(struct tx *tx, struct tunnel_write *w)
{
    return identity_network_find(tx, w->t.tenant, w->network, w->t.spec.network);
}

static int write_create(struct tx *tx, void *arg)
{
    struct tunnel_write *w = arg;
    TRY(read_network(tx, w));
    TRY(tunnel_store_insert(tx, &w->t, w->ends));
    return identity_audit_act(tx, &w->by, "tunnel.create", w->t.id, w->t.name);
}

static void created(void *arg, int err)
{
    static const struct tunnel_traffic none;
    CLEANUP(mem_free) struct tunnel_write *w = arg;
    if (err == ERR_NOT_FOUND) {
        struct diag d = {0};
        diag_set_field(&d, ERR_INVALID, "spec.target.network", "there is no network '%s'",
                       w->network);
        http_respond_diag(w->req, &d);
        return;
    }
    if (err < 0) {
        respond_write_error(w, err, "created");
        return;
    }
    struct tunnel_object *o = tunnel_add(w->tunnels, &w->t, w->ends, &none);
    tunnel_begin(o);
    respond_tunnel(w->req, 201, o);
}

/* Resolves the network a request names to its id. */
static int resolve_network(struct tunnels *ts, const char *tenant, const char *ref,
                           struct tunnel_spec *spec, struct diag *d)
{
    struct fleet_network *n = fleet_network_lookup(ts->fleet, tenant, ref);
    if (!n)
        return diag_set_field(d, ERR_INVALID, "spec.target.network", "there is no network '%s'",
                              ref);
    snprintf(spec->network, sizeof(spec->network), "%s", n->id);
    return 0;
}

static int fill_new(struct tunnel_write *w, const json_t *body, struct diag *d)
{
    struct tunnel *t = &w->t;
    TRY(tunnel_parse(body, t->name, &t->spec, w->network, d));
    TRY(tunnel_check_room(w->tunnels, w->by.tenant, w->network, d));
    TRY(tunnel_access_keep(&t->spec.who, NULL, d));
    TRY(tunnel_check_host(w->tunnels, w->by.tenant, &t->spec, "", d));
    id_new(t->id, "tun");
    snprintf(t->tenant, sizeof(t->tenant), "%s", w->by.tenant);
    t->version = 1;
    t->phase = TUNNEL_PENDING;
    t->created = time_created_ms();
    w->ends = t->spec.ttl_ms ? t->created + t->spec.ttl_ms : 0;
    return 0;
}

static void create_tunnel(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct diag d = {0};
    json_t *body;
    if (rest_body(req, &body, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct tunnel_write *w = write_new(ts, req);
    if (fill_new(w, body, &d) < 0) {
        http_respond_diag(req, &d);
        mem_free(w);
        return;
    }
    store_run(ts->store, STORE_WRITE, write_create, created, w);
}

static int write_change(struct tx *tx, void *arg)
{
    struct tunnel_write *w = arg;
    char detail[96];
    TRY(tunnel_store_update(tx, &w->t, w->ends, w->if_version, w->moves));
    snprintf(detail, sizeof(detail), "%s, version %" PRIu64, w->t.name, w->t.version);
    return identity_audit_act(tx, &w->by, "tunnel.update", w->t.id, detail);
}

static void changed(void *arg, int err)
{
    CLEANUP(mem_free) struct tunnel_write *w = arg;
    struct tunnel_object *o = tunnel_find(w->tunnels, w->t.id);
    if (err < 0) {
        respond_write_error(w, err, "changed");
    } else if (!o) {
        http_respond_error(w->req, ERR_NOT_FOUND, "the tunnel was deleted meanwhile");
    } else {
        o->is_followed = false;
        tunnel_change(o, &w->t, w->ends);
        respond_tunnel(w->req, 200, o);
    }
}

/* Works out the object that the patch makes of the present one. */
static int fill_patched(struct tunnel_write *w, const struct tunnel_object *o, const json_t *patch,
                        struct diag *d)
{
    char network[TUNNEL_NAME_SIZE];
    json_t *now = json_pack("{s:s, s:o}", "name", o->t.name, "spec", tunnel_spec_json(&o->t.spec));
    json_t *to = tunnel_merge_patch(now, patch);
    w->t = o->t;
    int rc = tunnel_parse(to, w->t.name, &w->t.spec, network, d);
    json_decref(now);
    json_decref(to);
    TRY(rc);
    TRY(resolve_network(w->tunnels, w->by.tenant, network, &w->t.spec, d));
    TRY(tunnel_access_keep(&w->t.spec.who, &o->t.spec.who, d));
    TRY(tunnel_check_host(w->tunnels, w->by.tenant, &w->t.spec, o->t.id, d));
    if (strcmp(w->t.spec.network, o->t.spec.network) != 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.network",
                              "cannot change; create another tunnel");
    if (tunnel_phase_is_over(o->t.phase))
        return diag_set(d, ERR_CONFLICT, "the tunnel is %s; delete it and create another",
                        tunnel_phase_name(o->t.phase));
    w->t.version = o->t.version + 1;
    w->moves = tunnel_spec_moves(&o->t.spec, &w->t.spec);
    w->ends = w->t.spec.ttl_ms == o->t.spec.ttl_ms ? o->ends
              : w->t.spec.ttl_ms                   ? time_wall_ms() + w->t.spec.ttl_ms
                                                   : 0;
    return 0;
}

static int check_version(struct http_request *req, const struct tunnel_object *o, uint64_t *ret,
                         struct diag *d)
{
    TRY(rest_if_match(req, false, ret, d));
    if (*ret && *ret != o->t.version)
        return diag_set(d, ERR_STALE,
                        "the tunnel is at version %" PRIu64 ", not %" PRIu64 "; read it again",
                        o->t.version, *ret);
    return 0;
}

static void update_tunnel(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct diag d = {0};
    json_t *patch;
    uint64_t version;
    struct tunnel_object *o = path_tunnel(ts, req);
    if (!o)
        return;
    if (rest_body(req, &patch, &d) < 0 || check_version(req, o, &version, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct tunnel_write *w = write_new(ts, req);
    if (fill_patched(w, o, patch, &d) < 0) {
        http_respond_diag(req, &d);
        mem_free(w);
        return;
    }
    w->if_version = o->t.version;
    store_run(ts->store, STORE_WRITE, write_change, changed, w);
}

static int write_delete(struct tx *tx, void *arg)
{
    const struct tunnel_write *w = arg;
    TRY(tunnel_store_delete(tx, &w->t, w->if_version));
    return identity_audit_act(tx, &w->by, "tunnel.delete", w->t.id, w->t.name);
}

static void deleted(void *arg, int err)
{
    CLEANUP(mem_free) struct tunnel_write *w = arg;
    struct tunnel_object *o = tunnel_find(w->tunnels, w->t.id);
    if (err < 0) {
        respond_write_error(w, err, "deleted");
        return;
    }
    if (o)
        tunnel_remove(o);
    http_respond_empty(w->req, 204);
}

static void delete_tunnel(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct diag d = {0};
    uint64_t version;
    struct tunnel_object *o = path_tunnel(ts, req);
    if (!o)
        return;
    if (check_version(req, o, &version, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct tunnel_write *w = write_new(ts, req);
    w->t = o->t;
    w->if_version = version;
    store_run(ts->store, STORE_WRITE, write_delete, deleted, w);
}

/* ---- connections ---- */

struct listing {
    struct tunnels *tunnels;
    struct http_request *req;
    char tunnel[ID_SIZE];
    struct rest_page page;
    json_t *items;
    size_t waiting; /* exposures that have not answered */
    char next[REST_POSITION_SIZE];
};

static json_t *connection_json(const struct listing *l, const char *id, const char *client,
                               const char *agent, const char *hub, int64_t opened, int64_t closed,
                               int64_t in, int64_t out, const char *end, const char *error)
{
    return json_pack("{s:s?, s:s, s:s, s:s?, s:s, s:o, s:o, s:{s:I, s:I}, s:s, s:s?}", "id", id,
                     "tunnel", l->tunnel, "client", client, "agent", agent, "hub", hub, "opened",
                     rest_time(opened), "closed", rest_time(closed), "bytes", "in", (json_int_t)in,
                     "out", (json_int_t)out, "end", end, "error", error);
}

/* A page position is "OPENED:ID" of the last one shown; newest first. */
static int read_connections(struct tx *tx, void *arg)
{
    struct listing *l = arg;
    int64_t before = INT64_MAX;
    char before_id[ID_SIZE] = "~";
    if (l->page.after[0] && sscanf(l->page.after, "%" SCNd64 ":%31s", &before, before_id) != 2)
        return ERR_INVALID;
    struct rows rows =
        tx_query(tx,
                 "SELECT id, client, agent, hub, opened, closed, bytes_in, bytes_out, ended, error "
                 "FROM connection WHERE tunnel = $1 AND opened <= $2 AND (opened < $2 OR id < $3) "
                 "ORDER BY opened DESC, id DESC LIMIT $4",
                 STORE_TEXT(l->tunnel), STORE_INT(before), STORE_TEXT(before_id),
                 STORE_INT(l->page.size + 1));
    size_t room = l->page.size;
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        if (room-- == 0) {
            rows_done(&rows);
            return 1;
        }
        json_array_append_new(l->items, connection_json(l, row_text(&rows, 0), row_text(&rows, 1),
                                                        row_text(&rows, 2), row_text(&rows, 3),
                                                        row_int(&rows, 4), row_int(&rows, 5),
                                                        row_int(&rows, 6), row_int(&rows, 7),
                                                        row_text(&rows, 8), row_text(&rows, 9)));
        snprintf(l->next, sizeof(l->next), "%" PRId64 ":%s", row_int(&rows, 4), row_text(&rows, 0));
    }
    return rc;
}

static void connections_read(void *arg, int err)
{
    CLEANUP(mem_free) struct listing *l = arg;
    if (err < 0) {
        json_decref(l->items);
        http_respond_error(l->req, err, "cannot read the access log: %s", error_text(err));
        return;
    }
    rest_respond_page(l->req, l->items, err > 0 ? l->next : NULL);
}

static void add_open(void *arg, const struct exposure_record *records, size_t n)
{
    struct listing *l = arg;
    for (size_t i = 0; i < n; i++) {
        const struct exposure_record *r = &records[i];
        char client[ADDR_TEXT_SIZE];
        addr_format(&r->client, client, sizeof(client));
        json_array_append_new(l->items, connection_json(l, NULL, client, r->agent,
                                                        fleet_hub(l->tunnels->fleet)->id, r->opened,
                                                        0, (int64_t)r->bytes_in,
                                                        (int64_t)r->bytes_out, r->end, NULL));
    }
    if (--l->waiting)
        return;
    if (l->page.size == 0) { /* only the open ones were asked for */
        rest_respond_page(l->req, l->items, NULL);
        mem_free(l);
    } else {
        store_run(l->tunnels->store, STORE_READ, read_connections, connections_read, l);
    }
}

static void list_connections(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct diag d = {0};
    struct rest_page page;
    bool only_open = false;
    struct tunnel_object *o = path_tunnel(ts, req);
    if (!o)
        return;
    if (rest_page(req, &page, &d) < 0 || rest_query_bool(req, "open", &only_open, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct listing *l = NEW(struct listing);
    *l = (struct listing){
        .tunnels = ts, .req = req, .page = page, .items = json_array(), .waiting = 1};
    snprintf(l->tunnel, sizeof(l->tunnel), "%s", o->t.id);
    if (only_open)
        l->page.size = 0;
    if (!page.after[0]) {
        for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
            l->waiting++;
            exposure_list_open(e, add_open, l);
        }
    }
    add_open(l, NULL, 0);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/tunnels", HTTP_VIEWER, 0, list_tunnels, "Lists tunnels"},
    {"POST", "/api/v1/tunnels", HTTP_OPERATOR, REST_BODY_MAX, create_tunnel, "Creates a tunnel"},
    {"GET", "/api/v1/tunnels/{tunnel}", HTTP_VIEWER, 0, get_tunnel, "Shows a tunnel"},
    {"PATCH", "/api/v1/tunnels/{tunnel}", HTTP_OPERATOR, REST_BODY_MAX, update_tunnel,
     "Changes a tunnel's name or parts of its spec"},
    {"DELETE", "/api/v1/tunnels/{tunnel}", HTTP_OPERATOR, 0, delete_tunnel,
     "Closes a tunnel with its streams and deletes it"},
    {"GET", "/api/v1/tunnels/{tunnel}/connections", HTTP_VIEWER, 0, list_connections,
     "Lists who connected through a tunnel, newest first"},
};

void tunnels_serve(struct tunnels *ts, struct http_server *http)
{
    http_server_add(http, routes, ARRAY_SIZE(routes), ts);
    tunnels_serve_declared(ts, http);
    tunnels_serve_scans(ts, http);
}
