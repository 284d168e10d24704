/*
 * Auth tenant-login: somebody with an API token of the tenant signs in on a page of the hub, under
 * the tunnel's own name, and gets a cookie for that name alone.
 *
 *   __Host-warren=TOKEN-ID.EXPIRES.MAC      MAC over tenant, host, token id and expiry
 *
 * The cookie is worth nothing without the token's row: a token that is revoked ends its sessions.
 * Signing in and out are POSTs whose Origin must be the page's own (and the cookie is SameSite), so
 * no other site can do either for its visitor.
 */
#include "tunnel/web_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/text.h"
#include "base/time.h"
#include "http/gateway_rules.h"
#include "identity/identity.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COOKIE     "__Host-warren"
#define LIFE_MS    (INT64_C(8) * 3600 * 1000)
#define LOGIN      GATEWAY_OWN_PATH "login"
#define LOGOUT     GATEWAY_OWN_PATH "logout"
#define NEXT_SIZE  1024
#define TOKEN_SIZE 160
#define POLICY                                                                                    \
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; " \
    "base-uri 'none'"

static const char page[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">"
    "<meta name=\"viewport\" content=\"width=device-width\"><title>Sign in</title>"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:26em;margin:15vh auto;padding:0 1em}"
    "h1{font-size:1.4em}input,button{font:inherit;width:100%%;box-sizing:border-box;padding:.5em;"
    "margin:.5em 0}p{color:#a00}</style><h1>%s</h1>%s<form method=\"post\" action=\"%s\">"
    "%s<button>%s</button></form>\n";

static const char token_fields[] =
    "<label>API token<input name=\"token\" type=\"password\" autocomplete=\"off\" required "
    "autofocus></label><input name=\"next\" type=\"hidden\" value=\"";

/* ---- the cookie ---- */

static void sign(const struct tunnel_object *o, const uint8_t key[MAC_KEY_SIZE], const char *token,
                 int64_t expires, char out[BASE64_SIZE(MAC_SIZE)])
{
    char text[2 * HOST_SIZE + 2 * ID_SIZE + 32];
    uint8_t mac[MAC_SIZE];
    snprintf(text, sizeof(text), "login|%s|%s|%s|%" PRId64, o->t.tenant, o->t.spec.host, token,
             expires);
    mac_make(key, text, mac);
    text_base64url(mac, sizeof(mac), out, BASE64_SIZE(MAC_SIZE));
}

static bool is_signed(const struct tunnel_object *o, const char *token, int64_t expires,
                      const char *given)
{
    const struct tunnel_web *w = o->owner->web;
    char expected[BASE64_SIZE(MAC_SIZE)];
    uint8_t a[MAC_SIZE], b[MAC_SIZE];
    bool is = false;
    for (size_t i = 0; i < w->n_keys; i++) {
        sign(o, w->keys[i], token, expires, expected);
        mac_make(w->keys[i], expected, a); /* of equal length, whatever came */
        mac_make(w->keys[i], given, b);
        is |= mac_equal(a, b);
    }
    return is;
}

static bool is_valid_cookie(const struct tunnel_object *o, const char *value, size_t len)
{
    char text[160], given[BASE64_SIZE(MAC_SIZE)] = "";
    uint64_t expires;
    if (len >= sizeof(text))
        return false;
    memcpy(text, value, len);
    text[len] = '\0';
    char *dot = strchr(text, '.'), *second = dot ? strchr(dot + 1, '.') : NULL;
    if (!second || strlen(second + 1) >= sizeof(given))
        return false;
    *dot = *second = '\0';
    if (text_to_u64(dot + 1, INT64_MAX, &expires) < 0 || (int64_t)expires <= time_wall_ms())
        return false;
    snprintf(given, sizeof(given), "%s", second + 1);
    return is_signed(o, text, (int64_t)expires, given) &&
           identity_token_is_valid(o->owner->web->identity, o->t.tenant, text);
}

static bool has_session(const struct web_ask *a, const struct tunnel_object *o)
{
    for (const char *at = a->q.cookie; at && *at;) {
        at += strspn(at, "; ");
        size_t len = strcspn(at, ";");
        if (strncmp(at, COOKIE "=", sizeof(COOKIE)) == 0 &&
            is_valid_cookie(o, at + sizeof(COOKIE), len - sizeof(COOKIE)))
            return true;
        at += len;
    }
    return false;
}

static void set_cookie(struct web_ask *a, const char *value, int64_t life_ms)
{
    web_header(a, "set-cookie",
               arena_printf(&a->arena,
                            COOKIE "=%s; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=%" PRId64,
                            value, life_ms / 1000));
}

/* ---- pages ---- */

static void answer_page(struct web_ask *a, int status, const char *html)
{
    web_header(a, "content-security-policy", POLICY);
    web_header(a, "referrer-policy", "same-origin");
    web_answer(a, status, "text/html; charset=utf-8", html);
    web_decided(a);
}

/* A path of this host, or "/". */
static const char *safe_next(struct web_ask *a, const char *next)
{
    bool is_path = next[0] == '/' && next[1] != '/' && next[1] != '\\' && strlen(next) < NEXT_SIZE;
    for (const char *c = next; is_path && *c; c++)
        is_path = *c > ' ' && *c < 0x7f && !strchr("\"'<>\\", *c);
    if (!is_path || strncmp(next, GATEWAY_OWN_PATH, strlen(GATEWAY_OWN_PATH)) == 0)
        return "/";
    return arena_strdup(&a->arena, next);
}

static void show_login(struct web_ask *a, int status, const char *next, const char *complaint)
{
    CLEANUP(buf_done) struct buf fields = {0};
    buf_puts(&fields, token_fields);
    for (const char *c = safe_next(a, next); *c; c++) /* it has no quotes or brackets */
        buf_printf(&fields, *c == '&' ? "&amp;" : "%c", *c);
    buf_puts(&fields, "\">");
    answer_page(
        a, status,
        arena_printf(&a->arena, page, a->q.host, complaint, LOGIN, buf_text(&fields), "Sign in"));
}

static void redirect(struct web_ask *a, const char *to)
{
    web_header(a, "location", to);
    web_answer(a, 303, NULL, "");
    web_decided(a);
}

/* ---- requests ---- */

/* Of a page of this very host. */
static bool is_own_origin(const struct web_ask *a)
{
    static const char scheme[] = "https://";
    char host[HOST_SIZE];
    return a->q.origin && strncmp(a->q.origin, scheme, strlen(scheme)) == 0 &&
           gateway_host(a->q.origin + strlen(scheme), host) == 0 && strcmp(host, a->q.host) == 0;
}

/* A member of an application/x-www-form-urlencoded body; false: absent, or longer than fits. */
static bool form_value(const char *body, const char *name, char *out, size_t size)
{
    size_t n = 0, name_len = strlen(name);
    while (*body && (strncmp(body, name, name_len) != 0 || body[name_len] != '=')) {
        body += strcspn(body, "&");
        body += *body == '&';
    }
    if (!*body)
        return false;
    for (const char *c = body + name_len + 1; *c && *c != '&'; c++) {
        char value = *c == '+' ? ' ' : *c;
        if (*c == '%') {
            int high = text_hex_value(c[1]), low = high < 0 ? -1 : text_hex_value(c[2]);
            if (low < 0 || high * 16 + low == 0)
                return false;
            value = (char)(high * 16 + low);
            c += 2;
        }
        if (n + 1 >= size)
            return false;
        out[n++] = value;
    }
    out[n] = '\0';
    return true;
}

static void sign_in(struct web_ask *a, struct tunnel_object *o)
{
    char token[TOKEN_SIZE] = "", next[NEXT_SIZE] = "/", bearer[TOKEN_SIZE + 16];
    char mac[BASE64_SIZE(MAC_SIZE)], client[ADDR_TEXT_SIZE];
    struct identity_caller by;
    struct diag d = {0};
    form_value(a->q.body, "next", next, sizeof(next));
    bool has_token = form_value(a->q.body, "token", token, sizeof(token));
    char *text = token + strspn(token, " \r\n\t"); /* as it was pasted */
    text[strcspn(text, " \r\n\t")] = '\0';
    snprintf(bearer, sizeof(bearer), "Bearer %s", text);
    bool fits = has_token &&
                identity_authenticate(o->owner->web->identity, bearer, &a->q.peer, &by, &d) == 0 &&
                strcmp(by.tenant, o->t.tenant) == 0;
    explicit_bzero(token, sizeof(token));
    explicit_bzero(bearer, sizeof(bearer));
    addr_format_ip(&a->q.peer, client, sizeof(client));
    LOG_INFO(fits ? "signed in" : "sign-in refused", LOG_STR("tunnel", o->t.id),
             LOG_STR("client", client), LOG_STR("token", fits ? by.token : ""));
    if (!fits) {
        show_login(a, 401, next, "<p>This is no valid API token of the tenant.</p>");
        return;
    }
    int64_t expires = time_wall_ms() + LIFE_MS;
    sign(o, o->owner->web->keys[0], by.token, expires, mac);
    set_cookie(a, arena_printf(&a->arena, "%s.%" PRId64 ".%s", by.token, expires, mac), LIFE_MS);
    redirect(a, safe_next(a, next));
}

static void sign_out(struct web_ask *a)
{
    set_cookie(a, "", 0);
    redirect(a, "/");
}

static void own_page(struct web_ask *a, struct tunnel_object *o)
{
    bool is_post = strcmp(a->q.method, "POST") == 0, is_login = strcmp(a->q.path, LOGIN) == 0;
    if (!is_login && strcmp(a->q.path, LOGOUT) != 0) {
        web_answer(a, 404, NULL, "there is nothing here");
        web_decided(a);
    } else if (is_post && !is_own_origin(a)) {
        web_answer(a, 403, NULL, "the form was sent from another site");
        web_decided(a);
    } else if (is_post && is_login) {
        sign_in(a, o);
    } else if (is_post) {
        sign_out(a);
    } else if (is_login) {
        show_login(a, 200, "/", "");
    } else {
        answer_page(a, 200, arena_printf(&a->arena, page, a->q.host, "", LOGOUT, "", "Sign out"));
    }
}

bool web_login_gate(struct web_ask *a, struct tunnel_object *o)
{
    struct identity_caller by;
    struct diag d = {0};
    if (strncmp(a->q.path, GATEWAY_OWN_PATH, strlen(GATEWAY_OWN_PATH)) == 0) {
        own_page(a, o);
        return false;
    }
    a->d.drop_cookie = COOKIE;
    if (has_session(a, o))
        return true;
    if (a->q.authorization &&
        identity_authenticate(o->owner->web->identity, a->q.authorization, &a->q.peer, &by, &d) ==
            0 &&
        strcmp(by.tenant, o->t.tenant) == 0) {
        a->d.drop_authorization = true;
        return true;
    }
    web_header(a, "www-authenticate", "Bearer realm=\"tunnel\"");
    if (a->q.is_navigation) {
        show_login(a, 401, strcmp(a->q.method, "GET") == 0 ? a->q.path : "/", "");
    } else {
        web_answer(a, 401, NULL, "sign in first, or send an API token of the tenant");
        web_decided(a);
    }
    return false;
}
