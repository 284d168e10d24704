#include "base/macro.h"
#include "route_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

uint64_t db_now_ms(void)
{
    return w.now_ms + (uint64_t)w.db.ahead_ms;
}

/* next_epoch of store_postgres.sql. */
static uint64_t next_epoch(uint64_t was)
{
    return MAX(was + 1, w.db.timeline << 20);
}

/* ---- commits ---- */

/* What no fail-over will lose any more. */
static void forget_old(void)
{
    size_t n = 0;
    while (n < w.db.n_undo && w.db.undo[n].at_ms + LOST_MAX_MS < w.now_ms)
        n++;
    assert_true(n > 0);
    w.db.n_undo -= n;
    memmove(w.db.undo, w.db.undo + n, w.db.n_undo * sizeof(w.db.undo[0]));
}

static void note(enum row_kind kind, int id)
{
    if (w.db.n_undo == UNDO_MAX)
        forget_old();
    struct undo *u = &w.db.undo[w.db.n_undo++];
    *u = (struct undo){.kind = kind, .id = id, .at_ms = w.now_ms, .n_feed = w.db.n_feed};
    if (kind == ROW_TUNNEL)
        u->route = w.db.tunnels[id];
    else if (kind == ROW_AGENT)
        u->session = w.db.agents[id];
    else
        u->lease = w.db.hubs[id];
}

static void publish(enum row_kind kind, int id)
{
    assert_true(w.db.n_feed < FEED_MAX);
    w.db.feed[w.db.n_feed++] = (struct change){
        kind, id, kind == ROW_TUNNEL ? w.db.tunnels[id].epoch : w.db.agents[id].epoch};
}

static void put_tunnel(int id, const struct tunnel_route *r)
{
    note(ROW_TUNNEL, id);
    w.db.tunnels[id] = *r;
    publish(ROW_TUNNEL, id);
}

static void put_agent(int id, const struct session *s)
{
    note(ROW_AGENT, id);
    w.db.agents[id] = *s;
    publish(ROW_AGENT, id);
}

static void put_hub(int id, uint64_t epoch)
{
    note(ROW_HUB, id);
    w.db.hubs[id] = (struct lease_row){epoch, db_now_ms() + HUB_LEASE_LIFE_MS};
}

/* Whoever wrote it knew of it without the feed. */
static void undo_tunnel(const struct undo *u)
{
    struct tunnel_route *r = &w.db.tunnels[u->id];
    int writer = hub_of_route(r->hub[0] ? r : &u->route);
    if (writer >= 0)
        w.hubs[writer].is_undone[u->id] = true;
    *r = u->route;
}

static void undo_agent(const struct undo *u)
{
    struct session *s = &w.db.agents[u->id];
    int writer = s->hub >= 0 ? s->hub : u->session.hub;
    if (writer >= 0)
        w.hubs[writer].is_agent_undone[u->id] = true;
    *s = u->session;
}

static void undo(const struct undo *u)
{
    if (u->kind == ROW_TUNNEL)
        undo_tunnel(u);
    else if (u->kind == ROW_AGENT)
        undo_agent(u);
    else
        w.db.hubs[u->id] = u->lease;
    w.db.n_feed = u->n_feed;
    w.seen[SEEN_LOST]++;
}

/* What the hub was told of and is not there any more (store_follow.c). */
static void mark_undone(struct hub *h, size_t kept)
{
    for (size_t n = kept; n < h->read; n++) {
        const struct change *c = &w.db.feed[n];
        if (c->kind == ROW_AGENT) {
            h->is_agent_undone[c->id] = true;
            h->heard_agent[c->id] = 0;
        } else {
            h->is_undone[c->id] = true;
            h->heard[c->id] = 0;
        }
    }
    h->read = MIN(h->read, kept);
    h->is_behind = true;
    h->is_renewed = false;
}

void db_fail_over(uint64_t lost_ms, int64_t clock_ms)
{
    while (w.db.n_undo && w.db.undo[w.db.n_undo - 1].at_ms + lost_ms > w.now_ms)
        undo(&w.db.undo[--w.db.n_undo]);
    w.db.n_undo = 0; /* the next replica has what this one has */
    for (int i = 0; i < HUBS; i++)
        mark_undone(&w.hubs[i], w.db.n_feed);
    w.db.timeline++;
    w.failed_over_ms = w.now_ms;
    w.db.ahead_ms = clock_ms;
    w.seen[SEEN_FAIL_OVER]++;
}

/* ---- routes: tunnel_store_route.c ---- */

static bool is_lease_good(const struct lease_row *row, uint64_t epoch)
{
    uint64_t now = db_now_ms();
    return row->epoch == epoch && row->expires_ms > now &&
           row->expires_ms <= now + HUB_LEASE_LIFE_MS;
}

static bool may_claim(const struct mail *m)
{
    const struct lease_row *row = &w.db.hubs[m->hub];
    w.seen[SEEN_OF_THE_DEAD] += row->epoch > m->hub_epoch;
    return row->epoch < m->hub_epoch ||
           (row->epoch == m->hub_epoch && row->expires_ms > db_now_ms());
}

static bool is_free(const struct tunnel_route *r, const char *self, uint64_t seen)
{
    int hub = hub_of_route(r);
    if (strcmp(r->hub, self) == 0 || r->epoch < seen)
        return true;
    if (r->epoch != seen)
        return false;
    if (hub < 0 || !is_lease_good(&w.db.hubs[hub], r->hub_epoch))
        return true;
    const struct session *s = &w.db.agents[agent_of_route(r)];
    return r->session && (s->epoch != r->session || s->hub < 0);
}

static void claim(const struct mail *m)
{
    struct tunnel_route r = m->route;
    if (!may_claim(m) || !is_free(&w.db.tunnels[m->id], r.hub, m->value)) {
        w.seen[SEEN_REFUSED]++;
        return;
    }
    r.epoch = next_epoch(MAX(w.db.tunnels[m->id].epoch, m->value));
    assert_true(r.epoch > w.highest[m->id]); /* never given before, whatever was lost */
    w.highest[m->id] = r.epoch;
    w.seen[SEEN_CLAIMED]++;
    put_tunnel(m->id, &r);
}

static void release(const struct mail *m)
{
    struct tunnel_route r = w.db.tunnels[m->id];
    if (strcmp(r.hub, m->route.hub) != 0 || r.epoch != m->route.epoch)
        return;
    r.hub[0] = '\0';
    put_tunnel(m->id, &r);
    w.seen[SEEN_RELEASED]++;
}

static void restore(const struct mail *m)
{
    if (w.db.tunnels[m->id].epoch >= m->route.epoch)
        return;
    put_tunnel(m->id, &m->route);
    w.seen[SEEN_RESTORED]++;
}

/* ---- sessions: fleet_session.c, fleet_undone.c ---- */

static void login(struct mail *m)
{
    m->session = (struct session){next_epoch(w.db.agents[m->id].epoch), m->hub, m->hub_epoch};
    put_agent(m->id, &m->session);
}

static void logout(const struct mail *m)
{
    struct session s = w.db.agents[m->id];
    if (s.epoch != m->value)
        return;
    s.hub = -1;
    put_agent(m->id, &s);
}

static void restore_session(const struct mail *m)
{
    if (w.db.agents[m->id].epoch >= m->session.epoch)
        return;
    put_agent(m->id, &m->session);
    w.seen[SEEN_RESTORED]++;
}

/* ---- leases: peers.c ---- */

void db_start_hub(int hub)
{
    put_hub(hub, next_epoch(w.db.hubs[hub].epoch));
}

static bool renew(const struct mail *m)
{
    uint64_t epoch = w.db.hubs[m->hub].epoch;
    if (epoch > m->hub_epoch)
        return false; /* of an earlier start, which ends when it hears of it */
    w.seen[SEEN_REWRITTEN] += epoch < m->hub_epoch;
    put_hub(m->hub, m->hub_epoch);
    return true;
}

/* ---- all ---- */

void db_carry_out(const struct mail *asked)
{
    struct mail m = *asked;
    if (m.is_failed && m.kind != MAIL_CLAIM) { /* the hub hears that nothing was done */
        m.is_answer_lost = true;
        world_answer(&m, m.kind == MAIL_LOGIN ? MAIL_LOGGED_IN : MAIL_RENEWED);
        return;
    }
    switch (m.kind) {
    case MAIL_CLAIM:
        if (!m.is_failed)
            claim(&m);
        m.route = w.db.tunnels[m.id]; /* as it is read then */
        world_answer(&m, MAIL_CLAIMED);
        break;
    case MAIL_RELEASE:
        release(&m);
        world_answer(&m, MAIL_RELEASED);
        break;
    case MAIL_RESTORE:
        restore(&m);
        world_answer(&m, MAIL_RESTORED);
        break;
    case MAIL_READ:
        m.route = w.db.tunnels[m.id];
        world_answer(&m, MAIL_ROW);
        break;
    case MAIL_LOGIN:
        login(&m);
        world_answer(&m, MAIL_LOGGED_IN);
        break;
    case MAIL_LOGOUT:
        logout(&m);
        break;
    case MAIL_RESTORE_SESSION:
        restore_session(&m);
        world_answer(&m, MAIL_RESTORED);
        break;
    case MAIL_READ_AGENT:
        m.session = w.db.agents[m.id];
        world_answer(&m, MAIL_AGENT_ROW);
        break;
    default:
        if (renew(&m))
            world_answer(&m, MAIL_RENEWED);
        break;
    }
}
