#include "http/internal.h"

#include "base/error.h"
#include "base/text.h"

#include <string.h>

int http_unescape(const char *s, size_t len, bool plus_is_space, char *out)
{
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (c == '%') {
            int high = i + 2 < len ? text_hex_value(s[i + 1]) : -1;
            int low = high >= 0 ? text_hex_value(s[i + 2]) : -1;
            if (low < 0 || (high | low) == 0)
                return ERR_INVALID;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        *out++ = c;
    }
    *out = '\0';
    return 0;
}

/* How well one segment fits: 3 literally, 2 {param} and a literal suffix, 1 {param}, 0 not at all.
 * Fills in the param. */
static unsigned match_segment(struct http_request *req, const char *pattern, size_t pattern_len,
                              const char *segment, size_t len)
{
    if (pattern[0] != '{')
        return pattern_len == len && memcmp(pattern, segment, len) == 0 ? 3 : 0;
    const char *close = memchr(pattern, '}', pattern_len);
    size_t name_len = (size_t)(close - pattern - 1);
    size_t suffix_len = pattern_len - name_len - 2;
    if (len <= suffix_len || memcmp(segment + len - suffix_len, close + 1, suffix_len) != 0)
        return 0;
    char *value = arena_alloc(&req->arena, len - suffix_len + 1);
    if (req->n_params == HTTP_PARAMS_MAX ||
        http_unescape(segment, len - suffix_len, false, value) < 0)
        return 0;
    req->params[req->n_params++] =
        (struct http_header){arena_strndup(&req->arena, pattern + 1, name_len), value};
    return suffix_len > 0 ? 2 : 1;
}

/* 0: does not fit; otherwise two bits for each segment, the first one highest. */
static uint64_t match(struct http_request *req, const char *pattern)
{
    const char *path = req->path;
    uint64_t score = 0;
    req->n_params = 0;
    while (*pattern == '/' && *path == '/') {
        size_t pattern_len = strcspn(++pattern, "/"), len = strcspn(++path, "/");
        unsigned fit =
            pattern_len == 0 && len == 0 ? 3 : match_segment(req, pattern, pattern_len, path, len);
        if (fit == 0)
            return 0;
        score = score << 2 | fit;
        pattern += pattern_len;
        path += len;
    }
    return *pattern == '\0' && *path == '\0' ? score : 0;
}

static bool method_fits(const struct http_route *r, const struct http_request *req)
{
    return strcmp(r->method, req->method) == 0 || (req->is_head && strcmp(r->method, "GET") == 0);
}

static void allow(struct http_request *req, const char **list, const char *method)
{
    if (http_value_has(*list, method))
        return;
    *list = arena_printf(&req->arena, "%s%s%s", *list, **list ? ", " : "", method);
    if (strcmp(method, "GET") == 0)
        allow(req, list, "HEAD");
}

static bool asks_for_udp(struct http_request *req)
{
    const char *connection = http_header(req, "connection"), *upgrade = http_header(req, "upgrade");
    return strcmp(req->method, "GET") == 0 && connection && upgrade &&
           http_value_has(connection, "upgrade") && http_value_has(upgrade, "connect-udp");
}

int http_route_find(struct http_server *s, struct http_request *req)
{
    uint64_t best = 0;
    const char *allowed = "";
    if (s->connect.handler && (strcmp(req->method, "CONNECT") == 0 || asks_for_udp(req))) {
        req->route = &s->connect;
        req->ctx = s->connect_ctx;
        return 0;
    }
    for (struct http_table *t = s->tables; t; t = t->next) {
        for (size_t i = 0; i < t->n; i++) {
            uint64_t score = match(req, t->rows[i].path);
            if (score > 0)
                allow(req, &allowed, t->rows[i].method);
            if (score > best && method_fits(&t->rows[i], req)) {
                best = score;
                req->route = &t->rows[i];
                req->ctx = t->ctx;
            }
        }
    }
    if (best > 0) {
        match(req, req->route->path);
        return 0;
    }
    if (!*allowed)
        return 404;
    http_add_header(req, "Allow", allowed);
    return 405;
}
