/*
 * Clients whose stream another hub turned away, or that was lost on the way there, and those for
 * whom this hub opened none, having slept (fleet_is_sure): no byte of theirs has been read. Who
 * serves the tunnel now is in the row; it may be that nobody does yet, while an agent comes back
 * elsewhere. Such a client waits as those do who come meanwhile (tunnel_listen.c). Main loop.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define WAITING_MAX    8192
#define TROUBLES_SHOWN 20 /* a second */

bool tunnel_shows_trouble(struct tunnels *ts)
{
    uint64_t now = loop_now_ms(ts->loop);
    if (now - ts->troubles_since_ms >= 1000) {
        ts->troubles_since_ms = now;
        ts->n_troubles = 0;
    }
    return ts->n_troubles++ < TROUBLES_SHOWN;
}

static void give_up(struct tunnels *ts, struct exposure_turned *t, const char *why)
{
    char client[ADDR_TEXT_SIZE];
    const struct tunnel_object *o = tunnel_find(ts, t->tunnel);
    addr_format(&t->peer, client, sizeof(client));
    if (tunnel_shows_trouble(ts))
        LOG_INFO("client reset", LOG_STR("tunnel", t->tunnel), LOG_STR("client", client),
                 LOG_STR("why", why), LOG_INT("epoch", t->epoch),
                 LOG_STR("hub", o ? o->route.hub : ""),
                 LOG_INT("epoch_now", o ? o->route.epoch : 0));
    if (o && t->is_shown) {
        struct exposure_record r = {.client = t->peer,
                                    .opened = t->opened,
                                    .closed = time_wall_ms(),
                                    .end = "failed",
                                    .error = ERR_UNAVAILABLE};
        snprintf(r.tunnel, sizeof(r.tunnel), "%s", t->tunnel);
        snprintf(r.agent, sizeof(r.agent), "%s", o->route.agent);
        ts->exposure_ops.on_records(ts, &r, 1);
    }
    exposure_give_up(t);
}

/* In the order in which they end: those that come are among the last. */
static void keep(struct tunnel_object *o, struct exposure_turned *t)
{
    struct tunnels *ts = o->owner;
    struct exposure_turned *first = ts->turned_clients, *before = first ? first->prev : NULL;
    while (before && before->ends_ms > t->ends_ms)
        before = before == first ? NULL : before->prev;
    if (before)
        DL_APPEND_ELEM(ts->turned_clients, before, t);
    else
        DL_PREPEND(ts->turned_clients, t);
    DL_APPEND2(o->turned, t, same_prev, same_next);
    ts->n_turned_clients++;
}

static void forget(struct tunnel_object *o, struct exposure_turned *t)
{
    DL_DELETE(o->owner->turned_clients, t);
    DL_DELETE2(o->turned, t, same_prev, same_next);
    o->owner->n_turned_clients--;
}

/* Whether it is over with it. A route that was not right is not tried again. */
static bool try_again(struct tunnels *ts, struct tunnel_object *o, struct exposure_turned *t)
{
    struct exposure *e = o ? tunnel_pick_exposure(o) : NULL;
    if (ts->is_draining || !o || o->is_deleted || tunnel_phase_is_over(o->t.phase))
        give_up(ts, t, ts->is_draining ? "this hub is being stopped" : "the tunnel is gone");
    else if (e && !exposure_is_forwarding(e) && !fleet_is_sure(ts->fleet))
        return false;
    else if (e && (t->is_lost || exposure_epoch(e) != t->epoch))
        exposure_try_again(t, e);
    else
        return false;
    return true;
}

void tunnel_turned_decide(struct tunnels *ts, struct exposure_turned *t)
{
    uint64_t now = loop_now_ms(ts->loop);
    struct tunnel_object *o = tunnel_find(ts, t->tunnel);
    if (try_again(ts, o, t))
        return;
    if (ts->n_turned_clients >= WAITING_MAX || t->ends_ms <= now) {
        give_up(ts, t, ts->n_turned_clients >= WAITING_MAX ? "too many wait" : "nobody serves it");
        return;
    }
    keep(o, t);
    if (ts->turned_clients == t)
        timer_start(&ts->turned_timer, t->ends_ms - now);
}

void tunnel_turned(struct tunnels *ts, struct exposure_turned *t)
{
    LOG_DEBUG("a client has not come through another hub", LOG_STR("tunnel", t->tunnel),
              LOG_INT("epoch", t->epoch), LOG_INT("is_lost", t->is_lost));
    ts->turned++;
    t->ends_ms = loop_now_ms(ts->loop) + TUNNEL_HOLD_MS;
    if (t->is_lost)
        tunnel_turned_decide(ts, t);
    else
        tunnel_reread_for(ts, t);
}

void tunnel_turned_look(struct tunnel_object *o)
{
    struct exposure_turned *t, *all = TAKE(o->turned);
    while ((t = all)) {
        DL_DELETE2(all, t, same_prev, same_next);
        DL_DELETE(o->owner->turned_clients, t);
        o->owner->n_turned_clients--;
        if (!try_again(o->owner, o, t))
            keep(o, t);
    }
}

static void end_until(struct tunnels *ts, uint64_t ends_ms, const char *why)
{
    struct exposure_turned *t;
    while ((t = ts->turned_clients) && t->ends_ms <= ends_ms) {
        forget(tunnel_find(ts, t->tunnel), t);
        give_up(ts, t, why);
    }
}

static void on_timer(struct timer *timer)
{
    struct tunnels *ts = container_of(timer, struct tunnels, turned_timer);
    uint64_t now = loop_now_ms(ts->loop);
    end_until(ts, now, "nobody serves it");
    if (ts->turned_clients)
        timer_start(timer, ts->turned_clients->ends_ms - now);
}

void tunnel_turned_end(struct tunnels *ts)
{
    timer_stop(&ts->turned_timer);
    end_until(ts, UINT64_MAX, "this hub is being stopped");
}

void tunnel_turned_init(struct tunnels *ts)
{
    timer_init(&ts->turned_timer, ts->loop, on_timer);
}
