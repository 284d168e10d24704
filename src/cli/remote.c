#include "cli/remote.h"

#include "base/error.h"
#include "base/id.h"
#include "base/mem.h"
#include "cli/context_ca.h"
#include "cli/remote_settings.h"

#include <stdlib.h>
#include <string.h>

#define PAGE_SIZE   "1000"
#define PAGES_MAX   10000
#define SEND_TRIES  3
#define DOING_NAMES "look up names"

struct remote {
    struct call *call;
    struct remote_settings settings;
    struct http_client_config http;
    char **old_cas; /* that copies of `http` may still name */
    size_t n_old_cas;
    json_t *names; /* {"networks": {id: name}}; a collection that failed is {} */
};

static struct remote *remote_from(struct call *c, struct remote_settings *s)
{
    struct remote *r = NEW(struct remote);
    r->call = c;
    r->settings = *s;
    *s = (struct remote_settings){0};
    r->http = (struct http_client_config){
        .base_url = r->settings.hub,
        .ca_file = r->settings.ca_file,
        .ca_pem = r->settings.ca_pem,
        .ca_sha256 = r->settings.has_pin ? r->settings.pin : NULL,
        .bearer = r->settings.token,
    };
    r->names = json_object();
    return r;
}

struct remote *remote_new(struct call *c, const char *hub, const char *token, const char *ca)
{
    struct remote_settings s = {
        .hub = mem_strdup(hub), .token = mem_strdup(token), .ca_pem = mem_strdup(ca)};
    return remote_from(c, &s);
}

int remote_open(struct call *c, struct remote **ret)
{
    struct remote_settings s = {0};
    int r = remote_settings_find(c, &s);
    if (r < 0)
        remote_settings_done(&s);
    else
        *ret = remote_from(c, &s);
    return r;
}

void remote_free(struct remote *r)
{
    if (!r)
        return;
    remote_settings_done(&r->settings);
    for (size_t i = 0; i < r->n_old_cas; i++)
        free(r->old_cas[i]);
    free(r->old_cas);
    json_decref(r->names);
    free(r);
}

const char *remote_hub(const struct remote *r)
{
    return r->settings.hub;
}

const struct http_client_config *remote_http(const struct remote *r)
{
    return &r->http;
}

/* --- paths ----------------------------------------------------------------------------------- */

/* RFC 3986 §2.3: all but unreserved characters as %XX. */
static void escape(struct buf *out, const char *s)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    for (; *s; s++)
        if (strchr(plain, *s))
            buf_append(out, s, 1);
        else
            buf_printf(out, "%%%02X", (unsigned char)*s);
}

char *remote_path(const char *collection, const char *name, const char *suffix)
{
    struct buf path = {0};
    buf_printf(&path, "/api/v1/%s", collection);
    if (name) {
        buf_puts(&path, "/");
        escape(&path, name);
    }
    buf_puts(&path, suffix ? suffix : "");
    return buf_take(&path);
}

void remote_query(char **path, const char *key, const char *value)
{
    struct buf longer = {0};
    if (!value)
        return;
    buf_printf(&longer, "%s%c%s=", *path, strchr(*path, '?') ? '&' : '?', key);
    escape(&longer, value);
    free(*path);
    *path = buf_take(&longer);
}

/* --- calls ----------------------------------------------------------------------------------- */

int remote_fail(struct remote *r, const char *doing, const struct diag *why)
{
    struct call *c = r->call;
    bool names_field = !why->field[0] || strstr(diag_text(why), why->field);
    return call_fail(c, why->code, NULL, "cannot %s: %s%s%s", doing, names_field ? "" : why->field,
                     names_field ? "" : ": ", diag_text(why));
}

static int read_json(const struct http_reply *reply, json_t **ret, struct diag *d)
{
    json_error_t error;
    if (!ret)
        return 0;
    json_t *value =
        json_loadb(buf_text(&reply->body), reply->body.len, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        return diag_set(d, ERR_PROTO, "the answer is not JSON; is this the address of a hub?");
    *ret = value;
    return 0;
}

/* A login outlives a rotation of the hub's CA. */
static void renew_ca(struct remote *r, const struct http_reply *reply)
{
    char *now =
        r->settings.ca_context ? context_ca_renew(r->settings.ca_context, &r->http, reply) : NULL;
    if (!now)
        return;
    r->old_cas = mem_grow(r->old_cas, (r->n_old_cas + 1) * sizeof(*r->old_cas));
    r->old_cas[r->n_old_cas++] = r->settings.ca_pem;
    r->settings.ca_pem = now;
    r->http.ca_pem = now;
}

int remote_exchange(struct remote *r, const struct http_ask *ask, json_t **ret, struct diag *d)
{
    struct http_reply reply = {0};
    int result = http_fetch(&r->http, ask, &reply, d);
    if (result == 0)
        renew_ca(r, &reply);
    if (result == 0)
        result = reply.status >= 400 ? http_reply_diag(&reply, d) : read_json(&reply, ret, d);
    http_reply_done(&reply);
    return result;
}

int remote_get(struct remote *r, const char *path, const char *doing, json_t **ret)
{
    struct diag d = {0};
    int result = remote_exchange(r, &(struct http_ask){.path = path}, ret, &d);
    return result < 0 ? remote_fail(r, doing, &d) : 0;
}

/* One page added to `items`; *token is that of the next one, or NULL. */
static int list_page(struct remote *r, const char *path, char **token, json_t *items,
                     struct diag *d)
{
    CLEANUP(mem_free) char *page = mem_strdup(path);
    json_t *answer = NULL;
    remote_query(&page, "page_size", PAGE_SIZE);
    remote_query(&page, "page_token", *token);
    TRY(remote_exchange(r, &(struct http_ask){.path = page}, &answer, d));
    const char *next = json_string_value(json_object_get(answer, "next_page_token"));
    free(*token);
    *token = mem_strdup(next);
    int result = json_array_extend(items, json_object_get(answer, "items"));
    json_decref(answer);
    return result < 0 ? diag_set(d, ERR_PROTO, "the answer is not a list") : 0;
}

static int list_all(struct remote *r, const char *path, size_t limit, json_t **ret, struct diag *d)
{
    CLEANUP(mem_free) char *token = NULL;
    json_t *items = json_array();
    for (int page = 0; page < PAGES_MAX; page++) {
        int result = list_page(r, path, &token, items, d);
        if (result < 0) {
            json_decref(items);
            return result;
        }
        if (!token || (limit && json_array_size(items) >= limit))
            break;
    }
    while (limit && json_array_size(items) > limit)
        json_array_remove(items, json_array_size(items) - 1);
    *ret = items;
    return 0;
}

int remote_list(struct remote *r, const char *path, size_t limit, const char *doing, json_t **ret)
{
    struct diag d = {0};
    int result = list_all(r, path, limit, ret, &d);
    return result < 0 ? remote_fail(r, doing, &d) : 0;
}

int remote_send(struct remote *r, const char *method, const char *path, json_t *body,
                uint64_t if_version, const char *doing, json_t **ret)
{
    struct diag d = {0};
    struct http_header headers[3] = {{0}};
    char key[ID_SIZE], version[32];
    size_t n = 0;
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    bool is_post = strcmp(method, "POST") == 0;
    if (is_post) {
        id_new(key, "cli");
        headers[n++] = (struct http_header){"Idempotency-Key", key};
    }
    if (if_version) {
        snprintf(version, sizeof(version), "\"%llu\"", (unsigned long long)if_version);
        headers[n++] = (struct http_header){"If-Match", version};
    }
    struct http_ask ask = {
        .method = method,
        .path = path,
        .content_type = !text                          ? NULL
                        : strcmp(method, "PATCH") == 0 ? "application/merge-patch+json"
                                                       : "application/json",
        .body = text,
        .body_len = text ? strlen(text) : 0,
        .headers = headers,
    };
    int result = 0;
    for (int tries = 0; tries < (is_post ? SEND_TRIES : 1); tries++) {
        d = (struct diag){0};
        result = remote_exchange(r, &ask, ret, &d);
        if (result != ERR_RESET && result != ERR_CLOSED)
            break;
    }
    free(text);
    return result < 0 ? remote_fail(r, doing, &d) : 0;
}

int remote_watch(struct remote *r, const char *path, const char *resume, uint32_t silence_ms,
                 int (*on_event)(void *arg, const struct http_event *e), void *arg, struct diag *d)
{
    CLEANUP(mem_free) char *watch = mem_strdup(path);
    struct http_header headers[] = {
        {"Accept", "text/event-stream"}, {resume ? "Last-Event-ID" : NULL, resume}, {0}};
    struct http_client_config http = r->http;
    http.timeout_ms = silence_ms;
    remote_query(&watch, "watch", "1");
    return http_watch(&http, &(struct http_ask){.path = watch, .headers = headers}, on_event, arg,
                      d);
}

int remote_stream(struct remote *r, const char *path, json_t *body,
                  int (*on_event)(void *arg, const struct http_event *e), void *arg, struct diag *d)
{
    static const struct http_header headers[] = {{"Accept", "text/event-stream"}, {0}};
    CLEANUP(mem_free) char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    const struct http_ask ask = {.method = "POST",
                                 .path = path,
                                 .content_type = "application/json",
                                 .body = text,
                                 .body_len = strlen(text),
                                 .headers = headers};
    return http_watch(&r->http, &ask, on_event, arg, d);
}

int remote_probe(struct remote *r, const char *path, int *ret_status, struct diag *d)
{
    struct http_reply reply = {0};
    TRY(http_fetch(&r->http, &(struct http_ask){.path = path}, &reply, d));
    *ret_status = reply.status;
    http_reply_done(&reply);
    return 0;
}

/* --- names ----------------------------------------------------------------------------------- */

static json_t *fetch_names(struct remote *r, const char *collection)
{
    CLEANUP(mem_free) char *path = remote_path(collection, NULL, NULL);
    struct diag d = {0};
    json_t *list = NULL, *names = json_object(), *item;
    size_t i;
    if (list_all(r, path, 0, &list, &d) < 0)
        return names;
    json_array_foreach (list, i, item) {
        const char *id = json_string_value(json_object_get(item, "id"));
        if (id)
            json_object_set(names, id, json_object_get(item, "name"));
    }
    json_decref(list);
    return names;
}

const char *remote_name_of(void *remote, const char *collection, const char *id)
{
    struct remote *r = remote;
    json_t *names = json_object_get(r->names, collection);
    if (!names) {
        names = fetch_names(r, collection);
        json_object_set_new(r->names, collection, names);
    }
    return json_string_value(json_object_get(names, id));
}
