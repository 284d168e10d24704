#include "cli/tunnel_access_cmd.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"

#include <string.h>

static int endpoint_from_flags(struct call *c, json_t *access, bool *has_endpoint)
{
    const char *host = call_text(c, "--host"), *sni = call_text(c, "--sni");
    int n = (host != NULL) + (sni != NULL) + call_is_given(c, "--listen") +
            call_is_given(c, "--no-listen");
    if (n > 1)
        return call_fail(c, ERR_USAGE, NULL,
                         "only one of --listen, --no-listen, --host and --sni can be given");
    *has_endpoint = host || sni;
    /* null: a patch takes the other members away */
    if (host || sni)
        json_object_set_new(access, "endpoint",
                            json_pack("{s:s, s:n, s:n}", host ? "host" : "sni", host ? host : sni,
                                      host ? "sni" : "host", "listen"));
    return 0;
}

static int add_user(struct call *c, json_t *users, const char *name, const char *path)
{
    CLEANUP(secret_done) struct secret password = {0};
    json_t *user = json_pack("{s:s}", "name", name);
    json_array_append_new(users, user);
    if (!path)
        return 0;
    int rc = conf_read_secret(path, &password, &c->diag);
    if (rc < 0)
        return rc;
    json_object_set_new(user, "password", json_stringn(password.data, password.len));
    return json_object_get(user, "password")
               ? 0
               : call_fail(c, ERR_USAGE, NULL, "%s: the password is not UTF-8", path);
}

/* The n-th --password-file is that of the n-th --user. */
static int users_from_flags(struct call *c, json_t *access)
{
    size_t n = 0;
    int rc = 0;
    const char *name;
    json_t *users = json_array();
    while (rc == 0 && (name = call_item(c, "--user", n))) {
        rc = add_user(c, users, name, call_item(c, "--password-file", n));
        n++;
    }
    if (rc == 0 && call_item(c, "--password-file", n))
        rc = call_fail(c, ERR_USAGE, NULL, "there are more --password-file than --user");
    if (rc == 0 && n > 0)
        json_object_set(access, "users", users);
    json_decref(users);
    return rc;
}

int access_from_flags(struct call *c, json_t *access, bool *has_endpoint)
{
    const char *source;
    TRY(endpoint_from_flags(c, access, has_endpoint));
    if (call_text(c, "--auth")) {
        json_object_set_new(access, "auth", json_string(call_text(c, "--auth")));
        if (strcmp(call_text(c, "--auth"), "basic") != 0)
            json_object_set_new(access, "users", json_array());
    }
    TRY(users_from_flags(c, access));
    if (!call_item(c, "--source", 0))
        return 0;
    json_t *sources = json_array();
    for (size_t i = 0; (source = call_item(c, "--source", i)); i++) {
        if (strcmp(source, "any") != 0)
            json_array_append_new(sources, json_string(source));
    }
    json_object_set_new(access, "sources", sources);
    return 0;
}

int access_hubs_from_flags(struct call *c, json_t *access)
{
    const char *hub;
    json_t *endpoint = json_object_get(access, "endpoint"), *hubs = json_array();
    for (size_t i = 0; (hub = call_item(c, "--at-hub", i)); i++) {
        if (strcmp(hub, "any") != 0)
            json_array_append_new(hubs, json_string(hub));
    }
    if (!call_item(c, "--at-hub", 0)) {
        json_decref(hubs);
        return 0;
    }
    if (json_is_null(endpoint)) {
        json_decref(hubs);
        return call_fail(c, ERR_USAGE, NULL,
                         "--at-hub says where --listen, --host or --sni counts");
    }
    if (!endpoint)
        json_object_set_new(access, "endpoint", endpoint = json_object());
    json_object_set_new(endpoint, "hubs", hubs);
    return 0;
}

static const char *const auths[] = {"public", "basic", "api-token", "tenant-login", NULL};

static const struct flag_row rows[] = {
    {.name = "--host",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "Serve HTTP under this name at the hub's own port; its DNS points at the hub."},
    {.name = "--sni",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "Pass TLS for this name, untouched, from the hub's own port to the target."},
    {.name = "--at-hub",
     .type = FLAG_LIST,
     .metavar = "HUB",
     .help = "Only at this hub of a cluster, by name or id; \"any\" lifts the limit."},
    {.name = "--auth",
     .type = FLAG_CHOICE,
     .metavar = "KIND",
     .choices = auths,
     .candidates = CANDIDATES_CHOICES,
     .help = "With --host: who may come in: public, basic (--user), api-token or tenant-login."},
    {.name = "--user",
     .type = FLAG_LIST,
     .metavar = "NAME",
     .help = "A user of --auth basic; all of them must be named."},
    {.name = "--password-file",
     .type = FLAG_LIST,
     .metavar = "FILE",
     .candidates = CANDIDATES_FILE,
     .help = "The password of the --user before it, in a file; a user without keeps his."},
    {.name = "--source",
     .type = FLAG_LIST,
     .metavar = "CIDR",
     .help = "Only clients from these addresses; \"any\" lifts the limit."},
};
const struct flag_set access_flags = {"Access", rows, ARRAY_SIZE(rows)};
