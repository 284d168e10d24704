#include "tunnel/tunnel_lease.h"

#include "base/error.h"
#include "base/macro.h"

#include <assert.h>

static const char *const names[] = {"writing", "offered", "taken", "held", "lingering", "clearing"};
static_assert(ARRAY_SIZE(names) == LEASE_STATE_COUNT, "a name for each state");

const char *lease_state_name(enum lease_state s)
{
    return names[s];
}

int lease_written(struct lease *l, uint64_t epoch)
{
    assert(l->state == LEASE_WRITING);
    l->epoch = epoch;
    if (l->is_doomed)
        return LEASE_OVER;
    l->state = LEASE_OFFERED;
    return 0;
}

int lease_take(struct lease *l)
{
    if (l->state != LEASE_OFFERED)
        return ERR_STALE;
    l->state = LEASE_TAKEN;
    return 0;
}

void lease_start(struct lease *l)
{
    assert(l->state == LEASE_TAKEN);
    l->state = LEASE_HELD;
}

void lease_linger(struct lease *l)
{
    assert(l->state == LEASE_HELD);
    l->state = LEASE_LINGERING;
}

int lease_lose(struct lease *l)
{
    switch (l->state) {
    case LEASE_WRITING:
        l->is_doomed = true;
        return 0;
    case LEASE_OFFERED:
    case LEASE_TAKEN:
        return LEASE_OVER;
    case LEASE_HELD:
    case LEASE_LINGERING:
        l->state = LEASE_CLEARING;
        return LEASE_CLOSES;
    default:
        return 0;
    }
}

bool lease_is_coming(const struct lease *l)
{
    return (l->state == LEASE_WRITING && !l->is_doomed) || l->state == LEASE_OFFERED ||
           l->state == LEASE_TAKEN;
}

bool lease_is_live(const struct lease *l)
{
    return l->state != LEASE_WRITING && l->state != LEASE_CLEARING;
}
