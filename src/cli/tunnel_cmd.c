#include "cli/commands.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/limit_flags.h"
#include "cli/object_cmd.h"
#include "cli/tunnel_access_cmd.h"
#include "cli/watch.h"

#include <string.h>

static const struct column columns[] = {
    {"NAME", "name"},
    {"PHASE", "status.phase", COLUMN_PHASE},
    {"NETWORK", "spec.target.network", COLUMN_REF, "networks"},
    {"TARGET", "spec.target.address"},
    {"ENDPOINT", "status.endpoint.address"},
    {"AGENT", "status.lease.agent.id", COLUMN_REF, "agents"},
    {"OPEN", "status.streams.open"},
    {"IN", "status.bytes.in", COLUMN_BYTES},
    {"OUT", "status.bytes.out", COLUMN_BYTES},
    {"REASON", "status.reason"},
};
static const struct view view = {"tunnels", "tunnel", columns, ARRAY_SIZE(columns)};

static const struct column connection_columns[] = {
    {"CLIENT", "client"},
    {"OPENED", "opened", COLUMN_TIME},
    {"CLOSED", "closed", COLUMN_TIME},
    {"IN", "bytes.in", COLUMN_BYTES},
    {"OUT", "bytes.out", COLUMN_BYTES},
    {"END", "end"},
    {"ERROR", "error"},
    {"AGENT", "agent", COLUMN_REF, "agents"},
};
static const struct view connection_view = {"connections", "connection", connection_columns,
                                            ARRAY_SIZE(connection_columns)};

static int run_list(struct call *c)
{
    char *path = remote_path("tunnels", NULL, NULL);
    remote_query(&path, "network", call_text(c, "--network"));
    return object_list(c, &view, path, 0);
}

static int run_get(struct call *c)
{
    return object_get(c, &view);
}

static int run_delete(struct call *c)
{
    return object_delete(c, &view);
}

static int run_connections(struct call *c)
{
    char *path = remote_path("tunnels", c->args[0], "/connections");
    if (call_is_given(c, "--open"))
        remote_query(&path, "open", "1");
    return object_list(c, &connection_view, path, (size_t)call_int(c, "--limit", 0));
}

/* --- create and update ----------------------------------------------------------------------- */

static int check_address(struct call *c, const char *flag, bool zero_ok)
{
    struct host_port hp;
    struct diag d = {0};
    const char *text = call_text(c, flag);
    if (text && host_port_parse(text, zero_ok, &hp, &d) < 0)
        return call_fail(c, ERR_USAGE, NULL, "%s: %s", flag, diag_text(&d));
    return 0;
}

/* What both commands say about access: the members that were given. */
static int access_body(struct call *c, json_t **ret)
{
    const char *listen = call_text(c, "--listen");
    const char *internal = call_text(c, "--internal");
    bool has_name;
    TRY(check_address(c, "--listen", true));
    json_t *access = json_object();
    int rc = access_from_flags(c, access, &has_name);
    if (rc < 0) {
        json_decref(access);
        return rc;
    }
    if (call_is_given(c, "--no-listen"))
        json_object_set_new(access, "endpoint", json_null());
    else if (listen && !has_name)
        json_object_set_new(access, "endpoint",
                            json_pack("{s:s, s:n, s:n}", "listen", listen, "host", "sni"));
    if (internal)
        json_object_set_new(access, "internal", json_boolean(strcmp(internal, "yes") == 0));
    rc = access_hubs_from_flags(c, access);
    if (rc < 0)
        json_decref(access);
    else
        *ret = access;
    return rc;
}

/* What both commands say about the target beside its address; `target` may get members. */
static void add_target_options(struct call *c, json_t *target)
{
    const char *proxy = call_text(c, "--proxy-protocol");
    if (call_text(c, "--protocol"))
        json_object_set_new(target, "protocol", json_string(call_text(c, "--protocol")));
    if (proxy)
        json_object_set_new(target, "proxy_protocol",
                            strcmp(proxy, "none") == 0 ? json_null() : json_string(proxy));
}

/* How it is spread and checked, as far as it was said. */
static void add_serving_options(const struct call *c, json_t *spec)
{
    static const struct {
        const char *flag, *member;
        bool is_number;
    } members[] = {{"--check", "type", false},
                   {"--check-interval", "interval", false},
                   {"--check-path", "path", false},
                   {"--check-rise", "rise", true},
                   {"--check-fall", "fall", true}};
    json_t *check = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        const char *text = call_text(c, members[i].flag);
        if (text)
            json_object_set_new(check, members[i].member,
                                members[i].is_number ? json_integer(call_int(c, members[i].flag, 0))
                                                     : json_string(text));
    }
    if (json_object_size(check) > 0)
        json_object_set(spec, "check", check);
    json_decref(check);
    if (call_text(c, "--spread"))
        json_object_set_new(spec, "spread", json_string(call_text(c, "--spread")));
}

static int create_body(struct call *c, json_t **ret)
{
    json_t *access = NULL, *limits = NULL;
    TRY(check_address(c, "--target", false));
    TRY(limit_flags_read(c, &tunnel_limit_flags, &limits));
    int rc = access_body(c, &access);
    if (rc < 0) {
        json_decref(limits);
        return rc;
    }
    *ret = json_pack("{s:s, s:{s:{s:s, s:s}, s:o, s:s?, s:s?}}", "name", call_text(c, "--name"),
                     "spec", "target", "network", call_text(c, "--network"), "address",
                     call_text(c, "--target"), "access", access, "idle_timeout",
                     call_text(c, "--idle-timeout"), "ttl", call_text(c, "--ttl"));
    add_target_options(c, json_object_get(json_object_get(*ret, "spec"), "target"));
    add_serving_options(c, json_object_get(*ret, "spec"));
    if (limits)
        json_object_set_new(json_object_get(*ret, "spec"), "limits", limits);
    return 0;
}

/* A merge patch (RFC 7396) of what was given. */
static int update_body(struct call *c, json_t **ret)
{
    json_t *access = NULL, *limits = NULL;
    const char *target = call_text(c, "--target"), *ttl = call_text(c, "--ttl");
    if (ttl && call_is_given(c, "--no-ttl"))
        return call_fail(c, ERR_USAGE, NULL, "--ttl and --no-ttl exclude each other");
    TRY(check_address(c, "--target", false));
    TRY(limit_flags_read(c, &tunnel_limit_flags, &limits));
    int rc = access_body(c, &access);
    if (rc < 0) {
        json_decref(limits);
        return rc;
    }
    json_t *body = json_object(), *spec = json_object(), *to = json_object();
    if (target)
        json_object_set_new(to, "address", json_string(target));
    add_target_options(c, to);
    if (json_object_size(to) > 0)
        json_object_set(spec, "target", to);
    json_decref(to);
    if (json_object_size(access) > 0)
        json_object_set(spec, "access", access);
    json_decref(access);
    if (call_text(c, "--idle-timeout"))
        json_object_set_new(spec, "idle_timeout", json_string(call_text(c, "--idle-timeout")));
    add_serving_options(c, spec);
    if (limits)
        json_object_set_new(spec, "limits", limits);
    if (ttl || call_is_given(c, "--no-ttl"))
        json_object_set_new(spec, "ttl", ttl ? json_string(ttl) : json_null());
    if (call_text(c, "--rename"))
        json_object_set_new(body, "name", json_string(call_text(c, "--rename")));
    if (json_object_size(spec) > 0)
        json_object_set(body, "spec", spec);
    json_decref(spec);
    if (json_object_size(body) == 0) {
        json_decref(body);
        return call_fail(c, ERR_USAGE, "\"warren tunnel update --help\" lists what can change",
                         "nothing to change");
    }
    *ret = body;
    return 0;
}

/* Waits if asked to, and prints the newest state also when the wait fails. Takes the object. */
static int finish(struct call *c, struct remote *r, json_t *obj)
{
    struct output o = output_of(c, r);
    int waited = 0;
    if (call_is_given(c, "--wait")) {
        json_t *newest = NULL;
        const char *id = json_string_value(json_object_get(obj, "id"));
        waited =
            watch_until_active(c, r, id ? id : "", call_duration_ms(c, "--timeout", 0), &newest);
        if (newest) {
            json_decref(obj);
            obj = newest;
        }
    }
    int printed = output_object(&o, obj);
    json_decref(obj);
    return waited < 0 ? waited : printed;
}

static int run_create(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *body = NULL, *obj = NULL;
    TRY(create_body(c, &body));
    int result = remote_open(c, &r);
    if (result < 0) {
        json_decref(body);
        return result;
    }
    TRY(object_create(c, r, &view, body, &obj));
    return finish(c, r, obj);
}

static int run_update(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    CLEANUP(mem_free) char *path = remote_path("tunnels", c->args[0], NULL);
    char doing[128];
    json_t *body = NULL, *obj = NULL;
    TRY(update_body(c, &body));
    int result = remote_open(c, &r);
    if (result < 0) {
        json_decref(body);
        return result;
    }
    snprintf(doing, sizeof(doing), "change the tunnel \"%s\"", c->args[0]);
    TRY(remote_send(r, "PATCH", path, body, (uint64_t)call_int(c, "--if-version", 0), doing, &obj));
    return finish(c, r, obj);
}

/* --- rows ------------------------------------------------------------------------------------ */

static const char *const yes_no[] = {"yes", "no", NULL};

static const char *const protocols[] = {"tcp", "udp", "http", "https", NULL};

#define IDLE_HELP     "UDP: forget a client that was silent for so long; without it, 2m."
#define TARGET_HELP   "Where the agents reach the service."
#define LISTEN_HELP   "Where the hub listens for clients; port 0 lets it pick one."
#define INTERNAL_HELP "Whether it can be reached inside Warren, by proxy and mounts."

#define PROTOCOL_FLAG                                                                            \
    {                                                                                            \
        .name = "--protocol", .type = FLAG_CHOICE, .metavar = "PROTOCOL", .choices = protocols,  \
        .candidates = CANDIDATES_CHOICES,                                                        \
        .help = "What the service speaks: tcp (if not given) or udp; with --host http or https." \
    }

#define PROXY_PROTOCOL_FLAG                                                              \
    {                                                                                    \
        .name = "--proxy-protocol", .type = FLAG_CHOICE, .metavar = "v1|v2|none",        \
        .choices = proxy_protocols, .candidates = CANDIDATES_CHOICES,                    \
        .help = "Tell the target each client's real address by a PROXY protocol header." \
    }
static const char *const proxy_protocols[] = {"v1", "v2", "none", NULL};

static const struct flag_row create_rows[] = {
    {.name = "--name",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .is_required = true,
     .help = "Its name, unique in the tenant."},
    {.name = "--network",
     .type = FLAG_TEXT,
     .metavar = "NETWORK",
     .is_required = true,
     .candidates = CANDIDATES_NETWORK,
     .help = "The network whose agents serve it."},
    {.name = "--target",
     .type = FLAG_TEXT,
     .metavar = "HOST:PORT",
     .is_required = true,
     .help = TARGET_HELP},
    PROTOCOL_FLAG,
    PROXY_PROTOCOL_FLAG,
    {.name = "--listen",
     .type = FLAG_TEXT,
     .metavar = "ADDR:PORT",
     .fallback = "127.0.0.1:0",
     .help = LISTEN_HELP},
    {.name = "--no-listen", .type = FLAG_SWITCH, .help = "No listener at the hub."},
    {.name = "--internal",
     .type = FLAG_CHOICE,
     .metavar = "yes|no",
     .fallback = "yes",
     .choices = yes_no,
     .candidates = CANDIDATES_CHOICES,
     .help = INTERNAL_HELP},
    {.name = "--idle-timeout", .type = FLAG_DURATION, .metavar = "TIME", .help = IDLE_HELP},
    {.name = "--ttl",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help = "Close it after this time; without it, it stays."},
};
static const struct flag_set create_flags = {"Flags", create_rows, ARRAY_SIZE(create_rows)};

static const struct flag_row update_rows[] = {
    {.name = "--target", .type = FLAG_TEXT, .metavar = "HOST:PORT", .help = TARGET_HELP},
    PROTOCOL_FLAG,
    PROXY_PROTOCOL_FLAG,
    {.name = "--listen", .type = FLAG_TEXT, .metavar = "ADDR:PORT", .help = LISTEN_HELP},
    {.name = "--no-listen", .type = FLAG_SWITCH, .help = "No listener at the hub any more."},
    {.name = "--internal",
     .type = FLAG_CHOICE,
     .metavar = "yes|no",
     .choices = yes_no,
     .candidates = CANDIDATES_CHOICES,
     .help = INTERNAL_HELP},
    {.name = "--idle-timeout", .type = FLAG_DURATION, .metavar = "TIME", .help = IDLE_HELP},
    {.name = "--ttl",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help = "Close it after this time, counted from now."},
    {.name = "--no-ttl", .type = FLAG_SWITCH, .help = "Let it stay."},
    {.name = "--rename", .type = FLAG_TEXT, .metavar = "NAME", .help = "Give it another name."},
};
static const struct flag_set update_flags = {"Flags", update_rows, ARRAY_SIZE(update_rows)};

static const char *const spreads[] = {"agent", "connection", NULL};
static const char *const checks[] = {"tcp", "http", "none", NULL};

static const struct flag_row serving_rows[] = {
    {.name = "--spread",
     .type = FLAG_CHOICE,
     .metavar = "agent|connection",
     .choices = spreads,
     .candidates = CANDIDATES_CHOICES,
     .help = "One agent of the network serves it, or all, each connection its own."},
    {.name = "--check",
     .type = FLAG_CHOICE,
     .metavar = "tcp|http|none",
     .choices = checks,
     .candidates = CANDIDATES_CHOICES,
     .help = "How agents find out whether they reach the target."},
    {.name = "--check-interval",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .help = "How often its agent checks."},
    {.name = "--check-path",
     .type = FLAG_TEXT,
     .metavar = "PATH",
     .help = "What an HTTP check gets; 2xx and 3xx are good."},
    {.name = "--check-rise",
     .type = FLAG_INT,
     .metavar = "N",
     .help = "Good checks in a row until it is reached again."},
    {.name = "--check-fall",
     .type = FLAG_INT,
     .metavar = "N",
     .help = "Bad checks in a row until it is not reached."},
};
static const struct flag_set serving_flags = {"Serving", serving_rows, ARRAY_SIZE(serving_rows)};

static const struct flag_row wait_rows[] = {
    {.name = "--wait", .type = FLAG_SWITCH, .help = "Return when it serves, or when it cannot."},
    {.name = "--timeout",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .fallback = "30s",
     .help = "How long --wait waits."},
};
static const struct flag_set wait_flags = {"Flags", wait_rows, ARRAY_SIZE(wait_rows)};

static const struct flag_row filter_rows[] = {
    {.name = "--network",
     .type = FLAG_TEXT,
     .metavar = "NETWORK",
     .candidates = CANDIDATES_NETWORK,
     .help = "Only those of this network."},
};
static const struct flag_set filter_flags = {"Flags", filter_rows, ARRAY_SIZE(filter_rows)};

static const struct flag_row connection_rows[] = {
    {.name = "--open", .type = FLAG_SWITCH, .help = "Only those that are open now."},
    {.name = "--limit",
     .type = FLAG_INT,
     .metavar = "N",
     .fallback = "100",
     .help = "At most so many; 0 for all."},
};
static const struct flag_set connection_flags = {"Flags", connection_rows,
                                                 ARRAY_SIZE(connection_rows)};

static const struct command rows[] = {
    {.words = "tunnel create",
     .summary = "Makes a service of a network reachable at the hub.",
     .run = run_create,
     .flags = REMOTE_FLAGS(&create_flags, &access_flags, &serving_flags, &tunnel_limit_flags,
                           &wait_flags),
     .examples = "warren tunnel create --name web --network shop-17 --target 10.0.0.17:80 --wait\n"
                 "warren tunnel create --name ssh --network shop-17 --target 10.0.0.5:22 \\\n"
                 "    --listen 0.0.0.0:2222 --ttl 2h\n"
                 "warren tunnel create --name shop --network shop-17 --target 10.0.0.17:80 \\\n"
                 "    --host shop.tunnels.example.org --auth tenant-login\n"
                 "warren tunnel create --name snmp --network shop-17 --target 10.0.0.9:161 \\\n"
                 "    --protocol udp --listen 0.0.0.0:1161"},
    {.words = "tunnel list",
     .summary = "Lists tunnels and how they do.",
     .run = run_list,
     .flags = REMOTE_FLAGS(&filter_flags, &list_flags)},
    {.words = "tunnel get",
     .summary = "Shows a tunnel.",
     .run = run_get,
     .args = "TUNNEL",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TUNNEL,
     .flags = REMOTE_FLAGS(&list_flags)},
    {.words = "tunnel update",
     .summary = "Changes a tunnel.",
     .run = run_update,
     .args = "TUNNEL",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TUNNEL,
     .flags = REMOTE_FLAGS(&update_flags, &access_flags, &serving_flags, &tunnel_limit_flags,
                           &if_version_flags, &wait_flags),
     .details = "A new target serves new connections, open ones stay. A new listener closes the "
                "old one with its connections."},
    {.words = "tunnel delete",
     .summary = "Closes tunnels with their connections.",
     .run = run_delete,
     .args = "TUNNEL...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_TUNNEL,
     .flags = REMOTE_FLAGS(&if_version_flags)},
    {.words = "tunnel connections",
     .summary = "Lists who connected through a tunnel, the newest first.",
     .run = run_connections,
     .args = "TUNNEL",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_TUNNEL,
     .flags = REMOTE_FLAGS(&connection_flags)},
};
const struct command_set tunnel_commands = {rows, ARRAY_SIZE(rows)};
