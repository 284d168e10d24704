/*
 * Answers: the one way out of a request, and what errors look like (RFC 9457).
 */
#include "http/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"

#include <assert.h>
#include <ctype.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct {
    int code, status;
} status_table[] = {
    {ERR_INVALID, 400},      {ERR_USAGE, 400},   {ERR_PROTO, 400},       {ERR_UNAUTHENTICATED, 401},
    {ERR_DENIED, 403},       {ERR_EXPIRED, 403}, {ERR_REVOKED, 403},     {ERR_NOT_FOUND, 404},
    {ERR_CONFLICT, 409},     {ERR_EXISTS, 409},  {ERR_STALE, 412},       {ERR_TOO_LARGE, 413},
    {ERR_PRECONDITION, 428}, {ERR_RATE, 429},    {ERR_UNSUPPORTED, 501}, {ERR_LIMIT, 503},
    {ERR_UNAVAILABLE, 503},  {ERR_TIMEOUT, 504}, {ERR_IN_DOUBT, 503},
};

int http_status_of(int code)
{
    for (size_t i = 0; i < ARRAY_SIZE(status_table); i++)
        if (status_table[i].code == code)
            return status_table[i].status;
    return code == 0 ? 200 : 500;
}

const char *http_date(struct loop *l, char out[40])
{
    time_t now = (time_t)(time_wall_ms() / 1000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(out, 40, "%a, %d %b %Y %H:%M:%S GMT", &tm); /* the process stays in the C locale */
    return out;
}

void http_add_header(struct http_request *req, const char *name, const char *value)
{
    assert(http_is_token(name) && http_value_is_safe(value) && req->n_out < HTTP_OUT_MAX);
    char *lower = arena_strdup(&req->arena, name);
    for (char *c = lower; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    req->out[req->n_out++] = (struct http_header){lower, arena_strdup(&req->arena, value)};
}

static void add_default(struct http_request *req, const char *name, const char *value)
{
    if (!http_header_get(req->out, req->n_out, name) && req->n_out < HTTP_OUT_MAX)
        http_add_header(req, name, value);
}

struct http_answer http_answer_make(struct http_request *req, int status, const char *content_type,
                                    const void *body, size_t len, struct http_header *out)
{
    char date[40];
    struct http_answer a = {.status = status, .headers = out, .body = body, .len = len};
    if (status == 401)
        add_default(req, "www-authenticate", "Bearer realm=\"warren\"");
    if (status == 429 || status == 503)
        add_default(req, "retry-after", "1");
    if (content_type)
        out[a.n_headers++] = (struct http_header){"content-type", content_type};
    if (!http_header_get(req->out, req->n_out, "cache-control"))
        out[a.n_headers++] = (struct http_header){"cache-control", "no-store"};
    out[a.n_headers++] = (struct http_header){"x-content-type-options", "nosniff"};
    out[a.n_headers++] =
        (struct http_header){"date", arena_strdup(&req->arena, http_date(req->loop, date))};
    for (size_t i = 0; i < req->n_out; i++)
        out[a.n_headers++] = req->out[i];
    return a;
}

static void send_answer(struct http_request *req, int status, const char *content_type,
                        const void *body, size_t len)
{
    if (req->side) {
        struct http_header headers[HTTP_ANSWER_HEADERS];
        struct http_answer a = http_answer_make(req, status, content_type, body, len, headers);
        req->ops->answer(req, &a);
    }
    http_request_free(req);
}

static bool is_held_back(struct http_request *req, int status, const void *body, size_t len)
{
    struct http_server *s = req->server;
    if (!s || !req->passed_before || !s->hooks.after)
        return false;
    req->passed_before = false;
    return s->hooks.after(req, status, body, len, s->hooks.arg) == HTTP_LATER;
}

void http_respond(struct http_request *req, int status, const char *content_type, const void *body,
                  size_t len)
{
    if (req->server)
        req->server->stats.status_class[(unsigned)status / 100 % 6]++;
    if (!is_held_back(req, status, body, len)) {
        send_answer(req, status, content_type, body, len);
        return;
    }
    req->held.status = status;
    req->held.content_type = arena_strdup(&req->arena, content_type);
    req->held.body = arena_strndup(&req->arena, body, len);
    req->held.len = len;
}

void http_request_release(struct http_request *req)
{
    send_answer(req, req->held.status, req->held.content_type, req->held.body, req->held.len);
}

void http_respond_text(struct http_request *req, int status, const char *text)
{
    http_respond(req, status, "text/plain; charset=utf-8", text, strlen(text));
}

void http_respond_empty(struct http_request *req, int status)
{
    http_respond(req, status, NULL, "", 0);
}

void http_problem_write(struct buf *body, int status, const struct diag *d)
{
    char type[64];
    snprintf(type, sizeof(type), "urn:warren:error:%s", error_name(d->code));
    json_t *o =
        json_pack("{s:s, s:s, s:i}", "type", type, "title", error_text(d->code), "status", status);
    const char *text = diag_text(d);
    json_object_set_new(o, "detail", json_stringn(text, strlen(text)));
    if (!json_object_get(o, "detail")) /* not UTF-8: quoted from input */
        json_object_set_new(o, "detail", json_string(error_text(d->code)));
    if (d->field[0])
        json_object_set_new(o, "field", json_string(d->field));
    char *dump = json_dumps(o, JSON_COMPACT);
    buf_puts(body, dump);
    buf_puts(body, "\n");
    free(dump);
    json_decref(o);
}

void http_respond_problem(struct http_request *req, int status, const struct diag *d)
{
    struct buf body = {0};
    http_problem_write(&body, status, d);
    http_respond(req, status, "application/problem+json", body.data, body.len);
    buf_done(&body);
}

void http_respond_diag(struct http_request *req, const struct diag *d)
{
    http_respond_problem(req, http_status_of(d->code), d);
}

void http_respond_error(struct http_request *req, int code, const char *format, ...)
{
    struct diag d = {.code = code};
    va_list args;
    va_start(args, format);
    vsnprintf(d.text, sizeof(d.text), format, args);
    va_end(args);
    http_respond_diag(req, &d);
}
