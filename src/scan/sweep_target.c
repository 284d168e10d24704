/*
 * An address from its turn on: is somebody there, and which ports are open. An ask is one probe to
 * it. What cannot be asked now, for want of the kernel's room, is put off.
 */
#include "scan/sweep_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

#define ASKS_A_TARGET 64
#define STUCK_MS      30000 /* no address could be asked for so long: that is the end */
#define AGAIN_MS      50    /* each try in a full table costs the kernel a search for what is old */
#define TABLE_MS      200   /* how old a copy of the table of neighbours may be */
#define HARDWARE_MS   1250  /* then nobody has the address: the kernel has asked twice for it */
#define ARP_MS        1000  /* ... where we ask: twice, too */
#define DOUBT_MS      6000  /* ... for one that was there: it asks after 5 s whether it still is */

/* Ports that most hosts answer on, one way or the other. */
static const uint16_t usual_ports[] = {443, 80, 22};

struct sweep_ask {
    struct sweep_target *target;
    struct probe *probe;
    enum probe_kind kind;
    uint16_t port;
    bool is_finding;
    struct sweep_ask *prev, *next;
};

/* ---- the table of neighbours ---- */

/* `since_ms`: not from before. */
static const struct neighbour *find_neighbour(const struct sweep_target *t, uint64_t since_ms)
{
    struct sweep *s = t->sweep;
    uint64_t now = loop_now_ms(s->cfg.loop);
    uint8_t ip[16];
    if (!s->table_ms || now - s->table_ms > TABLE_MS || s->table_ms < since_ms) {
        neighbours_done(&s->table);
        neighbours_read(&s->table);
        s->table_ms = now;
    }
    addr_mapped(&t->host.addr, ip);
    return neighbours_find(&s->table, ip);
}

/* ---- targets ---- */

static void leave_ready(struct sweep_target *t)
{
    if (t->is_ready)
        DL_DELETE2(t->sweep->ready, t, ready_prev, ready_next);
    t->is_ready = false;
}

static void drop_ask(struct sweep_ask *a)
{
    struct sweep_target *t = a->target;
    probe_cancel(a->probe);
    DL_DELETE(t->asks, a);
    t->n_asks--;
    t->sweep->n_asks--;
    mem_free(a);
}

void sweep_target_free(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    while (t->asks)
        drop_ask(t->asks);
    leave_ready(t);
    s->n_put_off -= t->is_put_off;
    dial_gate_leave(&t->ticket, ERR_TIMEOUT);
    DL_DELETE(s->targets, t);
    s->n_targets--;
    mem_free(t->open);
    mem_free(t);
}

static void finish(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    if (t->is_up) {
        const struct neighbour *n = t->host.mac[0] ? NULL : find_neighbour(t, t->started_ms + 1);
        if (n)
            memcpy(t->host.mac, n->mac, sizeof(t->host.mac));
        t->host.open = t->open;
        t->host.descr = t->descr;
        t->host.name = t->name;
        s->cfg.ops->on_host(s->cfg.arg, &t->host);
    }
    s->counts.done++;
    sweep_target_free(t);
    sweep_wake(s);
}

static void advance(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    bool takes_more = t->is_up && t->has_more && t->n_asks < ASKS_A_TARGET;
    if (takes_more && !t->is_ready) {
        DL_APPEND2(s->ready, t, ready_prev, ready_next);
        t->is_ready = true;
        sweep_wake(s);
    }
    if (t->is_up && !t->has_more && !t->asks)
        finish(t);
}

static int start_ask(struct sweep_target *t, enum probe_kind kind, uint16_t port, bool is_finding);

static void is_there(struct sweep_target *t, enum sweep_sign sign)
{
    t->sweep->counts.up += !t->is_up;
    t->is_up = true;
    t->host.sign = sign;
    dial_gate_leave(&t->ticket, 0);
}

/* It has spoken: nothing else needs to be tried, except what it says about itself. */
static void found(struct sweep_target *t, enum sweep_sign sign)
{
    struct sweep_ask *a, *next;
    is_there(t, sign);
    DL_FOREACH_SAFE (t->asks, a, next) {
        if (a->kind != PROBE_SNMP && a->is_finding)
            drop_ask(a);
    }
    for (; t->n_begun < t->n_finding; t->n_begun++) {
        if (t->finding[t->n_begun].kind == PROBE_SNMP)
            (void)start_ask(t, PROBE_SNMP, 0, true);
    }
}

/* ---- asks ---- */

static void note_open(struct sweep_target *t, uint16_t port)
{
    size_t n = t->host.n_open;
    if ((n & (n - 1)) == 0) /* it is full */
        t->open = mem_grow(t->open, MAX(n * 2, (size_t)1) * sizeof(*t->open));
    t->open[t->host.n_open++] = port;
    t->sweep->counts.open++;
}

static void note_port(struct sweep_target *t, uint16_t port, enum probe_end end)
{
    if (end == PROBE_OPEN)
        note_open(t, port);
    else if (end == PROBE_REFUSED)
        t->host.n_closed++;
    else
        t->host.n_silent++;
}

static void note_snmp(struct sweep_target *t, const struct probe_result *r)
{
    t->host.has_snmp = true;
    memcpy(t->descr, r->descr, sizeof(t->descr));
    memcpy(t->name, r->name, sizeof(t->name));
}

static void note_sign(struct sweep_target *t, const struct sweep_ask *a,
                      const struct probe_result *r)
{
    static const enum sweep_sign signs[] = {SWEEP_TCP, SWEEP_UDP, SWEEP_ECHO, SWEEP_SNMP,
                                            SWEEP_NEIGHBOUR};
    static_assert(ARRAY_SIZE(signs) == PROBE_KIND_COUNT, "a sign each");
    t->host.port = a->port;
    t->host.has_answered = true;
    t->host.rtt_us = r->rtt_us;
    found(t, signs[a->kind]);
}

static void look_last(struct sweep_target *t);
static void arp_answered(struct sweep_target *t, const struct probe_result *r);

static void on_probe_end(void *arg, const struct probe_result *r)
{
    struct sweep_ask *a = arg, copy = *a;
    struct sweep_target *t = a->target;
    a->probe = NULL;
    drop_ask(a);
    sweep_wake(t->sweep);
    if (copy.kind == PROBE_ARP) {
        if (r->is_alive)
            arp_answered(t, r);
        else
            finish(t);
        return;
    }
    if (copy.kind == PROBE_SNMP && r->end == PROBE_OPEN)
        note_snmp(t, r);
    if (!copy.is_finding)
        note_port(t, copy.port, r->end);
    else if (!t->host.has_answered && r->is_alive)
        note_sign(t, &copy, r);
    if (!t->is_up && !t->asks)
        look_last(t);
    else
        advance(t);
}

static uint32_t time_for(const struct sweep_target *t, enum probe_kind kind)
{
    uint32_t ms = t->sweep->request.timeout_ms;
    if (kind == PROBE_ARP)
        return MIN(ms, (uint32_t)ARP_MS);
    return t->is_unresolved ? MIN(ms, (uint32_t)HARDWARE_MS) : t->is_doubtful ? DOUBT_MS : ms;
}

/* 0, ERR_LIMIT: not now; else it cannot be asked at all. */
static int start_ask(struct sweep_target *t, enum probe_kind kind, uint16_t port, bool is_finding)
{
    struct sweep *s = t->sweep;
    struct sweep_ask *a = NEW(struct sweep_ask);
    struct probe_params p = {.kind = kind,
                             .target = t->host.addr,
                             .community = s->request.community,
                             .timeout_ms = time_for(t, kind),
                             .on_end = on_probe_end,
                             .arg = a};
    addr_set_port(&p.target, port);
    *a = (struct sweep_ask){.target = t, .kind = kind, .port = port, .is_finding = is_finding};
    int rc = probe_start(s->prober, &p, &a->probe);
    if (rc < 0) {
        mem_free(a);
        return rc;
    }
    DL_APPEND(t->asks, a);
    t->n_asks++;
    s->n_asks++;
    s->tokens--;
    s->counts.probes++;
    return 0;
}

/* ---- who is there ---- */

/* As many of its questions as have not been asked. */
static int ask_all(struct sweep_target *t, size_t n)
{
    int rc = 0;
    for (; t->n_begun < n; t->n_begun++) {
        rc = start_ask(t, t->finding[t->n_begun].kind, t->finding[t->n_begun].port, true);
        if (rc == ERR_LIMIT && !t->asks)
            return rc;
        if (rc < 0 && n < t->n_finding)
            n++;
    }
    return 0;
}

/* It is there, whatever else it says: what is asked of it now is how fast it is. */
static void hardware_answered(struct sweep_target *t, const char mac[NEIGHBOUR_MAC_SIZE])
{
    memmove(t->host.mac, mac, sizeof(t->host.mac));
    t->is_unresolved = t->is_doubtful = false;
    is_there(t, SWEEP_NEIGHBOUR);
    (void)ask_all(t, t->n_finding);
    advance(t);
}

void sweep_on_neighbour(struct neighbour_watch *w, const struct neighbour *n)
{
    struct sweep *s = container_of(w, struct sweep, watch);
    struct sweep_target *t;
    uint8_t ip[16];
    DL_FOREACH (s->targets, t) {
        addr_mapped(&t->host.addr, ip);
        if (memcmp(ip, n->ip, sizeof(ip)) == 0)
            break;
    }
    if (t && t->started_ms && !t->is_up && !t->is_put_off)
        hardware_answered(t, n->mac);
}

static void put_off(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    t->is_put_off = true;
    s->n_put_off++;
    s->is_short = true;
    s->again_ms = loop_now_ms(s->cfg.loop) + AGAIN_MS;
}

/* On an attached network the first question is enough to have the kernel ask for the hardware
 * address, without which nothing else would be answered. */
static void find_out(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    uint64_t now = loop_now_ms(s->cfg.loop);
    bool is_attached = dial_gate_is_attached(s->cfg.gate, &t->host.addr);
    bool is_unknown = is_attached && !t->n_begun && !t->host.mac[0];
    const struct neighbour *n = is_unknown ? find_neighbour(t, 0) : NULL;
    if (!t->started_ms)
        t->started_ms = MAX(now, UINT64_C(1));
    t->is_unresolved = is_unknown && !n;
    int rc = ask_all(t, t->is_unresolved ? 1 : t->n_finding);
    if (rc != ERR_LIMIT)
        s->short_since_ms = 0;
    else if (!s->short_since_ms)
        s->short_since_ms = MAX(now, UINT64_C(1));
    s->is_stuck |= s->short_since_ms && now - s->short_since_ms >= STUCK_MS;
    if (rc == ERR_LIMIT && !s->is_stuck)
        put_off(t);
    else if (t->host.mac[0])
        hardware_answered(t, t->host.mac);
    else if (!t->asks)
        finish(t);
    else if (n && n->is_answered)
        hardware_answered(t, n->mac);
}

/* Those whose question could not be asked before. */
void sweep_targets_try_again(struct sweep *s)
{
    struct sweep_target *t, *next;
    if (loop_now_ms(s->cfg.loop) < s->again_ms)
        return;
    DL_FOREACH_SAFE (s->targets, t, next) {
        if (!s->n_put_off || s->is_short)
            return;
        if (!t->is_put_off)
            continue;
        t->is_put_off = false;
        s->n_put_off--;
        find_out(t);
    }
}

/* Nothing was heard of it; does its hardware answer, and we were not told? */
static void look_last(struct sweep_target *t)
{
    const struct neighbour *n = find_neighbour(t, t->started_ms + 1);
    if (n && n->is_answered) {
        hardware_answered(t, n->mac);
    } else if (n && !t->is_doubtful) {
        t->is_doubtful = true;
        if (start_ask(t, t->finding[0].kind, t->finding[0].port, true) < 0)
            finish(t);
    } else {
        finish(t);
    }
}

static void on_turn(struct dial_ticket *k)
{
    find_out(container_of(k, struct sweep_target, ticket));
}

static void give_way(struct dial_ticket *k)
{
    struct sweep_target *t = container_of(k, struct sweep_target, ticket);
    if (!t->started_ms) /* it was about to have its turn; our own bounds will do */
        find_out(t);
}

static void plan(struct sweep_target *t, enum probe_kind kind, uint16_t port, uint16_t asked_port)
{
    const struct sweep *s = t->sweep;
    struct addr a = t->host.addr;
    addr_set_port(&a, asked_port);
    for (size_t i = 0; i < t->n_finding; i++) {
        if (t->finding[i].kind == kind && t->finding[i].port == port)
            return;
    }
    if (t->n_finding == SWEEP_FINDING_MAX ||
        (s->cfg.check && s->cfg.check(s->cfg.check_arg, &a) != 0))
        return;
    t->finding[t->n_finding].kind = kind;
    t->finding[t->n_finding++].port = port;
}

/* Fills in what may be asked. */
static void plan_finding(struct sweep_target *t)
{
    const struct scan_request *r = &t->sweep->request;
    plan(t, PROBE_ECHO, 0, 0);
    plan(t, PROBE_UDP, 0, PROBE_UDP_PORT);
    for (size_t i = 0; i < ARRAY_SIZE(usual_ports); i++)
        plan(t, PROBE_TCP, usual_ports[i], usual_ports[i]);
    uint16_t first = scan_request_port_after(r, 0);
    if (first)
        plan(t, PROBE_TCP, first, first);
    if (r->community[0])
        plan(t, PROBE_SNMP, 0, PROBE_SNMP_PORT);
}

/* Somebody has the address; the kernel will learn that at once. */
static void arp_answered(struct sweep_target *t, const struct probe_result *r)
{
    neighbour_mac_text(r->mac, t->host.mac);
    if (dial_gate_enter(t->sweep->cfg.gate, &t->ticket, &t->host.addr) != DIAL_GATE_WAIT)
        find_out(t);
}

void sweep_target_begin(struct sweep *s)
{
    struct sweep_target *t = NEW(struct sweep_target);
    t->sweep = s;
    t->ticket.on_turn = on_turn;
    t->ticket.give_way = give_way;
    t->ticket.is_patient = true;
    t->port = scan_request_port_after(&s->request, 0);
    t->has_more = t->port != 0;
    scan_request_address(&s->request, s->next++, &t->host.addr);
    plan_finding(t);
    DL_APPEND(s->targets, t);
    s->n_targets++;
    if (!t->n_finding) {
        s->counts.denied++;
        finish(t);
        return;
    }
    if (prober_has_arp(s->prober, &t->host.addr) && start_ask(t, PROBE_ARP, 0, true) == 0)
        return;
    int rc = dial_gate_enter(s->cfg.gate, &t->ticket, &t->host.addr);
    if (rc == 0) {
        find_out(t);
    } else if (rc < 0) { /* again at the next tick */
        s->next--;
        s->is_short = true;
        sweep_target_free(t);
    }
}

/* ---- ports ---- */

void sweep_target_ask_port(struct sweep_target *t)
{
    struct sweep *s = t->sweep;
    uint16_t port = t->port;
    struct addr a = t->host.addr;
    addr_set_port(&a, port);
    bool is_allowed = !s->cfg.check || s->cfg.check(s->cfg.check_arg, &a) == 0;
    int rc = is_allowed ? start_ask(t, PROBE_TCP, port, false) : ERR_DENIED;
    if (rc == ERR_LIMIT) {
        s->is_short = true;
        return;
    }
    if (rc < 0)
        t->host.n_silent++;
    t->port = scan_request_port_after(&s->request, port);
    t->has_more = t->port != 0;
    t->ports_asked++;
    leave_ready(t); /* others first */
    advance(t);
}
