#include "tunnel/tunnel_access.h"

#include "base/error.h"
#include "base/macro.h"
#include "pki/password.h"
#include "tunnel/tunnel_spec.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define USERS_FIELD   "spec.access.users"
#define SOURCES_FIELD "spec.access.sources"

static const char *const auth_names[] = {"public", "basic", "api-token", "tenant-login"};
static_assert(ARRAY_SIZE(auth_names) == TUNNEL_AUTH_COUNT, "a name for each");
static_assert(TUNNEL_SECRET_SIZE > PASSWORD_MAX && TUNNEL_SECRET_SIZE >= PASSWORD_HASH_SIZE,
              "both fit");

const char *tunnel_auth_name(enum tunnel_auth auth)
{
    return auth_names[auth];
}

/* ---- reading ---- */

static int parse_auth(const json_t *access, struct tunnel_access *ret, struct diag *d)
{
    const char *text;
    TRY(tunnel_get_string(access, "auth", "spec.access.auth", auth_names[0], &text, d));
    for (size_t i = 0; i < ARRAY_SIZE(auth_names); i++) {
        if (strcmp(auth_names[i], text) == 0) {
            ret->auth = (enum tunnel_auth)i;
            return 0;
        }
    }
    return diag_set_field(d, ERR_INVALID, "spec.access.auth",
                          "must be public, basic, api-token or tenant-login");
}

/* RFC 7617: no colon, no control characters. */
static bool is_user_name(const char *s)
{
    if (!*s || strlen(s) >= TUNNEL_USER_SIZE)
        return false;
    for (; *s; s++) {
        if ((unsigned char)*s < ' ' || *s == 0x7f || *s == ':')
            return false;
    }
    return true;
}

static int parse_secret(const json_t *o, struct tunnel_user *ret, struct diag *d)
{
    const char *password = "", *hash = "";
    TRY(tunnel_get_string(o, "password", USERS_FIELD ".password", "", &password, d));
    TRY(tunnel_get_string(o, "hash", USERS_FIELD ".hash", "", &hash, d));
    if (*password && *hash)
        return diag_set_field(d, ERR_INVALID, USERS_FIELD, "has a password and a hash");
    if (strlen(password) > PASSWORD_MAX)
        return diag_set_field(d, ERR_INVALID, USERS_FIELD ".password", "may have %d bytes",
                              PASSWORD_MAX);
    if (*hash && !password_hash_is_usable(hash))
        return diag_set_field(d, ERR_INVALID, USERS_FIELD ".hash",
                              "must be an Argon2id hash of at most 64 MiB and 8 passes");
    ret->is_plain = *password != '\0';
    snprintf(ret->secret, sizeof(ret->secret), "%s", *password ? password : hash);
    return 0;
}

static int parse_users(const json_t *users, struct tunnel_access *ret, struct diag *d)
{
    static const char *const members[] = {"name", "password", "hash", NULL};
    if (!users || json_is_null(users))
        return 0;
    if (!json_is_array(users) || json_array_size(users) > TUNNEL_USERS_MAX)
        return diag_set_field(d, ERR_INVALID, USERS_FIELD, "must be a list of at most %d users",
                              TUNNEL_USERS_MAX);
    for (size_t i = 0; i < json_array_size(users); i++) {
        const json_t *o = json_array_get(users, i);
        struct tunnel_user *u = &ret->users[ret->n_users];
        const char *name;
        TRY(tunnel_check_members(o, USERS_FIELD, members, d));
        TRY(tunnel_get_string(o, "name", USERS_FIELD ".name", NULL, &name, d));
        if (!is_user_name(name) || tunnel_access_user(ret, name))
            return diag_set_field(d, ERR_INVALID, USERS_FIELD ".name",
                                  "'%.60s' is no name, or is there twice", name);
        snprintf(u->name, sizeof(u->name), "%s", name);
        TRY(parse_secret(o, u, d));
        ret->n_users++;
    }
    return 0;
}

int tunnel_source_parse(const char *s, struct tunnel_source *ret, struct diag *d)
{
    struct addr_rule rule;
    TRY(addr_rule_parse(s, &rule, d));
    if (rule.n_ports)
        return diag_set(d, ERR_INVALID, "'%.60s' has a port", s);
    memcpy(ret->ip, rule.ip, sizeof(ret->ip));
    ret->prefix = rule.prefix;
    return 0;
}

static int parse_sources(const json_t *sources, struct tunnel_access *ret, struct diag *d)
{
    struct diag cause = {0};
    if (!sources || json_is_null(sources))
        return 0;
    if (!json_is_array(sources) || json_array_size(sources) > TUNNEL_SOURCES_MAX)
        return diag_set_field(d, ERR_INVALID, SOURCES_FIELD,
                              "must be a list of at most %d address ranges", TUNNEL_SOURCES_MAX);
    for (size_t i = 0; i < json_array_size(sources); i++) {
        const char *text = json_string_value(json_array_get(sources, i));
        if (!text || tunnel_source_parse(text, &ret->sources[ret->n_sources], &cause) < 0)
            return diag_set_field(d, ERR_INVALID, SOURCES_FIELD, "%s",
                                  text ? diag_text(&cause) : "must hold strings");
        ret->n_sources++;
    }
    return 0;
}

int tunnel_access_parse(const json_t *access, struct tunnel_access *ret, struct diag *d)
{
    struct tunnel_access a = {0};
    TRY(parse_auth(access, &a, d));
    TRY(parse_users(json_object_get(access, "users"), &a, d));
    TRY(parse_sources(json_object_get(access, "sources"), &a, d));
    if (a.auth == TUNNEL_AUTH_BASIC && !a.n_users)
        return diag_set_field(d, ERR_INVALID, USERS_FIELD, "auth basic needs at least one user");
    if (a.auth != TUNNEL_AUTH_BASIC && a.n_users)
        return diag_set_field(d, ERR_INVALID, USERS_FIELD, "are of auth basic only");
    *ret = a;
    return 0;
}

static bool is_v4_range(const struct tunnel_source *s)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(s->ip, mapped, sizeof(mapped)) == 0 && s->prefix >= 96;
}

/* ---- writing ---- */

static json_t *source_json(const struct tunnel_source *s)
{
    char ip[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 8];
    bool v4 = is_v4_range(s);
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? s->ip + 12 : s->ip, ip, sizeof(ip));
    snprintf(text, sizeof(text), "%s/%d", ip, v4 ? s->prefix - 96 : s->prefix);
    return json_string(text);
}

void tunnel_access_json(const struct tunnel_access *a, bool with_hashes, json_t *access)
{
    json_object_set_new(access, "auth", json_string(tunnel_auth_name(a->auth)));
    json_t *users = json_array(), *sources = json_array();
    for (size_t i = 0; i < a->n_users; i++) {
        json_t *u = json_pack("{s:s}", "name", a->users[i].name);
        if (with_hashes)
            json_object_set_new(u, "hash", json_string(a->users[i].secret));
        json_array_append_new(users, u);
    }
    for (size_t i = 0; i < a->n_sources; i++)
        json_array_append_new(sources, source_json(&a->sources[i]));
    json_object_set_new(access, "users", users);
    json_object_set_new(access, "sources", sources);
}

/* ---- passwords ---- */

int tunnel_access_keep(struct tunnel_access *a, const struct tunnel_access *old, struct diag *d)
{
    for (size_t i = 0; i < a->n_users; i++) {
        struct tunnel_user *u = &a->users[i];
        const struct tunnel_user *was = old ? tunnel_access_user(old, u->name) : NULL;
        if (!u->secret[0] && was)
            memcpy(u->secret, was->secret, sizeof(u->secret));
        if (!u->secret[0])
            return diag_set_field(d, ERR_INVALID, USERS_FIELD ".password", "'%s' needs a password",
                                  u->name);
    }
    return 0;
}

bool tunnel_access_has_news(struct tunnel_access *a, const struct tunnel_access *old)
{
    bool has_news = false;
    for (size_t i = 0; i < a->n_users; i++) {
        struct tunnel_user *u = &a->users[i];
        const struct tunnel_user *was = tunnel_access_user(old, u->name);
        if (u->is_plain && was && password_fits(was->secret, u->secret)) {
            explicit_bzero(u->secret, sizeof(u->secret));
            memcpy(u->secret, was->secret, sizeof(u->secret));
            u->is_plain = false;
        } else if (u->is_plain || (u->secret[0] && (!was || strcmp(was->secret, u->secret) != 0))) {
            has_news = true;
        }
    }
    return has_news;
}

int tunnel_access_hash(struct tunnel_access *a)
{
    for (size_t i = 0; i < a->n_users; i++) {
        struct tunnel_user *u = &a->users[i];
        char hash[PASSWORD_HASH_SIZE];
        if (!u->is_plain)
            continue;
        TRY(password_hash(u->secret, hash));
        explicit_bzero(u->secret, sizeof(u->secret));
        snprintf(u->secret, sizeof(u->secret), "%s", hash);
        u->is_plain = false;
    }
    return 0;
}

/* ---- checking ---- */

static bool is_v4(const struct addr *a)
{
    return a->sa.sa_family == AF_INET ||
           (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr));
}

/* A range of IPv6 such as ::/0 says nothing about IPv4. */
bool tunnel_access_admits(const struct tunnel_access *a, const struct addr *from)
{
    for (size_t i = 0; i < a->n_sources; i++) {
        struct addr_rule rule = {.prefix = a->sources[i].prefix};
        memcpy(rule.ip, a->sources[i].ip, sizeof(rule.ip));
        if (is_v4_range(&a->sources[i]) == is_v4(from) && addr_rule_match(&rule, from))
            return true;
    }
    return a->n_sources == 0;
}

const struct tunnel_user *tunnel_access_user(const struct tunnel_access *a, const char *name)
{
    for (size_t i = 0; i < a->n_users; i++) {
        if (strcmp(a->users[i].name, name) == 0)
            return &a->users[i];
    }
    return NULL;
}
