/*
 * A request from its head to its handler: route → body → authenticate → before → handler. Each step
 * may pause (HTTP_LATER); http_request_continue goes on with the next one.
 */
#include "http/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/gateway_rules.h"
#include "net/conn.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

/* Origin form, or absolute form without its scheme and host (RFC 9112 §3.2.2). */
static const char *path_of(const char *target)
{
    if (target[0] == '/')
        return target;
    const char *host = NULL;
    if (strncasecmp(target, "https://", 8) == 0)
        host = target + 8;
    else if (strncasecmp(target, "http://", 7) == 0)
        host = target + 7;
    if (!host)
        return "";
    return host[strcspn(host, "/")] ? strchr(host, '/') : "/";
}

struct http_request *http_request_new(struct http_link *link, const struct http_side_ops *ops,
                                      void *side, struct arena arena, const char *method,
                                      const char *target, const struct http_header *fields,
                                      size_t n_fields)
{
    struct http_request *req = NEW(struct http_request);
    req->server = link->server;
    req->loop = link->server->loop;
    req->link = link;
    req->ops = ops;
    req->side = side;
    req->arena = arena;
    req->method = method;
    req->is_head = strcmp(method, "HEAD") == 0;
    req->is_absolute = target[0] != '/';
    req->fields = fields;
    req->n_fields = n_fields;
    req->peer = link->peer;

    const char *path = strcmp(method, "CONNECT") == 0 ? target : path_of(target);
    size_t len = strcspn(path, "?");
    req->query = path[len] ? path + len + 1 : "";
    req->path = arena_strndup(&req->arena, path, len);

    DL_APPEND(req->server->requests, req);
    req->server->stats.in_flight++;
    link->source->in_flight++;
    req->server->stats.requests++;
    return req;
}

void *http_request_leave(struct http_request *req)
{
    if (req->link)
        req->link->source->in_flight--;
    req->link = NULL;
    return TAKE(req->side);
}

void http_request_free(struct http_request *req)
{
    http_request_leave(req);
    if (req->server) {
        DL_DELETE(req->server->requests, req);
        req->server->stats.in_flight--;
    }
    timer_stop(&req->sse.heartbeat);
    loop_defer_cancel(&req->sse.tell);
    loop_defer_cancel(&req->sse.room);
    loop_defer_cancel(&req->sse.check);
    json_decref(req->json);
    buf_done(&req->body);
    arena_done(&req->arena);
    mem_free(req);
}

static int refuse(struct http_request *req, int status, struct diag *d, int code, const char *text)
{
    req->server->stats.refused++;
    diag_set(d, code, "%s", text);
    return status;
}

static bool is_elsewhere(const struct http_request *req)
{
    const struct http_server *s = req->server;
    const char *authority = http_header(req, "host");
    char host[HOST_SIZE];
    return s->is_elsewhere && !req->is_absolute && authority &&
           gateway_host(authority, host) == 0 && s->is_elsewhere(s->is_elsewhere_arg, host);
}

int http_request_admit(struct http_request *req, bool has_body, int64_t content_length,
                       struct diag *d)
{
    int status = http_route_find(req->server, req);
    if (is_elsewhere(req))
        return refuse(req, 421, d, ERR_DENIED, "the connection was not made for this host");
    if (status == 404)
        return refuse(req, status, d, ERR_NOT_FOUND, "there is nothing at this path");
    if (status == 405)
        return refuse(req, status, d, ERR_USAGE, "this path does not know the method");
    if (req->server->stats.in_flight > HTTP_IN_FLIGHT_MAX)
        return refuse(req, 503, d, ERR_LIMIT, "too many requests are being worked on");
    if (req->link->source->in_flight > req->server->limits.requests_per_addr)
        return refuse(req, 429, d, ERR_RATE, "too many requests of your address wait for answers");
    if ((has_body && req->route->body_max == 0) || content_length > (int64_t)req->route->body_max) {
        diag_set(d, ERR_TOO_LARGE, "the body may have %zu bytes", req->route->body_max);
        req->server->stats.refused++;
        return 413;
    }
    req->body.limit = req->route->body_max;
    return 0;
}

int http_request_body(struct http_request *req, const void *data, size_t len)
{
    if (req->body.len + len > req->route->body_max)
        return ERR_TOO_LARGE;
    return buf_append(&req->body, data, len);
}

/* One step; true when the next one can follow at once. */
static bool step(struct http_request *req, struct diag *d)
{
    const struct http_hooks *h = &req->server->hooks;
    int rc = 0;
    switch (req->step) {
    case HTTP_STEP_AUTHENTICATE:
        req->step = HTTP_STEP_BEFORE;
        if (req->route->role == HTTP_PUBLIC)
            return true;
        rc = h->authenticate ? h->authenticate(req, d, h->arg) : ERR_UNAUTHENTICATED;
        break;
    case HTTP_STEP_BEFORE:
        req->step = HTTP_STEP_HANDLE;
        if (!h->before)
            return true;
        req->passed_before = true;
        rc = h->before(req, d, h->arg);
        break;
    case HTTP_STEP_HANDLE:
        req->step = HTTP_STEP_HELD;
        req->route->handler(req, req->ctx);
        return false;
    default:
        assert(!"a request goes through its steps once");
    }
    if (rc < 0) {
        req->passed_before = false;
        req->server->stats.refused++;
        d->code = rc;
        http_respond_diag(req, d);
    }
    return rc == 0;
}

static void advance(struct http_request *req)
{
    struct diag d = {0};
    while (step(req, &d))
        ;
}

void http_request_run(struct http_request *req)
{
    req->step = HTTP_STEP_AUTHENTICATE;
    advance(req);
}

void http_request_continue(struct http_request *req, const struct diag *d)
{
    if (!req->side || !req->server) {
        http_request_free(req); /* nobody waits, and nothing was done yet */
    } else if (d && d->code) {
        req->passed_before = false;
        req->server->stats.refused++;
        http_respond_diag(req, d);
    } else {
        advance(req);
    }
}

void http_request_gone(struct http_request *req)
{
    http_request_leave(req);
    if (req->step == HTTP_STEP_BODY) {
        http_request_free(req);
    } else if (req->step == HTTP_STEP_STREAM) {
        http_sse_lost(req);
    } else if (req->on_gone) {
        void (*fn)(void *) = TAKE(req->on_gone);
        fn(req->on_gone_arg);
    }
}

/* --- what a handler may ask ------------------------------------------------------------------- */

const struct http_route *http_route(const struct http_request *req)
{
    return req->route;
}

const char *http_method(const struct http_request *req)
{
    return req->method;
}

const char *http_path(const struct http_request *req)
{
    return req->path;
}

const char *http_query_text(const struct http_request *req)
{
    return req->query ? req->query : "";
}

const char *http_param(const struct http_request *req, const char *name)
{
    return http_header_get(req->params, req->n_params, name);
}

const char *http_query(const struct http_request *req, const char *name)
{
    /* Decoding allocates in the request's arena, which is the request's own business. */
    struct arena *arena = &((struct http_request *)req)->arena;
    for (const char *at = req->query; *at;) {
        size_t len = strcspn(at, "&");
        const char *equals = memchr(at, '=', len);
        size_t key_len = equals ? (size_t)(equals - at) : len;
        char *key = arena_alloc(arena, key_len + 1);
        if (http_unescape(at, key_len, true, key) == 0 && strcmp(key, name) == 0) {
            size_t value_len = equals ? len - key_len - 1 : 0;
            char *value = arena_alloc(arena, value_len + 1);
            if (http_unescape(at + len - value_len, value_len, true, value) == 0)
                return value;
        }
        at += len + (at[len] == '&');
    }
    return NULL;
}

const char *http_header(const struct http_request *req, const char *name)
{
    return http_header_get(req->fields, req->n_fields, name);
}

const void *http_body(const struct http_request *req, size_t *ret_len)
{
    *ret_len = req->body.len;
    return buf_text(&req->body);
}

struct arena *http_arena(struct http_request *req)
{
    return &req->arena;
}

const struct addr *http_peer(const struct http_request *req)
{
    return &req->peer;
}

struct conn *http_conn(const struct http_request *req)
{
    return req->link ? req->link->conn : NULL;
}

struct conn *http_take_conn(struct http_request *req)
{
    struct conn *c = req->side && req->ops->take ? req->ops->take(req) : NULL;
    if (!c)
        return NULL;
    req->server->stats.status_class[2]++;
    http_request_free(req);
    return c;
}

bool http_request_is_gone(const struct http_request *req)
{
    return req->side == NULL;
}

void http_request_on_gone(struct http_request *req, void (*fn)(void *arg), void *arg)
{
    req->on_gone = fn;
    req->on_gone_arg = arg;
}

void http_set_caller(struct http_request *req, void *caller)
{
    req->caller = caller;
}

void *http_caller(const struct http_request *req)
{
    return req->caller;
}

void http_set_hook_data(struct http_request *req, void *data)
{
    req->hook_data = data;
}

void *http_hook_data(const struct http_request *req)
{
    return req->hook_data;
}
