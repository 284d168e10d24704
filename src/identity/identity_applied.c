/*
 * What was declared: for each object that a PUT set, which set it belongs to, what it was told to
 * be and which version came of it. Whoever applies the set again sees by the version whether
 * somebody else has changed the object since, and by the declaration what was changed.
 */
#include "identity/internal.h"

#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"

#include <stdio.h>
#include <string.h>

/* The version from which on every change was made by this token and this set: that of the record
 * before, if nobody came between. */
static int read_since(struct tx *tx, const char *token, const struct identity_applied *a,
                      int64_t *ret)
{
    int rc = tx_query_int(tx, ret,
                          "SELECT since FROM applied WHERE object = $1 AND version = $2 AND "
                          "token = $3 AND (CAST($4 AS TEXT) IS NULL OR owner = $4)",
                          STORE_TEXT(a->object), STORE_INT(a->before), STORE_TEXT(token),
                          STORE_TEXT(a->set));
    if (rc != ERR_NOT_FOUND)
        return rc;
    *ret = (int64_t)a->before;
    return 0;
}

int identity_applied_note(struct tx *tx, const struct identity_caller *by,
                          const struct identity_applied *a)
{
    int64_t since;
    TRY(read_since(tx, by->token, a, &since));
    char *declared = json_dumps(a->declared, JSON_COMPACT);
    int rc =
        tx_exec(tx,
                "INSERT INTO applied (object, tenant, kind, name, owner, version, since, "
                "token, at, declared) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
                "ON CONFLICT (object) DO UPDATE SET name = excluded.name, "
                "owner = COALESCE(excluded.owner, applied.owner), "
                "version = excluded.version, since = excluded.since, "
                "token = excluded.token, at = excluded.at, declared = excluded.declared",
                STORE_TEXT(a->object), STORE_TEXT(by->tenant), STORE_TEXT(a->kind),
                STORE_TEXT(a->name), STORE_TEXT(a->set), STORE_INT(a->version), STORE_INT(since),
                STORE_TEXT(by->token), STORE_INT(time_wall_ms()), STORE_TEXT(declared));
    free(declared);
    return rc;
}

int identity_applied_forget(struct tx *tx, const char *object)
{
    return tx_exec(tx, "DELETE FROM applied WHERE object = $1", STORE_TEXT(object));
}

/* ---- GET /api/v1/applied ---- */

struct applied_list {
    struct http_request *req;
    struct rest_page page;
    char tenant[ID_SIZE];
    const char *set; /* lives as long as the request */
    json_t *items;
    char last[REST_POSITION_SIZE];
};

static json_t *applied_json(const struct rows *rows)
{
    return json_pack("{s:s, s:s, s:s, s:s?, s:I, s:I, s:s, s:o, s:o}", "object", row_text(rows, 0),
                     "kind", row_text(rows, 1), "name", row_text(rows, 2), "set", row_text(rows, 3),
                     "version", (json_int_t)row_int(rows, 4), "since", (json_int_t)row_int(rows, 5),
                     "token", row_text(rows, 6), "time", rest_time(row_int(rows, 7)), "declared",
                     json_loads(row_text(rows, 8), 0, NULL));
}

/* 1: there are more. */
static int list_applied_work(struct tx *tx, void *arg)
{
    struct applied_list *l = arg;
    size_t room = l->page.size;
    int rc;
    struct rows rows =
        tx_query(tx,
                 "SELECT object, kind, name, owner, version, since, token, at, declared "
                 "FROM applied WHERE tenant = $1 AND object > $2 AND "
                 "(CAST($3 AS TEXT) IS NULL OR owner = $3) ORDER BY object LIMIT $4",
                 STORE_TEXT(l->tenant), STORE_TEXT(l->page.after), STORE_TEXT(l->set),
                 STORE_INT(l->page.size + 1));
    while ((rc = row_next(&rows)) > 0) {
        if (room-- == 0) {
            rows_done(&rows);
            return 1;
        }
        json_array_append_new(l->items, applied_json(&rows));
        snprintf(l->last, sizeof(l->last), "%s", row_text(&rows, 0));
    }
    return rc;
}

static void list_applied_done(void *arg, int err)
{
    CLEANUP(mem_free) struct applied_list *l = arg;
    if (err < 0) {
        json_decref(l->items);
        http_respond_error(l->req, err, "cannot read what was applied: %s", error_text(err));
    } else {
        rest_respond_page(l->req, l->items, err > 0 ? l->last : NULL);
    }
}

static void list_applied(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    struct diag d = {0};
    struct rest_page page;
    if (rest_page(req, &page, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    struct applied_list *l = NEW(struct applied_list);
    *l = (struct applied_list){
        .req = req, .page = page, .set = http_query(req, "set"), .items = json_array()};
    snprintf(l->tenant, sizeof(l->tenant), "%s", identity_caller(req)->tenant);
    store_run(i->cfg.store, STORE_READ, list_applied_work, list_applied_done, l);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/applied", HTTP_VIEWER, 0, list_applied,
     "Lists what declared objects were last told to be, and by whom"},
};

void applied_add_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, routes, ARRAY_SIZE(routes), i);
}
