#include "cli/names.h"

#include "base/macro.h"
#include "base/mem.h"
#include "cli/contexts.h"
#include "cli/mount_control.h"
#include "cli/remote.h"

#include <string.h>

static void contexts_names(FILE *out)
{
    struct contexts all = {0};
    struct diag d = {0};
    size_t i;
    json_t *item, *list;
    if (contexts_load(&all, &d) < 0)
        return;
    list = contexts_list(&all);
    json_array_foreach (list, i, item) {
        fprintf(out, "%s\t%s\n", json_string_value(json_object_get(item, "name")),
                json_string_value(json_object_get(item, "hub")));
    }
    json_decref(list);
    contexts_done(&all);
}

static void print_name(const json_t *item, FILE *out)
{
    const char *name = json_string_value(json_object_get(item, "name"));
    const char *id = json_string_value(json_object_get(item, "id"));
    if (name && id)
        fprintf(out, "%s\t%s\n", name, id);
    else if (id)
        fprintf(out, "%s\t\n", id);
}

/* By the environment and the current context alone: flags typed so far are not looked at. */
static void object_names(const char *collection, FILE *out)
{
    static const struct command asker = {.words = "", .flags = {&remote_flags}};
    struct call c = {.command = &asker, .out = out, .err = out};
    CLEANUP(remote_free) struct remote *r = NULL;
    CLEANUP(mem_free) char *path = remote_path(collection, NULL, NULL);
    json_t *list = NULL, *item;
    size_t i;
    if (remote_open(&c, &r) < 0 || remote_list(r, path, 0, "list", &list) < 0)
        return;
    json_array_foreach (list, i, item) {
        print_name(item, out);
    }
    json_decref(list);
}

static void mount_names(FILE *out)
{
    json_t *list = control_list(), *item;
    size_t i;
    json_array_foreach (list, i, item) {
        fprintf(out, "%s\t%s\n", json_string_value(json_object_get(item, "name")),
                json_string_value(json_object_get(item, "network")));
    }
    json_decref(list);
}

void names_list(enum candidates kind, FILE *out)
{
    static const char *const collections[CANDIDATES_COUNT] = {
        [CANDIDATES_AGENT] = "agents",   [CANDIDATES_NETWORK] = "networks",
        [CANDIDATES_TENANT] = "tenants", [CANDIDATES_TOKEN] = "tokens",
        [CANDIDATES_TUNNEL] = "tunnels", [CANDIDATES_HUB] = "hubs",
    };
    if (kind == CANDIDATES_CONTEXT)
        contexts_names(out);
    else if (kind == CANDIDATES_MOUNT)
        mount_names(out);
    else if (collections[kind])
        object_names(collections[kind], out);
}
