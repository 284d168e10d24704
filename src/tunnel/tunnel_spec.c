#include "tunnel/tunnel_spec.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const protocol_names[] = {"tcp", "udp", "http", "https", "any"};
static_assert(ARRAY_SIZE(protocol_names) == TUNNEL_PROTOCOL_COUNT, "a name for each protocol");

static const char *const spread_names[] = {"agent", "connection"};
static_assert(ARRAY_SIZE(spread_names) == TUNNEL_SPREAD_COUNT, "a name for each spread");

static const char *const check_names[] = {"none", "tcp", "http"};
static_assert(ARRAY_SIZE(check_names) == TUNNEL_CHECK_COUNT, "a name for each check");

const char *tunnel_check_name(enum tunnel_check_type type)
{
    return check_names[type];
}

const char *tunnel_protocol_name(enum tunnel_protocol protocol)
{
    return protocol_names[protocol];
}

static int find_name(const char *const *names, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], s) == 0)
            return (int)i;
    }
    return ERR_INVALID;
}

static int parse_protocol(const char *s, enum tunnel_protocol *ret)
{
    *ret = (enum tunnel_protocol)TRY(find_name(protocol_names, ARRAY_SIZE(protocol_names), s));
    return 0;
}

int tunnel_check_members(const json_t *object, const char *path, const char *const *allowed,
                         struct diag *d)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return diag_set_field(d, ERR_INVALID, path, "must be a JSON object");
    json_object_foreach ((json_t *)object, key, value) {
        size_t i = 0;
        while (allowed[i] && strcmp(allowed[i], key) != 0)
            i++;
        if (!allowed[i]) {
            char field[64];
            snprintf(field, sizeof(field), "%s%s%.40s", path, *path ? "." : "", key);
            return diag_set_field(d, ERR_INVALID, field, "there is no such member");
        }
    }
    return 0;
}

int tunnel_get_string(const json_t *object, const char *key, const char *field,
                      const char *fallback, const char **ret, struct diag *d)
{
    const json_t *v = json_object_get(object, key);
    if ((!v || json_is_null(v)) && fallback) {
        *ret = fallback;
        return 0;
    }
    if (!json_is_string(v))
        return diag_set_field(d, ERR_INVALID, field, v ? "must be a string" : "is missing");
    *ret = json_string_value(v);
    return 0;
}

static int parse_proxy(const json_t *target, struct tunnel_spec *spec, struct diag *d)
{
    const json_t *v = json_object_get(target, "proxy_protocol");
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v) || proxy_version_parse(json_string_value(v), &spec->proxy) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.proxy_protocol",
                              "must be \"v1\", \"v2\" or null");
    return 0;
}

/* "*" and the protocol "any" go together: whatever a client of the proxy asks for. */
static int parse_address(const char *address, struct tunnel_spec *spec, struct diag *d)
{
    struct diag cause = {0};
    bool is_all = strcmp(address, "*") == 0;
    if (is_all != (spec->protocol == TUNNEL_ANY))
        return diag_set_field(d, ERR_INVALID, "spec.target.protocol",
                              "must be any where the address is \"*\", and only there");
    if (!is_all && host_port_parse(address, false, &spec->target, &cause) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.address", "%s", diag_text(&cause));
    return 0;
}

static int parse_target(const json_t *target, struct tunnel_spec *spec,
                        char network_ref[TUNNEL_NAME_SIZE], struct diag *d)
{
    static const char *const members[] = {"network",        "address", "protocol",
                                          "proxy_protocol", "allow",   NULL};
    const char *network = NULL, *address = NULL, *protocol = NULL;
    TRY(tunnel_check_members(target, "spec.target", members, d));
    TRY(tunnel_get_string(target, "network", "spec.target.network", NULL, &network, d));
    TRY(tunnel_get_string(target, "address", "spec.target.address", NULL, &address, d));
    TRY(tunnel_get_string(target, "protocol", "spec.target.protocol", "tcp", &protocol, d));
    TRY(parse_proxy(target, spec, d));
    if (!*network || strlen(network) >= TUNNEL_NAME_SIZE)
        return diag_set_field(d, ERR_INVALID, "spec.target.network",
                              "must be a network's name or id");
    snprintf(network_ref, TUNNEL_NAME_SIZE, "%s", network);
    if (parse_protocol(protocol, &spec->protocol) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.protocol",
                              "'%.20s' is not a protocol of this hub; it has: tcp, udp, http, "
                              "https, any",
                              protocol);
    if (spec->protocol == TUNNEL_UDP && spec->proxy == PROXY_V1)
        return diag_set_field(d, ERR_INVALID, "spec.target.proxy_protocol",
                              "version 1 is for connections; udp has \"v2\"");
    TRY(parse_address(address, spec, d));
    TRY(tunnel_ranges_parse(json_object_get(target, "allow"), &spec->allow, d));
    if (spec->allow.n && spec->protocol != TUNNEL_ANY)
        return diag_set_field(d, ERR_INVALID, "spec.target.allow",
                              "is for a tunnel whose address is \"*\"");
    return 0;
}

static int parse_listen(const char *listen, struct tunnel_spec *spec, struct diag *d)
{
    struct diag cause = {0};
    struct addr literal;
    if (host_port_parse(listen, true, &spec->listen, &cause) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.access.endpoint.listen", "%s",
                              diag_text(&cause));
    if (addr_parse(spec->listen.host, spec->listen.port, &literal) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.access.endpoint.listen",
                              "must be an IP address of the hub and a port, such as 0.0.0.0:0");
    spec->has_endpoint = true;
    return 0;
}

static int parse_name(const char *name, const char *field, struct tunnel_spec *spec, struct diag *d)
{
    if (host_name_parse(name, spec->host) < 0 || !strchr(spec->host, '.'))
        return diag_set_field(d, ERR_INVALID, field,
                              "'%.80s' is not a host name, such as device1.tunnels.example.org",
                              name);
    return 0;
}

static int parse_hubs(const json_t *hubs, struct tunnel_spec *spec, struct diag *d)
{
    static const char field[] = "spec.access.endpoint.hubs";
    if (!hubs || json_is_null(hubs))
        return 0;
    if (!json_is_array(hubs) || json_array_size(hubs) > TUNNEL_HUBS_MAX)
        return diag_set_field(d, ERR_INVALID, field,
                              "must be a list of at most %d ids or names of hubs", TUNNEL_HUBS_MAX);
    for (size_t i = 0; i < json_array_size(hubs); i++) {
        const char *name = json_string_value(json_array_get(hubs, i));
        if (!name || !*name || strlen(name) >= TUNNEL_NAME_SIZE)
            return diag_set_field(d, ERR_INVALID, field, "must hold ids or names of hubs");
        if (!spec->n_hubs || !tunnel_spec_selects(spec, name, name))
            snprintf(spec->hubs[spec->n_hubs++], TUNNEL_NAME_SIZE, "%s", name);
    }
    return 0;
}

static int parse_endpoint(const json_t *endpoint, struct tunnel_spec *spec, struct diag *d)
{
    static const char *const members[] = {"listen", "host", "sni", "hubs", NULL};
    const char *listen, *host, *sni;
    TRY(tunnel_check_members(endpoint, "spec.access.endpoint", members, d));
    TRY(tunnel_get_string(endpoint, "host", "spec.access.endpoint.host", "", &host, d));
    TRY(tunnel_get_string(endpoint, "sni", "spec.access.endpoint.sni", "", &sni, d));
    TRY(tunnel_get_string(endpoint, "listen", "spec.access.endpoint.listen", "", &listen, d));
    if ((*listen != 0) + (*host != 0) + (*sni != 0) > 1)
        return diag_set_field(d, ERR_INVALID, "spec.access.endpoint",
                              "has more than one of listen, host and sni");
    TRY(parse_hubs(json_object_get(endpoint, "hubs"), spec, d));
    spec->is_sni = *sni;
    if (*host)
        return parse_name(host, "spec.access.endpoint.host", spec, d);
    if (*sni)
        return parse_name(sni, "spec.access.endpoint.sni", spec, d);
    return parse_listen(*listen ? listen : "0.0.0.0:0", spec, d);
}

/* Members that only make sense together. */
static int check_endpoint(struct tunnel_spec *spec, bool has_protocol, struct diag *d)
{
    bool is_web = spec->host[0] && !spec->is_sni;
    if (is_web && !has_protocol)
        spec->protocol = TUNNEL_HTTP;
    if (is_web && spec->protocol != TUNNEL_HTTP && spec->protocol != TUNNEL_HTTPS)
        return diag_set_field(d, ERR_INVALID, "spec.target.protocol",
                              "must be http or https for a tunnel with a host");
    if (spec->is_sni && spec->protocol != TUNNEL_TCP)
        return diag_set_field(d, ERR_INVALID, "spec.target.protocol",
                              "must be tcp for a tunnel by sni");
    if (spec->protocol == TUNNEL_ANY && (spec->has_endpoint || spec->host[0]))
        return diag_set_field(d, ERR_INVALID, "spec.access.endpoint",
                              "must be null for a tunnel to a whole network");
    if (!is_web && spec->who.auth != TUNNEL_AUTH_PUBLIC)
        return diag_set_field(d, ERR_INVALID, "spec.access.auth",
                              "needs an endpoint with a host: the hub must see HTTP");
    return 0;
}

static int parse_access(const json_t *access, struct tunnel_spec *spec, struct diag *d)
{
    static const char *const members[] = {"endpoint", "internal", "auth", "users", "sources", NULL};
    spec->internal = true;
    if (!access)
        return 0;
    TRY(tunnel_check_members(access, "spec.access", members, d));
    const json_t *internal = json_object_get(access, "internal");
    if (internal && !json_is_boolean(internal))
        return diag_set_field(d, ERR_INVALID, "spec.access.internal", "must be true or false");
    spec->internal = !internal || json_is_true(internal);
    TRY(tunnel_access_parse(access, &spec->who, d));
    const json_t *endpoint = json_object_get(access, "endpoint");
    return endpoint && !json_is_null(endpoint) ? parse_endpoint(endpoint, spec, d) : 0;
}

static int parse_ttl(const json_t *ttl, struct tunnel_spec *spec, struct diag *d)
{
    if (!ttl || json_is_null(ttl))
        return 0;
    if (!json_is_string(ttl) || text_to_duration_ms(json_string_value(ttl), &spec->ttl_ms) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.ttl", "must be a duration, such as \"30m\"");
    if (spec->ttl_ms < TUNNEL_TTL_MIN_MS || spec->ttl_ms > TUNNEL_TTL_MAX_MS)
        return diag_set_field(d, ERR_INVALID, "spec.ttl", "must lie between 1s and 366d");
    return 0;
}

static int parse_spread(const json_t *spec, struct tunnel_spec *ret, struct diag *d)
{
    const char *name = NULL;
    TRY(tunnel_get_string(spec, "spread", "spec.spread", "agent", &name, d));
    int i = find_name(spread_names, ARRAY_SIZE(spread_names), name);
    if (i < 0)
        return diag_set_field(d, ERR_INVALID, "spec.spread",
                              "'%.20s' is not a spread; there are: agent, connection", name);
    if (i == TUNNEL_SPREAD_CONNECTION && ret->protocol == TUNNEL_UDP)
        return diag_set_field(d, ERR_INVALID, "spec.spread",
                              "with udp, one agent serves all clients; only agent");
    ret->spread = (enum tunnel_spread)i;
    return 0;
}

static int parse_count(const json_t *check, const char *key, const char *field, uint32_t *count,
                       struct diag *d)
{
    const json_t *v = json_object_get(check, key);
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > 100)
        return diag_set_field(d, ERR_INVALID, field, "must be a number between 1 and 100");
    *count = (uint32_t)json_integer_value(v);
    return 0;
}

static int parse_check_type(const json_t *check, bool has_none, struct tunnel_check *ret,
                            struct diag *d)
{
    const char *type = NULL;
    TRY(tunnel_get_string(check, "type", "spec.check.type", has_none ? "none" : "tcp", &type, d));
    int i = find_name(check_names, ARRAY_SIZE(check_names), type);
    if (i < 0)
        return diag_set_field(d, ERR_INVALID, "spec.check.type",
                              "'%.20s' is not a check; there are: tcp, http, none", type);
    if (has_none && i != TUNNEL_CHECK_NONE)
        return diag_set_field(d, ERR_INVALID, "spec.check.type",
                              "this target has nothing to be checked by; only none");
    ret->type = (enum tunnel_check_type)i;
    return 0;
}

static int parse_check_path(const json_t *check, struct tunnel_check *ret, struct diag *d)
{
    const char *path = NULL;
    TRY(tunnel_get_string(check, "path", "spec.check.path", "/", &path, d));
    if (path[0] != '/' || strlen(path) >= sizeof(ret->path))
        return diag_set_field(d, ERR_INVALID, "spec.check.path",
                              "must begin with '/' and have at most %zu characters",
                              sizeof(ret->path) - 1);
    for (const char *c = path; *c; c++) {
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return diag_set_field(d, ERR_INVALID, "spec.check.path",
                                  "has a character that no path has; encode it as %%XX");
    }
    snprintf(ret->path, sizeof(ret->path), "%s", path);
    return 0;
}

static int parse_check(const json_t *check, struct tunnel_spec *spec, struct diag *d)
{
    static const char *const members[] = {"type", "interval", "rise", "fall", "path", NULL};
    bool has_none = spec->protocol == TUNNEL_UDP || spec->protocol == TUNNEL_ANY;
    struct tunnel_check c = {.type = has_none ? TUNNEL_CHECK_NONE : TUNNEL_CHECK_TCP,
                             .interval_ms = TUNNEL_CHECK_INTERVAL_MS,
                             .rise = 2,
                             .fall = 2,
                             .path = "/"};
    if (check && !json_is_null(check)) {
        const char *interval = NULL;
        TRY(tunnel_check_members(check, "spec.check", members, d));
        TRY(parse_check_type(check, has_none, &c, d));
        TRY(tunnel_get_string(check, "interval", "spec.check.interval", "2s", &interval, d));
        if (text_to_duration_ms(interval, &c.interval_ms) < 0 || c.interval_ms < 500 ||
            c.interval_ms > 3600000)
            return diag_set_field(d, ERR_INVALID, "spec.check.interval",
                                  "must be a duration between 500ms and 1h");
        TRY(parse_count(check, "rise", "spec.check.rise", &c.rise, d));
        TRY(parse_count(check, "fall", "spec.check.fall", &c.fall, d));
        TRY(parse_check_path(check, &c, d));
    }
    spec->check = c;
    return 0;
}

static int parse_idle_timeout(const json_t *idle, struct tunnel_spec *spec, struct diag *d)
{
    static const char field[] = "spec.idle_timeout";
    int64_t ms;
    if (!idle || json_is_null(idle))
        return 0;
    if (spec->protocol != TUNNEL_UDP)
        return diag_set_field(d, ERR_INVALID, field, "is for the protocol udp only");
    if (!json_is_string(idle) || text_to_duration_ms(json_string_value(idle), &ms) < 0)
        return diag_set_field(d, ERR_INVALID, field, "must be a duration, such as \"5m\"");
    if (ms < TUNNEL_IDLE_MIN_MS || ms > TUNNEL_IDLE_MAX_MS)
        return diag_set_field(d, ERR_INVALID, field, "must lie between 1s and 24h");
    spec->idle_timeout_ms = (uint32_t)ms;
    return 0;
}

static int parse_limit(const json_t *limits, const char *key, int64_t least, int64_t most,
                       uint64_t *ret, struct diag *d)
{
    char field[64];
    const json_t *v = json_object_get(limits, key);
    *ret = 0;
    if (!v || json_is_null(v))
        return 0;
    snprintf(field, sizeof(field), "spec.limits.%s", key);
    if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most)
        return diag_set_field(d, ERR_INVALID, field,
                              "must be a whole number from %" PRId64 " to %" PRId64 ", or null",
                              least, most);
    *ret = (uint64_t)json_integer_value(v);
    return 0;
}

static int parse_limits(const json_t *limits, struct meter_limits *ret, struct diag *d)
{
    static const char *const members[] = {"bandwidth", "streams", "streams_per_second", NULL};
    uint64_t bandwidth, streams, rate;
    if (!limits || json_is_null(limits))
        return 0;
    TRY(tunnel_check_members(limits, "spec.limits", members, d));
    TRY(parse_limit(limits, "bandwidth", 1024, INT64_C(1000000000000), &bandwidth, d));
    TRY(parse_limit(limits, "streams", 1, 1000000, &streams, d));
    TRY(parse_limit(limits, "streams_per_second", 1, 100000, &rate, d));
    *ret = (struct meter_limits){bandwidth, (uint32_t)streams, (uint32_t)rate};
    return 0;
}

static json_t *limit_json(uint64_t limit)
{
    return limit ? json_integer((json_int_t)limit) : json_null();
}

static json_t *limits_json(const struct meter_limits *l)
{
    if (!l->bandwidth && !l->streams && !l->streams_per_second)
        return json_null();
    return json_pack("{s:o, s:o, s:o}", "bandwidth", limit_json(l->bandwidth), "streams",
                     limit_json(l->streams), "streams_per_second",
                     limit_json(l->streams_per_second));
}

int tunnel_spec_parse(const json_t *spec, struct tunnel_spec *ret,
                      char network_ref[TUNNEL_NAME_SIZE], struct diag *d)
{
    static const char *const members[] = {"target",       "access", "spread", "check",
                                          "idle_timeout", "limits", "ttl",    NULL};
    struct tunnel_spec parsed = {0};
    TRY(tunnel_check_members(spec, "spec", members, d));
    const json_t *target = json_object_get(spec, "target");
    if (!target)
        return diag_set_field(d, ERR_INVALID, "spec.target", "is missing");
    TRY(parse_target(target, &parsed, network_ref, d));
    TRY(parse_access(json_object_get(spec, "access"), &parsed, d));
    TRY(parse_spread(spec, &parsed, d));
    TRY(parse_check(json_object_get(spec, "check"), &parsed, d));
    TRY(parse_idle_timeout(json_object_get(spec, "idle_timeout"), &parsed, d));
    TRY(parse_limits(json_object_get(spec, "limits"), &parsed.limits, d));
    TRY(parse_ttl(json_object_get(spec, "ttl"), &parsed, d));
    TRY(check_endpoint(&parsed, json_object_get(target, "protocol") != NULL, d));
    *ret = parsed;
    return 0;
}

static json_t *check_json(const struct tunnel_check *c)
{
    char interval[32];
    json_t *json = json_pack("{s:s}", "type", check_names[c->type]);
    if (c->type == TUNNEL_CHECK_NONE)
        return json;
    text_from_duration_ms(c->interval_ms, interval, sizeof(interval));
    json_object_set_new(json, "interval", json_string(interval));
    json_object_set_new(json, "rise", json_integer(c->rise));
    json_object_set_new(json, "fall", json_integer(c->fall));
    if (c->type == TUNNEL_CHECK_HTTP)
        json_object_set_new(json, "path", json_string(c->path));
    return json;
}

static json_t *duration_json(int64_t ms)
{
    char text[32];
    if (!ms)
        return json_null();
    text_from_duration_ms(ms, text, sizeof(text));
    return json_string(text);
}

/* NULL: every hub. */
static json_t *hubs_json(const struct tunnel_spec *spec)
{
    json_t *hubs = spec->n_hubs ? json_array() : NULL;
    for (size_t i = 0; i < spec->n_hubs; i++)
        json_array_append_new(hubs, json_string(spec->hubs[i]));
    return hubs;
}

static json_t *endpoint_json(const struct tunnel_spec *spec)
{
    char listen[HOST_SIZE + 16];
    if (!spec->host[0] && !spec->has_endpoint)
        return json_null();
    host_port_format(&spec->listen, listen, sizeof(listen));
    return json_pack("{s:s, s:o*}",
                     !spec->host[0] ? "listen"
                     : spec->is_sni ? "sni"
                                    : "host",
                     spec->host[0] ? spec->host : listen, "hubs", hubs_json(spec));
}

bool tunnel_spec_selects(const struct tunnel_spec *spec, const char *hub, const char *name)
{
    for (size_t i = 0; i < spec->n_hubs; i++) {
        if (strcmp(spec->hubs[i], hub) == 0 || strcmp(spec->hubs[i], name) == 0)
            return true;
    }
    return spec->n_hubs == 0;
}

bool tunnel_spec_moves(const struct tunnel_spec *was, const struct tunnel_spec *is)
{
    return was->has_endpoint != is->has_endpoint ||
           (is->has_endpoint && !host_port_equal(&was->listen, &is->listen)) ||
           was->protocol != is->protocol || was->idle_timeout_ms != is->idle_timeout_ms ||
           strcmp(was->host, is->host) != 0 || was->is_sni != is->is_sni ||
           was->n_hubs != is->n_hubs || memcmp(was->hubs, is->hubs, sizeof(was->hubs)) != 0;
}

void tunnel_target_format(const struct tunnel_spec *spec, char *out, size_t size)
{
    if (spec->protocol == TUNNEL_ANY)
        snprintf(out, size, "*");
    else
        host_port_format(&spec->target, out, size);
}

static json_t *make_json(const struct tunnel_spec *spec, bool with_hashes)
{
    char target[HOST_SIZE + 16];
    tunnel_target_format(spec, target, sizeof(target));
    json_t *access =
        json_pack("{s:o, s:b}", "endpoint", endpoint_json(spec), "internal", (int)spec->internal);
    tunnel_access_json(&spec->who, with_hashes, access);
    return json_pack("{s:{s:s, s:s, s:s, s:s?, s:o*}, s:o, s:s, s:o, s:o, s:o, s:o}", "target",
                     "network", spec->network, "address", target, "protocol",
                     tunnel_protocol_name(spec->protocol), "proxy_protocol",
                     proxy_version_name(spec->proxy), "allow", tunnel_ranges_json(&spec->allow),
                     "access", access, "spread", spread_names[spec->spread], "check",
                     check_json(&spec->check), "idle_timeout", duration_json(spec->idle_timeout_ms),
                     "limits", limits_json(&spec->limits), "ttl", duration_json(spec->ttl_ms));
}

json_t *tunnel_spec_json(const struct tunnel_spec *spec)
{
    return make_json(spec, false);
}

json_t *tunnel_spec_stored(const struct tunnel_spec *spec)
{
    return make_json(spec, true);
}
