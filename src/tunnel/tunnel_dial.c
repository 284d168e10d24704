/*
 * Streams that the hub itself opens through a tunnel.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/relay.h"

#include <sys/socket.h>
#include <utlist.h>

#define AWAITING_MAX 8192

/* Equals take turns: the one after the last that was chosen. */
struct exposure *tunnel_pick_exposure(struct tunnel_object *o)
{
    struct exposure *best = NULL;
    uint64_t least = UINT64_MAX;
    bool is_after = false;
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        uint64_t load = exposure_is_serving(e) ? exposure_load(e) : UINT64_MAX;
        if (load < least || (load == least && load != UINT64_MAX && is_after)) {
            best = e;
            least = load;
            is_after = false;
        }
        is_after |= exposure_epoch(e) == o->picked;
    }
    o->picked = best ? exposure_epoch(best) : 0;
    return best;
}

int tunnel_dial(struct tunnel_object *o, const struct exposure_goal *goal, int fd,
                const struct addr *client, const struct exposure_dial_ops *ops, void *arg,
                struct exposure_dial **ret)
{
    struct exposure *e = tunnel_pick_exposure(o);
    if (!e)
        return ERR_UNAVAILABLE;
    tunnel_demand_used(o);
    *ret = exposure_dial(e, goal, fd, NULL, client, false, ops, arg);
    return 0;
}

static int dial_by_lane(struct tunnel_object *o, struct exposure *e, bool is_other_hubs,
                        struct tunnel_lane_dial *d)
{
    int fds[2] = {-1, -1};
    bool is_together = exposure_loop(e) == d->loop && !exposure_is_forwarding(e);
    d->far_loop = exposure_loop(e);
    d->near.pair = is_together ? relay_pair_new() : NULL;
    if (!is_together && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return ERR_LIMIT;
    d->near.fd = fds[0];
    tunnel_demand_used(o);
    d->dial =
        exposure_dial(e, d->goal, fds[1], d->near.pair, d->client, is_other_hubs, d->ops, d->arg);
    return 0;
}

int tunnel_dial_by_lane(struct tunnel_object *o, struct tunnel_lane_dial *d)
{
    struct exposure *e = tunnel_pick_exposure(o);
    return e ? dial_by_lane(o, e, false, d) : ERR_UNAVAILABLE;
}

/* The one of this lease; where several agents hold the tunnel, the route names only one of them. */
static struct exposure *own_exposure(struct tunnel_object *o, uint64_t epoch)
{
    struct exposure *e, *best = NULL;
    bool is_shared = o->t.spec.spread == TUNNEL_SPREAD_CONNECTION;
    for (e = o->exposures; e; e = exposure_next(e)) {
        if (!exposure_is_serving(e) || exposure_is_forwarding(e) ||
            (!is_shared && exposure_epoch(e) != epoch))
            continue;
        if (!best || exposure_load(e) < exposure_load(best))
            best = e;
    }
    return best;
}

/* ---- clients of other hubs that are early ---- */

/* Other hubs may read a lease's row before this one hears that it has been written, and of which
 * epoch it is. */
static bool is_coming(const struct tunnel_object *o, uint64_t epoch)
{
    const struct tunnel_lease *l;
    DL_FOREACH (o->leases, l) {
        bool may_be_it = l->l.epoch == epoch || l->l.state == LEASE_WRITING;
        if (may_be_it && (lease_is_coming(&l->l) || l->l.state == LEASE_HELD))
            return !o->is_deleted && !o->owner->is_draining;
    }
    return false;
}

int tunnel_await_start(struct tunnel_object *o, uint64_t epoch, struct tunnel_await *w)
{
    struct tunnels *ts = o->owner;
    if (!is_coming(o, epoch) || ts->n_awaiting >= AWAITING_MAX)
        return ERR_STALE;
    w->object = o;
    w->epoch = epoch;
    w->ends_ms = loop_now_ms(ts->loop) + TUNNEL_HOLD_MS;
    DL_APPEND(ts->awaiting, w);
    DL_APPEND2(o->awaiting, w, same_prev, same_next);
    ts->n_awaiting++;
    if (!timer_is_running(&ts->await_timer))
        timer_start(&ts->await_timer, TUNNEL_HOLD_MS);
    return 0;
}

void tunnel_await_cancel(struct tunnel_await *w)
{
    struct tunnel_object *o = TAKE(w->object);
    if (!o)
        return;
    DL_DELETE(o->owner->awaiting, w);
    DL_DELETE2(o->awaiting, w, same_prev, same_next);
    o->owner->n_awaiting--;
}

static void end_await(struct tunnel_await *w, int err)
{
    tunnel_await_cancel(w);
    w->fn(w, err);
}

void tunnel_await_look(struct tunnel_object *o)
{
    struct tunnel_await *w, *next;
    for (w = o->awaiting; w; w = next) {
        next = w->same_next;
        if (own_exposure(o, w->epoch))
            end_await(w, 0);
        else if (!is_coming(o, w->epoch))
            end_await(w, ERR_STALE);
    }
}

/* The oldest come first. */
void tunnel_await_timer(struct timer *t)
{
    struct tunnels *ts = container_of(t, struct tunnels, await_timer);
    uint64_t now = loop_now_ms(ts->loop);
    while (ts->awaiting && ts->awaiting->ends_ms <= now)
        end_await(ts->awaiting, ERR_STALE);
    if (ts->awaiting)
        timer_start(t, ts->awaiting->ends_ms - now);
}

int tunnel_dial_for_hub(struct tunnel_object *o, uint64_t epoch, struct tunnel_lane_dial *d)
{
    struct exposure *e = own_exposure(o, epoch);
    return e ? dial_by_lane(o, e, true, d) : ERR_STALE;
}
