#include "tunnel/tunnel_route.h"

#include <string.h>

enum route_duty route_duty(const struct tunnel_route *r, const struct route_view *v)
{
    if (r->hub[0] && strcmp(r->hub, v->hub) == 0)
        return ROUTE_SERVE;
    if (r->hub[0] && v->is_hub_live && (!r->session || v->is_session_live))
        return ROUTE_FORWARD;
    return v->may_claim && v->has_agent ? ROUTE_CLAIM : ROUTE_WAIT;
}

bool route_is_news(const struct tunnel_route *from, const struct tunnel_route *to)
{
    return to->epoch > from->epoch || (to->epoch == from->epoch && !to->hub[0] && from->hub[0]);
}
