#include "http/gateway_rules.h"

#include "base/error.h"
#include "base/id.h"
#include "base/macro.h"
#include "base/text.h"
#include "wire/http1.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define WEBSOCKET_KEY_BYTES 16

static const char *const hop_by_hop[] = {
    "connection", "keep-alive",        "proxy-connection", "proxy-authenticate", "trailer",
    "te",         "transfer-encoding", "upgrade",          "http2-settings",
};

/* Beside those that begin with x-forwarded-. */
static const char *const of_proxies[] = {"forwarded", "x-real-ip"};

/* What we write ourselves, or have dealt with. */
static const char *const rewritten[] = {"host", "content-length", "expect", "proxy-authorization"};

/* Where '_' and '-' are the same, as they are to a target that makes variables of field names. */
static bool is_like(const char *name, const char *wanted, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = name[i] == '_' ? '-' : name[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (c != wanted[i])
            return false;
    }
    return true;
}

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(name) == strlen(list[i]) && is_like(name, list[i], strlen(name)))
            return true;
    }
    return false;
}

static bool is_forwarding(const char *name)
{
    static const char prefix[] = "x-forwarded-";
    return is_one_of(name, of_proxies, ARRAY_SIZE(of_proxies)) ||
           (strlen(name) >= sizeof(prefix) - 1 && is_like(name, prefix, sizeof(prefix) - 1));
}

static bool is_hop_by_hop(const char *name, const struct http_header *fields, size_t n)
{
    if (is_one_of(name, hop_by_hop, ARRAY_SIZE(hop_by_hop)))
        return true;
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(fields[i].name, "connection") == 0 && http_value_has(fields[i].value, name))
            return true;
    }
    return false;
}

/* ---- requests ---- */

int gateway_host(const char *authority, char ret[HOST_SIZE])
{
    char host[HOST_SIZE + 8];
    size_t len = strlen(authority);
    const char *colon = strchr(authority, ':');
    if (len >= sizeof(host))
        return ERR_INVALID;
    memcpy(host, authority, len + 1);
    if (colon) {
        uint64_t port;
        if (text_to_u64(colon + 1, UINT16_MAX, &port) < 0)
            return ERR_INVALID;
        host[colon - authority] = '\0';
    }
    return host_name_parse(host, ret);
}

static bool is_clean(const char *path)
{
    for (const unsigned char *c = (const unsigned char *)path; *c; c++) {
        if (*c <= ' ' || *c == 0x7f || *c == '#')
            return false;
    }
    return true;
}

static int check_absolute(const char *rest, const char *host, const char **ret)
{
    char authority[HOST_SIZE + 8], name[HOST_SIZE];
    size_t len = strcspn(rest, "/?");
    if (len >= sizeof(authority))
        return ERR_INVALID;
    memcpy(authority, rest, len);
    authority[len] = '\0';
    if (gateway_host(authority, name) < 0 || strcmp(name, host) != 0)
        return ERR_INVALID;
    if (rest[len] == '?')
        return ERR_INVALID; /* "https://host?x": there is no such path to point at */
    *ret = rest[len] ? rest + len : "/";
    return 0;
}

int gateway_target(const char *method, const char *target, const char *host, const char **ret)
{
    if (!is_clean(target))
        return ERR_INVALID;
    if (target[0] == '/' || (strcmp(target, "*") == 0 && strcmp(method, "OPTIONS") == 0)) {
        *ret = target;
        return 0;
    }
    if (strncasecmp(target, "https://", 8) == 0)
        return check_absolute(target + 8, host, ret);
    if (strncasecmp(target, "http://", 7) == 0)
        return check_absolute(target + 7, host, ret);
    return ERR_INVALID;
}

int gateway_absolute(struct arena *a, const char *method, const char *target, struct host_port *ret,
                     const char **ret_authority, const char **ret_path)
{
    static const char scheme[] = "http://";
    char text[HOST_SIZE + 16];
    if (!is_clean(target) || strncasecmp(target, scheme, strlen(scheme)) != 0)
        return ERR_INVALID;
    target += strlen(scheme);
    size_t len = strcspn(target, "/?");
    if (!len || len > HOST_SIZE + 8)
        return ERR_INVALID;
    const char *bracket = memchr(target, ']', len), *after = bracket ? bracket : target;
    bool has_port = memchr(after, ':', len - (size_t)(after - target));
    snprintf(text, sizeof(text), "%.*s%s", (int)len, target, has_port ? "" : ":80");
    TRY(host_port_parse(text, false, ret, NULL));
    *ret_authority = arena_strndup(a, target, len);
    if (target[len] == '/')
        *ret_path = target + len;
    else if (target[len])
        *ret_path = arena_printf(a, "/%s", target + len);
    else /* RFC 9112 section 3.2.4 */
        *ret_path = strcmp(method, "OPTIONS") == 0 ? "*" : "/";
    return 0;
}

bool gateway_wants_websocket(const char *method, const struct http_header *fields, size_t n)
{
    const char *connection = http_header_get(fields, n, "connection");
    const char *upgrade = http_header_get(fields, n, "upgrade");
    return strcmp(method, "GET") == 0 && connection && http_value_has(connection, "upgrade") &&
           upgrade && strcasecmp(upgrade, "websocket") == 0;
}

/* A Cookie field without the cookie that was ours, added to `out`. */
static void add_cookies(struct buf *out, const char *value, const char *dropped)
{
    size_t name_len = dropped ? strlen(dropped) : 0;
    for (const char *at = value; *at;) {
        at += strspn(at, "; ");
        size_t len = strcspn(at, ";");
        bool is_ours =
            dropped && len > name_len && at[name_len] == '=' && strncmp(at, dropped, name_len) == 0;
        if (len > 0 && !is_ours)
            buf_printf(out, "%s%.*s", out->len ? "; " : "", (int)len, at);
        at += len;
    }
}

static void put_forwarding(struct buf *out, const struct gateway_head *h)
{
    char ip[ADDR_TEXT_SIZE];
    addr_format_ip(h->peer, ip, sizeof(ip));
    bool is_v6 = strchr(ip, ':') != NULL;
    buf_printf(out, "Forwarded: for=%s%s%s;host=\"%s\";proto=https\r\n", is_v6 ? "\"[" : "", ip,
               is_v6 ? "]\"" : "", h->host);
    http1_put_field(out, "X-Forwarded-For", ip);
    http1_put_field(out, "X-Forwarded-Host", h->host);
    http1_put_field(out, "X-Forwarded-Proto", "https");
    http1_put_field(out, "Via", "1.1 warren");
}

static void put_upgrade(struct buf *out, const struct gateway_head *h)
{
    http1_put_field(out, "Connection", "Upgrade");
    http1_put_field(out, "Upgrade", "websocket");
    if (!h->needs_key)
        return;
    uint8_t key[WEBSOCKET_KEY_BYTES];
    char text[BASE64_SIZE(WEBSOCKET_KEY_BYTES)];
    random_bytes(key, sizeof(key));
    text_base64(key, sizeof(key), text, sizeof(text));
    http1_put_field(out, "Sec-WebSocket-Key", text);
}

static bool passes(const struct gateway_head *h, const char *name)
{
    return !is_one_of(name, rewritten, ARRAY_SIZE(rewritten)) &&
           (h->is_forward || !is_forwarding(name)) &&
           !is_hop_by_hop(name, h->fields, h->n_fields) &&
           !(h->drop_authorization && strcasecmp(name, "authorization") == 0) &&
           !(h->needs_key && strcasecmp(name, "sec-websocket-key") == 0);
}

void gateway_put_head(struct buf *out, const struct gateway_head *h)
{
    CLEANUP(buf_done) struct buf cookies = {0};
    buf_printf(out, "%s %s HTTP/1.1\r\n", h->method, h->target);
    http1_put_field(out, "Host", h->host);
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct http_header *f = &h->fields[i];
        if (strcasecmp(f->name, "cookie") == 0)
            add_cookies(&cookies, f->value, h->drop_cookie);
        else if (passes(h, f->name))
            http1_put_field(out, f->name, f->value);
    }
    if (cookies.len)
        http1_put_field(out, "Cookie", buf_text(&cookies));
    if (h->is_forward)
        http1_put_field(out, "Via", "1.1 warren");
    else
        put_forwarding(out, h);
    if (h->is_websocket)
        put_upgrade(out, h);
    else if (h->has_body && h->content_length < 0)
        http1_put_field(out, "Transfer-Encoding", "chunked");
    else if (h->has_body)
        buf_printf(out, "Content-Length: %" PRId64 "\r\n", h->content_length);
    http1_put_end(out);
}

/* ---- answers ---- */

size_t gateway_answer_fields(struct arena *a, const struct http_header *fields, size_t n,
                             bool drop_accept, struct http_header *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const char *name = fields[i].name;
        if (strcasecmp(name, "content-length") == 0 || is_hop_by_hop(name, fields, n))
            continue;
        if (drop_accept && strcasecmp(name, "sec-websocket-accept") == 0)
            continue;
        char *lower = arena_strdup(a, name);
        for (char *c = lower; *c; c++)
            *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
        out[kept++] = (struct http_header){lower, fields[i].value};
    }
    return kept;
}
