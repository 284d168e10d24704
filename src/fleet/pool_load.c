/*
 * Which connection carries which stream, and how many there are.
 *
 * A new stream goes where no bulk stream is, to the oldest of those connections while it has few
 * streams, so that what is quiet stays together and spare connections stay empty. A stream that
 * turns out to be bulk (net/relay.h, on_bulk) is moved to a connection of its own. The hub asks the
 * agent for one connection for each bulk stream and one for all others, for one more where these
 * others alone are a lot, and after a quiet time for less; it then closes what has no streams, for
 * which those that were bulk once go back to the others.
 */
#include "fleet/internal.h"

#include "base/macro.h"
#include "base/mem.h"
#include "net/h2conn.h"
#include "net/relay.h"
#include "warren/v1/agent.pb-c.h"

#include <utlist.h>

#define TICK_MS       500
#define CALM_MS       3000 /* after its last on_bulk a stream is none any more */
#define TOGETHER      16   /* streams on one connection before another gets some */
#define HOT_BYTES_A_S (4u << 20)
#define GRACE_MS      1000
#define SHORT_PATH_US 5000
#define SHORT_BYTES   (1u << 20) /* on a short path, where less is over in no time */

struct pool_bulk {
    struct fleet_pool *pool;
    struct pool_bulk **owner; /* NULL when we are freed */
    struct fleet_link *link;  /* NULL: gone */
    struct relay *relay;
    bool is_calm; /* not bulk any more: not in the link's n_bulk */
    uint64_t seen_ms;
    struct pool_bulk *prev, *next;
};

static size_t streams_of(const struct fleet_link *l)
{
    return h2_stream_count(h2conn_session(l->hc));
}

static size_t count_links(const struct fleet_pool *p)
{
    const struct fleet_link *l;
    size_t n;
    DL_COUNT(p->links, l, n);
    return n;
}

/* Whether streams that are not bulk move a lot on it. */
static void measure(struct fleet_link *l, uint64_t now)
{
    uint64_t elapsed = now - l->measured_ms;
    if (elapsed < TICK_MS)
        return;
    const struct conn *c = h2conn_conn(l->hc);
    uint64_t bytes = conn_bytes_in(c) + conn_bytes_out(c);
    l->is_hot = !l->n_bulk && (bytes - l->measured_bytes) * 1000 / elapsed > HOT_BYTES_A_S;
    l->measured_ms = now;
    l->measured_bytes = bytes;
}

static bool ends_at(const struct fleet_link *l, const struct relay_worker *to)
{
    return l->far_worker % to->count == to->number;
}

static struct fleet_link *pick(struct fleet_pool *p, const struct relay_worker *to)
{
    struct fleet_link *l, *best = NULL;
    size_t least = SIZE_MAX;
    uint64_t now = loop_now_ms(p->worker);
    DL_FOREACH (p->links, l) {
        if (h2conn_is_ending(l->hc) || (to && !ends_at(l, to)))
            continue;
        measure(l, now);
        if (l->is_hot && !timer_is_running(&p->timer))
            timer_start(&p->timer, TICK_MS);
        size_t load = (l->n_bulk + l->is_hot) * UINT16_MAX + streams_of(l) / TOGETHER;
        if (load >= least)
            continue;
        best = l;
        least = load;
    }
    return best;
}

struct h2conn *fleet_pool_pick(struct fleet_pool *p, enum pool_class class,
                               const struct relay_worker *to)
{
    if (!p->ops && !fleet_is_sure(p->fleet))
        return NULL;
    struct fleet_link *l = to && to->count ? pick(p, to) : NULL;
    if (!l)
        l = pick(p, NULL);
    return l ? l->hc : NULL;
}

/* ---- how many ---- */

struct demand {
    struct fleet_pool *pool;
    uint32_t count;
};

static void tell_agent(void *arg)
{
    CLEANUP(mem_free) struct demand *d = arg;
    struct fleet_agent *a = fleet_agent_find(d->pool->fleet, d->pool->agent);
    if (!a || a->pool != d->pool)
        return;
    Warren__V1__ReverseConnections r = WARREN__V1__REVERSE_CONNECTIONS__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    r.count = d->count;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_REVERSE_CONNECTIONS;
    event.reverse_connections = &r;
    fleet_send(a, &event);
}

static void want(struct fleet_pool *p, uint32_t count)
{
    struct demand *d = NEW(struct demand);
    p->wanted = count;
    *d = (struct demand){p, count};
    loop_post(p->fleet->cfg.loop, tell_agent, d);
}

static void adjust(struct fleet_pool *p)
{
    struct fleet_link *l;
    const struct pool_bulk *b;
    uint32_t n = 0, hot = 0;
    uint64_t now = loop_now_ms(p->worker);
    DL_FOREACH (p->bulks, b)
        n += !b->is_calm;
    DL_FOREACH (p->links, l) {
        measure(l, now);
        hot += l->is_hot;
    }
    n = MIN(n + hot + 1, p->fleet->cfg.links_max);
    if (n >= p->wanted)
        p->busy_ms = now;
    if (n > p->wanted || (n < p->wanted && now - p->busy_ms >= p->fleet->cfg.links_quiet_ms))
        want(p, n);
}

static struct fleet_link *link_of(const struct fleet_pool *p, const struct h2conn *hc)
{
    struct fleet_link *l;
    DL_FOREACH (p->links, l) {
        if (l->hc == hc)
            return l;
    }
    return NULL;
}

static void move(struct pool_bulk *b, struct fleet_link *to)
{
    struct fleet_link *from = b->link;
    if (relay_move(b->relay, to->hc, from->number) < 0)
        return;
    from->n_bulk -= !b->is_calm;
    to->n_bulk += !b->is_calm;
    b->link = to;
    atomic_fetch_add_explicit(&b->pool->fleet->moves, 1, memory_order_relaxed);
}

static void gather_calm(struct fleet_pool *p)
{
    struct pool_bulk *b;
    struct fleet_link *to = link_of(p, fleet_pool_pick(p, POOL_STREAM, NULL));
    DL_FOREACH (p->bulks, b) {
        if (b->is_calm && b->link && to && b->link != to)
            move(b, to);
    }
}

/* Those that nobody needs and nobody uses. A tick later than the agent was told, so that it does
 * not dial again. */
static void retire(struct fleet_pool *p)
{
    struct fleet_link *l, *next;
    size_t n = count_links(p);
    bool may = p->wanted == p->wanted_before;
    p->wanted_before = p->wanted;
    if (!may || n <= p->wanted)
        return;
    gather_calm(p);
    for (l = p->links ? p->links->prev : NULL; l && n > p->wanted; l = next) {
        next = l == p->links ? NULL : l->prev;
        if (streams_of(l) || !l->number)
            continue;
        n--;
        fleet_pool_leave(l);
        h2conn_shutdown(l->hc, GRACE_MS);
    }
}

/* ---- where ---- */

static bool is_pure(const struct fleet_link *l)
{
    return streams_of(l) == l->n_bulk;
}

/* What the connection would be like for one more bulk stream: others on it; SIZE_MAX: unfit. */
static size_t cost_of(const struct fleet_link *l, bool is_full)
{
    if (h2conn_is_ending(l->hc) || !l->number)
        return SIZE_MAX;
    if (!streams_of(l))
        return 0;
    return is_full && is_pure(l) && l->n_bulk ? l->n_bulk : SIZE_MAX;
}

static size_t count_without_bulk(const struct fleet_pool *p)
{
    const struct fleet_link *l;
    size_t n = 0;
    DL_FOREACH (p->links, l)
        n += !l->n_bulk;
    return n;
}

static struct fleet_link *better_link(const struct fleet_pool *p, const struct fleet_link *from)
{
    struct fleet_link *l, *best = NULL;
    bool is_full = count_links(p) >= p->fleet->cfg.links_max;
    bool frees_one = from->n_bulk == 1; /* for the streams that are not bulk */
    bool may_fill = !is_full || frees_one || count_without_bulk(p) > 1;
    size_t least = SIZE_MAX;
    DL_FOREACH (p->links, l) {
        size_t cost = l == from ? SIZE_MAX : cost_of(l, is_full);
        if (cost >= least || (!l->n_bulk && !may_fill))
            continue;
        best = l;
        least = cost;
    }
    if (is_pure(from) && (from->n_bulk < 2 || least + 1 >= from->n_bulk))
        return NULL;
    return best;
}

static void place(struct pool_bulk *b)
{
    struct fleet_link *to = b->link && !b->is_calm ? better_link(b->pool, b->link) : NULL;
    if (to)
        move(b, to);
}

static void place_all(struct fleet_pool *p)
{
    struct pool_bulk *b;
    DL_FOREACH (p->bulks, b)
        place(b);
}

/* ---- bulk streams ---- */

static void calm_down(struct pool_bulk *b)
{
    if (b->link && !b->is_calm)
        b->link->n_bulk--;
    b->is_calm = true;
}

static void forget(struct pool_bulk *b)
{
    calm_down(b);
    *b->owner = NULL;
    DL_DELETE(b->pool->bulks, b);
    mem_free(b);
}

void fleet_pool_bulk_end(struct pool_bulk **b)
{
    if (*b)
        forget(*b);
}

/* It is bulk now, and may not be where it was put: the agent can refuse a move. */
static void wake_up(struct pool_bulk *b)
{
    const struct h2conn *hc = relay_conn(b->relay);
    b->seen_ms = loop_now_ms(b->pool->worker);
    if (!b->is_calm && b->link && b->link->hc == hc)
        return;
    calm_down(b);
    b->link = link_of(b->pool, hc);
    b->is_calm = false;
    if (b->link)
        b->link->n_bulk++;
}

static bool is_worth_it(const struct relay *r)
{
    return h2_round_trip_us(h2conn_session(relay_conn(r))) > SHORT_PATH_US ||
           relay_bytes_read(r) + relay_bytes_written(r) >= SHORT_BYTES;
}

void fleet_pool_bulk(struct fleet_pool *p, struct pool_bulk **owner, struct relay *r)
{
    struct pool_bulk *b = *owner;
    bool is_new = !b || b->is_calm;
    if (!b && !is_worth_it(r))
        return;
    if (!b) {
        b = NEW(struct pool_bulk);
        *b = (struct pool_bulk){.pool = p, .owner = owner, .relay = r, .is_calm = true};
        *owner = b;
        DL_APPEND(p->bulks, b);
    }
    wake_up(b);
    if (is_new)
        adjust(p);
    place(b);
    fleet_pool_watch(p);
}

/* ---- time ---- */

void fleet_pool_tick(struct timer *t)
{
    struct fleet_pool *p = container_of(t, struct fleet_pool, timer);
    struct pool_bulk *b;
    uint64_t now = loop_now_ms(p->worker);
    DL_FOREACH (p->bulks, b) {
        if (now - b->seen_ms >= CALM_MS)
            calm_down(b);
    }
    place_all(p);
    adjust(p);
    retire(p);
    fleet_pool_watch(p);
}

void fleet_pool_watch(struct fleet_pool *p)
{
    bool is_busy = p->wanted > 1 || count_links(p) > 1; /* so it is while there are bulk streams */
    if (is_busy && p->links && !p->is_shortcut && !timer_is_running(&p->timer))
        timer_start(&p->timer, TICK_MS);
}

void fleet_pool_link_joined(struct fleet_link *l)
{
    struct fleet_pool *p = l->pool;
    l->measured_ms = loop_now_ms(p->worker);
    place_all(p);
    fleet_pool_watch(p);
}

void fleet_pool_link_left(struct fleet_link *l)
{
    struct fleet_pool *p = l->pool;
    struct pool_bulk *b, *next;
    DL_FOREACH_SAFE (p->bulks, b, next) {
        if (b->link == l)
            b->link = NULL;
        if (!p->links)
            forget(b);
    }
    if (!p->links)
        timer_stop(&p->timer);
}
