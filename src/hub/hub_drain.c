/*
 * How a hub leaves the cluster: by order, which its row bears (`warren hub drain`), or because it
 * is asked to stop.
 *
 *   order ─► agents are sent to other hubs; clients are served as before, by way of those;
 *            not ready, for load balancers ─► drained ─► (stopped by the operator) or undrained
 *   stop  ─► the same, if there are other hubs, for at most `drain_grace` ─► no new connections ─►
 *            what is open may end within the same time ─► hub_stop
 */
#include "hub/internal.h"

#include "base/log.h"
#include "base/macro.h"
#include "peer/peers.h"

#define CHECK_MS 50
#define FOLLOW_MS \
    1000 /* for other hubs to follow a route: the feed's poll, if no word of it came */

/* ---- by order ---- */

static void follow_order(struct hub *h)
{
    bool is_drained = fleet_is_drained(h->fleet);
    if (is_drained && !fleet_hub_self(h->fleet)->drained)
        LOG_INFO("this hub is drained: it may be stopped");
    peers_set_drained(h->peers, is_drained);
}

void hub_follow_order(struct hub *h, const struct fleet_hub *self)
{
    if (h->state != HUB_READY)
        return;
    bool is_on = fleet_is_draining(h->fleet);
    if (self->draining && (!is_on || h->ordered_grace_ms != self->drain_grace_ms)) {
        h->ordered_grace_ms = self->drain_grace_ms;
        fleet_drain(h->fleet, (uint32_t)self->drain_grace_ms, UINT32_MAX);
        timer_start(&h->drain_timer, 0);
    } else if (!self->draining && is_on) {
        LOG_INFO("this hub takes agents again");
        timer_stop(&h->drain_timer);
        fleet_undrain(h->fleet);
        peers_set_drained(h->peers, false);
        tunnels_may_claim(h->tunnels);
    }
}

/* ---- to stop ---- */

static void refuse_new(struct hub *h)
{
    h->is_closed = true;
    for (size_t i = 0; i < h->started_workers; i++)
        worker_stop_accepting(h->workers[i]);
    for (size_t i = 0; i < h->started_workers; i++)
        tunnel_lane_drain(h->lanes[i]);
    tunnels_drain(h->tunnels);
}

/* Whether other hubs serve all that this one did, and know it: those who have not followed yet send
 * their clients here. */
static bool has_moved(struct hub *h)
{
    uint64_t now = loop_now_ms(h->loop);
    if (fleet_online(h->fleet) > 0 || tunnels_are_held(h->tunnels))
        h->moved_ms = 0;
    else if (!h->moved_ms)
        h->moved_ms = now;
    return h->moved_ms && now - h->moved_ms >= FOLLOW_MS;
}

static void go_on_stopping(struct hub *h)
{
    bool is_late = loop_now_ms(h->loop) >= h->drain_ends;
    if (!h->is_closed && (is_late || !h->has_to_move || has_moved(h)))
        refuse_new(h);
    if (h->is_closed && (tunnels_streams_open(h->tunnels) == 0 || is_late))
        hub_stop(h);
    else
        timer_start(&h->drain_timer, CHECK_MS);
}

static void on_timer(struct timer *t)
{
    struct hub *h = container_of(t, struct hub, drain_timer);
    if (h->state == HUB_DRAINING) {
        go_on_stopping(h);
        return;
    }
    follow_order(h);
    timer_start(t, CHECK_MS);
}

void hub_drain_init(struct hub *h)
{
    timer_init(&h->drain_timer, h->loop, on_timer);
}

void hub_terminate(struct hub *h)
{
    uint32_t grace_ms = (uint32_t)h->settings->drain_grace_ms;
    if (h->state == HUB_DRAINING) {
        LOG_WARN("second signal: not waiting for open streams");
        hub_stop(h);
    }
    if (h->state != HUB_READY)
        return;
    h->state = HUB_DRAINING;
    notify_stopping(&h->notify);
    LOG_INFO("draining", LOG_INT("streams", tunnels_streams_open(h->tunnels)),
             LOG_INT("agents", fleet_online(h->fleet)), LOG_INT("grace_ms", grace_ms));
    h->has_to_move = fleet_has_other_hub(h->fleet) &&
                     (fleet_online(h->fleet) > 0 || tunnels_are_held(h->tunnels));
    if (h->has_to_move)
        fleet_drain(h->fleet, grace_ms, grace_ms / 2);
    h->drain_ends = loop_now_ms(h->loop) + grace_ms;
    timer_start(&h->drain_timer, 0);
}
