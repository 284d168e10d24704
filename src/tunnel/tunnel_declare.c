/*
 * PUT of a tunnel: afterwards it is what the body says, members left out at their defaults, and
 * what was declared is on record (docs/apply.md).
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"
#include "identity/identity.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct tunnel_put {
    struct tunnels *tunnels;
    struct http_request *req;
    struct identity_caller by;
    struct rest_put put;
    struct tunnel t; /* as it will be */
    int64_t ends;
    bool is_new, is_changed, moves;
    bool is_pending; /* a dry run, before its network is made */
    bool has_other_passwords;
    struct tunnel_access before; /* of the present object */
    json_t *declared;
};

static void put_free(struct tunnel_put *w)
{
    explicit_bzero(&w->t.spec.who, sizeof(w->t.spec.who));
    json_decref(w->declared);
    mem_free(w);
}

static json_t *declared_json(const struct tunnel *t)
{
    return json_pack("{s:s, s:o}", "name", t->name, "spec", tunnel_spec_json(&t->spec));
}

/* ---- the transaction ---- */

/* Passwords take their time: on the store's thread. */
static void compare_passwords(struct tunnel_put *w)
{
    if (w->is_new)
        return;
    w->has_other_passwords = tunnel_access_has_news(&w->t.spec.who, &w->before);
    w->is_changed = w->is_changed || w->has_other_passwords;
    w->t.version += w->is_changed;
}

static int compare(struct tx *tx, void *arg)
{
    compare_passwords(arg);
    return 0;
}

static int write_object(struct tx *tx, struct tunnel_put *w)
{
    char detail[160];
    const char *set = w->put.set;
    snprintf(detail, sizeof(detail), "%s, version %" PRIu64 "%s%s", w->t.name, w->t.version,
             set ? ", set " : "", set ? set : "");
    if (w->is_new) {
        TRY(tunnel_store_insert(tx, &w->t, w->ends));
        return identity_audit_act(tx, &w->by, "tunnel.create", w->t.id, detail);
    }
    if (w->is_changed) {
        TRY(tunnel_store_update(tx, &w->t, w->ends, w->put.if_version, w->moves));
        return identity_audit_act(tx, &w->by, "tunnel.update", w->t.id, detail);
    }
    int64_t version;
    int rc =
        tx_query_int(tx, &version, "SELECT version FROM tunnel WHERE id = $1", STORE_TEXT(w->t.id));
    return rc == ERR_NOT_FOUND || (rc == 0 && (uint64_t)version != w->t.version) ? ERR_STALE : rc;
}

static int write_put(struct tx *tx, void *arg)
{
    struct tunnel_put *w = arg;
    compare_passwords(w);
    TRY(write_object(tx, w));
    const struct identity_applied a = {.kind = "tunnel",
                                       .object = w->t.id,
                                       .name = w->t.name,
                                       .set = w->put.set,
                                       .before = w->put.if_version,
                                       .version = w->t.version,
                                       .declared = w->declared};
    return identity_applied_note(tx, &w->by, &a);
}

static void respond_failure(struct tunnel_put *w, int err)
{
    struct diag d = {0};
    if (err == ERR_LIMIT && tunnel_quota_diag(&d) < 0)
        http_respond_diag(w->req, &d);
    else if (err == ERR_EXISTS)
        http_respond_error(w->req, ERR_STALE, "there is a tunnel '%s' by now", w->t.name);
    else if (err == ERR_STALE)
        http_respond_error(w->req, err, "the tunnel was changed by somebody else meanwhile");
    else
        http_respond_error(w->req, err, "the tunnel was not stored: %s", error_text(err));
}

static void written(void *arg, int err)
{
    static const struct tunnel_traffic none;
    struct tunnel_put *w = arg;
    struct tunnel_object *o = tunnel_find(w->tunnels, w->t.id);
    if (err < 0) {
        respond_failure(w, err);
    } else if (!o && !w->is_new) {
        http_respond_error(w->req, ERR_NOT_FOUND, "the tunnel was deleted meanwhile");
    } else {
        if (w->is_new) {
            o = tunnel_add(w->tunnels, &w->t, w->ends, &none);
            tunnel_begin(o);
        } else if (w->is_changed) {
            o->is_followed = false;
            tunnel_change(o, &w->t, w->ends);
        }
        http_respond_json(w->req, w->is_new ? 201 : 200, tunnel_object_json(o), o->t.version);
    }
    put_free(w);
}

static void compared(void *arg, int err)
{
    struct tunnel_put *w = arg;
    json_t *answer = json_copy(w->declared);
    json_object_set_new(answer, "has_other_passwords", json_boolean(w->has_other_passwords));
    http_respond_json(w->req, 200, answer, 0);
    put_free(w);
}

/* ---- the request ---- */

static int fill_new(struct tunnel_put *w, struct diag *d)
{
    TRY(tunnel_check_room(w->tunnels, w->by.tenant, w->t.spec.network, d));
    TRY(tunnel_access_keep(&w->t.spec.who, NULL, d));
    TRY(tunnel_check_host(w->tunnels, w->by.tenant, &w->t.spec, "", d));
    id_new(w->t.id, "tun");
    snprintf(w->t.tenant, sizeof(w->t.tenant), "%s", w->by.tenant);
    w->t.version = 1;
    w->t.phase = TUNNEL_PENDING;
    w->t.created = time_created_ms();
    w->ends = w->t.spec.ttl_ms ? w->t.created + w->t.spec.ttl_ms : 0;
    return 0;
}

static int fill_changed(struct tunnel_put *w, const struct tunnel_object *o, struct diag *d)
{
    struct tunnel_spec to = w->t.spec;
    json_t *now = declared_json(&o->t);
    w->is_changed = !json_equal(now, w->declared);
    w->moves = tunnel_spec_moves(&o->t.spec, &to);
    w->before = o->t.spec.who;
    json_decref(now);
    TRY(tunnel_access_keep(&to.who, &o->t.spec.who, d));
    TRY(tunnel_check_host(w->tunnels, w->by.tenant, &to, o->t.id, d));
    w->t = o->t;
    w->t.spec = to;
    w->ends = to.ttl_ms == o->t.spec.ttl_ms ? o->ends : to.ttl_ms ? time_wall_ms() + to.ttl_ms : 0;
    if (w->is_changed && strcmp(to.network, o->t.spec.network) != 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.network",
                              "cannot change; create another tunnel");
    if (w->is_changed && tunnel_phase_is_over(o->t.phase))
        return diag_set(d, ERR_CONFLICT, "the tunnel is %s; delete it and create another",
                        tunnel_phase_name(o->t.phase));
    return 0;
}

/* The id of the network that is named. A dry run may name one that is about to be made; it stays a
 * name then. */
static int find_network(struct tunnel_put *w, const char *ref, struct diag *d)
{
    const char *pending = http_query(w->req, "pending_network");
    struct fleet_network *n = fleet_network_lookup(w->tunnels->fleet, w->by.tenant, ref);
    w->is_pending = !n && w->put.is_dry_run && pending && strcmp(pending, ref) == 0;
    if (w->is_pending)
        return 0;
    if (!n)
        return diag_set_field(d, ERR_INVALID, "spec.target.network", "there is no network '%s'",
                              ref);
    snprintf(w->t.spec.network, sizeof(w->t.spec.network), "%s", n->id);
    return 0;
}

static int read_put(struct tunnel_put *w, struct diag *d)
{
    const char *ref = http_param(w->req, "tunnel");
    char network[TUNNEL_NAME_SIZE];
    json_t *body;
    TRY(rest_body(w->req, &body, d));
    TRY(tunnel_parse(body, w->t.name, &w->t.spec, network, d));
    TRY(rest_put(w->req, &w->put, d));
    struct tunnel_object *o = tunnel_lookup(w->tunnels, w->by.tenant, ref);
    if (strcmp(w->t.name, o ? o->t.name : ref) != 0)
        return diag_set_field(d, ERR_INVALID, "name", "must be that of the path, '%.64s'",
                              o ? o->t.name : ref);
    TRY(rest_put_check(&w->put, o ? o->t.version : 0, d));
    TRY(find_network(w, network, d));
    w->is_new = !o;
    w->declared = declared_json(&w->t);
    if (w->is_pending)
        json_object_set_new(json_object_get(json_object_get(w->declared, "spec"), "target"),
                            "network", json_string(network));
    return o ? fill_changed(w, o, d) : fill_new(w, d);
}

static void put_tunnel(struct http_request *req, void *ctx)
{
    struct tunnels *ts = ctx;
    struct diag d = {0};
    struct tunnel_put *w = NEW(struct tunnel_put);
    w->tunnels = ts;
    w->req = req;
    w->by = *identity_caller(req);
    if (read_put(w, &d) < 0) {
        http_respond_diag(req, &d);
        put_free(w);
    } else if (w->put.is_dry_run) {
        store_run(ts->store, STORE_READ, compare, compared, w);
    } else {
        store_run(ts->store, STORE_WRITE, write_put, written, w);
    }
}

static const struct http_route routes[] = {
    {"PUT", "/api/v1/tunnels/{tunnel}", HTTP_OPERATOR, REST_BODY_MAX, put_tunnel,
     "Creates a tunnel, or makes it what the body says"},
};

void tunnels_serve_declared(struct tunnels *ts, struct http_server *http)
{
    http_server_add(http, routes, ARRAY_SIZE(routes), ts);
}
