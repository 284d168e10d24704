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

const char *tunnel_phase_name(enum tunnel_phase phase)
{
    return phase_names[phase];
}

int tunnel_phase_parse(const char *s, enum tunnel_phase *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(phase_names); i++) {
        if (strcmp(phase_names[i], s) == 0) {
            *ret = (enum tunnel_phase)i;
            return 0;
        }
    }
    return ERR_INVALID;
}

bool tunnel_phase_is_over(enum tunnel_phase phase)
{
    return phase == TUNNEL_CLOSED || phase == TUNNEL_EXPIRED;
}

int tunnel_parse(const json_t *object, char name[TUNNEL_NAME_SIZE], struct tunnel_spec *ret,
                 char network_ref[TUNNEL_NAME_SIZE], struct diag *d)
{
    static const char *const members[] = {"name", "spec", NULL};
    const char *name_text = NULL;
    TRY(tunnel_check_members(object, "", members, d));
    TRY(tunnel_get_string(object, "name", "name", NULL, &name_text, d));
    if (!text_is_name(name_text))
        return diag_set_field(d, ERR_INVALID, "name",
                              "'%.80s' is not a name: 1 to 63 of a-z, 0-9 and '-'", name_text);
    const json_t *spec = json_object_get(object, "spec");
    if (!spec)
        return diag_set_field(d, ERR_INVALID, "spec", "is missing");
    TRY(tunnel_spec_parse(spec, ret, network_ref, d));
    snprintf(name, TUNNEL_NAME_SIZE, "%s", name_text);
    return 0;
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
    json_t *streams = json_pack("{s:I, s:I, s:I}", "open", (json_int_t)traffic->streams_open,
                                "total", (json_int_t)traffic->streams_total, "refused",
                                (json_int_t)traffic->streams_refused);
    json_t *bytes =
        json_pack("{s:I, s:I, s:I}", "in", (json_int_t)traffic->bytes_in, "out",
                  (json_int_t)traffic->bytes_out, "delayed", (json_int_t)traffic->bytes_delayed);
    json_t *datagrams = t->spec.protocol == TUNNEL_UDP
                            ? json_pack("{s:I, s:I, s:I}", "in", (json_int_t)traffic->datagrams.in,
                                        "out", (json_int_t)traffic->datagrams.out, "dropped",
                                        (json_int_t)traffic->datagrams.dropped)
                            : json_null();
    bool has_name = t->spec.host[0] && (t->phase == TUNNEL_ACTIVE || t->phase == TUNNEL_PENDING);
    const char *address = has_name ? t->spec.host : t->endpoint;
    json_t *endpoint = *address ? json_pack("{s:s}", "address", address) : json_null();
    json_t *status = json_pack(
        "{s:s, s:o, s:{s:o, s:o}, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "phase",
        tunnel_phase_name(t->phase), "reason", t->reason[0] ? json_string(t->reason) : json_null(),
        "lease", "server", holder_json(&t->server), "agent", holder_json(&t->agent), "endpoint",
        endpoint, "streams", streams, "bytes", bytes, "datagrams", datagrams, "created",
        rest_time(t->created), "started", rest_time(t->started), "closed", rest_time(t->closed),
        "on_demand", t->idle_ms > 0);
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
