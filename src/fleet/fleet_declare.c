/*
 * PUT of a network: it is there afterwards, and what was declared is on record (docs/apply.md).
 */
#include "fleet/fleet_api.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"
#include "identity/identity.h"

#include <stdio.h>
#include <string.h>

struct network_put {
    struct fleet *fleet;
    struct http_request *req;
    struct identity_caller by;
    struct rest_put put;
    char id[ID_SIZE], name[FLEET_NAME_SIZE];
    int64_t now, version;
    bool is_new;
    json_t *declared;
    struct diag d;
};

static void put_free(struct network_put *w)
{
    json_decref(w->declared);
    mem_free(w);
}

static int write_put(struct tx *tx, void *arg)
{
    struct network_put *w = arg;
    if (w->is_new) {
        TRY(identity_network_create(tx, &w->by, w->id, w->name, w->now, &w->d));
    } else {
        int64_t version;
        int rc = tx_query_int(tx, &version, "SELECT version FROM network WHERE id = $1",
                              STORE_TEXT(w->id));
        if (rc == ERR_NOT_FOUND || (rc == 0 && version != w->version))
            return ERR_STALE;
        TRY(rc);
    }
    const struct identity_applied a = {.kind = "network",
                                       .object = w->id,
                                       .name = w->name,
                                       .set = w->put.set,
                                       .before = w->is_new ? 0 : (uint64_t)w->version,
                                       .version = (uint64_t)w->version,
                                       .declared = w->declared};
    return identity_applied_note(tx, &w->by, &a);
}

static void answer(void *arg, int err)
{
    struct network_put *w = arg;
    struct fleet_network *n = fleet_network_find(w->fleet, w->id);
    if (n)
        http_respond_json(w->req, w->is_new ? 201 : 200, fleet_network_json(w->fleet, n),
                          (uint64_t)n->version);
    else
        http_respond_error(w->req, ERR_NOT_FOUND, "the network is gone");
    put_free(w);
}

static void written(void *arg, int err)
{
    struct network_put *w = arg;
    if (err == 0) {
        store_follow(fleet_store(w->fleet), answer, w);
        return;
    }
    if (err == ERR_EXISTS)
        http_respond_error(w->req, ERR_STALE, "there is a network '%s' by now", w->name);
    else if (err == ERR_STALE)
        http_respond_error(w->req, err, "the network was changed by somebody else meanwhile");
    else if (err == ERR_CONFLICT)
        http_respond_diag(w->req, &w->d);
    else
        http_respond_error(w->req, err, "the network was not stored: %s", error_text(err));
    put_free(w);
}

static int read_put(struct network_put *w, struct diag *d)
{
    static const char *const members[] = {"name", NULL};
    const char *ref = http_param(w->req, "network"), *name = NULL;
    json_t *body;
    TRY(rest_body(w->req, &body, d));
    TRY(rest_only(body, "", members, d));
    TRY(rest_name(body, "name", true, &name, d));
    TRY(rest_put(w->req, &w->put, d));
    struct fleet_network *n = fleet_network_lookup(w->fleet, w->by.tenant, ref);
    if (strcmp(name, n ? n->name : ref) != 0)
        return diag_set_field(d, ERR_INVALID, "name", "must be that of the path, '%.64s'",
                              n ? n->name : ref);
    TRY(rest_put_check(&w->put, n ? (uint64_t)n->version : 0, d));
    w->is_new = !n;
    w->version = n ? n->version : 1;
    w->now = time_created_ms();
    snprintf(w->name, sizeof(w->name), "%s", name);
    if (n)
        snprintf(w->id, sizeof(w->id), "%s", n->id);
    else
        id_new(w->id, "net");
    w->declared = json_pack("{s:s}", "name", w->name);
    return 0;
}

static void put_network(struct http_request *req, void *ctx)
{
    struct diag d = {0};
    struct network_put *w = NEW(struct network_put);
    w->fleet = ctx;
    w->req = req;
    w->by = *identity_caller(req);
    if (read_put(w, &d) < 0) {
        http_respond_diag(req, &d);
        put_free(w);
    } else if (w->put.is_dry_run) {
        http_respond_json(req, 200, json_incref(w->declared), 0);
        put_free(w);
    } else {
        store_run(fleet_store(w->fleet), STORE_WRITE, write_put, written, w);
    }
}

static const struct http_route routes[] = {
    {"PUT", "/api/v1/networks/{network}", HTTP_OPERATOR, REST_BODY_MAX, put_network,
     "Creates a network, or records that it is declared"},
};

void fleet_serve_declared(struct fleet *f, struct http_server *http)
{
    http_server_add(http, routes, ARRAY_SIZE(routes), f);
}
