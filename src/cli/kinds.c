#include "cli/kinds.h"

#include "base/macro.h"
#include "cli/output.h"

#include <stdio.h>
#include <string.h>

static const char *const no_members[] = {NULL};
static const char *const spec_only[] = {"spec", NULL};

static const struct kind_ref tunnel_network = {"spec.target.network", "network", "pending_network"};

static bool is_passing_tunnel(const json_t *object)
{
    const char *phase = kind_text_at(object, "status.phase");
    bool is_over = phase && (strcmp(phase, "closed") == 0 || strcmp(phase, "expired") == 0);
    return is_over || json_is_true(output_at(object, "status.on_demand"));
}

const struct kind kinds[] = {
    {.name = "network", .collection = "networks", .members = no_members},
    {.name = "tunnel",
     .collection = "tunnels",
     .members = spec_only,
     .ref = &tunnel_network,
     .is_passing = is_passing_tunnel},
};
const size_t n_kinds = ARRAY_SIZE(kinds);

const struct kind *kind_find(const char *name)
{
    for (size_t i = 0; i < n_kinds; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

const char *kind_text_at(const json_t *object, const char *path)
{
    return json_string_value(output_at(object, path));
}

void kind_set_at(json_t *object, const char *path, const char *text)
{
    char above[64];
    const char *dot = strrchr(path, '.');
    snprintf(above, sizeof(above), "%.*s", dot ? (int)(dot - path) : 0, path);
    json_t *at = (json_t *)output_at(object, above);
    if (json_is_object(at))
        json_object_set_new(at, dot ? dot + 1 : path, json_string(text));
}

json_t *kind_declared(const struct kind *k, const json_t *object,
                      const char *(*name_of)(void *arg, const char *collection, const char *id),
                      void *arg)
{
    json_t *declared = json_object();
    json_object_set(declared, "name", json_object_get(object, "name"));
    for (const char *const *m = k->members; *m; m++)
        json_object_set_new(declared, *m, json_deep_copy(json_object_get(object, *m)));
    const char *id = k->ref && name_of ? kind_text_at(declared, k->ref->path) : NULL;
    const char *name = id ? name_of(arg, kind_find(k->ref->kind)->collection, id) : NULL;
    if (name)
        kind_set_at(declared, k->ref->path, name);
    return declared;
}
