/*
 * This hub being drained: its agents are told to log in at other hubs, and sessions that they have
 * left behind live on for a while.
 *
 *   drain ─► Drain{move} ─► the agent logs in elsewhere ─► our feed says so ─► fleet_session_leave
 *                 │ it does not                                │ observers: on_left
 *                 ▼ within the time                            ▼
 *            session ended                left: no session any more, but its pool, until nobody
 * uses it (fleet_left_over), it is lost, or the grace is over
 *
 * A session that was left serves its tunnels until another hub has claimed them, and then what is
 * open. Its control stream is finished with its pool, so that the agent may wait for that.
 */
#include "fleet/lan_hub.h"

#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define MOVE_MS 5000 /* for an agent to log in elsewhere, beside its time to wait */

struct fleet_left {
    struct fleet *f;
    char agent[ID_SIZE];
    struct fleet_pool *pool; /* NULL: it had no reverse connection */
    struct rpc_call *call;   /* of Connect; NULL: finished */
    struct fleet_left *prev, *next;
};

/* ---- sessions that were left ---- */

static void end_left(struct fleet_left *l)
{
    struct fleet *f = l->f;
    DL_DELETE(f->left, l);
    f->n_left--;
    if (l->pool) {
        l->pool->left = NULL;
        fleet_pool_end(TAKE(l->pool));
    }
    if (l->call) {
        rpc_on_cancel(l->call, NULL, NULL);
        rpc_finish(TAKE(l->call), RPC_ABORTED, "the agent has moved to another hub");
    }
    mem_free(l);
}

static void on_cancel(struct rpc_call *call, void *arg)
{
    struct fleet_left *l = arg;
    l->call = NULL;
    rpc_finish(call, RPC_CANCELLED, "");
}

void fleet_left_over(struct fleet_pool *p)
{
    if (p->left)
        end_left(p->left);
}

void fleet_left_cut(struct fleet *f, const char *agent)
{
    struct fleet_left *l, *next;
    DL_FOREACH_SAFE (f->left, l, next) {
        if (!agent || strcmp(l->agent, agent) == 0)
            end_left(l);
    }
}

bool fleet_session_may_leave(const struct fleet *f, const struct fleet_agent *a)
{
    return f->drain.is_on && a->is_told_to_move && a->call;
}

void fleet_session_leave(struct fleet *f, struct fleet_agent *a)
{
    struct fleet_left *l = NEW(struct fleet_left);
    struct fleet_observer *o;
    bool is_used = false;
    LOG_INFO("agent has moved to another hub", LOG_STR("agent", a->id), LOG_INT("epoch", a->epoch));
    *l = (struct fleet_left){.f = f, .pool = TAKE(a->pool), .call = fleet_session_take(a)};
    snprintf(l->agent, sizeof(l->agent), "%s", a->id);
    if (l->pool)
        l->pool->left = l;
    DL_APPEND(f->left, l);
    f->n_left++;
    a->is_told_to_move = false;
    rpc_on_cancel(l->call, on_cancel, l);
    LL_FOREACH (f->observers, o)
        is_used |= o->on_left && o->on_left(o, a, l->pool);
    fleet_lan_session_over(a);
    if (!is_used || loop_now_ms(f->cfg.loop) >= f->drain.cut_ms)
        end_left(l);
}

/* ---- draining ---- */

static void tell_to_move(struct fleet *f, struct fleet_agent *a)
{
    uint64_t now = loop_now_ms(f->cfg.loop);
    Warren__V1__Drain drain = WARREN__V1__DRAIN__INIT;
    drain.move = true;
    drain.within_ms = f->drain.within_ms;
    drain.grace_ms = f->drain.cut_ms > now ? (uint32_t)(f->drain.cut_ms - now) : 0;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_DRAIN;
    event.drain = &drain;
    a->is_told_to_move = true;
    fleet_send(a, &event);
}

static void cut_sessions(struct fleet *f)
{
    struct fleet_agent *a, *next;
    HASH_ITER (hh, f->agents, a, next)
        fleet_session_end(f, a, "this hub is drained, and the agent has not moved");
}

static void on_drain_timer(struct timer *t)
{
    struct fleet *f = container_of(t, struct fleet, drain.timer);
    uint64_t now = loop_now_ms(f->cfg.loop);
    if (now >= f->drain.cut_ms && f->left) {
        LOG_INFO("the drain's grace is over", LOG_INT("sessions", f->n_left));
        fleet_left_cut(f, NULL);
    }
    if (f->drain.is_on && now >= f->drain.end_ms && fleet_has_other_hub(f))
        cut_sessions(f);
    else if (f->drain.is_on || f->left)
        timer_start(t, (now < f->drain.cut_ms ? f->drain.cut_ms : MAX(f->drain.end_ms, now + 100)) -
                           now);
}

void fleet_move_init(struct fleet *f)
{
    timer_init(&f->drain.timer, f->cfg.loop, on_drain_timer);
}

void fleet_drain(struct fleet *f, uint32_t grace_ms, uint32_t within_max_ms)
{
    bool was_on = f->drain.is_on;
    f->drain.is_on = true;
    f->drain.within_ms = was_on ? 0 : MIN(fleet_return_ms(f), within_max_ms);
    f->drain.cut_ms = loop_now_ms(f->cfg.loop) + f->drain.within_ms + grace_ms;
    f->drain.end_ms = f->drain.cut_ms + (grace_ms < MOVE_MS ? MOVE_MS - grace_ms : 0);
    timer_start(&f->drain.timer, f->drain.within_ms + grace_ms);
    if (was_on)
        return;
    LOG_INFO("agents are told to move", LOG_INT("agents", f->online),
             LOG_INT("within_ms", f->drain.within_ms), LOG_INT("grace_ms", grace_ms));
    for (struct fleet_agent *a = f->agents; a; a = a->hh.next) {
        if (a->call)
            tell_to_move(f, a);
    }
}

void fleet_undrain(struct fleet *f)
{
    f->drain.is_on = false;
}

bool fleet_is_draining(const struct fleet *f)
{
    return f->drain.is_on;
}

bool fleet_is_drained(const struct fleet *f)
{
    return f->drain.is_on && !f->online && !f->n_left;
}

size_t fleet_left(const struct fleet *f)
{
    return f->n_left;
}
