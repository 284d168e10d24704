/*
 * What agents report of their LANs, and what follows for their networks.
 *
 * Reports are evidence of the live session and kept in memory only; where agents are at home is in
 * the database. After a report the agents that changed are looked at again: for each pair that
 * hears each other across two networks, lan_decide() (lan_model.c) says what to do, and one
 * transaction at a time does it (network_change.c); then it is looked again. Merging only ever
 * makes networks fewer, and an agent that moved is at home where it is, so it comes to rest.
 */
#include "fleet/lan_hub.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define LOOK_MS      50
#define KEY_TIMER_MS 600000

/* ---- keys ---- */

struct key_change {
    struct fleet *f;
    char tenant[ID_SIZE];
    bool is_revoked;
    int64_t now;
    struct lan_keys keys;
};

void fleet_lan_fill_keys(const struct lan_keys *keys, struct fleet_lan_keys_text *t)
{
    warren__v1__lan_keys__init(&t->message);
    for (size_t i = 0; i < keys->n; i++) {
        t->list[i].data = (uint8_t *)keys->key[i];
        t->list[i].len = LAN_KEY_SIZE;
    }
    t->message.n_keys = keys->n;
    t->message.keys = t->list;
}

static struct fleet_tenant *tenant_of(struct fleet *f, const char *id)
{
    struct fleet_tenant *t;
    HASH_FIND_STR(f->tenants, id, t);
    if (!t) {
        t = NEW(struct fleet_tenant);
        snprintf(t->id, sizeof(t->id), "%s", id);
        HASH_ADD_STR(f->tenants, id, t);
    }
    return t;
}

void fleet_lan_put_keys(struct fleet *f, const char *tenant, const struct lan_keys *keys)
{
    struct fleet_tenant *t = tenant_of(f, tenant);
    struct fleet_lan_keys_text text;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    if (t->keys.n == keys->n && memcmp(t->keys.key, keys->key, keys->n * LAN_KEY_SIZE) == 0)
        return;
    t->keys = *keys;
    fleet_lan_fill_keys(keys, &text);
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_LAN_KEYS;
    event.lan_keys = &text.message;
    for (struct fleet_agent *a = f->agents; a; a = a->hh.next) {
        if (a->call && strcmp(a->tenant, tenant) == 0)
            fleet_send(a, &event);
    }
}

static int write_keys(struct tx *tx, void *arg)
{
    struct key_change *k = arg;
    return network_keys_write(tx, k->tenant, k->now, LAN_KEY_LIFE_MS, k->is_revoked, &k->keys);
}

static void keys_written(void *arg, int err)
{
    struct key_change *k = arg;
    if (err == 0)
        fleet_lan_put_keys(k->f, k->tenant, &k->keys);
    else if (err != ERR_NOT_FOUND && !k->f->is_stopping)
        LOG_WARN("the keys of a tenant's LAN beacons were not renewed", LOG_ERR(err));
    explicit_bzero(k, sizeof(*k));
    mem_free(k);
}

void fleet_lan_change_keys(struct fleet *f, const char *tenant, bool is_revoked)
{
    struct key_change *k = NEW(struct key_change);
    k->f = f;
    k->is_revoked = is_revoked;
    k->now = time_wall_ms();
    snprintf(k->tenant, sizeof(k->tenant), "%s", tenant);
    store_run(f->cfg.store, STORE_WRITE, write_keys, keys_written, k);
}

static void on_key_timer(struct timer *t)
{
    struct fleet *f = container_of(t, struct fleet, key_timer);
    struct fleet_tenant *tenant, *next;
    HASH_ITER (hh, f->tenants, tenant, next)
        fleet_lan_change_keys(f, tenant->id, false);
    timer_start(t, KEY_TIMER_MS);
}

/* ---- evidence ---- */

/* Peers are in the order of their ids, with which they begin. */
static int compare_id(const void *a, const void *b)
{
    return strcmp(a, b);
}

static const struct fleet_lan_peer *peer_of(const struct fleet_agent *a, const char *agent)
{
    return a->lan && a->lan->n_peers
               ? bsearch(agent, a->lan->peers, a->lan->n_peers, sizeof(*a->lan->peers), compare_id)
               : NULL;
}

struct fleet_agent *fleet_lan_partner(struct fleet *f, const struct fleet_agent *a,
                                      const struct fleet_lan_peer *p,
                                      const struct fleet_lan_peer **ret_back)
{
    struct fleet_agent *b = fleet_agent_find(f, p->agent);
    if (!b || b == a || !b->call || b->revoked || strcmp(b->tenant, a->tenant) != 0)
        return NULL;
    *ret_back = peer_of(b, a->id);
    return *ret_back ? b : NULL;
}

static bool is_away(const struct fleet_agent *a, size_t link)
{
    const char *place = a->lan->links[link].place;
    return place[0] && a->lan->places && a->lan->places[0] &&
           !lan_places_have(a->lan->places, place);
}

/* The links on which it hears others of its own network, both ways. */
static uint32_t own_links(struct fleet *f, const struct fleet_agent *a)
{
    uint32_t mask = 0;
    for (size_t i = 0; i < a->lan->n_peers; i++) {
        const struct fleet_lan_peer *back;
        struct fleet_agent *b = fleet_lan_partner(f, a, &a->lan->peers[i], &back);
        if (b && b->network == a->network)
            mask |= 1u << a->lan->peers[i].link;
    }
    return mask;
}

static struct lan_end end_of(struct fleet *f, const struct fleet_agent *a, size_t link)
{
    uint32_t own = own_links(f, a);
    return (struct lan_end){.is_named = !a->network->is_automatic,
                            .is_away = is_away(a, link),
                            .speaks_for_none = own && !(own & 1u << link)};
}

/* ---- home ---- */

struct places_write {
    char agent[ID_SIZE];
    char *places;
};

static int write_places(struct tx *tx, void *arg)
{
    const struct places_write *w = arg;
    return network_places_write(tx, w->agent, w->places);
}

static void places_written(void *arg, int err)
{
    struct places_write *w = arg;
    if (err < 0)
        LOG_WARN("cannot record where an agent is at home", LOG_STR("agent", w->agent),
                 LOG_ERR(err));
    mem_free(w->places);
    mem_free(w);
}

static void settle(struct fleet *f, struct fleet_agent *a, const char *place)
{
    struct places_write *w = NEW(struct places_write);
    a->lan->places = lan_places_add(a->lan->places, place);
    a->lan->away_since = 0;
    snprintf(w->agent, sizeof(w->agent), "%s", a->id);
    w->places = mem_strdup(a->lan->places);
    store_run(f->cfg.store, STORE_WRITE, write_places, places_written, w);
}

char *fleet_lan_places_now(const struct fleet_agent *a)
{
    char *places = NULL;
    for (size_t i = 0; a->lan && i < a->lan->n_links; i++) {
        const char *place = a->lan->links[i].place;
        if (place[0] && !lan_places_have(places, place))
            places = lan_places_add(places, place);
    }
    return places;
}

/* Where an agent first reports from, it is at home. */
static void settle_first(struct fleet *f, struct fleet_agent *a)
{
    for (size_t i = 0; i < a->lan->n_links; i++) {
        const char *place = a->lan->links[i].place;
        if (place[0] && !lan_places_have(a->lan->places, place))
            settle(f, a, place);
    }
}

static bool is_at_home(const struct fleet_agent *a)
{
    for (size_t i = 0; a->call && a->lan && i < a->lan->n_links; i++) {
        if (a->lan->links[i].place[0] && !is_away(a, i))
            return true;
    }
    return false;
}

/* One that has moved too, and whose last report is of where it was, is not at home here. */
static bool has_home_at(const struct fleet_agent *a, size_t link, const char *place)
{
    return !is_away(a, link) && lan_place_same(a->lan->links[link].place, place);
}

static void settle_link(struct fleet *f, struct fleet_agent *a, size_t link)
{
    size_t at_home = 0, heard = 0, others = 0, staying = 0, total = 0;
    const struct fleet_agent *m;
    int64_t now = time_wall_ms();
    for (size_t i = 0; i < a->lan->n_peers; i++) {
        const struct fleet_lan_peer *p = &a->lan->peers[i], *back;
        struct fleet_agent *b = p->link == link ? fleet_lan_partner(f, a, p, &back) : NULL;
        if (b && b->network == a->network) {
            heard++;
            at_home += has_home_at(b, back->link, a->lan->links[link].place);
        } else if (b) {
            others++;
        }
    }
    DL_FOREACH2 (a->network->agents, m, next_in_network) {
        total += !m->revoked;
        staying += m != a && is_at_home(m);
    }
    if (!a->lan->away_since || others)
        a->lan->away_since = now;
    if (lan_is_settled(at_home, heard, staying, total, now - a->lan->away_since))
        settle(f, a, a->lan->links[link].place);
}

static void settle_all(struct fleet *f, struct fleet_agent *a)
{
    if (!a->lan->places || !a->lan->places[0]) {
        settle_first(f, a);
        return;
    }
    bool was_away = false;
    for (size_t i = 0; i < a->lan->n_links; i++) {
        if (is_away(a, i)) {
            was_away = true;
            settle_link(f, a, i);
        }
    }
    if (!was_away)
        a->lan->away_since = 0;
}

/* ---- deciding ---- */

static void explain(const struct fleet_agent *a, const struct fleet_agent *b,
                    const struct fleet_lan_peer *p, char out[NETWORK_WHY_SIZE])
{
    const char *prefix = a->lan->links[p->link].prefix;
    snprintf(out, NETWORK_WHY_SIZE, "%.40s (%s) and %.40s (%s) hear each other on %s as %s%s%.64s",
             a->name, a->id, b->name, b->id, a->lan->links[p->link].interface, p->address,
             prefix[0] ? " in " : "", prefix);
}

static void note_conflict(struct fleet_agent *a, const struct fleet_agent *b, const char *why)
{
    struct fleet_lan *lan = a->lan;
    snprintf(lan->conflict, sizeof(lan->conflict), "%s", b->network->id);
    if (strcmp(lan->conflict_told, lan->conflict) == 0)
        return;
    snprintf(lan->conflict_told, sizeof(lan->conflict_told), "%s", lan->conflict);
    LOG_WARN("two named networks are on one LAN; `warren network merge` makes them one",
             LOG_STR("network", a->network->name), LOG_STR("other", b->network->name),
             LOG_STR("why", why));
}

/* True: a transaction is on its way. */
static bool look_at_pair(struct fleet *f, struct fleet_agent *a, const struct fleet_lan_peer *p)
{
    const struct fleet_lan_peer *back;
    char why[NETWORK_WHY_SIZE];
    struct fleet_agent *b = fleet_lan_partner(f, a, p, &back);
    if (!b || b->network == a->network)
        return false;
    const struct lan_end first = end_of(f, a, p->link), second = end_of(f, b, back->link);
    explain(a, b, p, why);
    switch (lan_decide(&first, &second, fleet_is_apart(f, a->network->id, b->network->id))) {
    case LAN_STAY:
        return false;
    case LAN_CONFLICT:
        note_conflict(a, b, why);
        return false;
    case LAN_MOVE_FIRST:
        fleet_lan_move(f, a, b->network, why);
        return true;
    case LAN_MOVE_SECOND:
        fleet_lan_move(f, b, a->network, why);
        return true;
    case LAN_MERGE:
        fleet_lan_merge(f, a->network, b->network, why);
        return true;
    }
    return false;
}

static bool look_at_agent(struct fleet *f, struct fleet_agent *a)
{
    settle_all(f, a);
    a->lan->conflict[0] = '\0';
    for (size_t i = 0; i < a->lan->n_peers; i++) {
        if (look_at_pair(f, a, &a->lan->peers[i]))
            return true;
    }
    return false;
}

static void mark(struct fleet *f, struct fleet_lan *lan)
{
    if (!lan->is_dirty)
        DL_APPEND2(f->dirty, lan, dirty_prev, dirty_next);
    lan->is_dirty = true;
}

static void unmark(struct fleet *f, struct fleet_lan *lan)
{
    if (lan->is_dirty)
        DL_DELETE2(f->dirty, lan, dirty_prev, dirty_next);
    lan->is_dirty = false;
}

/* One that is looked at stays dirty while something is on its way: it is looked at again. */
static void on_look(struct timer *t)
{
    struct fleet *f = container_of(t, struct fleet, look_timer);
    struct fleet_lan *lan, *next;
    for (lan = f->dirty; lan && !f->is_changing; lan = next) {
        next = lan->dirty_next;
        if (!lan->agent->call || !look_at_agent(f, lan->agent))
            unmark(f, lan);
    }
}

void fleet_lan_look_at(struct fleet *f, struct fleet_network *n)
{
    struct fleet_agent *a;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (a->lan && a->call)
            mark(f, a->lan);
    }
    fleet_lan_look(f);
}

void fleet_lan_look(struct fleet *f)
{
    if (!f->is_stopping && !timer_is_running(&f->look_timer))
        timer_start(&f->look_timer, LOOK_MS);
}

/* ---- reports ---- */

static void copy_text(char *out, size_t size, const char *in)
{
    size_t n = 0;
    for (; in && *in && n + 1 < size; in++) {
        if ((unsigned char)*in > 0x20 && (unsigned char)*in < 0x7f)
            out[n++] = *in;
    }
    out[n] = '\0';
}

static int64_t since_of(const struct fleet_lan *old, const char *agent, const char *address)
{
    for (size_t i = 0; i < old->n_peers; i++) {
        if (strcmp(old->peers[i].agent, agent) == 0 && strcmp(old->peers[i].address, address) == 0)
            return old->peers[i].since;
    }
    return 0;
}

static void take_links(struct fleet_lan *lan, const Warren__V1__ReportLanRequest *req,
                       const struct fleet_lan *old, int64_t now)
{
    size_t n = MIN(req->n_links, (size_t)LAN_LINKS_MAX), total = 0;
    for (size_t i = 0; i < n; i++)
        total += MIN(req->links[i]->n_peers, (size_t)LAN_PEERS_MAX);
    lan->links = mem_new(n * sizeof(*lan->links));
    lan->peers = mem_new(total * sizeof(*lan->peers));
    for (size_t i = 0; i < n; i++) {
        const Warren__V1__LanLink *m = req->links[i];
        struct fleet_lan_link *link = &lan->links[lan->n_links];
        char gateway[LAN_GATEWAY_SIZE];
        copy_text(link->interface, sizeof(link->interface), m->interface);
        copy_text(link->prefix, sizeof(link->prefix), m->prefix);
        copy_text(gateway, sizeof(gateway), m->gateway);
        lan_place_format(link->prefix, gateway, link->place);
        for (size_t k = 0; k < m->n_peers && k < LAN_PEERS_MAX; k++) {
            struct fleet_lan_peer *p = &lan->peers[lan->n_peers++];
            copy_text(p->agent, sizeof(p->agent), m->peers[k]->agent);
            copy_text(p->address, sizeof(p->address), m->peers[k]->address);
            p->link = (uint8_t)lan->n_links;
            p->since = since_of(old, p->agent, p->address);
            if (!p->since)
                p->since = now;
        }
        lan->n_links++;
    }
    qsort(lan->peers, lan->n_peers, sizeof(*lan->peers), compare_id);
}

static void count(uint64_t *total, uint64_t *last, uint64_t now)
{
    *total += now > *last ? now - *last : 0;
    *last = now;
}

static void take_counts(struct fleet *f, struct fleet_lan *lan, const Warren__V1__LanCounts *c)
{
    if (!c)
        return;
    lan->heard = c->heard;
    count(&f->lan_stats.foreign, &lan->foreign, c->foreign);
    count(&f->lan_stats.replayed, &lan->replayed, c->replayed);
    count(&f->lan_stats.elsewhere, &lan->elsewhere, c->elsewhere);
    count(&f->lan_stats.dropped, &lan->dropped, c->dropped);
}

/* Both ends of what was or is heard are to be looked at. */
static void mark_peers(struct fleet *f, const struct fleet_lan *lan)
{
    for (size_t i = 0; i < lan->n_peers; i++) {
        struct fleet_agent *b = fleet_agent_find(f, lan->peers[i].agent);
        if (b && b->lan && b->call)
            mark(f, b->lan);
    }
}

static void handle_report(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReportLanRequest *req = (const Warren__V1__ReportLanRequest *)msg;
    struct fleet *f = ctx;
    struct fleet_agent *a = fleet_caller(f, call, req->session_epoch);
    if (!a)
        return;
    struct fleet_lan *lan = fleet_lan_of(a), old = *lan;
    lan->n_links = lan->n_peers = 0;
    take_links(lan, req, &old, time_wall_ms());
    take_counts(f, lan, req->counts);
    mem_free(old.links);
    mem_free(old.peers);
    if (req->clone && req->clone[0]) {
        char address[LAN_ADDRESS_SIZE];
        copy_text(address, sizeof(address), req->clone);
        fleet_clone_on_lan(f, a, address);
    }
    mark(f, lan);
    mark_peers(f, lan);
    fleet_lan_look(f);
    Warren__V1__ReportLanResponse answer = WARREN__V1__REPORT_LAN_RESPONSE__INIT;
    rpc_reply(call, &answer.base);
}

/* ---- the life of an agent's part ---- */

struct fleet_lan *fleet_lan_of(struct fleet_agent *a)
{
    if (!a->lan)
        a->lan = NEW(struct fleet_lan);
    a->lan->agent = a;
    return a->lan;
}

void fleet_lan_session_over(struct fleet_agent *a)
{
    struct fleet_lan *lan = a->lan;
    if (!lan)
        return;
    mem_free(lan->links);
    mem_free(lan->peers);
    lan->links = NULL;
    lan->peers = NULL;
    lan->n_links = lan->n_peers = 0;
    lan->heard = lan->foreign = lan->replayed = lan->elsewhere = lan->dropped = 0;
    lan->conflict[0] = '\0';
    unmark(a->fleet, lan);
}

void fleet_lan_free(struct fleet_agent *a)
{
    fleet_lan_session_over(a);
    if (a->lan) {
        mem_free(a->lan->places);
        mem_free(a->lan->why);
        mem_free(a->lan->clone);
    }
    mem_free(a->lan);
    a->lan = NULL;
}

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/ReportLan", RPC_UNARY, &warren__v1__report_lan_request__descriptor,
     handle_report},
};

void fleet_lan_start(struct fleet *f)
{
    timer_init(&f->look_timer, f->cfg.loop, on_look);
    timer_init(&f->key_timer, f->cfg.loop, on_key_timer);
    rpc_server_add(f->rpc, methods, ARRAY_SIZE(methods), f);
    timer_start(&f->key_timer, KEY_TIMER_MS);
}

void fleet_lan_stop(struct fleet *f)
{
    timer_stop(&f->look_timer);
    timer_stop(&f->key_timer);
}

void fleet_lan_done(struct fleet *f)
{
    struct fleet_tenant *t, *next_t;
    struct fleet_apart *p, *next_p;
    fleet_lan_stop(f);
    HASH_ITER (hh, f->tenants, t, next_t) {
        HASH_DEL(f->tenants, t);
        explicit_bzero(t, sizeof(*t));
        mem_free(t);
    }
    HASH_ITER (hh, f->apart, p, next_p) {
        HASH_DEL(f->apart, p);
        mem_free(p);
    }
}
