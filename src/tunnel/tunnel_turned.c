/*
 * Clients whose stream another hub turned away, or that was lost on the way there: no byte of
 * theirs has been read. Who serves the tunnel now is in the row; it may be that nobody does yet,
 * while an agent comes back elsewhere. Such a client waits as those do who come meanwhile
 * (tunnel_listen.c). Main loop.
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

static void forget(struct tunnels *ts, struct exposure_turned *t)
{
    DL_DELETE(ts->turned_clients, t);
    ts->n_turned_clients--;
}

/* Whether it is over with it. A route that was not right is not tried again. */
static bool try_again(struct tunnels *ts, struct exposure_turned *t)
{
    struct tunnel_object *o = tunnel_find(ts, t->tunnel);
    struct exposure *e = o ? tunnel_pick_exposure(o) : NULL;
    if (ts->is_draining || !o || tunnel_phase_is_over(o->t.phase))
        give_up(ts, t, ts->is_draining ? "this hub is being stopped" : "the tunnel is gone");
    else if (e && (t->is_lost || exposure_epoch(e) != t->epoch))
        exposure_try_again(t, e);
    else
        return false;
    return true;
}

void tunnel_turned_decide(struct tunnels *ts, struct exposure_turned *t)
{
    uint64_t now = loop_now_ms(ts->loop);
    if (try_again(ts, t))
        return;
    if (ts->n_turned_clients >= WAITING_MAX || t->ends_ms <= now) {
        give_up(ts, t, ts->n_turned_clients >= WAITING_MAX ? "too many wait" : "nobody serves it");
        return;
    }
    DL_APPEND(ts->turned_clients, t);
    ts->n_turned_clients++;
    if (!timer_is_running(&ts->turned_timer))
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

void tunnel_turned_look(struct tunnels *ts, const char *tunnel)
{
    struct exposure_turned *t, *next, *mine = NULL;
    DL_FOREACH_SAFE (ts->turned_clients, t, next) {
        if (strcmp(t->tunnel, tunnel) != 0)
            continue;
        forget(ts, t);
        DL_APPEND(mine, t);
    }
    DL_FOREACH_SAFE (mine, t, next) {
        DL_DELETE(mine, t);
        tunnel_turned_decide(ts, t);
    }
}

static void on_timer(struct timer *timer)
{
    struct tunnels *ts = container_of(timer, struct tunnels, turned_timer);
    struct exposure_turned *t, *next;
    uint64_t now = loop_now_ms(ts->loop), first = UINT64_MAX;
    DL_FOREACH_SAFE (ts->turned_clients, t, next) {
        if (t->ends_ms > now) {
            first = MIN(first, t->ends_ms);
            continue;
        }
        forget(ts, t);
        give_up(ts, t, "nobody serves it");
    }
    if (ts->turned_clients)
        timer_start(timer, first - now);
}

void tunnel_turned_end(struct tunnels *ts)
{
    timer_stop(&ts->turned_timer);
    while (ts->turned_clients) {
        struct exposure_turned *t = ts->turned_clients;
        forget(ts, t);
        give_up(ts, t, "this hub is being stopped");
    }
}

void tunnel_turned_init(struct tunnels *ts)
{
    timer_init(&ts->turned_timer, ts->loop, on_timer);
}
