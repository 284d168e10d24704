/* warren status: is the hub there, who am I, what runs. */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/object_cmd.h"

#include <string.h>

/* {"total": 3, "active": 2, …}: how many objects are in which phase. */
static json_t *count_phases(const json_t *items)
{
    json_t *counts = json_object(), *item;
    size_t i;
    json_object_set_new(counts, "total", json_integer((json_int_t)json_array_size(items)));
    json_array_foreach (items, i, item) {
        const char *phase = json_string_value(output_at(item, "status.phase"));
        if (!phase)
            continue;
        json_int_t n = json_integer_value(json_object_get(counts, phase));
        json_object_set_new(counts, phase, json_integer(n + 1));
    }
    return counts;
}

static int add_counts(struct remote *r, json_t *status, const char *collection)
{
    CLEANUP(mem_free) char *path = remote_path(collection, NULL, NULL);
    json_t *items = NULL;
    TRY(remote_list(r, path, 0, "ask for the status", &items));
    json_object_set_new(status, collection, count_phases(items));
    json_decref(items);
    return 0;
}

static int add_self(struct remote *r, json_t *status)
{
    CLEANUP(mem_free) char *path = remote_path("tokens", "self", NULL);
    json_t *self = NULL;
    TRY(remote_get(r, path, "ask for the status", &self));
    json_t *token = json_object();
    static const char *const members[] = {"id", "name", "role", "tenant", "expires"};
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        json_object_set(token, members[i], json_object_get(self, members[i]));
    json_object_set_new(status, "token", token);
    json_decref(self);
    return 0;
}

static int add_ready(struct remote *r, json_t *status)
{
    struct diag d = {0};
    int http_status = 0;
    int result = remote_probe(r, "/readyz", &http_status, &d);
    if (result < 0)
        return remote_fail(r, "reach the hub", &d);
    json_object_set_new(status, "ready", json_boolean(http_status == 200));
    return 0;
}

static int gather(struct remote *r, json_t *status)
{
    static const char *const collections[] = {"agents", "networks", "tunnels"};
    json_object_set_new(status, "hub", json_string(remote_hub(r)));
    TRY(add_ready(r, status));
    TRY(add_self(r, status));
    for (size_t i = 0; i < ARRAY_SIZE(collections); i++)
        TRY(add_counts(r, status, collections[i]));
    return 0;
}

static int run_status(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    TRY(remote_open(c, &r));
    struct output o = output_of(c, r);
    json_t *status = json_object();
    int result = gather(r, status);
    if (result == 0)
        result = output_object(&o, status);
    json_decref(status);
    return result;
}

static const struct command rows[] = {
    {.words = "status",
     .summary = "Shows the hub, one's token, and how many objects do well.",
     .run = run_status,
     .flags = REMOTE_FLAGS()},
};
const struct command_set status_commands = {rows, ARRAY_SIZE(rows)};
