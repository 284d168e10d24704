/*
 * The agent's leases: offered, taken by a call that gathers all that came in meanwhile, renewed,
 * and ended by the hub or by themselves when it says nothing for too long. The hub opens no stream
 * under a lease before it was taken.
 */
#include "tunnel/agent_internal.h"

#include "base/log.h"
#include "base/mem.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <utlist.h>

#define LEASES_MAX 65536

static void on_last_gone(struct defer *d)
{
    mem_free(container_of(d, struct held, last_gone));
}

void served_note_holder(struct served *t)
{
    const struct held *h;
    bool is_holder = false;
    DL_FOREACH (t->leases, h)
        is_holder |= h->state == HELD_TAKEN || h->state == HELD_LEFT;
    check_hold(&t->check, is_holder);
}

void held_drop(struct held *h, const char *why)
{
    struct tunnel_agent *ta = h->owner;
    struct served *t = h->tunnel;
    if (h->state == HELD_TAKEN || h->state == HELD_LEFT)
        LOG_INFO("lease ended", LOG_STR("tunnel", h->id), LOG_INT("epoch", h->epoch),
                 LOG_STR("why", why), LOG_INT("streams", h->n_relays));
    DL_DELETE(t->leases, h);
    if (h->state == HELD_LEFT) {
        DL_DELETE2(ta->left, h, all_prev, more);
    } else {
        DL_DELETE2(ta->leases, h, all_prev, more);
        ta->n_leases--;
        session_want_reverse(ta->session, ta->n_leases > 0);
    }
    h->state = HELD_OVER;
    held_cut_streams(h);
    served_note_holder(t);
    held_free_when_idle(h);
}

static void drop_all(struct tunnel_agent *ta, const char *why)
{
    while (ta->leases)
        held_drop(ta->leases, why);
}

static void on_taken(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct tunnel_agent *ta = arg;
    struct held *h, *next;
    ta->taking = NULL;
    for (h = ta->leases; h; h = next) {
        next = h->more;
        if (h->state != HELD_ASKED)
            continue;
        if (r->status != RPC_OK) { /* the hub offers it again */
            held_drop(h, diag_text(&r->diag));
            continue;
        }
        h->state = HELD_TAKEN;
        LOG_INFO("lease taken", LOG_STR("tunnel", h->id), LOG_INT("epoch", h->epoch));
        served_note_holder(h->tunnel);
    }
    loop_defer(ta->cfg.loop, &ta->take);
}

void tunnel_agent_on_take(struct defer *d)
{
    struct tunnel_agent *ta = container_of(d, struct tunnel_agent, take);
    struct rpc_client *rpc = session_rpc(ta->session);
    struct held *h;
    if (!rpc || ta->taking)
        return;
    CLEANUP(mem_free) Warren__V1__Lease *leases = mem_new((ta->n_leases + 1) * sizeof(*leases));
    CLEANUP(mem_free) Warren__V1__Lease **list = mem_new((ta->n_leases + 1) * sizeof(*list));
    Warren__V1__TakeLeasesRequest req = WARREN__V1__TAKE_LEASES_REQUEST__INIT;
    req.session_epoch = session_epoch(ta->session);
    req.leases = list;
    DL_FOREACH2 (ta->leases, h, more) {
        if (h->state != HELD_QUEUED)
            continue;
        Warren__V1__Lease *m = &leases[req.n_leases];
        h->state = HELD_ASKED;
        warren__v1__lease__init(m);
        m->tunnel = h->id;
        m->epoch = h->epoch;
        list[req.n_leases++] = m;
    }
    if (req.n_leases)
        ta->taking = rpc_call_unary(rpc, "/warren.v1.AgentService/TakeLeases", &req.base,
                                    &warren__v1__take_leases_response__descriptor,
                                    TUNNEL_AGENT_RPC_MS, on_taken, ta);
}

void held_queue(struct held *h)
{
    h->state = HELD_QUEUED;
    loop_defer(h->loop, &h->owner->take);
}

void tunnel_agent_offered(struct tunnel_agent *ta, const Warren__V1__LeaseOffer *m)
{
    struct served *t = tunnel_agent_find(ta, m->tunnel);
    if (!t || ta->is_leaving || ta->n_leases >= LEASES_MAX || tunnel_agent_find_lease(t, m->epoch))
        return;
    struct held *h = NEW(struct held);
    h->owner = ta;
    h->tunnel = t;
    h->loop = ta->cfg.loop;
    h->epoch = m->epoch;
    h->is_any = t->is_any;
    h->last_gone.fn = on_last_gone;
    snprintf(h->id, sizeof(h->id), "%s", t->id);
    DL_APPEND(t->leases, h);
    DL_APPEND2(ta->leases, h, all_prev, more);
    ta->n_leases++;
    session_want_reverse(ta->session, true);
    if (m->check_first && t->check.check)
        check_ask(&t->check);
    else
        held_queue(h);
}

/* Only what was held when the question was asked can be missing from the answer. */
static void on_renewed(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct tunnel_agent *ta = arg;
    struct held *h, *next;
    ta->renewing = NULL;
    if (r->status != RPC_OK)
        return;
    const Warren__V1__RenewLeasesResponse *list = (const Warren__V1__RenewLeasesResponse *)reply;
    ta->renewed_ms = ta->asked_ms;
    for (size_t i = 0; i < list->n_leases; i++) {
        const struct served *t = tunnel_agent_find(ta, list->leases[i]->tunnel);
        h = t ? tunnel_agent_find_lease(t, list->leases[i]->epoch) : NULL;
        if (h)
            h->is_in_renewal = false;
    }
    for (h = ta->leases; h; h = next) {
        next = h->more;
        if (h->is_in_renewal)
            held_drop(h, "the hub does not renew it");
    }
}

static void renew(struct tunnel_agent *ta, struct rpc_client *rpc)
{
    Warren__V1__RenewLeasesRequest req = WARREN__V1__RENEW_LEASES_REQUEST__INIT;
    struct held *h;
    req.session_epoch = session_epoch(ta->session);
    DL_FOREACH2 (ta->leases, h, more)
        h->is_in_renewal = h->state == HELD_TAKEN;
    ta->is_to_call = false;
    ta->asked_ms = loop_now_ms(ta->cfg.loop);
    ta->renewing = rpc_call_unary(rpc, "/warren.v1.AgentService/RenewLeases", &req.base,
                                  &warren__v1__renew_leases_response__descriptor,
                                  TUNNEL_AGENT_RPC_MS, on_renewed, ta);
}

void tunnel_agent_on_renew_timer(struct timer *timer)
{
    struct tunnel_agent *ta = container_of(timer, struct tunnel_agent, renew_timer);
    struct rpc_client *rpc = session_rpc(ta->session);
    uint64_t now = loop_now_ms(ta->cfg.loop);
    timer_start(timer, ta->renew_ms);
    bool has_slept = ta->leases && now - ta->renewed_ms > ta->lease_ms;
    if (has_slept)
        drop_all(ta, "not renewed in time");
    /* With nothing to renew, it tells the hub that we are awake again. */
    ta->is_to_call |= has_slept;
    if (!ta->leases)
        ta->renewed_ms = now;
    if ((ta->leases || ta->is_to_call) && rpc && !ta->renewing)
        renew(ta, rpc);
}

void tunnel_agent_lease_lost(struct tunnel_agent *ta, const Warren__V1__Lease *m)
{
    const struct served *t = tunnel_agent_find(ta, m->tunnel);
    struct held *h = t ? tunnel_agent_find_lease(t, m->epoch) : NULL;
    struct rpc_client *rpc = session_rpc(ta->session);
    if (!h)
        return;
    bool was_slow = h->state != HELD_TAKEN;
    held_drop(h, "ended by the hub");
    if (!was_slow)
        return;
    ta->is_to_call = true; /* the hub waited in vain for us, and will not offer again soon */
    if (rpc && !ta->renewing)
        renew(ta, rpc);
}
