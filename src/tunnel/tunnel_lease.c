#include "tunnel/tunnel_lease.h"

#include "base/error.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

int lease_take(struct lease *l, const char *agent)
{
    if (l->state == LEASE_HELD)
        return ERR_CONFLICT;
    if (l->state != LEASE_FREE)
        return ERR_UNAVAILABLE;
    l->state = LEASE_TAKING;
    l->is_doomed = false;
    snprintf(l->agent, sizeof(l->agent), "%s", agent);
    return 0;
}

static void set_free(struct lease *l)
{
    l->state = LEASE_FREE;
    l->is_doomed = false;
    l->agent[0] = '\0';
    l->expires_ms = 0;
}

int lease_taken(struct lease *l, uint64_t epoch, uint64_t now_ms)
{
    assert(l->state == LEASE_TAKING);
    assert(epoch > l->epoch);
    l->epoch = epoch;
    if (l->is_doomed) {
        set_free(l);
        return LEASE_WAS_DOOMED;
    }
    l->state = LEASE_HELD;
    l->expires_ms = now_ms + LEASE_LIFE_MS;
    return 0;
}

void lease_take_failed(struct lease *l)
{
    assert(l->state == LEASE_TAKING);
    set_free(l);
}

bool lease_is_held_by(const struct lease *l, const char *agent)
{
    return l->state == LEASE_HELD && strcmp(l->agent, agent) == 0;
}

int lease_renew(struct lease *l, const char *agent, uint64_t now_ms)
{
    if (!lease_is_held_by(l, agent))
        return ERR_STALE;
    l->expires_ms = now_ms + LEASE_LIFE_MS;
    return 0;
}

bool lease_is_expired(const struct lease *l, uint64_t now_ms)
{
    return l->state == LEASE_HELD && now_ms >= l->expires_ms;
}

bool lease_lose(struct lease *l)
{
    if (l->state == LEASE_TAKING)
        l->is_doomed = true;
    if (l->state != LEASE_HELD)
        return false;
    l->state = LEASE_CLEARING;
    l->expires_ms = 0;
    return true;
}

void lease_cleared(struct lease *l)
{
    assert(l->state == LEASE_CLEARING);
    set_free(l);
}
