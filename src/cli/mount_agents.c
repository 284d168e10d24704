#include "cli/mount_agents.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/output.h"
#include "cli/remote.h"

#include <string.h>
#include <strings.h>

#define ASK_MS   30000
#define SOON_MS  20
#define PAGE     "1000"
#define ASKED_MS 10000

struct mount_agents {
    struct mount_agents_config cfg;
    struct http_client *http;
    struct http_exchange *exchange;
    struct timer timer;
    char *agents_path, *tunnels_path;
    json_t *agents;           /* as the hub listed them; NULL: not known */
    char *serving;            /* name */
    bool is_known, is_wanted; /* wanted: again, as soon as this answer is here */
};

/* ---- who serves ---- */

/* "network", or the tunnel's list of addresses as the header has it. */
static bool has_scope(const json_t *tunnel, const char *scope)
{
    const json_t *allow = output_at(tunnel, "spec.target.allow");
    struct buf text = {0};
    size_t i;
    json_t *item;
    json_array_foreach ((json_t *)allow, i, item)
        buf_printf(&text, "%s%s", i ? "," : "", json_string_value(item));
    bool is_same = strcmp(text.len ? buf_text(&text) : "network", scope) == 0;
    buf_done(&text);
    return is_same;
}

static const char *text_at(const json_t *object, const char *path)
{
    const char *text = json_string_value(output_at(object, path));
    return text ? text : "";
}

static const char *name_of(const struct mount_agents *ma, const char *id)
{
    size_t i;
    json_t *agent;
    json_array_foreach (ma->agents, i, agent) {
        if (strcmp(text_at(agent, "id"), id) == 0)
            return text_at(agent, "name");
    }
    return id;
}

static void find_serving(struct mount_agents *ma, const json_t *tunnels)
{
    size_t i;
    json_t *t;
    mem_free(TAKE(ma->serving));
    json_array_foreach ((json_t *)tunnels, i, t) {
        const char *agent = text_at(t, "status.lease.agent.id");
        if (strcmp(text_at(t, "spec.target.address"), "*") != 0 || !*agent ||
            strcmp(text_at(t, "status.phase"), "active") != 0 || !has_scope(t, ma->cfg.scope))
            continue;
        ma->serving = mem_strdup(name_of(ma, agent));
        return;
    }
}

/* ---- asking ---- */

static json_t *items_of(struct http_reply *reply)
{
    json_t *answer = reply && reply->status == 200
                         ? json_loadb(buf_text(&reply->body), reply->body.len, 0, NULL)
                         : NULL;
    json_t *items = json_incref(json_object_get(answer, "items"));
    json_decref(answer);
    return items;
}

static void asked(struct mount_agents *ma)
{
    ma->is_known = true;
    if (!timer_is_running(&ma->timer))
        timer_start(&ma->timer, ma->is_wanted ? SOON_MS : ASK_MS);
    ma->is_wanted = false;
    ma->cfg.on_change(ma->cfg.arg);
}

static void on_tunnels(void *arg, struct http_reply *reply, const struct diag *d)
{
    struct mount_agents *ma = arg;
    json_t *items = items_of(reply);
    ma->exchange = NULL;
    if (items)
        find_serving(ma, items);
    json_decref(items);
    asked(ma);
}

static void on_agents(void *arg, struct http_reply *reply, const struct diag *d)
{
    static const struct http_exchange_ops ops = {.done = on_tunnels};
    struct mount_agents *ma = arg;
    json_t *items = items_of(reply);
    ma->exchange = NULL;
    if (!items) {
        asked(ma);
        return;
    }
    json_decref(ma->agents);
    ma->agents = items;
    ma->exchange =
        http_client_start(ma->http, &(struct http_ask){.path = ma->tunnels_path}, &ops, ma);
}

static void on_timer(struct timer *t)
{
    static const struct http_exchange_ops ops = {.done = on_agents};
    struct mount_agents *ma = container_of(t, struct mount_agents, timer);
    if (ma->exchange)
        ma->is_wanted = true;
    else
        ma->exchange =
            http_client_start(ma->http, &(struct http_ask){.path = ma->agents_path}, &ops, ma);
}

void mount_agents_ask(struct mount_agents *ma)
{
    timer_start(&ma->timer, SOON_MS);
}

/* ---- answers ---- */

bool mount_agents_are_known(const struct mount_agents *ma)
{
    return ma->is_known;
}

const char *mount_agents_serving(const struct mount_agents *ma)
{
    return ma->serving;
}

static void put_address(const char *text, uint8_t out[16])
{
    static const uint8_t v4[16] = {[10] = 0xff, 0xff};
    struct addr a;
    if (addr_parse(text, 0, &a) < 0) {
        memset(out, 0, 16);
    } else if (a.sa.sa_family == AF_INET) {
        memcpy(out, v4, 16);
        memcpy(out + 12, &a.in4.sin_addr, 4);
    } else {
        memcpy(out, &a.in6.sin6_addr, 16);
    }
}

/* By its own name, or by its machine's host name. */
int mount_agents_find(void *agents, const char *name, uint8_t (*ret)[16], size_t max)
{
    const struct mount_agents *ma = agents;
    size_t i, k, n = 0;
    json_t *agent, *text;
    if (!ma->agents)
        return ERR_UNAVAILABLE;
    json_array_foreach (ma->agents, i, agent) {
        if (strcasecmp(text_at(agent, "name"), name) != 0 &&
            strcasecmp(text_at(agent, "status.session.hostname"), name) != 0)
            continue;
        json_array_foreach ((json_t *)output_at(agent, "status.session.addresses"), k, text) {
            if (n < max)
                put_address(json_string_value(text), ret[n++]);
        }
        return (int)n;
    }
    return ERR_NOT_FOUND;
}

/* ---- its life ---- */

static char *list_path(const char *collection, const char *network)
{
    char *path = remote_path(collection, NULL, NULL);
    remote_query(&path, "network", network);
    remote_query(&path, "page_size", PAGE);
    return path;
}

int mount_agents_new(const struct mount_agents_config *cfg, struct mount_agents **ret,
                     struct diag *d)
{
    struct http_client_config http = *cfg->http;
    struct http_client *client;
    http.timeout_ms = ASKED_MS;
    TRY(http_client_new(cfg->loop, &http, &client, d));
    struct mount_agents *ma = NEW(struct mount_agents);
    ma->cfg = *cfg;
    ma->http = client;
    ma->agents_path = list_path("agents", cfg->network);
    ma->tunnels_path = list_path("tunnels", cfg->network);
    timer_init(&ma->timer, cfg->loop, on_timer);
    *ret = ma;
    return 0;
}

void mount_agents_stop(struct mount_agents *ma)
{
    timer_stop(&ma->timer);
    if (ma->exchange)
        http_exchange_cancel(TAKE(ma->exchange));
}

bool mount_agents_is_idle(const struct mount_agents *ma)
{
    return http_client_is_idle(ma->http);
}

void mount_agents_free(struct mount_agents *ma)
{
    if (!ma)
        return;
    http_client_free(ma->http);
    json_decref(ma->agents);
    mem_free(ma->agents_path);
    mem_free(ma->tunnels_path);
    mem_free(ma->serving);
    mem_free(ma);
}
