#include "route_world.h"

#include "base/macro.h"

#include <assert.h>

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

static const char *const seen_names[] = {"claims",
                                         "refused",
                                         "in doubt",
                                         "failed",
                                         "of the dead",
                                         "late logins",
                                         "moved",
                                         "releases",
                                         "carried out twice",
                                         "fail-overs",
                                         "commits lost",
                                         "restored",
                                         "left again",
                                         "leases written again"};
static_assert(ARRAY_SIZE(seen_names) == SEEN_COUNT, "a name for each");

const char *world_seen_name(enum seen s)
{
    return seen_names[s];
}

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

int agent_of_route(const struct tunnel_route *r)
{
    return number_of(r->agent);
}

bool hub_reaches_db(const struct hub *h)
{
    return h->is_alive && !h->is_frozen && !h->is_cut;
}

static uint64_t own_now(const struct hub *h)
{
    return w.now_ms + h->ahead_ms;
}

static bool can_link(int a, int b)
{
    return w.hubs[a].is_alive && w.hubs[b].is_alive && !w.hubs[a].is_frozen &&
           !w.hubs[b].is_frozen && !w.parted[a][b];
}

bool world_is_linked(int a, int b)
{
    return can_link(a, b) && w.now_ms >= w.links_ms[a][b] + LINK_MS;
}

static void note_links(void)
{
    for (int a = 0; a < HUBS; a++) {
        for (int b = 0; b < HUBS; b++) {
            if (!can_link(a, b))
                w.links_ms[a][b] = w.now_ms;
        }
    }
}

int world_own_agent(int hub, int tunnel)
{
    for (int a = tunnel % NETWORKS; a < AGENTS; a += NETWORKS) {
        if (w.agents[a].hub == hub)
            return a;
    }
    return -1;
}

bool world_is_served_by(int hub, int tunnel, const struct tunnel_route *r)
{
    const struct agent *g = &w.agents[agent_of_route(r)];
    if (!w.hubs[hub].is_alive || w.hubs[hub].is_frozen)
        return false;
    return r->session ? g->hub == hub && g->epoch == r->session : world_own_agent(hub, tunnel) >= 0;
}

bool world_has_moved(const struct tunnel_route *r)
{
    return r->session && w.db.agents[agent_of_route(r)].epoch > r->session;
}

/* ---- a hub ---- */

/* The rows of the others (take_row of peers.c). */
static void take_leases(struct hub *h, const struct lease_row *rows, uint64_t asked_own,
                        uint64_t now_ms, bool is_first)
{
    for (int k = 0; k < HUBS; k++) {
        uint64_t left = rows[k].expires_ms > now_ms ? rows[k].expires_ms - now_ms : 0;
        bool is_renewed = is_first || rows[k].expires_ms != h->others[k].expires_ms;
        left = MIN(left, (uint64_t)HUB_LEASE_LIFE_MS);
        h->others[k].epoch = rows[k].epoch;
        h->others[k].expires_ms = rows[k].expires_ms;
        if (is_first)
            left = MAX(left, (uint64_t)HUB_LEASE_DOUBT_MS);
        if (left && is_renewed)
            h->others[k].ends_own = asked_own + left;
    }
}

void hub_start(int i)
{
    struct hub *h = &w.hubs[i];
    db_start_hub(i);
    *h = (struct hub){.is_alive = true,
                      .epoch = w.db.hubs[i].epoch,
                      .ahead_ms = draw(1u << 20),
                      .started_ms = w.now_ms,
                      .whole_ms = w.now_ms,
                      .died_before_ms = h->died_ms,
                      .read = w.db.n_feed};
    hub_lease_renewed(&h->lease, own_now(h));
    h->renew_at_own = own_now(h) + HUB_LEASE_RENEW_MS;
    memcpy(h->agents, w.db.agents, sizeof(h->agents));
    memcpy(h->tunnels, w.db.tunnels, sizeof(h->tunnels));
    take_leases(h, w.db.hubs, own_now(h), db_now_ms(), true);
}

static void renew(int i)
{
    struct hub *h = &w.hubs[i];
    if (own_now(h) < h->renew_at_own || h->is_renewing || !hub_reaches_db(h))
        return;
    h->is_renewing = true;
    mail_ask(i, (struct mail){.kind = MAIL_RENEW, .value = own_now(h)});
}

static void read_row(int i, enum row_kind kind, int id, bool is_undone)
{
    struct hub *h = &w.hubs[i];
    bool is_agent = kind == ROW_AGENT;
    mail_ask_until_done(i, (struct mail){.kind = is_agent ? MAIL_READ_AGENT : MAIL_READ,
                                         .id = id,
                                         .is_undone = is_undone});
    h->n_asked++;
    if (is_agent)
        h->reading_agent[id]++;
    else
        h->reading[id]++;
}

static void follow_undone(int i)
{
    struct hub *h = &w.hubs[i];
    for (int a = 0; a < AGENTS; a++) {
        if (TAKE(h->is_agent_undone[a]))
            read_row(i, ROW_AGENT, a, true);
    }
    for (int t = 0; t < TUNNELS; t++) {
        if (TAKE(h->is_undone[t]))
            read_row(i, ROW_TUNNEL, t, true);
    }
}

/* Some of what is new in the feed, or nothing; in order, without a gap. */
static void follow(int i)
{
    struct hub *h = &w.hubs[i];
    if (!hub_reaches_db(h) || draw(3) == 0)
        return;
    follow_undone(i);
    for (size_t n = draw(16); n && h->read < w.db.n_feed; n--) {
        const struct change *c = &w.db.feed[h->read++];
        uint64_t *heard = c->kind == ROW_AGENT ? &h->heard_agent[c->id] : &h->heard[c->id];
        *heard = MAX(*heard, c->epoch);
        read_row(i, c->kind, c->id, false);
    }
}

static bool has_other_hub(int i)
{
    const struct hub *h = &w.hubs[i];
    for (int k = 0; k < HUBS; k++) {
        if (k != i && (h->others[k].ends_own > own_now(h) || world_is_linked(i, k)))
            return true;
    }
    return false;
}

static bool may_claim(int i)
{
    const struct hub *h = &w.hubs[i];
    return hub_lease_state(&h->lease, own_now(h)) == HUB_LEASE_HELD &&
           !(h->is_draining && has_other_hub(i));
}

enum route_duty hub_duty(int i, int tunnel, bool has_agent)
{
    const struct hub *h = &w.hubs[i];
    const struct tunnel_route *r = &h->tunnels[tunnel];
    char self[ID_SIZE];
    int hub = hub_of_route(r);
    name_of(i, self);
    struct route_view v = {.hub = self, .may_claim = may_claim(i), .has_agent = has_agent};
    if (hub >= 0 && hub != i)
        v.is_hub_live = h->others[hub].epoch == r->hub_epoch &&
                        (h->others[hub].ends_own > own_now(h) || world_is_linked(i, hub));
    if (hub >= 0) {
        const struct session *s = &h->agents[agent_of_route(r)];
        v.is_session_live = s->epoch < r->session || (s->epoch == r->session && s->hub >= 0);
    }
    return route_duty(r, &v);
}

static void release(int i, int tunnel)
{
    struct hub *h = &w.hubs[i];
    struct mail m = {.kind = MAIL_RELEASE, .id = tunnel, .route = h->tunnels[tunnel]};
    if (h->is_releasing[tunnel] || h->is_claiming[tunnel])
        return;
    h->is_releasing[tunnel] = true;
    mail_ask_until_done(i, m);
}

static struct mail claim_of(int i, int tunnel, int agent)
{
    const struct hub *h = &w.hubs[i];
    struct mail m = {.kind = MAIL_CLAIM, .id = tunnel, .value = h->tunnels[tunnel].epoch};
    m.route = (struct tunnel_route){.hub_epoch = h->epoch};
    if (tunnel % SHARED)
        m.route.session = w.agents[agent].epoch;
    name_of(i, m.route.hub);
    snprintf(m.route.agent, sizeof(m.route.agent), "agt_%d", agent);
    return m;
}

static void claim(int i, int tunnel)
{
    struct hub *h = &w.hubs[i];
    int agent = world_own_agent(i, tunnel);
    const struct tunnel_route *r = &h->tunnels[tunnel];
    enum route_duty duty = hub_duty(i, tunnel, agent >= 0);
    bool is_own_gone = duty == ROUTE_SERVE && !world_is_served_by(i, tunnel, r);
    if (agent < 0 && duty == ROUTE_SERVE) {
        release(i, tunnel);
        return;
    }
    if (agent < 0 || h->is_claiming[tunnel] || !hub_reaches_db(h) || !may_claim(i) ||
        (duty != ROUTE_CLAIM && !is_own_gone))
        return;
    struct mail m = claim_of(i, tunnel, agent);
    h->is_claiming[tunnel] = true;
    mail_ask(i, m);
}

/* ---- a hub that dies ---- */

/* What a process asks that slept while it was replaced: it was about to, or does so when it wakes,
 * until it hears that there is another one. */
static void ask_late(int i)
{
    for (uint32_t n = draw(4); n; n--) {
        int tunnel = (int)draw(TUNNELS), agent = world_own_agent(i, tunnel);
        if (agent < 0)
            continue;
        struct mail m = mail_from(i, claim_of(i, tunnel, agent));
        mail_post(m, w.now_ms + draw(LATE_MAX_MS));
    }
    if (draw(4) == 0)
        mail_post(mail_from(i, (struct mail){.kind = MAIL_LOGIN, .id = (int)draw(AGENTS)}),
                  w.now_ms + draw(LATE_MAX_MS));
}

void hub_die(int i)
{
    struct hub *h = &w.hubs[i];
    if (!h->is_alive)
        return;
    h->is_alive = false;
    h->died_ms = w.now_ms;
    ask_late(i);
    for (int a = 0; a < AGENTS; a++) {
        struct agent *g = &w.agents[a];
        if (g->dials == i)
            g->dials = -1;
        if (g->hub != i)
            continue;
        g->hub = -1; /* the connection is lost */
        g->dial_at_ms = w.now_ms + draw(2000);
    }
}

/* ---- what the database answers ---- */

static void take_route(struct hub *h, int tunnel, const struct tunnel_route *r)
{
    if (route_is_news(&h->tunnels[tunnel], r))
        h->tunnels[tunnel] = *r;
}

static void on_claimed(int i, const struct mail *m)
{
    struct hub *h = &w.hubs[i];
    if (m->is_answer_lost) { /* the row says how it went */
        w.seen[SEEN_IN_DOUBT]++;
        h->is_in_doubt[m->id] = true;
        read_row(i, ROW_TUNNEL, m->id, false);
        return;
    }
    h->is_claiming[m->id] = false;
    take_route(h, m->id, &m->route);
}

static void on_released(struct hub *h, const struct mail *m)
{
    h->is_releasing[m->id] = false;
    if (h->tunnels[m->id].epoch == m->route.epoch)
        h->tunnels[m->id].hub[0] = '\0';
}

/* What a fail-over has lost (tunnel_rows.c). */
static void restore_route(int i, const struct mail *m)
{
    struct hub *h = &w.hubs[i];
    struct tunnel_route *r = &h->tunnels[m->id];
    if (r->epoch > m->route.epoch && (!r->hub[0] || hub_of_route(r) == i)) {
        struct tunnel_route to = *r;
        if (!world_is_served_by(i, m->id, r))
            to.hub[0] = '\0';
        h->n_asked++;
        mail_ask_until_done(i, (struct mail){.kind = MAIL_RESTORE, .id = m->id, .route = to});
    } else if (r->epoch == m->route.epoch && !r->hub[0]) {
        w.seen[SEEN_LEFT_AGAIN] += m->route.hub[0] != '\0';
        *r = m->route;
    }
}

static void on_row(int i, const struct mail *m)
{
    struct hub *h = &w.hubs[i];
    h->n_asked--;
    h->reading[m->id]--;
    if (h->is_in_doubt[m->id] && !h->reading[m->id])
        h->is_in_doubt[m->id] = h->is_claiming[m->id] = false;
    if (m->is_undone)
        restore_route(i, m);
    take_route(h, m->id, &m->route);
}

/* fleet_follow.c. */
static void correct_session(int i, const struct mail *m)
{
    const struct session *s = &m->session;
    const struct agent *g = &w.agents[m->id];
    struct hub *h = &w.hubs[i];
    if (m->is_undone && g->hub == i && g->epoch > s->epoch) {
        struct session own = {g->epoch, i, h->epoch};
        h->n_asked++;
        mail_ask_until_done(
            i, (struct mail){.kind = MAIL_RESTORE_SESSION, .id = m->id, .session = own});
    } else if (g->hub != i && s->hub == i && s->hub_epoch == h->epoch) {
        w.seen[SEEN_LEFT_AGAIN]++;
        mail_ask_until_done(i, (struct mail){.kind = MAIL_LOGOUT, .id = m->id, .value = s->epoch});
    }
}

/* A login of one's own agent elsewhere. */
static void on_agent_row(int i, const struct mail *m)
{
    struct hub *h = &w.hubs[i];
    struct agent *g = &w.agents[m->id];
    h->n_asked--;
    h->reading_agent[m->id]--;
    correct_session(i, m);
    if (g->hub == i && g->epoch > m->session.epoch)
        return;
    h->agents[m->id] = m->session;
    if (g->hub == i && g->epoch < m->session.epoch) {
        g->hub = -1;
        g->dial_at_ms = w.now_ms + draw(2000);
    }
}

/* Its hub says so when it can. */
static void leave(int a)
{
    struct agent *g = &w.agents[a];
    mail_ask_until_done(g->hub, (struct mail){.kind = MAIL_LOGOUT, .id = a, .value = g->epoch});
    struct session *seen = &w.hubs[g->hub].agents[a];
    if (seen->epoch == g->epoch)
        seen->hub = -1;
    g->hub = -1;
}

static void on_logged_in(int i, const struct mail *m)
{
    struct agent *g = &w.agents[m->id];
    bool is_awaited = g->dials == i && g->attempt == m->value;
    if (m->is_answer_lost) { /* the agent is told so, and tries again */
        if (is_awaited)
            g->dials = -1;
        return;
    }
    w.hubs[i].agents[m->id] = m->session;
    if (!is_awaited) {
        w.seen[SEEN_LATE_LOGIN]++;
        w.hubs[i].agents[m->id].hub = -1;
        mail_ask_until_done(
            i, (struct mail){.kind = MAIL_LOGOUT, .id = m->id, .value = m->session.epoch});
        return;
    }
    if (g->hub >= 0) {
        w.seen[SEEN_MOVED]++;
        leave(m->id); /* when the new session is there */
    }
    g->hub = i;
    g->epoch = m->session.epoch;
    g->dials = -1;
}

static void on_renewed(struct hub *h, const struct mail *m)
{
    h->is_renewing = false;
    h->renew_at_own = own_now(h) + (m->is_answer_lost ? RETRY_MS : HUB_LEASE_RENEW_MS);
    if (m->is_answer_lost)
        return;
    h->is_renewed = true;
    hub_lease_renewed(&h->lease, m->value);
    take_leases(h, m->leases, m->value, m->now_ms, false);
}

static void take_answer(const struct mail *m)
{
    struct hub *h = &w.hubs[m->hub];
    if (m->kind == MAIL_CLAIMED)
        on_claimed(m->hub, m);
    else if (m->kind == MAIL_RELEASED)
        on_released(h, m);
    else if (m->kind == MAIL_ROW)
        on_row(m->hub, m);
    else if (m->kind == MAIL_LOGGED_IN)
        on_logged_in(m->hub, m);
    else if (m->kind == MAIL_AGENT_ROW)
        on_agent_row(m->hub, m);
    else if (m->kind == MAIL_RESTORED)
        h->n_asked--;
    else
        on_renewed(h, m);
}

/* False: not yet, for whoever is to hear it does not, or whoever waits cannot tell. */
static bool deliver(struct mail *m)
{
    const struct hub *h = &w.hubs[m->hub];
    bool is_of_the_living = h->is_alive && h->epoch == m->hub_epoch;
    bool is_question = m->kind < MAIL_CLAIMED;
    if (!is_question && !is_of_the_living)
        return true; /* nobody is there to hear it */
    if (is_of_the_living && (h->is_frozen || h->is_cut) && (!is_question || m->is_patient))
        return false;
    if (!is_question) {
        take_answer(m);
        return true;
    }
    if (m->is_patient && !is_of_the_living && draw(2))
        return true; /* it was not even sent */
    struct mail again = *m;
    if (TAKE(m->is_again)) { /* it was carried out, and the hub does not know */
        w.seen[SEEN_TWICE]++;
        again.is_silent = true;
        db_carry_out(&again);
        return false;
    }
    db_carry_out(m);
    return true;
}

/* ---- agents ---- */

static void dial(int a, int to)
{
    struct agent *g = &w.agents[a];
    const struct hub *h = &w.hubs[to];
    if (!hub_reaches_db(h) || !may_claim(to))
        return;
    g->dials = to;
    g->give_up_ms = w.now_ms + DIAL_MS;
    mail_ask(to, (struct mail){.kind = MAIL_LOGIN, .id = a, .value = ++g->attempt});
}

static void move_agent(int a)
{
    struct agent *g = &w.agents[a];
    const struct hub *h = g->hub >= 0 ? &w.hubs[g->hub] : NULL;
    bool is_silent =
        h && h->is_frozen && w.now_ms > h->frozen_ms + (uint64_t)a * FREEZE_MS / AGENTS;
    if (is_silent) { /* its hub will know when it wakes */
        leave(a);
        g->dial_at_ms = w.now_ms + draw(2000);
    } else if (h && world_chance(2000)) {
        leave(a);
        g->dial_at_ms = draw(4) ? w.now_ms + draw(5000) : UINT64_MAX; /* for good */
    }
    if (g->dials >= 0 && w.now_ms > g->give_up_ms)
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
    w.now_ms = 1000000;
    for (int a = 0; a < AGENTS; a++)
        w.db.agents[a].hub = -1;
    for (int i = 0; i < HUBS; i++)
        hub_start(i);
    for (int a = 0; a < AGENTS; a++)
        w.agents[a] = (struct agent){.hub = -1, .dials = -1};
}

void world_step(void)
{
    w.now_ms += STEP_MS;
    note_links();
    mail_deliver(deliver);
    int first = (int)draw(HUBS);
    for (int k = 0; k < HUBS; k++) {
        int i = (first + k) % HUBS;
        struct hub *h = &w.hubs[i];
        if (!hub_reaches_db(h))
            h->whole_ms = w.now_ms;
        if (!h->is_alive || h->is_frozen)
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
        if (w.hubs[i].is_alive && w.hubs[i].read < w.db.n_feed)
            return false;
    }
    for (size_t i = 0; i < w.n_mail; i++) {
        if (w.mail[i].kind != MAIL_RENEW && w.mail[i].kind != MAIL_RENEWED)
            return false;
    }
    return true;
}
