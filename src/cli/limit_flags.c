#include "cli/limit_flags.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <string.h>

#define BANDWIDTH_HELP "such as 5MiB, in each direction; \"none\" lifts the limit."

static const struct flag_row tunnel_rows[] = {
    {.name = "--bandwidth",
     .type = FLAG_TEXT,
     .metavar = "BYTES",
     .help = "Bytes per second that may pass, " BANDWIDTH_HELP},
    {.name = "--max-streams",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Clients connected at a time; \"none\" lifts the limit."},
    {.name = "--max-rate",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "New connections per second of one client address; \"none\" lifts the limit."},
};
const struct flag_set tunnel_limit_flags = {"Limits", tunnel_rows, ARRAY_SIZE(tunnel_rows)};

static const struct flag_row tenant_rows[] = {
    {.name = "--tunnels",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Tunnels that it may have; \"none\" lifts the limit."},
    {.name = "--agents",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Agents that are not revoked; \"none\" lifts the limit."},
    {.name = "--networks",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Networks, but for those that agents make; \"none\" lifts the limit."},
    {.name = "--tokens",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Tokens that can still be used; \"none\" lifts the limit."},
    {.name = "--streams",
     .type = FLAG_TEXT,
     .metavar = "N",
     .help = "Clients connected at a time to all its tunnels; \"none\" lifts the limit."},
    {.name = "--bandwidth",
     .type = FLAG_TEXT,
     .metavar = "BYTES",
     .help = "Bytes per second of all its tunnels, " BANDWIDTH_HELP},
    {.name = "--hosts",
     .type = FLAG_TEXT,
     .metavar = "DOMAIN,...",
     .help = "Where public names of its tunnels must be: one of these domains, or below one; "
             "\"none\" lifts the limit."},
};
const struct flag_set tenant_limit_flags = {"Limits", tenant_rows, ARRAY_SIZE(tenant_rows)};

static const char *member_of(const char *flag)
{
    static const char *const names[][2] = {{"--max-streams", "streams"},
                                           {"--max-rate", "streams_per_second"}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(names[i][0], flag) == 0)
            return names[i][1];
    return flag + 2;
}

static json_t *read_domains(const char *text)
{
    json_t *list = json_array();
    for (size_t n; *text; text += n + (text[n] == ',')) {
        n = strcspn(text, ",");
        json_array_append_new(list, json_stringn(text, n));
    }
    return list;
}

static int read_one(struct call *c, const char *flag, json_t *limits)
{
    const char *text = call_text(c, flag);
    uint64_t n = 0;
    if (!text)
        return 0;
    bool is_bytes = strcmp(flag, "--bandwidth") == 0;
    bool is_none = strcmp(text, "none") == 0;
    if (strcmp(flag, "--hosts") == 0) {
        json_object_set_new(limits, "hosts", is_none ? json_null() : read_domains(text));
        return 0;
    }
    int rc = is_none ? 0 : is_bytes ? text_to_bytes(text, &n) : text_to_u64(text, INT64_MAX, &n);
    if (rc < 0 || n > INT64_MAX)
        return call_fail(c, ERR_USAGE, NULL, "%s: '%.40s' is neither %s nor \"none\"", flag, text,
                         is_bytes ? "a size such as 5MiB" : "a number");
    json_object_set_new(limits, member_of(flag), is_none ? json_null() : json_integer((int64_t)n));
    return 0;
}

int limit_flags_read(struct call *c, const struct flag_set *flags, json_t **ret)
{
    json_t *limits = json_object();
    int rc = 0;
    for (size_t i = 0; i < flags->n && rc == 0; i++)
        rc = read_one(c, flags->rows[i].name, limits);
    if (rc < 0 || json_object_size(limits) == 0) {
        json_decref(limits);
        limits = NULL;
    }
    *ret = limits;
    return rc;
}
