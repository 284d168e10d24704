/* Streams that another hub forwards: it has judged the client, the ticket says so. */
#include "tunnel/lane_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "peer/peers.h"
#include "scan/scan_stream.h"
#include "wire/connect_udp.h"

#include <stdio.h>
#include <string.h>

static int check_ticket(const struct lane_stream *s, struct ticket *ret)
{
    const struct tunnels *ts = s->lane->tunnels;
    if (!ts->cluster || !s->ticket ||
        ticket_check_any(s->ticket, ts->forward.keys, peer_clock_now(ts->forward.clock), ret) < 0 ||
        strcmp(ret->hub, s->hub) != 0)
        return ERR_DENIED;
    return 0;
}

static int read_goal(const struct lane_stream *s, struct exposure_goal *ret)
{
    *ret = (struct exposure_goal){.is_udp = s->udp_path != NULL,
                                  .ttl = s->ttl,
                                  .allow = s->allow,
                                  .protocol = s->is_scan ? SCAN_PROTOCOL : NULL};
    memcpy(ret->tag, s->tag, sizeof(ret->tag));
    if (s->is_bad)
        return ERR_INVALID;
    if (s->udp_path)
        return connect_udp_parse(s->udp_path, &ret->target, NULL);
    return s->authority ? host_port_parse(s->authority, false, &ret->target, NULL) : ERR_INVALID;
}

/* 0: it is on its way. */
static int dial_for_hub(struct lane_stream *s, const struct ticket *t,
                        const struct exposure_goal *goal)
{
    struct tunnel_object *o = tunnel_find(s->lane->tunnels, t->tunnel);
    struct tunnel_lane_dial dial = lane_stream_dial(s, goal);
    if (!o)
        return ERR_STALE;
    TRY(tunnel_dial_for_hub(o, t->lease_epoch, &dial));
    lane_name_worker(s->lane->tunnels, dial.far_loop, s->worker);
    lane_stream_begin(s, &dial);
    return 0;
}

bool lane_hub_admit_here(struct lane_stream *s)
{
    struct ticket t;
    struct exposure_goal goal = {0};
    struct tunnel_lane_dial dial = lane_stream_dial(s, &goal);
    if (check_ticket(s, &t) < 0 || read_goal(s, &goal) < 0)
        return false;
    struct exposure *e = exposure_find(&s->lane->index, t.tunnel, t.lease_epoch);
    if (!e)
        return false;
    dial.near = (struct tunnel_near){.fd = -1, .pair = relay_pair_new()};
    if (exposure_dial_here(e, &goal, dial.near.pair, dial.client, dial.ops, dial.arg, &dial.dial) <
        0) {
        relay_pair_drop(dial.near.pair);
        return false;
    }
    s->is_here = true;
    snprintf(s->worker, sizeof(s->worker), "%s", s->conn->worker);
    lane_stream_begin(s, &dial);
    return true;
}

static void on_awaited(struct tunnel_await *w, int err)
{
    struct lane_stream *s = container_of(w, struct lane_stream, await);
    lane_hub_admit(s);
    lane_stream_unref(s);
}

/* The route may be known elsewhere before its agent has taken the lease. */
static int await_lease(struct lane_stream *s, const struct ticket *t)
{
    struct tunnel_object *o = tunnel_find(s->lane->tunnels, t->tunnel);
    if (!o || s->await.fn) /* once */
        return ERR_STALE;
    s->await.fn = on_awaited;
    TRY(tunnel_await_start(o, t->lease_epoch, &s->await));
    lane_stream_ref(s);
    return 0;
}

void lane_hub_admit(struct lane_stream *s)
{
    struct ticket t = {0};
    struct exposure_goal goal = {0};
    int rc = check_ticket(s, &t);
    if (rc == 0)
        rc = read_goal(s, &goal);
    if (rc == 0)
        rc = dial_for_hub(s, &t, &goal);
    if (rc == ERR_STALE)
        rc = await_lease(s, &t);
    if (rc == 0)
        return;
    if (tunnel_shows_trouble(s->lane->tunnels))
        LOG_INFO("another hub's client refused", LOG_STR("hub", s->hub),
                 LOG_STR("tunnel", t.tunnel), LOG_INT("epoch", t.lease_epoch), LOG_ERR(rc));
    lane_stream_refuse(s, rc);
}
