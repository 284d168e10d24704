#include "tunnel/tunnel_agent.h"

#include "base/error.h"
#include "base/id.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/relay.h"
#include "warren/v1/agent.pb-c.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define TUNNELS_MAX      65536 /* of one network; more are ignored with a log line */
#define RPC_TIMEOUT_MS   10000
#define RETRY_TAKE_MS    1000
#define TAKE_JITTER_MS   20 /* so that the agents of a network do not all ask at once */
#define DIAL_DEADLINE_MS 10000
#define TAKES_MAX        24 /* requests for leases at a time; the hub takes 32 calls of a session */

struct served {
    struct tunnel_agent *owner; /* not followed once it is gone */
    struct loop *loop;
    char id[ID_SIZE];
    bool is_free;                   /* nobody holds it, as far as we were told */
    bool is_in_renewal;             /* held when the renewal under way was asked for */
    bool is_waiting;                /* in the owner's list `waiting` */
    struct rpc_client_call *taking; /* our request for the lease, while under way */
    bool is_gone;                   /* no longer in the table; freed with its last relay */
    uint64_t epoch;                 /* of our lease; 0: not ours */
    uint64_t newest;                /* highest epoch we have heard of */
    uint32_t n_relays;
    struct relay_set relays;
    struct timer take_timer;
    struct defer last_gone;
    struct served *prev, *next;
    UT_hash_handle hh;
};

struct tunnel_agent {
    struct tunnel_agent_config cfg;
    struct addr_rule *allow;
    size_t n_allow;
    struct session *session;
    struct served *tunnels;
    struct served *waiting; /* for their turn to ask */
    size_t n_held, n_taking;
    uint64_t asked_ms;   /* loop time at which the renewal under way was asked for */
    uint64_t renewed_ms; /* the same of the last one that was answered: our leases live from then */
    uint32_t lease_ms, renew_ms;
    struct timer renew_timer;
    struct rpc_client_call *renewing;
};

static void take(struct served *t);

static struct served *find(struct tunnel_agent *ta, const char *id)
{
    struct served *t;
    HASH_FIND_STR(ta->tunnels, id, t);
    return t;
}

/* ---- relays ---- */

static void on_last_gone(struct defer *d)
{
    mem_free(container_of(d, struct served, last_gone));
}

static void free_when_idle(struct served *t)
{
    if (t->is_gone && t->n_relays == 0)
        loop_defer(t->loop, &t->last_gone);
}

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct served *t = arg;
    if (res->end == RELAY_END_NOT_OPENED)
        LOG_INFO("target not reached", LOG_STR("tunnel", t->id),
                 LOG_STR("error", proxy_status_token(res->err)));
    t->n_relays--;
    free_when_idle(t);
}

static const struct relay_ops relay_callbacks = {.on_end = on_relay_end};

static bool is_allowed(const struct tunnel_agent *ta, const struct addr *a)
{
    for (size_t i = 0; i < ta->n_allow; i++) {
        if (addr_rule_match(&ta->allow[i], a))
            return true;
    }
    return ta->n_allow == 0;
}

static int check_allowed(void *arg, const struct addr *a)
{
    return is_allowed(arg, a) ? 0 : ERR_DENIED;
}

/* Whether the hub may open a stream under this epoch. The stream may overtake the answer to our
 * request for the lease, since they come on different connections. Of what came in while we slept
 * past the end of our leases nothing counts. */
static bool is_ours(const struct served *t, uint64_t epoch)
{
    const struct tunnel_agent *ta = t->owner;
    if (loop_now_ms(ta->cfg.loop) - ta->renewed_ms > ta->lease_ms)
        return false;
    return epoch && (t->epoch == epoch || (t->taking && epoch >= t->newest));
}

void tunnel_agent_on_request(struct tunnel_agent *ta, struct h2_stream *s,
                             const struct h2_headers *h)
{
    const char *method = h2_headers_get(h, ":method"), *tunnel = h2_headers_get(h, "warren-tunnel");
    const char *authority = h2_headers_get(h, ":authority");
    const char *lease = h2_headers_get(h, "warren-lease");
    struct relay_accept_params p = {.deadline_ms = DIAL_DEADLINE_MS,
                                    .check = check_allowed,
                                    .check_arg = ta,
                                    .ops = &relay_callbacks};
    uint64_t epoch;
    if (!method || strcmp(method, "CONNECT") != 0 || h2_headers_get(h, ":protocol") || !authority ||
        !tunnel || !lease || text_to_u64(lease, UINT64_MAX, &epoch) < 0 ||
        host_port_parse(authority, false, &p.target, NULL) < 0) {
        relay_refuse(s, ERR_PROTO);
        return;
    }
    struct served *t = find(ta, tunnel);
    if (!t || !is_ours(t, epoch)) {
        LOG_WARN("stream refused: not our lease", LOG_STR("tunnel", tunnel),
                 LOG_INT("epoch", epoch));
        relay_refuse(s, ERR_STALE);
        return;
    }
    p.set = &t->relays;
    p.arg = t;
    t->n_relays++;
    if (!relay_accept(s, &p))
        t->n_relays--;
}

void tunnel_agent_set_allow(struct tunnel_agent *ta, const struct addr_rule *allow, size_t n)
{
    mem_free(ta->allow);
    ta->allow = mem_dup(allow, n * sizeof(*allow));
    ta->n_allow = n;
    for (struct served *t = ta->tunnels; t; t = t->hh.next) {
        struct relay *r, *next;
        for (r = t->relays.head; r; r = next) {
            next = relay_next(r);
            if (relay_peer(r)->len && !is_allowed(ta, relay_peer(r)))
                relay_abort(r, ERR_DENIED);
        }
    }
}

size_t tunnel_agent_streams(const struct tunnel_agent *ta)
{
    size_t n = 0;
    for (const struct served *t = ta->tunnels; t; t = t->hh.next)
        n += t->n_relays;
    return n;
}

/* ---- leases ---- */

static void count_held(struct tunnel_agent *ta, int change)
{
    ta->n_held = (size_t)((ptrdiff_t)ta->n_held + change);
    session_want_reverse(ta->session, ta->n_held > 0);
}

static void drop_lease(struct served *t, const char *why)
{
    if (!t->epoch)
        return;
    LOG_INFO("lease lost", LOG_STR("tunnel", t->id), LOG_INT("epoch", t->epoch),
             LOG_STR("why", why));
    t->epoch = 0;
    t->is_in_renewal = false;
    relay_set_abort(&t->relays, ERR_UNAVAILABLE);
    count_held(t->owner, -1);
}

static void wait_turn(struct served *t)
{
    if (!t->is_waiting)
        DL_APPEND(t->owner->waiting, t);
    t->is_waiting = true;
}

static void stop_waiting(struct served *t)
{
    if (t->is_waiting)
        DL_DELETE(t->owner->waiting, t); /* NOLINT(clang-analyzer-core.NullDereference): linked */
    t->is_waiting = false;
}

static void taking_ended(struct served *t)
{
    struct tunnel_agent *ta = t->owner;
    t->taking = NULL;
    ta->n_taking--;
    while (ta->waiting && ta->n_taking < TAKES_MAX) {
        struct served *next = ta->waiting;
        stop_waiting(next);
        take(next);
    }
}

static void on_taken(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct served *t = arg;
    taking_ended(t);
    if (r->status != RPC_OK) {
        LOG_DEBUG("lease not taken", LOG_STR("tunnel", t->id), LOG_STR("why", diag_text(&r->diag)));
        relay_set_abort(&t->relays, ERR_UNAVAILABLE); /* of a stream that seemed to overtake it */
        if (t->is_free)
            timer_start(&t->take_timer, RETRY_TAKE_MS);
        return;
    }
    const Warren__V1__Lease *lease = (const Warren__V1__Lease *)reply;
    if (lease->epoch < t->newest)
        return; /* lost again before we heard that we had it */
    if (!t->epoch)
        count_held(t->owner, 1);
    t->epoch = t->newest = lease->epoch;
    LOG_INFO("lease taken", LOG_STR("tunnel", t->id), LOG_INT("epoch", lease->epoch));
}

static void take(struct served *t)
{
    struct tunnel_agent *ta = t->owner;
    struct rpc_client *rpc = session_rpc(ta->session);
    if (!rpc || t->taking || t->epoch || !t->is_free)
        return;
    if (ta->n_taking >= TAKES_MAX) {
        wait_turn(t);
        return;
    }
    Warren__V1__AcquireLeaseRequest req = WARREN__V1__ACQUIRE_LEASE_REQUEST__INIT;
    req.session_epoch = session_epoch(ta->session);
    req.tunnel = t->id;
    ta->n_taking++;
    t->taking = rpc_call_unary(rpc, "/warren.v1.AgentService/AcquireLease", &req.base,
                               &warren__v1__lease__descriptor, RPC_TIMEOUT_MS, on_taken, t);
}

static void on_take_timer(struct timer *timer)
{
    take(container_of(timer, struct served, take_timer));
}

/* Only what was held when the question was asked can be missing from the answer. */
static void on_renewed(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct tunnel_agent *ta = arg;
    ta->renewing = NULL;
    if (r->status != RPC_OK)
        return;
    const Warren__V1__RenewLeasesResponse *list = (const Warren__V1__RenewLeasesResponse *)reply;
    ta->renewed_ms = ta->asked_ms;
    for (size_t i = 0; i < list->n_leases; i++) {
        struct served *t = find(ta, list->leases[i]->tunnel);
        if (t && t->epoch == list->leases[i]->epoch)
            t->is_in_renewal = false;
    }
    for (struct served *t = ta->tunnels; t; t = t->hh.next) {
        if (t->is_in_renewal)
            drop_lease(t, "the hub does not renew it");
    }
}

static void renew(struct tunnel_agent *ta, struct rpc_client *rpc)
{
    Warren__V1__RenewLeasesRequest req = WARREN__V1__RENEW_LEASES_REQUEST__INIT;
    req.session_epoch = session_epoch(ta->session);
    for (struct served *t = ta->tunnels; t; t = t->hh.next)
        t->is_in_renewal = t->epoch != 0;
    ta->asked_ms = loop_now_ms(ta->cfg.loop);
    ta->renewing = rpc_call_unary(rpc, "/warren.v1.AgentService/RenewLeases", &req.base,
                                  &warren__v1__renew_leases_response__descriptor, RPC_TIMEOUT_MS,
                                  on_renewed, ta);
}

static void on_renew_timer(struct timer *timer)
{
    struct tunnel_agent *ta = container_of(timer, struct tunnel_agent, renew_timer);
    struct rpc_client *rpc = session_rpc(ta->session);
    timer_start(timer, ta->renew_ms);
    if (!ta->n_held) {
        ta->renewed_ms = loop_now_ms(ta->cfg.loop);
        return;
    }
    if (loop_now_ms(ta->cfg.loop) - ta->renewed_ms > ta->lease_ms) {
        for (struct served *t = ta->tunnels; t; t = t->hh.next)
            drop_lease(t, "not renewed in time");
        return;
    }
    if (rpc && !ta->renewing)
        renew(ta, rpc);
}

/* ---- events ---- */

static struct served *add(struct tunnel_agent *ta, const char *id)
{
    struct served *t = NEW(struct served);
    t->owner = ta;
    t->loop = ta->cfg.loop;
    t->last_gone.fn = on_last_gone;
    snprintf(t->id, sizeof(t->id), "%s", id);
    timer_init(&t->take_timer, ta->cfg.loop, on_take_timer);
    HASH_ADD_STR(ta->tunnels, id, t);
    return t;
}

static void remove_tunnel(struct served *t)
{
    drop_lease(t, "the tunnel is gone");
    timer_stop(&t->take_timer);
    stop_waiting(t);
    HASH_DEL(t->owner->tunnels, t);
    t->is_gone = true;
    relay_set_abort(&t->relays, ERR_UNAVAILABLE);
    if (t->taking) {
        rpc_call_cancel(t->taking);
        taking_ended(t);
    }
    free_when_idle(t);
}

static void on_tunnel(struct tunnel_agent *ta, const Warren__V1__Tunnel *m)
{
    struct served *t = find(ta, m->id);
    if (!t && HASH_COUNT(ta->tunnels) >= TUNNELS_MAX) {
        LOG_ERROR("too many tunnels in this network", LOG_STR("tunnel", m->id));
        return;
    }
    if (!t)
        t = add(ta, m->id);
    t->is_free = !m->holder[0];
    t->newest = MAX(t->newest, m->lease_epoch);
    if (t->epoch && t->epoch < t->newest)
        drop_lease(t, "another agent has it");
    if (t->is_free && !t->epoch && !t->taking) {
        uint8_t random;
        random_bytes(&random, sizeof(random));
        timer_start(&t->take_timer, random % (TAKE_JITTER_MS + 1));
    }
}

void tunnel_agent_on_event(struct tunnel_agent *ta, const Warren__V1__HubEvent *e)
{
    struct served *t;
    switch (e->event_case) {
    case WARREN__V1__HUB_EVENT__EVENT_TUNNEL:
        on_tunnel(ta, e->tunnel);
        break;
    case WARREN__V1__HUB_EVENT__EVENT_TUNNEL_REMOVED:
        t = find(ta, e->tunnel_removed->id);
        if (t)
            remove_tunnel(t);
        break;
    case WARREN__V1__HUB_EVENT__EVENT_LEASE_LOST:
        t = find(ta, e->lease_lost->tunnel);
        if (t && t->epoch <= e->lease_lost->epoch)
            drop_lease(t, "withdrawn by the hub");
        break;
    default:
        break;
    }
}

void tunnel_agent_on_up(struct tunnel_agent *ta, const Warren__V1__Welcome *w)
{
    ta->lease_ms = MAX(w->lease_ms, 1000U);
    ta->renew_ms = MAX(w->renew_ms, 100U);
    ta->renewed_ms = loop_now_ms(ta->cfg.loop);
    timer_start(&ta->renew_timer, ta->renew_ms);
}

void tunnel_agent_on_down(struct tunnel_agent *ta)
{
    struct served *t, *next;
    timer_stop(&ta->renew_timer);
    if (ta->renewing)
        rpc_call_cancel(TAKE(ta->renewing));
    HASH_ITER (hh, ta->tunnels, t, next)
        remove_tunnel(t);
}

/* ---- set-up ---- */

struct tunnel_agent *tunnel_agent_new(const struct tunnel_agent_config *cfg)
{
    struct tunnel_agent *ta = NEW(struct tunnel_agent);
    ta->cfg = *cfg;
    ta->allow = mem_dup(cfg->allow, cfg->n_allow * sizeof(*cfg->allow));
    ta->n_allow = cfg->n_allow;
    timer_init(&ta->renew_timer, cfg->loop, on_renew_timer);
    return ta;
}

void tunnel_agent_attach(struct tunnel_agent *ta, struct session *session)
{
    ta->session = session;
}

void tunnel_agent_free(struct tunnel_agent *ta)
{
    if (!ta)
        return;
    assert(!ta->tunnels);
    mem_free(ta->allow);
    mem_free(ta);
}
