/* The JSON of a tunnel: create, merge patch, and back again. */
#include "base/error.h"
#include "tunnel/tunnel_model.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was read prints as what reads the same. */
static void check_round_trip(const char *name, const struct tunnel_spec *spec, const char *network)
{
    struct tunnel_spec copy = *spec, again;
    char name2[TUNNEL_NAME_SIZE], network2[TUNNEL_NAME_SIZE];
    snprintf(copy.network, sizeof(copy.network), "%s", network);
    json_t *object = json_pack("{s:s, s:o}", "name", name, "spec", tunnel_spec_json(&copy));
    assert(object);
    assert(tunnel_parse(object, name2, &again, network2, NULL) == 0);
    assert(again.ttl_ms == spec->ttl_ms && again.target.port == spec->target.port);
    assert(strcmp(again.target.host, spec->target.host) == 0);
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!value)
        return 0;
    struct tunnel_spec spec;
    struct diag d = {0};
    char name[TUNNEL_NAME_SIZE], network[TUNNEL_NAME_SIZE];
    if (tunnel_parse(value, name, &spec, network, &d) == 0) {
        if (name[0] && strlen(network) < sizeof(spec.network))
            check_round_trip(name, &spec, network);
    } else {
        assert(d.text[0] || d.code);
    }
    json_t *patch = json_object_get(value, "patch");
    json_t *merged = tunnel_merge_patch(value, patch ? patch : value);
    json_decref(merged);
    json_decref(value);
    return 0;
}
