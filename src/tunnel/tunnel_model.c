#include "tunnel/tunnel_model.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"
#include "http/rest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const phase_names[] = {"pending", "active", "closed", "expired", "failed"};
static_assert(ARRAY_SIZE(phase_names) == TUNNEL_PHASE_COUNT, "a name for each phase");

static const char *const protocol_names[] = {"tcp"};
static_assert(ARRAY_SIZE(protocol_names) == TUNNEL_PROTOCOL_COUNT, "a name for each protocol");

static int find_name(const char *const *names, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], s) == 0)
            return (int)i;
    }
    return ERR_INVALID;
}

const char *tunnel_phase_name(enum tunnel_phase phase)
{
    return phase_names[phase];
}

int tunnel_phase_parse(const char *s, enum tunnel_phase *ret)
{
    *ret = (enum tunnel_phase)TRY(find_name(phase_names, ARRAY_SIZE(phase_names), s));
    return 0;
}

const char *tunnel_protocol_name(enum tunnel_protocol protocol)
{
    return protocol_names[protocol];
}

int tunnel_protocol_parse(const char *s, enum tunnel_protocol *ret)
{
    *ret = (enum tunnel_protocol)TRY(find_name(protocol_names, ARRAY_SIZE(protocol_names), s));
    return 0;
}

bool tunnel_phase_is_over(enum tunnel_phase phase)
{
    return phase == TUNNEL_CLOSED || phase == TUNNEL_EXPIRED;
}

/* An object whose members are all in `allowed` (ends with NULL). `path` prefixes the field named.
 */
static int check_members(const json_t *object, const char *path, const char *const *allowed,
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

/* The string at `key`, or `fallback` (NULL: the member is required). */
static int get_string(const json_t *object, const char *key, const char *field,
                      const char *fallback, const char **ret, struct diag *d)
{
    const json_t *v = json_object_get(object, key);
    if (!v && fallback) {
        *ret = fallback;
        return 0;
    }
    if (!json_is_string(v))
        return diag_set_field(d, ERR_INVALID, field, v ? "must be a string" : "is missing");
    *ret = json_string_value(v);
    return 0;
}

static int parse_target(const json_t *target, struct tunnel_spec *spec,
                        char network_ref[TUNNEL_NAME_SIZE], struct diag *d)
{
    static const char *const members[] = {"network", "address", "protocol", NULL};
    const char *network = NULL, *address = NULL, *protocol = NULL;
    struct diag cause = {0};
    TRY(check_members(target, "spec.target", members, d));
    TRY(get_string(target, "network", "spec.target.network", NULL, &network, d));
    TRY(get_string(target, "address", "spec.target.address", NULL, &address, d));
    TRY(get_string(target, "protocol", "spec.target.protocol", "tcp", &protocol, d));
    if (!*network || strlen(network) >= TUNNEL_NAME_SIZE)
        return diag_set_field(d, ERR_INVALID, "spec.target.network",
                              "must be a network's name or id");
    snprintf(network_ref, TUNNEL_NAME_SIZE, "%s", network);
    if (host_port_parse(address, false, &spec->target, &cause) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.address", "%s", diag_text(&cause));
    if (tunnel_protocol_parse(protocol, &spec->protocol) < 0)
        return diag_set_field(d, ERR_INVALID, "spec.target.protocol",
                              "'%.20s' is not a protocol of this hub; it has: tcp", protocol);
    return 0;
}

static int parse_access(const json_t *access, struct tunnel_spec *spec, struct diag *d)
{
    static const char *const members[] = {"endpoint", "internal", NULL};
    static const char *const endpoint_members[] = {"listen", NULL};
    struct diag cause = {0};
    spec->internal = true;
    if (!access)
        return 0;
    TRY(check_members(access, "spec.access", members, d));
    const json_t *internal = json_object_get(access, "internal");
    if (internal && !json_is_boolean(internal))
        return diag_set_field(d, ERR_INVALID, "spec.access.internal", "must be true or false");
    spec->internal = !internal || json_is_true(internal);
    const json_t *endpoint = json_object_get(access, "endpoint");
    if (!endpoint || json_is_null(endpoint))
        return 0;
    const char *listen = NULL;
    TRY(check_members(endpoint, "spec.access.endpoint", endpoint_members, d));
    TRY(get_string(endpoint, "listen", "spec.access.endpoint.listen", "0.0.0.0:0", &listen, d));
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

int tunnel_parse(const json_t *object, char name[TUNNEL_NAME_SIZE], struct tunnel_spec *ret,
                 char network_ref[TUNNEL_NAME_SIZE], struct diag *d)
{
    static const char *const members[] = {"name", "spec", NULL};
    static const char *const spec_members[] = {"target", "access", "ttl", NULL};
    const char *name_text = NULL;
    struct tunnel_spec spec = {0};
    TRY(check_members(object, "", members, d));
    TRY(get_string(object, "name", "name", NULL, &name_text, d));
    if (!text_is_name(name_text))
        return diag_set_field(d, ERR_INVALID, "name",
                              "'%.80s' is not a name: 1 to 63 of a-z, 0-9 and '-'", name_text);
    const json_t *s = json_object_get(object, "spec");
    if (!s)
        return diag_set_field(d, ERR_INVALID, "spec", "is missing");
    TRY(check_members(s, "spec", spec_members, d));
    const json_t *target = json_object_get(s, "target");
    if (!target)
        return diag_set_field(d, ERR_INVALID, "spec.target", "is missing");
    TRY(parse_target(target, &spec, network_ref, d));
    TRY(parse_access(json_object_get(s, "access"), &spec, d));
    TRY(parse_ttl(json_object_get(s, "ttl"), &spec, d));
    snprintf(name, TUNNEL_NAME_SIZE, "%s", name_text);
    *ret = spec;
    return 0;
}

json_t *tunnel_spec_json(const struct tunnel_spec *spec)
{
    char target[HOST_SIZE + 16], listen[HOST_SIZE + 16], ttl[32];
    host_port_format(&spec->target, target, sizeof(target));
    json_t *endpoint = json_null(), *ttl_json = json_null();
    if (spec->has_endpoint) {
        host_port_format(&spec->listen, listen, sizeof(listen));
        endpoint = json_pack("{s:s}", "listen", listen);
    }
    if (spec->ttl_ms) {
        text_from_duration_ms(spec->ttl_ms, ttl, sizeof(ttl));
        ttl_json = json_string(ttl);
    }
    return json_pack("{s:{s:s, s:s, s:s}, s:{s:o, s:b}, s:o}", "target", "network", spec->network,
                     "address", target, "protocol", tunnel_protocol_name(spec->protocol), "access",
                     "endpoint", endpoint, "internal", (int)spec->internal, "ttl", ttl_json);
}

static json_t *holder_json(const struct tunnel_holder *h)
{
    if (!h->id[0])
        return json_null();
    return json_pack("{s:s, s:I, s:o}", "id", h->id, "epoch", (json_int_t)h->epoch, "expires",
                     rest_time(h->expires));
}

json_t *tunnel_json(const struct tunnel *t, const struct tunnel_traffic *traffic)
{
    json_t *streams = json_pack("{s:I, s:I}", "open", (json_int_t)traffic->streams_open, "total",
                                (json_int_t)traffic->streams_total);
    json_t *bytes = json_pack("{s:I, s:I}", "in", (json_int_t)traffic->bytes_in, "out",
                              (json_int_t)traffic->bytes_out);
    json_t *endpoint = t->endpoint[0] ? json_pack("{s:s}", "address", t->endpoint) : json_null();
    json_t *status = json_pack(
        "{s:s, s:o, s:{s:o, s:o}, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "phase",
        tunnel_phase_name(t->phase), "reason", t->reason[0] ? json_string(t->reason) : json_null(),
        "lease", "server", holder_json(&t->server), "agent", holder_json(&t->agent), "endpoint",
        endpoint, "streams", streams, "bytes", bytes, "created", rest_time(t->created), "started",
        rest_time(t->started), "closed", rest_time(t->closed), "on_demand", t->idle_ms > 0);
    return json_pack("{s:s, s:s, s:I, s:o, s:o}", "id", t->id, "name", t->name, "version",
                     (json_int_t)t->version, "spec", tunnel_spec_json(&t->spec), "status", status);
}

json_t *tunnel_merge_patch(const json_t *target, const json_t *patch)
{
    if (!json_is_object(patch))
        return json_deep_copy(patch);
    json_t *result = json_is_object(target) ? json_copy((json_t *)target) : json_object();
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)patch, key, value) {
        if (json_is_null(value))
            json_object_del(result, key);
        else
            json_object_set_new(result, key,
                                tunnel_merge_patch(json_object_get(result, key), value));
    }
    return result;
}
