#include "peer/hub_lease.h"

#include "base/macro.h"

void hub_lease_renewed(struct hub_lease *l, uint64_t asked_ms)
{
    l->asked_ms = l->was_renewed ? MAX(l->asked_ms, asked_ms) : asked_ms;
    l->was_renewed = true;
}

void hub_lease_superseded(struct hub_lease *l)
{
    l->is_lost = true;
}

uint64_t hub_lease_left_ms(const struct hub_lease *l, uint64_t now_ms)
{
    uint64_t ends = l->asked_ms + HUB_LEASE_LIFE_MS - HUB_LEASE_MARGIN_MS;
    return l->was_renewed && !l->is_lost && ends > now_ms ? ends - now_ms : 0;
}

enum hub_lease_state hub_lease_state(const struct hub_lease *l, uint64_t now_ms)
{
    if (l->is_lost)
        return HUB_LEASE_LOST;
    if (!l->was_renewed)
        return HUB_LEASE_NONE;
    return hub_lease_left_ms(l, now_ms) ? HUB_LEASE_HELD : HUB_LEASE_LATE;
}
