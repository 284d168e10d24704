/*
 * A tunnel of the network is a struct served, a lease of it that we have or are offered a struct
 * held (tunnel_agent_lease.c): streams belong to a lease and end with it. Where an offer asks for
 * it, the target is checked first, and a failure is reported instead of taking the lease.
 */
#include "tunnel/agent_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "warren/v1/agent.pb-c.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define TUNNELS_MAX     65536 /* of one network; more are ignored with a log line */
#define DIALS_MAX       4096  /* under way at once */
#define DIALS_A_TARGET  2048
#define DIALS_SPARE_MS  250  /* one that gives way to others had so long */
#define NEIGHBOURS_MAX  4096 /* where the kernel's table is large; see net/dial_gate.h */
#define REPORT_MS       20   /* what changes together is reported together */
#define REPORT_RETRY_MS 1000
#define INTERVAL_MIN_MS 100

static const char *const held_states[] = {"checking", "queued", "asked", "taken", "left", "over"};
static_assert(ARRAY_SIZE(held_states) == HELD_STATE_COUNT, "a name for each state");

struct served *tunnel_agent_find(struct tunnel_agent *ta, const char *id)
{
    struct served *t;
    HASH_FIND_STR(ta->tunnels, id, t);
    return t;
}

struct held *tunnel_agent_find_lease(const struct served *t, uint64_t epoch)
{
    struct held *h;
    DL_FOREACH (t->leases, h) {
        if (h->epoch == epoch)
            return h;
    }
    return NULL;
}

size_t tunnel_agent_leases(const struct tunnel_agent *ta)
{
    return ta->n_leases;
}

static json_t *lease_json(const struct held *h)
{
    return json_pack("{s:s, s:I, s:s, s:I}", "tunnel", h->id, "epoch", (json_int_t)h->epoch,
                     "phase", held_states[h->state], "streams", (json_int_t)h->n_relays);
}

json_t *tunnel_agent_json(const struct tunnel_agent *ta)
{
    const struct held *h;
    json_t *list = json_array();
    DL_FOREACH2 (ta->leases, h, more)
        json_array_append_new(list, lease_json(h));
    DL_FOREACH2 (ta->left, h, more)
        json_array_append_new(list, lease_json(h));
    return list;
}

json_t *tunnel_agent_read_ahead_json(const struct tunnel_agent *ta)
{
    struct flow_devices_stats s = {0};
    if (ta->devices)
        flow_devices_stats(ta->devices, &s);
    return json_pack("{s:I, s:I, s:I}", "asked", (json_int_t)s.asked, "answered",
                     (json_int_t)s.answered, "kept", (json_int_t)s.kept);
}

json_t *tunnel_agent_dials_json(const struct tunnel_agent *ta)
{
    struct dial_gate_stats s;
    dial_gate_get_stats(ta->gate, &s);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pending", (json_int_t)s.dials,
                     "fullest_target", (json_int_t)s.fullest, "waiting",
                     (json_int_t)s.waiting_place, "waiting_for_neighbours",
                     (json_int_t)s.waiting_address, "neighbours", (json_int_t)s.unresolved,
                     "neighbours_max", (json_int_t)s.unresolved_max, "gave_way",
                     (json_int_t)s.gave_way, "refused", (json_int_t)s.refused);
}

/* ---- reports ---- */

static void report(struct served *t)
{
    struct tunnel_agent *ta = t->owner;
    if (!t->is_reporting)
        DL_APPEND(ta->reports, t);
    t->is_reporting = true;
    if (!timer_is_running(&ta->report_timer) && !ta->reporting)
        timer_start(&ta->report_timer, REPORT_MS);
}

static void stop_reporting(struct served *t)
{
    if (t->is_reporting)
        DL_DELETE(t->owner->reports, t); /* NOLINT(clang-analyzer-core.NullDereference): linked */
    t->is_reporting = false;
}

static void on_reported(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct tunnel_agent *ta = arg;
    ta->reporting = NULL;
    for (struct served *t = ta->tunnels; r->status != RPC_OK && t; t = t->hh.next) {
        if (check_err(&t->check))
            report(t);
    }
    if (ta->reports)
        timer_start(&ta->report_timer, r->status == RPC_OK ? REPORT_MS : REPORT_RETRY_MS);
}

static void on_report_timer(struct timer *timer)
{
    struct tunnel_agent *ta = container_of(timer, struct tunnel_agent, report_timer);
    struct rpc_client *rpc = session_rpc(ta->session);
    struct served *t;
    size_t n = 0;
    if (!rpc)
        return;
    DL_COUNT(ta->reports, t, n);
    CLEANUP(mem_free) Warren__V1__TargetState *states = mem_new((n + 1) * sizeof(*states));
    CLEANUP(mem_free) Warren__V1__TargetState **list = mem_new((n + 1) * sizeof(*list));
    Warren__V1__ReportTargetsRequest req = WARREN__V1__REPORT_TARGETS_REQUEST__INIT;
    req.session_epoch = session_epoch(ta->session);
    req.targets = list;
    while (ta->reports) {
        Warren__V1__TargetState *m = &states[req.n_targets];
        t = ta->reports;
        stop_reporting(t);
        warren__v1__target_state__init(m);
        m->tunnel = t->id;
        if (check_err(&t->check))
            m->error = (char *)proxy_status_token(check_err(&t->check));
        list[req.n_targets++] = m;
    }
    ta->reporting = rpc_call_unary(rpc, "/warren.v1.AgentService/ReportTargets", &req.base,
                                   &warren__v1__report_targets_response__descriptor,
                                   TUNNEL_AGENT_RPC_MS, on_reported, ta);
}

/* ---- checks ---- */

static void on_answer(struct check_user *u, int err)
{
    struct served *t = container_of(u, struct served, check);
    struct held *h, *next;
    for (h = t->leases; h; h = next) {
        next = h->next;
        if (h->state != HELD_CHECKING)
            continue;
        if (err == 0) {
            held_queue(h);
            continue;
        }
        report(t); /* declines it */
        held_drop(h, "the target is not reached");
    }
}

static void on_check_change(struct check_user *u, int err)
{
    struct served *t = container_of(u, struct served, check);
    if (err)
        LOG_INFO("target is not reached", LOG_STR("tunnel", t->id),
                 LOG_STR("error", proxy_status_token(err)));
    else
        LOG_INFO("target is reached again", LOG_STR("tunnel", t->id));
    report(t);
}

/* ---- leaving ---- */

static void on_left(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    if (r->status != RPC_OK)
        LOG_WARN("the hub was not told that we stop", LOG_STR("why", diag_text(&r->diag)));
}

static void say_leaving(struct tunnel_agent *ta)
{
    struct rpc_client *rpc = session_rpc(ta->session);
    Warren__V1__LeaveRequest req = WARREN__V1__LEAVE_REQUEST__INIT;
    req.session_epoch = session_epoch(ta->session);
    req.grace_ms = ta->grace_ms;
    if (rpc)
        rpc_call_unary(rpc, "/warren.v1.AgentService/Leave", &req.base,
                       &warren__v1__leave_response__descriptor, TUNNEL_AGENT_RPC_MS, on_left, NULL);
}

void tunnel_agent_leave(struct tunnel_agent *ta, uint32_t grace_ms)
{
    ta->is_leaving = true;
    ta->grace_ms = grace_ms;
    say_leaving(ta);
}

/* ---- events ---- */

static struct served *add(struct tunnel_agent *ta, const char *id)
{
    struct served *t = NEW(struct served);
    t->owner = ta;
    t->check.on_change = on_check_change;
    t->check.on_answer = on_answer;
    snprintf(t->id, sizeof(t->id), "%s", id);
    HASH_ADD_STR(ta->tunnels, id, t);
    return t;
}

static void remove_tunnel(struct served *t)
{
    while (t->leases)
        held_drop(t->leases, "the tunnel is gone");
    check_unuse(&t->check);
    stop_reporting(t);
    HASH_DEL(t->owner->tunnels, t);
    mem_free(t);
}

static void set_check(struct served *t, const Warren__V1__Tunnel *m)
{
    struct check_params p = {0};
    if (!m->check || host_port_parse(m->target, false, &p.target, NULL) < 0) {
        check_unuse(&t->check);
        return;
    }
    p.is_http = strcmp(m->check->type, "http") == 0;
    p.is_tls = strcmp(m->protocol, "https") == 0;
    p.interval_ms = MAX(m->check->interval_ms, (uint32_t)INTERVAL_MIN_MS);
    p.rise = m->check->rise;
    p.fall = m->check->fall;
    snprintf(p.path, sizeof(p.path), "%s", m->check->path[0] ? m->check->path : "/");
    check_use(t->owner->checker, &p, &t->check);
    if (check_err(&t->check))
        report(t);
}

/* Offers that wait for a check which is not made any more. */
static void release_checking(struct served *t)
{
    struct held *h;
    DL_FOREACH (t->leases, h) {
        if (h->state == HELD_CHECKING && t->check.check)
            check_ask(&t->check);
        else if (h->state == HELD_CHECKING)
            held_queue(h);
    }
}

static void on_tunnel(struct tunnel_agent *ta, const Warren__V1__Tunnel *m)
{
    struct served *t = tunnel_agent_find(ta, m->id);
    if (!t && HASH_COUNT(ta->tunnels) >= TUNNELS_MAX) {
        LOG_ERROR("too many tunnels in this network", LOG_STR("tunnel", m->id));
        return;
    }
    if (!t)
        t = add(ta, m->id);
    t->is_stale = false;
    t->is_any = strcmp(m->protocol, "any") == 0;
    set_check(t, m);
    release_checking(t);
    served_note_holder(t);
}

/* What the hub that we have moved to did not name. What is left of the one before may still be used
 * by those who have not heard. */
static void forget_stale(struct tunnel_agent *ta)
{
    struct served *t, *next;
    HASH_ITER (hh, ta->tunnels, t, next) {
        if (t->is_stale && !t->leases)
            remove_tunnel(t);
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
        t = tunnel_agent_find(ta, e->tunnel_removed->id);
        if (t)
            remove_tunnel(t);
        break;
    case WARREN__V1__HUB_EVENT__EVENT_SNAPSHOT_END:
        forget_stale(ta);
        break;
    case WARREN__V1__HUB_EVENT__EVENT_LEASE_OFFERED:
        tunnel_agent_offered(ta, e->lease_offered);
        break;
    case WARREN__V1__HUB_EVENT__EVENT_LEASE_LOST:
        tunnel_agent_lease_lost(ta, e->lease_lost);
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
    if (ta->is_leaving)
        say_leaving(ta);
}

static void cancel(struct rpc_client_call **call)
{
    if (*call)
        rpc_call_cancel(TAKE(*call));
}

static void end_calls(struct tunnel_agent *ta)
{
    timer_stop(&ta->renew_timer);
    timer_stop(&ta->report_timer);
    loop_defer_cancel(&ta->take);
    cancel(&ta->renewing);
    cancel(&ta->taking);
    cancel(&ta->reporting);
}

void tunnel_agent_on_moved(struct tunnel_agent *ta, const Warren__V1__Welcome *w)
{
    struct held *h, *next;
    end_calls(ta);
    for (h = ta->leases; h; h = next) {
        next = h->more;
        if (h->state != HELD_TAKEN) {
            held_drop(h, "moved to another hub");
            continue;
        }
        DL_DELETE2(ta->leases, h, all_prev, more);
        DL_APPEND2(ta->left, h, all_prev, more);
        h->state = HELD_LEFT;
        ta->n_leases--;
    }
    session_want_reverse(ta->session, false);
    for (struct served *t = ta->tunnels; t; t = t->hh.next) {
        t->is_stale = true;
        stop_reporting(t);
    }
    tunnel_agent_on_up(ta, w);
}

void tunnel_agent_on_left_over(struct tunnel_agent *ta)
{
    while (ta->left)
        held_drop(ta->left, "the hub that was left has ended it");
    forget_stale(ta);
}

void tunnel_agent_on_down(struct tunnel_agent *ta)
{
    struct served *t, *next;
    end_calls(ta);
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
    ta->take.fn = tunnel_agent_on_take;
    ta->checker = checker_new(
        &(struct checker_config){.loop = cfg->loop, .allowed = tunnel_agent_check, .arg = ta});
    ta->devices = cfg->no_read_ahead ? NULL : flow_devices_new(cfg->loop);
    ta->gate = dial_gate_new(
        &(struct dial_gate_config){.loop = cfg->loop,
                                   .max = MIN((size_t)DIALS_MAX, io_descriptor_limit() / 4),
                                   .per_target = DIALS_A_TARGET,
                                   .spare_ms = DIALS_SPARE_MS,
                                   .unresolved_max = NEIGHBOURS_MAX});
    timer_init(&ta->renew_timer, cfg->loop, tunnel_agent_on_renew_timer);
    timer_init(&ta->report_timer, cfg->loop, on_report_timer);
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
    checker_free(ta->checker);
    flow_devices_free(ta->devices);
    dial_gate_free(ta->gate);
    mem_free(ta->allow);
    mem_free(ta);
}
