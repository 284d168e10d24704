#include "route_world.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIAL_MS   3000 /* until an agent gives a login up */
#define FREEZE_MS 4000 /* until the last agent leaves a hub that says nothing */

struct world w;

uint32_t draw(uint32_t n)
{
    w.random = w.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w.random >> 33) % n;
}

static void name_of(int hub, char out[ID_SIZE])
{
    snprintf(out, ID_SIZE, "hub_%d", hub);
}

static int number_of(const char *name)
{
    return name[0] ? atoi(strchr(name, '_') + 1) : -1;
}

int hub_of_route(const struct tunnel_route *r)
{
    return number_of(r->hub);
}

bool hub_reaches_db(const struct hub *h)
{
    return h->is_alive && !h->is_frozen && !h->is_cut;
}

static bool is_linked(int a, int b)
{
    return w.hubs[a].is_alive && w.hubs[b].is_alive && !w.hubs[a].is_frozen &&
           !w.hubs[b].is_frozen && !w.parted[a][b];
}

bool world_is_served_by(int hub, const struct tunnel_route *r)
{
    const struct agent *g = &w.agents[number_of(r->agent)];
    return w.hubs[hub].is_alive && !w.hubs[hub].is_frozen && g->hub == hub &&
           g->epoch == r->session;
}

bool world_has_moved(const struct tunnel_route *r)
{
    return w.db.agents[number_of(r->agent)].epoch > r->session;
}

/* ---- messages ---- */

/* Most are quick. */
static uint64_t delay_ms(void)
{
    return w.is_calm || draw(10) ? draw(100) : draw(DELAY_MAX_MS);
}

static void post(struct mail m)
{
    assert_true(w.n_mail < MAIL_MAX);
    m.due_ms = w.now_ms + delay_ms();
    w.mail[w.n_mail++] = m;
}

static void ask(int hub, struct mail m)
{
    m.hub = hub;
    m.hub_epoch = w.hubs[hub].epoch;
    m.is_answer_lost = !w.is_calm && draw(50) == 0;
    post(m);
}

/* The hub hears that something went wrong where the answer is lost, and not what. */
static void answer(const struct mail *to, enum mail_kind kind, const struct tunnel_route *r)
{
    struct mail m = *to;
    m.kind = kind;
    m.now_ms = w.now_ms;
    if (r)
        m.route = *r;
    memcpy(m.leases, w.db.hubs, sizeof(m.leases));
    post(m);
}

/* ---- the database ---- */

static void publish(bool is_agent, int id)
{
    assert_true(w.db.n_feed < FEED_MAX);
    struct change *c = &w.db.feed[w.db.n_feed++];
    *c = (struct change){.is_agent = is_agent, .id = id};
    if (is_agent)
        c->session = w.db.agents[id];
    else
        c->route = w.db.tunnels[id];
}

/* ROUTE_IS_FREE of tunnel_store_route.c. */
static bool is_free(const struct tunnel_route *r, const char *self, uint64_t seen)
{
    int hub = hub_of_route(r);
    if (strcmp(r->hub, self) == 0)
        return true;
    if (r->epoch != seen)
        return false;
    if (hub < 0 || w.db.hubs[hub].epoch != r->hub_epoch || w.db.hubs[hub].expires_ms <= w.now_ms)
        return true;
    const struct session *s = &w.db.agents[number_of(r->agent)];
    return r->session && (s->epoch != r->session || s->hub < 0);
}

static void db_claim(const struct mail *m)
{
    struct tunnel_route *r = &w.db.tunnels[m->id];
    bool is_of_the_dead = m->hub_epoch != w.db.hubs[m->hub].epoch; /* an earlier start's */
    w.seen.of_the_dead += is_of_the_dead;
    if (is_of_the_dead || !is_free(r, m->route.hub, m->number)) {
        w.seen.refused++;
        answer(m, MAIL_CLAIMED, r);
        return;
    }
    uint64_t epoch = r->epoch + 1;
    *r = m->route;
    r->epoch = epoch;
    assert_true(epoch > w.highest[m->id]);
    w.highest[m->id] = epoch;
    w.seen.claims++;
    publish(false, m->id);
    answer(m, MAIL_CLAIMED, r);
}

static void db_login(const struct mail *m)
{
    struct session *s = &w.db.agents[m->id];
    *s = (struct session){s->epoch + 1, m->hub, m->hub_epoch};
    publish(true, m->id);
    struct mail in = *m;
    in.route.session = s->epoch;
    answer(&in, MAIL_LOGGED_IN, NULL);
}

static void db_logout(const struct mail *m)
{
    if (w.db.agents[m->id].epoch != m->number)
        return;
    w.db.agents[m->id].hub = -1;
    publish(true, m->id);
}

static void db_renew(const struct mail *m)
{
    struct lease_row *row = &w.db.hubs[m->hub];
    if (row->epoch != m->hub_epoch)
        return; /* of an earlier start, which is dead */
    row->expires_ms = w.now_ms + HUB_LEASE_LIFE_MS;
    answer(m, MAIL_RENEWED, NULL);
}

/* ---- a hub ---- */

/* The rows of the others (peers.c). */
static void take_leases(struct hub *h, const struct lease_row *rows, uint64_t asked_ms,
                        uint64_t now_ms, bool is_first)
{
    for (int k = 0; k < HUBS; k++) {
        uint64_t left = rows[k].expires_ms > now_ms ? rows[k].expires_ms - now_ms : 0;
        h->others[k].epoch = rows[k].epoch;
        if (is_first)
            left = MAX(left, (uint64_t)HUB_LEASE_DOUBT_MS);
        if (left)
            h->others[k].ends_ms = asked_ms + left;
    }
}

void hub_start(int i)
{
    struct hub *h = &w.hubs[i];
    *h = (struct hub){.is_alive = true, .epoch = ++w.db.hubs[i].epoch, .started_ms = w.now_ms};
    w.db.hubs[i].expires_ms = w.now_ms + HUB_LEASE_LIFE_MS;
    hub_lease_renewed(&h->lease, w.now_ms);
    h->renew_at_ms = w.now_ms + HUB_LEASE_RENEW_MS;
    memcpy(h->agents, w.db.agents, sizeof(h->agents));
    memcpy(h->tunnels, w.db.tunnels, sizeof(h->tunnels));
    h->read = w.db.n_feed;
    take_leases(h, w.db.hubs, w.now_ms, w.now_ms, true);
}

static void renew(int i)
{
    struct hub *h = &w.hubs[i];
    if (w.now_ms < h->renew_at_ms || !hub_reaches_db(h))
        return;
    h->renew_at_ms = w.now_ms + HUB_LEASE_RENEW_MS;
    ask(i, (struct mail){.kind = MAIL_RENEW, .number = w.now_ms});
}

/* A login of one's own agent elsewhere (fleet_follow.c). */
static void take_session(int i, const struct change *c)
{
    struct hub *h = &w.hubs[i];
    struct agent *g = &w.agents[c->id];
    if (c->session.epoch < h->agents[c->id].epoch)
        return;
    h->agents[c->id] = c->session;
    if (g->hub == i && g->epoch < c->session.epoch) {
        g->hub = -1;
        g->dial_at_ms = w.now_ms + draw(2000);
    }
}

/* Some of what is new in the feed, or nothing; in order, without a gap. */
static void follow(int i)
{
    struct hub *h = &w.hubs[i];
    if (!hub_reaches_db(h) || draw(3) == 0)
        return;
    for (size_t n = draw(16); n && h->read < w.db.n_feed; n--) {
        const struct change *c = &w.db.feed[h->read++];
        if (c->is_agent)
            take_session(i, c);
        else if (route_is_news(&h->tunnels[c->id], &c->route))
            h->tunnels[c->id] = c->route;
    }
}

static bool has_other_hub(int i)
{
    for (int k = 0; k < HUBS; k++) {
        if (k != i && (w.hubs[i].others[k].ends_ms > w.now_ms || is_linked(i, k)))
            return true;
    }
    return false;
}

enum route_duty hub_duty(int i, int tunnel, bool has_agent)
{
    const struct hub *h = &w.hubs[i];
    const struct tunnel_route *r = &h->tunnels[tunnel];
    char self[ID_SIZE];
    int hub = hub_of_route(r);
    name_of(i, self);
    struct route_view v = {.hub = self,
                           .may_claim = hub_lease_state(&h->lease, w.now_ms) == HUB_LEASE_HELD &&
                                        !(h->is_draining && has_other_hub(i)),
                           .has_agent = has_agent};
    if (hub >= 0 && hub != i)
        v.is_hub_live = h->others[hub].epoch == r->hub_epoch &&
                        (h->others[hub].ends_ms > w.now_ms || is_linked(i, hub));
    if (hub >= 0) {
        const struct session *s = &h->agents[number_of(r->agent)];
        v.is_session_live = s->epoch < r->session || (s->epoch == r->session && s->hub >= 0);
    }
    return route_duty(r, &v);
}

/* An agent of the tunnel's network whose connection ends here; -1: none. */
static int own_agent(int i, int tunnel)
{
    for (int a = tunnel % NETWORKS; a < AGENTS; a += NETWORKS) {
        if (w.agents[a].hub == i)
            return a;
    }
    return -1;
}

static void claim(int i, int tunnel)
{
    struct hub *h = &w.hubs[i];
    int agent = own_agent(i, tunnel);
    const struct tunnel_route *r = &h->tunnels[tunnel];
    if (agent < 0 || h->is_claiming[tunnel] || !hub_reaches_db(h))
        return;
    enum route_duty duty = hub_duty(i, tunnel, true);
    bool is_own_gone = duty == ROUTE_SERVE && !world_is_served_by(i, r);
    if (duty != ROUTE_CLAIM && !is_own_gone)
        return;
    struct mail m = {.kind = MAIL_CLAIM, .id = tunnel, .number = r->epoch};
    m.route = (struct tunnel_route){.hub_epoch = h->epoch, .session = w.agents[agent].epoch};
    name_of(i, m.route.hub);
    snprintf(m.route.agent, sizeof(m.route.agent), "agt_%d", agent);
    h->is_claiming[tunnel] = true;
    ask(i, m);
}

/* ---- what the database answers ---- */

static void on_claimed(int i, const struct mail *m)
{
    struct hub *h = &w.hubs[i];
    if (m->is_answer_lost) { /* in doubt: the row says how it went */
        w.seen.in_doubt++;
        ask(i, (struct mail){.kind = MAIL_READ, .id = m->id});
        return;
    }
    h->is_claiming[m->id] = false;
    if (route_is_news(&h->tunnels[m->id], &m->route))
        h->tunnels[m->id] = m->route;
}

static void on_logged_in(int i, const struct mail *m)
{
    struct agent *g = &w.agents[m->id];
    uint64_t epoch = m->route.session;
    bool is_awaited = g->dials == i && g->attempt == m->number;
    if (m->is_answer_lost) { /* the agent is told so, and tries again */
        if (is_awaited)
            g->dials = -1;
        return;
    }
    if (!is_awaited) {
        w.seen.late_logins++;
        ask(i, (struct mail){.kind = MAIL_LOGOUT, .id = m->id, .number = epoch});
        return;
    }
    if (w.hubs[i].agents[m->id].epoch > epoch) { /* it has logged in elsewhere since */
        g->dials = -1;
        return;
    }
    w.seen.moved += g->hub >= 0;
    g->hub = i;
    g->epoch = epoch;
    g->dials = -1;
    w.hubs[i].agents[m->id] = (struct session){epoch, i, m->hub_epoch};
}

static void on_renewed(int i, const struct mail *m)
{
    if (m->is_answer_lost)
        return;
    hub_lease_renewed(&w.hubs[i].lease, m->number);
    take_leases(&w.hubs[i], m->leases, m->number, m->now_ms, false);
}

/* False: not yet, for whoever is to hear it does not. */
static bool deliver(const struct mail *m)
{
    struct hub *h = &w.hubs[m->hub];
    switch (m->kind) {
    case MAIL_CLAIM:
        db_claim(m);
        return true;
    case MAIL_READ:
        answer(m, MAIL_CLAIMED, &w.db.tunnels[m->id]);
        return true;
    case MAIL_LOGIN:
        db_login(m);
        return true;
    case MAIL_LOGOUT:
        db_logout(m);
        return true;
    case MAIL_RENEW:
        db_renew(m);
        return true;
    default:
        break;
    }
    if (!h->is_alive || h->epoch != m->hub_epoch)
        return true; /* nobody is there to hear it */
    if (h->is_frozen || h->is_cut)
        return false;
    if (m->kind == MAIL_CLAIMED)
        on_claimed(m->hub, m);
    else if (m->kind == MAIL_LOGGED_IN)
        on_logged_in(m->hub, m);
    else
        on_renewed(m->hub, m);
    return true;
}

static void deliver_all(void)
{
    static struct mail due[MAIL_MAX];
    size_t n = 0;
    for (size_t i = 0; i < w.n_mail;) {
        if (w.mail[i].due_ms > w.now_ms) {
            i++;
            continue;
        }
        due[n++] = w.mail[i];
        w.mail[i] = w.mail[--w.n_mail];
    }
    for (size_t i = 0; i < n; i++) {
        if (!deliver(&due[i]))
            post(due[i]);
    }
}

/* ---- agents ---- */

static void dial(int a, int to)
{
    struct agent *g = &w.agents[a];
    const struct hub *h = &w.hubs[to];
    if (!hub_reaches_db(h) || hub_lease_state(&h->lease, w.now_ms) != HUB_LEASE_HELD ||
        (h->is_draining && has_other_hub(to)))
        return;
    g->dials = to;
    g->give_up_ms = w.now_ms + DIAL_MS;
    ask(to, (struct mail){.kind = MAIL_LOGIN, .id = a, .number = ++g->attempt});
}

static void leave(int a)
{
    struct agent *g = &w.agents[a];
    if (hub_reaches_db(&w.hubs[g->hub]))
        ask(g->hub, (struct mail){.kind = MAIL_LOGOUT, .id = a, .number = g->epoch});
    g->hub = -1;
}

static void move_agent(int a)
{
    struct agent *g = &w.agents[a];
    const struct hub *h = g->hub >= 0 ? &w.hubs[g->hub] : NULL;
    bool is_silent =
        h && h->is_frozen && w.now_ms > h->frozen_ms + (uint64_t)a * FREEZE_MS / AGENTS;
    if (h && (!h->is_alive || is_silent)) {
        g->hub = -1; /* the connection is lost */
        g->dial_at_ms = w.now_ms + draw(2000);
    } else if (h && !w.is_calm && draw(2000) == 0) {
        leave(a);
        g->dial_at_ms = w.now_ms + draw(5000);
    }
    if (g->dials >= 0 && (w.now_ms > g->give_up_ms || !w.hubs[g->dials].is_alive))
        g->dials = -1;
    bool is_told_to_move = g->hub >= 0 && w.hubs[g->hub].is_draining && has_other_hub(g->hub);
    if (g->dials < 0 && w.now_ms >= g->dial_at_ms && (g->hub < 0 || is_told_to_move))
        dial(a, (int)draw(HUBS));
}

/* ---- the world ---- */

void world_start(uint64_t seed)
{
    memset(&w, 0, sizeof(w));
    w.random = seed;
    for (int i = 0; i < HUBS; i++)
        hub_start(i);
    for (int a = 0; a < AGENTS; a++)
        w.agents[a] = (struct agent){.hub = -1, .dials = -1};
    for (int a = 0; a < AGENTS; a++)
        w.db.agents[a].hub = -1;
}

void world_step(void)
{
    w.now_ms += STEP_MS;
    deliver_all();
    int first = (int)draw(HUBS);
    for (int k = 0; k < HUBS; k++) {
        int i = (first + k) % HUBS;
        if (!w.hubs[i].is_alive || w.hubs[i].is_frozen)
            continue;
        renew(i);
        follow(i);
        for (int t = 0; t < TUNNELS; t++)
            claim(i, t);
    }
    for (int a = 0; a < AGENTS; a++)
        move_agent(a);
}

bool world_is_quiet(void)
{
    for (int i = 0; i < HUBS; i++) {
        if (w.hubs[i].read < w.db.n_feed)
            return false;
    }
    for (size_t i = 0; i < w.n_mail; i++) {
        if (w.mail[i].kind != MAIL_RENEW && w.mail[i].kind != MAIL_RENEWED)
            return false;
    }
    return true;
}
