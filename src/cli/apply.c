#include "cli/apply.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "cli/output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ERRORS_SHOWN_MAX 50

/* --- what the hub has ------------------------------------------------------------------------ */

static int read_caller(struct apply *a)
{
    json_t *self = NULL;
    TRY(remote_get(a->remote, "/api/v1/tokens/self", "find out who applies", &self));
    const char *id = json_string_value(json_object_get(self, "id"));
    snprintf(a->token, sizeof(a->token), "%s", id ? id : "");
    a->rules.token = a->token;
    json_decref(self);
    return 0;
}

static int read_kind(struct apply *a, const struct kind *kind)
{
    CLEANUP(mem_free) char *path = remote_path(kind->collection, NULL, NULL);
    char doing[64];
    json_t *list = NULL, *by_name = json_object(), *item;
    size_t i;
    json_object_set_new(a->live, kind->name, by_name);
    snprintf(doing, sizeof(doing), "list %s", kind->collection);
    TRY(remote_list(a->remote, path, 0, doing, &list));
    json_array_foreach (list, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name)
            json_object_set(by_name, name, item);
    }
    json_decref(list);
    return 0;
}

static int read_records(struct apply *a)
{
    json_t *list = NULL, *item;
    size_t i;
    TRY(remote_list(a->remote, "/api/v1/applied", 0, "read what was applied before", &list));
    json_array_foreach (list, i, item) {
        const char *id = json_string_value(json_object_get(item, "object"));
        if (id)
            json_object_set(a->records, id, item);
    }
    json_decref(list);
    return 0;
}

/* The record is read after the object: one that is newer says that the object is, too. */
static int read_hub(struct apply *a)
{
    a->live = json_object();
    a->records = json_object();
    TRY(read_caller(a));
    for (size_t i = 0; i < n_kinds; i++)
        TRY(read_kind(a, &kinds[i]));
    return read_records(a);
}

static json_t *live_of(const struct apply *a, const struct kind *kind, const char *name)
{
    return json_object_get(json_object_get(a->live, kind->name), name);
}

/* Steps own what they hold. */
static void fill_live(struct apply *a, struct plan_step *s, json_t *live)
{
    const char *id = json_string_value(json_object_get(live, "id"));
    json_t *record = id ? json_object_get(a->records, id) : NULL;
    s->live = json_incref(live);
    s->from = kind_declared(s->kind, live, remote_name_of, a->remote);
    if (!record)
        return;
    s->record = json_deep_copy(record);
    json_t *declared =
        kind_declared(s->kind, json_object_get(record, "declared"), remote_name_of, a->remote);
    json_object_set_new(s->record, "declared", declared);
}

/* --- planning -------------------------------------------------------------------------------- */

static bool is_declared(const struct apply *a, const struct kind *kind, const char *name)
{
    for (size_t i = 0; i < a->manifest.n; i++) {
        const struct manifest_object *o = &a->manifest.objects[i];
        if (o->kind == kind && strcmp(o->name, name) == 0)
            return true;
    }
    return false;
}

/* What the hub would make of the declaration; this is where it is checked. */
static int ask_hub(struct apply *a, struct plan_step *s, struct diag *d)
{
    const struct kind_ref *ref = s->kind->ref;
    const char *other = ref ? kind_text_at(s->source->body, ref->path) : NULL;
    CLEANUP(mem_free) char *path = remote_path(s->kind->collection, s->name, NULL);
    json_t *answer = NULL;
    remote_query(&path, "dry_run", "1");
    if (other && is_declared(a, kind_find(ref->kind), other))
        remote_query(&path, ref->query, other);
    char *body = json_dumps(s->source->body, JSON_COMPACT);
    int rc = remote_exchange(a->remote,
                             &(struct http_ask){.method = "PUT",
                                                .path = path,
                                                .content_type = "application/json",
                                                .body = body,
                                                .body_len = strlen(body)},
                             &answer, d);
    free(body);
    if (rc == 0)
        s->to = kind_declared(s->kind, answer, remote_name_of, a->remote);
    s->has_secret = json_is_true(json_object_get(answer, "has_other_passwords"));
    json_decref(answer);
    return rc;
}

static void tell_fault(struct apply *a, const struct plan_step *s, const struct diag *why)
{
    char place[300];
    manifest_place(s->source, why->field, place, sizeof(place));
    fprintf(a->call->err, "%s: %s %s: %s%s%s\n", place, s->kind->name, s->name, why->field,
            why->field[0] ? ": " : "", diag_text(why));
}

static bool is_content_fault(int err)
{
    return err == ERR_INVALID || err == ERR_NOT_FOUND || err == ERR_CONFLICT || err == ERR_LIMIT ||
           err == ERR_TOO_LARGE || err == ERR_USAGE || err == ERR_UNSUPPORTED;
}

/* 1: the hub refuses this object, which was told. */
static int plan_one(struct apply *a, const struct manifest_object *o)
{
    struct diag why = {0};
    struct plan_step *s = plan_add(&a->plan, o->kind, o->name);
    json_t *live = live_of(a, o->kind, o->name);
    s->source = o;
    if (live)
        fill_live(a, s, live);
    int rc = ask_hub(a, s, &why);
    if (rc == 0) {
        plan_decide(&a->rules, s);
        return 0;
    }
    if (!is_content_fault(rc))
        return remote_fail(a->remote, "check the declared objects", &why);
    tell_fault(a, s, &why);
    return 1;
}

static int plan_declared(struct apply *a)
{
    size_t faults = 0;
    for (size_t k = 0; k < n_kinds; k++) {
        for (size_t i = 0; i < a->manifest.n && faults < ERRORS_SHOWN_MAX; i++) {
            if (a->manifest.objects[i].kind == &kinds[k])
                faults += (size_t)TRY(plan_one(a, &a->manifest.objects[i]));
        }
    }
    if (faults)
        return call_fail(a->call, ERR_INVALID, NULL,
                         "%zu of %zu objects are wrong; nothing was "
                         "changed",
                         faults, a->manifest.n);
    return 0;
}

/* What the set has and the files have not. */
static void plan_prune(struct apply *a)
{
    for (size_t k = n_kinds; k-- > 0;) {
        const char *name;
        json_t *live;
        json_object_foreach (json_object_get(a->live, kinds[k].name), name, live) {
            const char *id = json_string_value(json_object_get(live, "id"));
            const json_t *record = id ? json_object_get(a->records, id) : NULL;
            const char *set = json_string_value(json_object_get(record, "set"));
            if (!set || strcmp(set, a->rules.set) != 0 || is_declared(a, &kinds[k], name))
                continue;
            struct plan_step *s = plan_add(&a->plan, &kinds[k], name);
            fill_live(a, s, live);
            plan_decide(&a->rules, s);
        }
    }
}

int apply_plan(struct apply *a)
{
    TRY(read_hub(a));
    TRY(plan_declared(a));
    if (a->prune)
        plan_prune(a);
    return 0;
}

/* --- carrying out ---------------------------------------------------------------------------- */

static int send_put(struct apply *a, const struct plan_step *s, json_t **ret, struct diag *d)
{
    CLEANUP(mem_free) char *path = remote_path(s->kind->collection, s->name, NULL);
    char version[32] = "*";
    if (s->live)
        snprintf(version, sizeof(version), "\"%" PRIu64 "\"", plan_version(s->live));
    const struct http_header headers[] = {{s->live ? "If-Match" : "If-None-Match", version}, {0}};
    remote_query(&path, "set", a->rules.set);
    char *body = json_dumps(s->source->body, JSON_COMPACT);
    int rc = remote_exchange(a->remote,
                             &(struct http_ask){.method = "PUT",
                                                .path = path,
                                                .content_type = "application/json",
                                                .body = body,
                                                .body_len = strlen(body),
                                                .headers = headers},
                             ret, d);
    free(body);
    return rc;
}

/* By id: a name may be another object's by now. */
static int send_delete(struct apply *a, const struct plan_step *s, struct diag *d)
{
    const char *id = json_string_value(json_object_get(s->live, "id"));
    CLEANUP(mem_free) char *path = remote_path(s->kind->collection, id, NULL);
    char version[32];
    snprintf(version, sizeof(version), "\"%" PRIu64 "\"", plan_version(s->live));
    const struct http_header headers[] = {{"If-Match", version}, {0}};
    int rc = remote_exchange(
        a->remote, &(struct http_ask){.method = "DELETE", .path = path, .headers = headers}, NULL,
        d);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static int run_step(struct apply *a, struct plan_step *s)
{
    struct diag d = {0};
    json_t *answer = NULL;
    int rc = 0;
    if (s->action == PLAN_DELETE)
        rc = send_delete(a, s, &d);
    else if (s->action != PLAN_UNCHANGED)
        rc = send_put(a, s, &answer, &d);
    if (rc < 0) {
        s->result = PLAN_FAILED;
        snprintf(s->failure, sizeof(s->failure), "%s", diag_text(&d));
        return call_fail(a->call, rc,
                         rc == ERR_STALE ? "apply again: it shows what was changed" : NULL,
                         "cannot %s the %s \"%s\": %s%s%s", plan_actions[s->action], s->kind->name,
                         s->name, d.field, d.field[0] ? ": " : "", diag_text(&d));
    }
    const char *id = json_string_value(json_object_get(answer, "id"));
    s->id = mem_strdup(id);
    s->result = PLAN_DONE;
    json_decref(answer);
    return 0;
}

int apply_run(struct apply *a)
{
    for (size_t i = 0; i < a->plan.n; i++)
        TRY(run_step(a, &a->plan.steps[i]));
    return 0;
}

void apply_done(struct apply *a)
{
    plan_done(&a->plan);
    manifest_done(&a->manifest);
    json_decref(a->live);
    json_decref(a->records);
}

/* --- who was it ------------------------------------------------------------------------------ */

static void put_when(struct buf *out, const char *rfc3339)
{
    int64_t ms;
    if (rfc3339 && time_parse(rfc3339, &ms) == 0) {
        buf_puts(out, " ");
        output_put_age(out, ms - time_wall_ms());
    }
}

static void put_who(struct apply *a, struct buf *out, const char *token)
{
    const char *name = token ? remote_name_of(a->remote, "tokens", token) : NULL;
    if (!token)
        return;
    buf_puts(out, strcmp(token, a->token) == 0 ? " by this token, " : " by ");
    output_put_safe(out, name ? name : token);
}

/* The newest act on the object, from the audit trail. */
static void put_last_act(struct apply *a, struct buf *out, const char *id)
{
    char *path = remote_path("audit", NULL, NULL);
    json_t *answer = NULL;
    struct diag d = {0};
    remote_query(&path, "object", id);
    remote_query(&path, "page_size", "1");
    if (remote_exchange(a->remote, &(struct http_ask){.path = path}, &answer, &d) == 0) {
        const json_t *act = json_array_get(json_object_get(answer, "items"), 0);
        const char *address = kind_text_at(act, "actor.address");
        if (act) {
            buf_puts(out, "changed");
            put_when(out, kind_text_at(act, "time"));
            put_who(a, out, kind_text_at(act, "actor.id"));
            buf_puts(out, address ? " from " : "");
            output_put_safe(out, address ? address : "");
        }
    }
    json_decref(answer);
    free(path);
}

char *apply_note(void *apply, const struct plan_step *s)
{
    struct apply *a = apply;
    struct buf out = {0};
    const char *id = json_string_value(json_object_get(s->live, "id"));
    if (id && (s->action == PLAN_CONFLICT || s->is_drift || !s->record)) {
        put_last_act(a, &out, id);
    } else if (s->record) {
        buf_puts(&out, "last applied");
        put_when(&out, kind_text_at(s->record, "time"));
        put_who(a, &out, kind_text_at(s->record, "token"));
    }
    return out.len ? buf_take(&out) : NULL;
}
