/*
 * The view in memory of networks and agents: loaded at start, then following the feed
 * (fleet_follow.c). What enrolment writes (tables agent and network) is read here and never
 * written.
 */
#include "fleet/lan_hub.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define AGENT_COLUMNS                                                                       \
    "SELECT a.id, a.tenant, a.network, a.token, a.name, a.serial, a.version, a.not_after, " \
    "a.created, a.revoked, a.pending, s.epoch, s.connected, s.disconnected, s.address, "    \
    "s.hostname, s.version, s.allow, p.places, p.how, p.why, p.at, a.draining, "            \
    "a.drain_grace, s.addresses, s.hub, s.hub_epoch, a.knows FROM agent a "                 \
    "LEFT JOIN agent_session s ON s.agent = a.id LEFT JOIN agent_place p ON p.agent = a.id "

#define NETWORK_COLUMNS "SELECT id, tenant, name, version, created, automatic FROM network "

static void copy(char *out, size_t size, const char *in)
{
    snprintf(out, size, "%s", in ? in : "");
}

static void take_agent_row(const struct rows *rows, struct fleet_row *r)
{
    copy(r->id, sizeof(r->id), row_text(rows, 0));
    copy(r->tenant, sizeof(r->tenant), row_text(rows, 1));
    copy(r->network, sizeof(r->network), row_text(rows, 2));
    copy(r->token, sizeof(r->token), row_text(rows, 3));
    copy(r->name, sizeof(r->name), row_text(rows, 4));
    copy(r->serial, sizeof(r->serial), row_text(rows, 5));
    r->version = row_int(rows, 6);
    r->not_after = row_int(rows, 7);
    r->created = row_int(rows, 8);
    r->revoked = row_int(rows, 9);
    r->pending = row_int(rows, 10);
    r->epoch = row_int(rows, 11);
    r->connected = row_int(rows, 12);
    r->disconnected = row_int(rows, 13);
    copy(r->address, sizeof(r->address), row_text(rows, 14));
    copy(r->hostname, sizeof(r->hostname), row_text(rows, 15));
    copy(r->software, sizeof(r->software), row_text(rows, 16));
    copy(r->allow, sizeof(r->allow), row_text(rows, 17));
    copy(r->places, sizeof(r->places), row_text(rows, 18));
    copy(r->how, sizeof(r->how), row_text(rows, 19));
    copy(r->why, sizeof(r->why), row_text(rows, 20));
    r->placed = row_int(rows, 21);
    r->draining = row_int(rows, 22);
    r->drain_grace_ms = row_int(rows, 23);
    copy(r->addresses, sizeof(r->addresses), row_text(rows, 24));
    copy(r->hub, sizeof(r->hub), row_text(rows, 25));
    r->hub_epoch = row_int(rows, 26);
    r->knows = row_int(rows, 27);
}

int fleet_rows_read(struct tx *tx, const struct store_value *ids, size_t n,
                    void (*fn)(void *arg, const struct fleet_row *row), void *arg)
{
    CLEANUP(buf_done) struct buf sql = {0};
    struct fleet_row row;
    int rc;
    TRY(buf_puts(&sql, AGENT_COLUMNS "WHERE a.id IN ("));
    for (size_t i = 1; i <= n; i++)
        TRY(buf_printf(&sql, "$%zu%s", i, i < n ? ", " : ")"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), ids, n);
    while ((rc = row_next(&rows)) > 0) {
        take_agent_row(&rows, &row);
        fn(arg, &row);
    }
    return rc;
}

int fleet_row_read(struct tx *tx, const char *agent, struct fleet_row *ret)
{
    struct rows rows = tx_query(tx, AGENT_COLUMNS "WHERE a.id = $1", STORE_TEXT(agent));
    int rc = TRY(row_next(&rows));
    if (rc == 0)
        return ERR_NOT_FOUND;
    take_agent_row(&rows, ret);
    rows_done(&rows);
    return 0;
}

static void take_network_row(const struct rows *rows, struct fleet_network_row *r)
{
    copy(r->id, sizeof(r->id), row_text(rows, 0));
    copy(r->tenant, sizeof(r->tenant), row_text(rows, 1));
    copy(r->name, sizeof(r->name), row_text(rows, 2));
    r->version = row_int(rows, 3);
    r->created = row_int(rows, 4);
    r->is_automatic = row_int(rows, 5) != 0;
}

int fleet_network_row_read(struct tx *tx, const char *network, struct fleet_network_row *ret)
{
    struct rows rows = tx_query(tx, NETWORK_COLUMNS "WHERE id = $1", STORE_TEXT(network));
    int rc = TRY(row_next(&rows));
    if (rc == 0)
        return ERR_NOT_FOUND;
    take_network_row(&rows, ret);
    rows_done(&rows);
    return 0;
}

/* ---- the view ---- */

static struct fleet_key *find_key(struct fleet_key *table, const char *tenant, const char *name)
{
    struct fleet_key *k, asked;
    snprintf(asked.text, sizeof(asked.text), "%s %s", tenant, name);
    HASH_FIND_STR(table, asked.text, k);
    return k;
}

static void forget_key(struct fleet_key **table, struct fleet_key *k)
{
    if (k->text[0])
        HASH_DEL(*table, k);
    k->text[0] = '\0';
}

static void put_key(struct fleet_key **table, struct fleet_key *k, const char *tenant,
                    const char *name)
{
    forget_key(table, k);
    snprintf(k->text, sizeof(k->text), "%s %s", tenant, name);
    HASH_ADD_STR(*table, text, k);
}

struct fleet_network *fleet_view_put_network(struct fleet *f, const struct fleet_network_row *r)
{
    struct fleet_network *n = fleet_network_find(f, r->id);
    if (!n) {
        n = NEW(struct fleet_network);
        copy(n->id, sizeof(n->id), r->id);
        copy(n->tenant, sizeof(n->tenant), r->tenant);
        HASH_ADD_STR(f->networks, id, n);
    }
    copy(n->name, sizeof(n->name), r->name);
    put_key(&f->network_names, &n->key, n->tenant, n->name);
    n->version = r->version;
    n->created = r->created;
    n->is_automatic = r->is_automatic;
    return n;
}

void fleet_view_put_alias(struct fleet *f, const char *id, const char *tenant, const char *network,
                          const char *name, int64_t at, const char *why)
{
    struct fleet_alias *a, *other;
    HASH_FIND_STR(f->aliases, id, a);
    if (!a) {
        a = NEW(struct fleet_alias);
        copy(a->id, sizeof(a->id), id);
        copy(a->tenant, sizeof(a->tenant), tenant);
        HASH_ADD_STR(f->aliases, id, a);
    }
    copy(a->name, sizeof(a->name), name);
    put_key(&f->alias_names, &a->key, a->tenant, a->name);
    a->at = at;
    mem_free(a->why);
    a->why = mem_strdup(why);
    copy(a->network, sizeof(a->network), network);
    for (other = f->aliases; other; other = other->hh.next) { /* of the one that is merged now */
        if (strcmp(other->network, id) == 0)
            copy(other->network, sizeof(other->network), network);
    }
}

static void remove_alias(struct fleet *f, struct fleet_alias *a)
{
    HASH_DEL(f->aliases, a);
    forget_key(&f->alias_names, &a->key);
    mem_free(a->why);
    mem_free(a);
}

void fleet_view_relink(struct fleet_agent *a, struct fleet_network *to)
{
    size_t online = a->call ? 1 : 0;
    if (a->network == to)
        return;
    DL_DELETE2(a->network->agents, a, prev, next_in_network);
    a->network->online -= online;
    a->network = to;
    DL_APPEND2(to->agents, a, prev, next_in_network);
    to->online += online;
}

static struct fleet_network *network_of_row(struct fleet *f, const struct fleet_row *r)
{
    struct fleet_network *n = fleet_network_find(f, r->network);
    if (n)
        return n;
    struct fleet_network_row early = {0}; /* the feed brings the network's own row in a moment */
    copy(early.id, sizeof(early.id), r->network);
    copy(early.tenant, sizeof(early.tenant), r->tenant);
    return fleet_view_put_network(f, &early);
}

static void take_place(struct fleet_agent *a, const struct fleet_row *r)
{
    if (!a->lan && !r->places[0] && !r->placed)
        return;
    struct fleet_lan *lan = fleet_lan_of(a);
    if (!lan->places && r->places[0])
        lan->places = mem_strdup(r->places);
    if (r->placed != lan->placed_at) {
        copy(lan->how, sizeof(lan->how), r->how);
        mem_free(lan->why);
        lan->why = mem_strdup(r->why);
        lan->placed_at = r->placed;
    }
}

struct fleet_agent *fleet_view_put_agent(struct fleet *f, const struct fleet_row *r)
{
    struct fleet_agent *a = fleet_agent_find(f, r->id);
    if (!a) {
        struct fleet_network *n = network_of_row(f, r);
        a = NEW(struct fleet_agent);
        a->fleet = f;
        copy(a->id, sizeof(a->id), r->id);
        copy(a->tenant, sizeof(a->tenant), r->tenant);
        a->network = n;
        DL_APPEND2(n->agents, a, prev, next_in_network);
        HASH_ADD_STR(f->agents, id, a);
    }
    fleet_view_relink(a, network_of_row(f, r));
    take_place(a, r);
    copy(a->name, sizeof(a->name), r->name);
    put_key(&f->agent_names, &a->key, a->tenant, a->name);
    copy(a->token, sizeof(a->token), r->token);
    copy(a->serial, sizeof(a->serial), r->serial);
    a->version = r->version;
    a->not_after = r->not_after;
    a->created = r->created;
    a->revoked = r->revoked;
    a->pending = r->pending;
    a->draining = r->draining;
    a->drain_grace_ms = r->drain_grace_ms;
    if (!a->call || (uint64_t)r->epoch >= a->epoch) {
        a->epoch = (uint64_t)r->epoch;
        copy(a->hub, sizeof(a->hub), r->hub);
        a->hub_epoch = (uint64_t)r->hub_epoch;
        a->connected = r->connected;
        a->disconnected = r->disconnected;
        copy(a->address, sizeof(a->address), r->address);
        copy(a->hostname, sizeof(a->hostname), r->hostname);
        copy(a->software, sizeof(a->software), r->software);
        mem_free(a->allow);
        mem_free(a->addresses);
        a->allow = mem_strdup(r->allow);
        a->addresses = mem_strdup(r->addresses);
    }
    return a;
}

static void free_network(struct fleet *f, struct fleet_network *n)
{
    HASH_DEL(f->networks, n);
    forget_key(&f->network_names, &n->key);
    mem_free(n);
}

static void free_agent(struct fleet *f, struct fleet_agent *a)
{
    if (f->told.next == a)
        f->told.next = a->hh.next;
    HASH_DEL(f->agents, a);
    forget_key(&f->agent_names, &a->key);
    mem_free(a->allow);
    mem_free(a->addresses);
    fleet_lan_free(a);
    mem_free(a);
}

void fleet_view_remove_network(struct fleet *f, const char *id)
{
    struct fleet_alias *alias, *next;
    struct fleet_network *n = fleet_network_find(f, id);
    if (!n || n->agents)
        return;
    HASH_ITER (hh, f->aliases, alias, next) {
        if (strcmp(alias->network, id) == 0)
            remove_alias(f, alias);
    }
    free_network(f, n);
}

void fleet_view_remove_agent(struct fleet *f, const char *id)
{
    struct fleet_agent *a = fleet_agent_find(f, id);
    if (!a)
        return;
    fleet_cut(f, a, "the agent was deleted");
    DL_DELETE2(a->network->agents, a, prev, next_in_network);
    free_agent(f, a);
}

/* ---- telling watchers ---- */

#define TOUCH_MS    200
#define TOUCH_BATCH 64

struct touch {
    size_t n;
    struct {
        char id[ID_SIZE], tenant[ID_SIZE];
    } items[TOUCH_BATCH];
};

static int write_touch(struct tx *tx, void *arg)
{
    const struct touch *t = arg;
    for (size_t i = 0; i < t->n; i++)
        TRY(store_publish(tx, t->items[i].tenant, "agent", t->items[i].id, STORE_PUT));
    return 0;
}

static void touch_written(void *arg, int err)
{
    mem_free(arg);
}

static void on_touch_timer(struct timer *timer)
{
    struct fleet *f = container_of(timer, struct fleet, touch_timer);
    struct touch *t = NEW(struct touch);
    for (struct fleet_agent *a = f->agents; a && t->n < TOUCH_BATCH; a = a->hh.next) {
        if (!TAKE(a->is_touched))
            continue;
        copy(t->items[t->n].id, ID_SIZE, a->id);
        copy(t->items[t->n++].tenant, ID_SIZE, a->tenant);
    }
    if (t->n == TOUCH_BATCH)
        timer_start(timer, TOUCH_MS);
    store_run(f->cfg.store, STORE_WRITE, write_touch, touch_written, t);
}

void fleet_agent_touch(struct fleet_agent *a)
{
    struct timer *t = &a->fleet->touch_timer;
    a->is_touched = true;
    if (!timer_is_running(t) && !a->fleet->is_stopping)
        timer_start(t, TOUCH_MS);
}

/* ---- start and end ---- */

#define LOAD_PAGE 4096 /* agents that are read by a transaction */

struct load {
    struct fleet *f;
    char after[ID_SIZE]; /* of the last agent that was read */
    size_t n;
};

static int load_agents(struct tx *tx, void *arg)
{
    struct load *l = arg;
    struct fleet_row a;
    int rc;
    struct rows rows = tx_query(tx, AGENT_COLUMNS "WHERE a.id > $1 ORDER BY a.id LIMIT $2",
                                STORE_TEXT(l->after), STORE_INT(LOAD_PAGE));
    l->n = 0;
    while ((rc = row_next(&rows)) > 0) {
        take_agent_row(&rows, &a);
        fleet_view_put_agent(l->f, &a);
        copy(l->after, sizeof(l->after), a.id);
        l->n++;
    }
    return rc;
}

static int load_networks(struct tx *tx, void *arg)
{
    struct fleet *f = arg;
    struct fleet_network_row n;
    int rc;
    struct rows rows = tx_query(tx, NETWORK_COLUMNS "ORDER BY created");
    while ((rc = row_next(&rows)) > 0) {
        take_network_row(&rows, &n);
        fleet_view_put_network(f, &n);
    }
    TRY(rc);
    rows = tx_query(tx, "SELECT id, tenant, network, name, at, why FROM network_alias");
    while ((rc = row_next(&rows)) > 0)
        fleet_view_put_alias(f, row_text(&rows, 0), row_text(&rows, 1), row_text(&rows, 2),
                             row_text(&rows, 3), row_int(&rows, 4), row_text(&rows, 5));
    TRY(rc);
    rows = tx_query(tx, "SELECT a, b FROM network_apart");
    while ((rc = row_next(&rows)) > 0)
        fleet_put_apart(f, row_text(&rows, 0), row_text(&rows, 1));
    return rc;
}

/* What others write between two pages the feed tells of, which is followed from before. */
static int load_all(struct fleet *f)
{
    struct load l = {.f = f};
    TRY(store_run_wait(f->cfg.store, STORE_READ, load_networks, f));
    do
        TRY(store_run_wait(f->cfg.store, STORE_READ, load_agents, &l));
    while (l.n == LOAD_PAGE);
    return 0;
}

int fleet_view_load(struct fleet *f, struct diag *d)
{
    timer_init(&f->touch_timer, f->cfg.loop, on_touch_timer);
    int rc = load_all(f);
    return rc < 0 ? diag_set(d, rc, "cannot read agents and networks: %s", error_text(rc)) : 0;
}

void fleet_view_free(struct fleet *f)
{
    struct fleet_agent *a, *next_a;
    struct fleet_network *n, *next_n;
    timer_stop(&f->touch_timer);
    fleet_follow_free(f);
    HASH_ITER (hh, f->agents, a, next_a)
        free_agent(f, a);
    struct fleet_alias *alias, *next_alias;
    HASH_ITER (hh, f->aliases, alias, next_alias)
        remove_alias(f, alias);
    while (f->hubs)
        fleet_hub_remove(f, f->hubs);
    HASH_ITER (hh, f->networks, n, next_n)
        free_network(f, n);
}

/* ---- looking things up ---- */

struct fleet_agent *fleet_agent_find(struct fleet *f, const char *id)
{
    struct fleet_agent *a;
    HASH_FIND_STR(f->agents, id, a);
    return a;
}

struct fleet_network *fleet_network_find(struct fleet *f, const char *id)
{
    struct fleet_network *n;
    HASH_FIND_STR(f->networks, id, n);
    return n;
}

struct fleet_agent *fleet_agent_lookup(struct fleet *f, const char *tenant, const char *ref)
{
    struct fleet_agent *a = fleet_agent_find(f, ref);
    if (a)
        return strcmp(a->tenant, tenant) == 0 ? a : NULL;
    struct fleet_key *k = find_key(f->agent_names, tenant, ref);
    return k ? container_of(k, struct fleet_agent, key) : NULL;
}

static struct fleet_network *lookup_alias(struct fleet *f, const char *tenant, const char *ref)
{
    struct fleet_alias *a;
    struct fleet_key *k = find_key(f->alias_names, tenant, ref);
    HASH_FIND_STR(f->aliases, ref, a);
    if (!a && k)
        a = container_of(k, struct fleet_alias, key);
    return a && strcmp(a->tenant, tenant) == 0 ? fleet_network_find(f, a->network) : NULL;
}

struct fleet_network *fleet_network_lookup(struct fleet *f, const char *tenant, const char *ref)
{
    struct fleet_network *n = fleet_network_find(f, ref);
    if (n)
        return strcmp(n->tenant, tenant) == 0 ? n : NULL;
    struct fleet_key *k = find_key(f->network_names, tenant, ref);
    return k ? container_of(k, struct fleet_network, key) : lookup_alias(f, tenant, ref);
}

struct fleet_agent *fleet_agents(struct fleet *f)
{
    return f->agents;
}

struct fleet_network *fleet_networks(struct fleet *f)
{
    return f->networks;
}
