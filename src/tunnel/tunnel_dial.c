/*
 * Streams that the hub itself opens through a tunnel.
 */
#include "tunnel/internal.h"

#include "base/error.h"

struct exposure *tunnel_pick_exposure(const struct tunnel_object *o)
{
    struct exposure *best = NULL;
    uint64_t least = UINT64_MAX;
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        struct tunnel_traffic t = {0};
        exposure_traffic(e, &t);
        if (!exposure_is_serving(e) || t.streams_open >= least)
            continue;
        best = e;
        least = t.streams_open;
    }
    return best;
}

int tunnel_dial(struct tunnel_object *o, int fd, const struct addr *client,
                const struct exposure_dial_ops *ops, void *arg, struct exposure_dial **ret)
{
    struct exposure *e = tunnel_pick_exposure(o);
    if (!e)
        return ERR_UNAVAILABLE;
    tunnel_demand_used(o);
    *ret = exposure_dial(e, fd, client, ops, arg);
    return 0;
}
