/*
 * JSON bodies: read with limits, then taken apart by dotted paths that are also the field of the
 * diag. And JSON answers.
 */
#include "http/rest.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- reading the body ------------------------------------------------------------------------- */

static bool is_too_deep(const char *s, size_t len)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            in_string = !in_string;
        else if (!in_string && (s[i] == '{' || s[i] == '['))
            depth++;
        else if (!in_string && (s[i] == '}' || s[i] == ']') && depth > 0)
            depth--;
        if (depth > REST_DEPTH_MAX)
            return true;
    }
    return false;
}

static bool is_json_type(const char *type)
{
    size_t len = strcspn(type, "; \t");
    return (len == 16 && strncasecmp(type, "application/json", len) == 0) ||
           (len == 28 && strncasecmp(type, "application/merge-patch+json", len) == 0);
}

int rest_body(struct http_request *req, json_t **ret, struct diag *d)
{
    size_t len;
    const char *text = http_body(req, &len);
    const char *type = http_header(req, "Content-Type");
    json_error_t error = {0};
    if (len > 0 && (!type || !is_json_type(type)))
        return diag_set_field(d, ERR_INVALID, "Content-Type", "the body must be application/json");
    if (is_too_deep(text, len))
        return diag_set(d, ERR_INVALID, "the JSON is nested deeper than %d", REST_DEPTH_MAX);
    if (!req->json)
        req->json =
            len == 0 ? json_object() : json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!req->json)
        return diag_set(d, ERR_INVALID, "not JSON: %s (line %d, column %d)", error.text, error.line,
                        error.column);
    if (!json_is_object(req->json))
        return diag_set(d, ERR_INVALID, "the body must be a JSON object");
    *ret = req->json;
    return 0;
}

/* --- members ---------------------------------------------------------------------------------- */

/* The value at the path, also a null one; NULL if it is absent. `*ret_bad` becomes true when
 * something on the way is not an object. */
static json_t *find(json_t *obj, const char *path, bool *ret_bad)
{
    char name[64];
    while (*path && obj && !json_is_null(obj)) {
        size_t len = strcspn(path, ".");
        if (!json_is_object(obj) || len >= sizeof(name)) {
            *ret_bad = true;
            return NULL;
        }
        memcpy(name, path, len);
        name[len] = '\0';
        obj = json_object_get(obj, name);
        path += len + (path[len] == '.');
    }
    return *path ? NULL : obj;
}

/* 1: it is there, not null. */
static int get(json_t *obj, const char *path, bool required, json_t **ret, struct diag *d)
{
    bool bad = false;
    json_t *v = find(obj, path, &bad);
    if (bad)
        return diag_set_field(d, ERR_INVALID, path, "the member around it must be an object");
    if (v && !json_is_null(v)) {
        *ret = v;
        return 1;
    }
    return required ? diag_set_field(d, ERR_INVALID, path, "is required") : 0;
}

static int wrong(struct diag *d, const char *path, const char *what)
{
    return diag_set_field(d, ERR_INVALID, path, "must be %s", what);
}

int rest_text(json_t *obj, const char *path, bool required, const char **ret, struct diag *d)
{
    json_t *v = NULL;
    if (TRY(get(obj, path, required, &v, d)) == 0)
        return 0;
    if (!json_is_string(v))
        return wrong(d, path, "a string");
    *ret = json_string_value(v);
    return 0;
}

int rest_name(json_t *obj, const char *path, bool required, const char **ret, struct diag *d)
{
    const char *name = NULL;
    TRY(rest_text(obj, path, required, &name, d));
    if (name && !text_is_name(name))
        return wrong(d, path, "1 to 63 of a-z, 0-9 and -, with no - at either end");
    if (name)
        *ret = name;
    return 0;
}

int rest_int(json_t *obj, const char *path, int64_t min, int64_t max, bool required, int64_t *ret,
             struct diag *d)
{
    json_t *v = NULL;
    if (TRY(get(obj, path, required, &v, d)) == 0)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return diag_set_field(d, ERR_INVALID, path,
                              "must be a whole number from %" PRId64 " to %" PRId64, min, max);
    *ret = json_integer_value(v);
    return 0;
}

int rest_bool(json_t *obj, const char *path, bool required, bool *ret, struct diag *d)
{
    json_t *v = NULL;
    if (TRY(get(obj, path, required, &v, d)) == 0)
        return 0;
    if (!json_is_boolean(v))
        return wrong(d, path, "true or false");
    *ret = json_is_true(v);
    return 0;
}

int rest_duration_ms(json_t *obj, const char *path, bool required, int64_t *ret, struct diag *d)
{
    const char *text = NULL;
    TRY(rest_text(obj, path, required, &text, d));
    if (text && text_to_duration_ms(text, ret) < 0)
        return wrong(d, path, "a duration such as \"30m\"");
    return 0;
}

int rest_object(json_t *obj, const char *path, bool required, json_t **ret, struct diag *d)
{
    json_t *v = NULL;
    if (TRY(get(obj, path, required, &v, d)) == 0)
        return 0;
    if (!json_is_object(v))
        return wrong(d, path, "an object");
    *ret = v;
    return 0;
}

int rest_array(json_t *obj, const char *path, size_t max, bool required, json_t **ret,
               struct diag *d)
{
    json_t *v = NULL;
    if (TRY(get(obj, path, required, &v, d)) == 0)
        return 0;
    if (!json_is_array(v))
        return wrong(d, path, "an array");
    if (json_array_size(v) > max)
        return diag_set_field(d, ERR_INVALID, path, "may have %zu elements", max);
    *ret = v;
    return 0;
}

bool rest_is_null(json_t *obj, const char *path)
{
    bool bad = false;
    json_t *v = find(obj, path, &bad);
    return v && json_is_null(v);
}

static bool is_listed(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

int rest_only(json_t *obj, const char *path, const char *const *names, struct diag *d)
{
    json_t *at = NULL, *value;
    const char *name;
    char field[64];
    TRY(rest_object(obj, path, false, &at, d));
    json_object_foreach (at, name, value) {
        if (is_listed(names, name))
            continue;
        snprintf(field, sizeof(field), "%s%s%s", path, *path ? "." : "", name);
        return diag_set_field(d, ERR_INVALID, field, "there is no such member");
    }
    return 0;
}

/* --- answers ---------------------------------------------------------------------------------- */

void http_respond_json(struct http_request *req, int status, json_t *body, uint64_t version)
{
    if (version > 0) {
        char etag[32];
        snprintf(etag, sizeof(etag), "\"%" PRIu64 "\"", version);
        http_add_header(req, "ETag", etag);
        const char *known = http_header(req, "If-None-Match");
        bool is_read = strcmp(req->method, "GET") == 0 || req->is_head;
        if (is_read && known && (http_value_has(known, etag) || strcmp(known, "*") == 0)) {
            json_decref(body);
            http_respond_empty(req, 304);
            return;
        }
    }
    char *text = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(body);
    if (text)
        http_respond(req, status, "application/json", text, strlen(text));
    else
        http_respond_error(req, ERR_BUG, "the answer is not representable");
    free(text);
}

void rest_respond_page(struct http_request *req, json_t *items, const char *next_after)
{
    char token[BASE64_SIZE(REST_POSITION_SIZE)];
    json_t *page = json_object();
    json_object_set_new(page, "items", items);
    if (next_after) {
        size_t len = strlen(next_after);
        text_base64url(next_after, MIN(len, (size_t)REST_POSITION_SIZE - 1), token, sizeof(token));
        json_object_set_new(page, "next_page_token", json_string(token));
    } else {
        json_object_set_new(page, "next_page_token", json_null());
    }
    http_respond_json(req, 200, page, 0);
}

json_t *rest_time(int64_t wall_ms)
{
    char text[TIME_TEXT_SIZE];
    if (!wall_ms)
        return json_null();
    time_format(wall_ms, text);
    return json_string(text);
}

static int compare_entries(const void *a, const void *b)
{
    const struct rest_entry *x = a, *y = b;
    return x->created != y->created ? (x->created > y->created ? 1 : -1) : strcmp(x->id, y->id);
}

/* Positions are "CREATED.ID" of the last entry shown. */
static bool is_after(const char *position, const struct rest_entry *e)
{
    char *dot;
    if (!*position)
        return true;
    int64_t at = strtoll(position, &dot, 10);
    return e->created > at || (e->created == at && *dot == '.' && strcmp(e->id, dot + 1) > 0);
}

static void swap(struct rest_entry *a, struct rest_entry *b)
{
    struct rest_entry was = *a;
    *a = *b;
    *b = was;
}

/* Keeps the first `n` entries a heap whose root comes last in order. */
static void sink(struct rest_entry *heap, size_t n, size_t i)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && compare_entries(&heap[child + 1], &heap[child]) > 0)
            child++;
        if (compare_entries(&heap[child], &heap[i]) <= 0)
            return;
        swap(&heap[child], &heap[i]);
    }
}

/* Moves the `keep` entries that come first in order to the front, and sorts them: a page of a long
 * list costs little more than looking at it. Returns how many they are. */
static size_t sort_first(struct rest_entry *list, size_t n, size_t keep)
{
    size_t kept = MIN(n, keep);
    if (n > keep) {
        for (size_t i = kept / 2; i-- > 0;)
            sink(list, kept, i);
        for (size_t i = kept; i < n; i++) {
            if (compare_entries(&list[i], &list[0]) < 0) {
                swap(&list[i], &list[0]);
                sink(list, kept, 0);
            }
        }
    }
    qsort(list, kept, sizeof(*list), compare_entries);
    return kept;
}

void rest_respond_list(struct http_request *req, struct rest_entry *entries, size_t n,
                       json_t *(*render)(void *ctx, void *object), void *ctx)
{
    CLEANUP(mem_free) struct rest_entry *list = entries;
    struct diag d = {0};
    struct rest_page page;
    char last[REST_POSITION_SIZE];
    if (rest_page(req, &page, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        if (is_after(page.after, &list[i]))
            list[left++] = list[i];
    }
    size_t first = sort_first(list, left, page.size);
    json_t *items = json_array();
    for (size_t i = 0; i < first; i++)
        json_array_append_new(items, render(ctx, list[i].object));
    if (first)
        snprintf(last, sizeof(last), "%" PRId64 ".%s", list[first - 1].created, list[first - 1].id);
    rest_respond_page(req, items, first < left ? last : NULL);
}

int rest_sse_send(struct http_sse *sse, uint64_t id, const char *event, json_t *data)
{
    char id_text[24];
    snprintf(id_text, sizeof(id_text), "%" PRIu64, id);
    char *text = json_dumps(data, JSON_COMPACT);
    json_decref(data);
    int rc = http_sse_send(sse, id_text, event, text ? text : "{}");
    free(text);
    return rc;
}
