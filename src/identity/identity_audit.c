/* The audit trail as a REST list, newest first. */
#include "identity/internal.h"

#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct audit_list {
    struct http_request *req;
    struct audit_filter filter;
    char tenant[ID_SIZE];
    char before_id[ID_SIZE];
    int64_t before_at;
    uint32_t size;
    json_t *items;
    char last[REST_POSITION_SIZE];
    bool has_more;
};

static json_t *string_or_null(const char *s)
{
    return s ? json_string(s) : json_null();
}

static void add_audit(void *arg, const struct audit_record *r)
{
    struct audit_list *l = arg;
    char at[TIME_TEXT_SIZE];
    if (json_array_size(l->items) >= l->size) {
        l->has_more = true;
        return;
    }
    time_format(r->at, at);
    snprintf(l->last, sizeof(l->last), "%lld.%s", (long long)r->at, r->id);
    json_array_append_new(
        l->items, json_pack("{s:s, s:s, s:{s:s, s:o}, s:s, s:o, s:s, s:o}", "id", r->id, "time", at,
                            "actor", "id", r->actor, "address", string_or_null(r->address),
                            "action", r->action, "object", string_or_null(r->object), "outcome",
                            audit_outcome_name(r->outcome), "detail", string_or_null(r->detail)));
}

static int list_audit_work(struct tx *tx, void *arg)
{
    struct audit_list *l = arg;
    return audit_each(tx, &l->filter, add_audit, l);
}

static void list_audit_done(void *arg, int err)
{
    struct audit_list *l = arg;
    if (err) {
        json_decref(l->items);
        http_respond_error(l->req, err, "the audit trail cannot be read");
    } else {
        rest_respond_page(l->req, l->items, l->has_more ? l->last : NULL);
    }
    mem_free(l);
}

static int query_time(struct http_request *req, const char *name, int64_t *ret, struct diag *d)
{
    const char *text = http_query(req, name);
    if (text && time_parse(text, ret))
        return diag_set_field(d, ERR_INVALID, name, "\"%.40s\" is not a time (RFC 3339)", text);
    return 0;
}

static int read_audit_filter(struct audit_list *l, struct diag *d)
{
    struct http_request *req = l->req;
    struct audit_filter *f = &l->filter;
    struct rest_page page;
    char *dot;
    TRY(rest_page(req, &page, d));
    l->size = page.size;
    l->before_at = INT64_MAX;
    if (*page.after) {
        l->before_at = strtoll(page.after, &dot, 10);
        snprintf(l->before_id, sizeof(l->before_id), "%s", *dot ? dot + 1 : "");
    }
    snprintf(l->tenant, sizeof(l->tenant), "%s", identity_caller(req)->tenant);
    *f = (struct audit_filter){.tenant = l->tenant,
                               .action = http_query(req, "action"),
                               .actor = http_query(req, "actor"),
                               .object = http_query(req, "object"),
                               .before_at = l->before_at,
                               .before_id = l->before_id,
                               .limit = (int64_t)page.size + 1};
    TRY(query_time(req, "since", &f->since, d));
    return query_time(req, "until", &f->until, d);
}

static void list_audit(struct http_request *req, void *ctx)
{
    struct identity *i = ctx;
    struct audit_list *l = NEW(struct audit_list);
    struct diag d = {0};
    l->req = req;
    if (read_audit_filter(l, &d)) {
        http_respond_diag(req, &d);
        mem_free(l);
        return;
    }
    l->items = json_array();
    store_run(i->cfg.store, STORE_READ, list_audit_work, list_audit_done, l);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/audit", HTTP_VIEWER, 0, list_audit, "Lists administrative acts, newest first"},
};

void audit_add_routes(struct identity *i, struct http_server *s)
{
    http_server_add(s, routes, ARRAY_SIZE(routes), i);
}
