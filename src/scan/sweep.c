/*
 * A target is an address that is being asked, an ask one probe to it. Each tick allows so many new
 * probes; they go in turns to the next port of a host that is there and to the next address, so
 * that results come soon while the range is still being looked through.
 */
#include "scan/sweep.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/dial_gate.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

#define TICK_MS       5
#define TARGETS_MAX   1024 /* at once */
#define ASKS_MAX      2048
#define ASKS_A_TARGET 64
#define FINDING_MAX   8
#define PUT_OFF_MS    10000 /* then it counts as not there */
#define TABLE_MS      200   /* how old a copy of the table of neighbours may be */
#define HARDWARE_MS   1250  /* then nobody has the address: the kernel has asked twice for it */
#define ARP_MS        1000  /* ... where we ask: twice, too */
#define DOUBT_MS      6000  /* ... for one that was there: it asks after 5 s whether it still is */

/* Ports that most hosts answer on, one way or the other. */
static const uint16_t usual_ports[] = {443, 80, 22};

static const char *const sign_names[] = {"tcp", "udp", "echo", "snmp", "arp"};
static_assert(ARRAY_SIZE(sign_names) == SWEEP_SIGN_COUNT, "a name each");

struct ask {
    struct target *target;
    struct probe *probe;
    enum probe_kind kind;
    uint16_t port;
    bool is_finding;
    struct ask *prev, *next;
};

struct target {
    struct sweep *sweep;
    struct dial_ticket ticket;
    struct sweep_host host;
    struct {
        enum probe_kind kind;
        uint16_t port;
    } finding[FINDING_MAX];
    size_t n_finding, n_begun; /* n_begun: how many of them were started */
    struct ask *asks;
    size_t n_asks;
    uint16_t port;        /* the last one that was asked */
    bool has_more;        /* ports to be asked */
    uint32_t ports_asked; /* how many were */
    uint16_t *open;
    bool is_up, is_ready; /* is_ready: in the sweep's list */
    bool is_put_off;      /* its question could not be asked yet */
    bool is_unresolved;   /* the kernel asks for its hardware address */
    bool is_doubtful;     /* it knows one, and nothing has come from there of late */
    uint64_t started_ms;  /* 0: has not had its turn */
    char descr[PROBE_TEXT_SIZE], name[PROBE_TEXT_SIZE];
    struct target *prev, *next;
    struct target *ready_prev, *ready_next;
};

struct sweep {
    struct sweep_config cfg;
    struct scan_request request;
    struct sweep_counts counts;
    uint32_t next; /* address */
    struct target *targets, *ready;
    size_t n_targets, n_asks, n_put_off;
    double tokens;
    uint64_t filled_ms;
    struct timer timer;
    struct defer pump, over;
    bool is_paused, is_ports_turn, is_short; /* is_short: of descriptors, or of places */
    struct neighbours table;
    uint64_t table_ms;
    struct neighbour_watch watch;
    struct prober *prober;
};

const char *sweep_sign_name(enum sweep_sign s)
{
    return sign_names[s];
}

static void wake(struct sweep *s)
{
    loop_defer(s->cfg.loop, &s->pump);
}

/* ---- the table of neighbours ---- */

/* `since_ms`: not from before. */
static const struct neighbour *find_neighbour(const struct target *t, uint64_t since_ms)
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

static void leave_ready(struct target *t)
{
    if (t->is_ready)
        DL_DELETE2(t->sweep->ready, t, ready_prev, ready_next);
    t->is_ready = false;
}

static void drop_ask(struct ask *a)
{
    struct target *t = a->target;
    probe_cancel(a->probe);
    DL_DELETE(t->asks, a);
    t->n_asks--;
    t->sweep->n_asks--;
    mem_free(a);
}

static void free_target(struct target *t)
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

static void finish(struct target *t)
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
    free_target(t);
    wake(s);
}

static void advance(struct target *t)
{
    struct sweep *s = t->sweep;
    bool takes_more = t->is_up && t->has_more && t->n_asks < ASKS_A_TARGET;
    if (takes_more && !t->is_ready) {
        DL_APPEND2(s->ready, t, ready_prev, ready_next);
        t->is_ready = true;
        wake(s);
    }
    if (t->is_up && !t->has_more && !t->asks)
        finish(t);
}

static int start_ask(struct target *t, enum probe_kind kind, uint16_t port, bool is_finding);

static void is_there(struct target *t, enum sweep_sign sign)
{
    t->sweep->counts.up += !t->is_up;
    t->is_up = true;
    t->host.sign = sign;
    dial_gate_leave(&t->ticket, 0);
}

/* It has spoken: nothing else needs to be tried, except what it says about itself. */
static void found(struct target *t, enum sweep_sign sign)
{
    struct ask *a, *next;
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

static void note_open(struct target *t, uint16_t port)
{
    size_t n = t->host.n_open;
    if ((n & (n - 1)) == 0) /* it is full */
        t->open = mem_grow(t->open, MAX(n * 2, (size_t)1) * sizeof(*t->open));
    t->open[t->host.n_open++] = port;
    t->sweep->counts.open++;
}

static void note_port(struct target *t, uint16_t port, enum probe_end end)
{
    if (end == PROBE_OPEN)
        note_open(t, port);
    else if (end == PROBE_REFUSED)
        t->host.n_closed++;
    else
        t->host.n_silent++;
}

static void note_snmp(struct target *t, const struct probe_result *r)
{
    t->host.has_snmp = true;
    memcpy(t->descr, r->descr, sizeof(t->descr));
    memcpy(t->name, r->name, sizeof(t->name));
}

static void note_sign(struct target *t, const struct ask *a, const struct probe_result *r)
{
    static const enum sweep_sign signs[] = {SWEEP_TCP, SWEEP_UDP, SWEEP_ECHO, SWEEP_SNMP,
                                            SWEEP_NEIGHBOUR};
    static_assert(ARRAY_SIZE(signs) == PROBE_KIND_COUNT, "a sign each");
    t->host.port = a->port;
    t->host.has_answered = true;
    t->host.rtt_us = r->rtt_us;
    found(t, signs[a->kind]);
}

static void look_last(struct target *t);
static void arp_answered(struct target *t);

static void on_probe_end(void *arg, const struct probe_result *r)
{
    struct ask *a = arg, copy = *a;
    struct target *t = a->target;
    a->probe = NULL;
    drop_ask(a);
    wake(t->sweep);
    if (copy.kind == PROBE_ARP) {
        if (r->is_alive)
            arp_answered(t);
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

static uint32_t time_for(const struct target *t, enum probe_kind kind)
{
    uint32_t ms = t->sweep->request.timeout_ms;
    if (kind == PROBE_ARP)
        return MIN(ms, (uint32_t)ARP_MS);
    return t->is_unresolved ? MIN(ms, (uint32_t)HARDWARE_MS) : t->is_doubtful ? DOUBT_MS : ms;
}

/* 0, ERR_LIMIT: not now; else it cannot be asked at all. */
static int start_ask(struct target *t, enum probe_kind kind, uint16_t port, bool is_finding)
{
    struct sweep *s = t->sweep;
    struct ask *a = NEW(struct ask);
    struct probe_params p = {.kind = kind,
                             .target = t->host.addr,
                             .community = s->request.community,
                             .timeout_ms = time_for(t, kind),
                             .on_end = on_probe_end,
                             .arg = a};
    addr_set_port(&p.target, port);
    *a = (struct ask){.target = t, .kind = kind, .port = port, .is_finding = is_finding};
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
static int ask_all(struct target *t, size_t n)
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
static void hardware_answered(struct target *t, const struct neighbour *n)
{
    memcpy(t->host.mac, n->mac, sizeof(t->host.mac));
    t->is_unresolved = t->is_doubtful = false;
    is_there(t, SWEEP_NEIGHBOUR);
    (void)ask_all(t, t->n_finding);
    advance(t);
}

static void on_neighbour(struct neighbour_watch *w, const struct neighbour *n)
{
    struct sweep *s = container_of(w, struct sweep, watch);
    struct target *t;
    uint8_t ip[16];
    DL_FOREACH (s->targets, t) {
        addr_mapped(&t->host.addr, ip);
        if (memcmp(ip, n->ip, sizeof(ip)) == 0)
            break;
    }
    if (t && t->started_ms && !t->is_up && !t->is_put_off)
        hardware_answered(t, n);
}

static void put_off(struct target *t)
{
    t->is_put_off = true;
    t->sweep->n_put_off++;
    t->sweep->is_short = true;
}

/* On an attached network the first question is enough to have the kernel ask for the hardware
 * address, without which nothing else would be answered. */
static void find_out(struct target *t)
{
    struct sweep *s = t->sweep;
    uint64_t now = loop_now_ms(s->cfg.loop);
    bool is_attached = dial_gate_is_attached(s->cfg.gate, &t->host.addr);
    const struct neighbour *n = is_attached && !t->n_begun ? find_neighbour(t, 0) : NULL;
    if (!t->started_ms)
        t->started_ms = MAX(now, UINT64_C(1));
    t->is_unresolved = is_attached && !t->n_begun && !n;
    if (ask_all(t, t->is_unresolved ? 1 : t->n_finding) == ERR_LIMIT &&
        now - t->started_ms < PUT_OFF_MS)
        put_off(t);
    else if (!t->asks)
        finish(t);
    else if (n && n->is_answered)
        hardware_answered(t, n);
}

/* Those whose question could not be asked before. */
static void try_again(struct sweep *s)
{
    struct target *t, *next;
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
static void look_last(struct target *t)
{
    const struct neighbour *n = find_neighbour(t, t->started_ms + 1);
    if (n && n->is_answered) {
        hardware_answered(t, n);
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
    find_out(container_of(k, struct target, ticket));
}

static void give_way(struct dial_ticket *k)
{
    struct target *t = container_of(k, struct target, ticket);
    if (!t->started_ms) /* it was about to have its turn; our own bounds will do */
        find_out(t);
}

static void plan(struct target *t, enum probe_kind kind, uint16_t port, uint16_t asked_port)
{
    const struct sweep *s = t->sweep;
    struct addr a = t->host.addr;
    addr_set_port(&a, asked_port);
    for (size_t i = 0; i < t->n_finding; i++) {
        if (t->finding[i].kind == kind && t->finding[i].port == port)
            return;
    }
    if (t->n_finding == FINDING_MAX || (s->cfg.check && s->cfg.check(s->cfg.check_arg, &a) != 0))
        return;
    t->finding[t->n_finding].kind = kind;
    t->finding[t->n_finding++].port = port;
}

/* Fills in what may be asked. */
static void plan_finding(struct target *t)
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
static void arp_answered(struct target *t)
{
    if (dial_gate_enter(t->sweep->cfg.gate, &t->ticket, &t->host.addr) != DIAL_GATE_WAIT)
        find_out(t);
}

static void take_address(struct sweep *s)
{
    struct target *t = NEW(struct target);
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
        free_target(t);
    }
}

/* ---- ports ---- */

static void take_port(struct sweep *s)
{
    struct target *t = s->ready;
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

/* ---- pace ---- */

static void fill(struct sweep *s)
{
    uint64_t now = loop_now_ms(s->cfg.loop);
    double most = MAX(s->request.rate * 4.0 * TICK_MS / 1000, 1.0);
    s->tokens += s->request.rate * (double)(now - s->filled_ms) / 1000;
    s->tokens = MIN(s->tokens, most);
    s->filled_ms = now;
    s->is_short = false;
}

static bool may_take_address(const struct sweep *s)
{
    return s->next < s->request.n_addresses && s->n_targets < TARGETS_MAX;
}

static void on_pump(struct defer *d)
{
    struct sweep *s = container_of(d, struct sweep, pump);
    try_again(s);
    while (!s->is_paused && !s->is_short && s->tokens >= 1 && s->n_asks < ASKS_MAX) {
        s->is_ports_turn = !s->is_ports_turn;
        if (s->ready && (s->is_ports_turn || !may_take_address(s)))
            take_port(s);
        else if (may_take_address(s))
            take_address(s);
        else
            break;
    }
    if (s->next == s->request.n_addresses && !s->n_targets)
        loop_defer(s->cfg.loop, &s->over);
}

static void on_tick(struct timer *t)
{
    struct sweep *s = container_of(t, struct sweep, timer);
    fill(s);
    timer_start(t, TICK_MS);
    wake(s);
}

static void on_over(struct defer *d)
{
    struct sweep *s = container_of(d, struct sweep, over);
    timer_stop(&s->timer);
    s->cfg.ops->on_end(s->cfg.arg);
}

void sweep_pause(struct sweep *s, bool is_paused)
{
    s->is_paused = is_paused;
}

/* ---- its life ---- */

struct sweep *sweep_new(const struct sweep_config *cfg)
{
    struct sweep *s = NEW(struct sweep);
    s->cfg = *cfg;
    s->request = *cfg->request;
    s->counts.addresses = s->request.n_addresses;
    s->filled_ms = loop_now_ms(cfg->loop);
    s->pump.fn = on_pump;
    s->over.fn = on_over;
    s->prober = prober_new(cfg->loop);
    s->watch.on_answer = on_neighbour;
    (void)neighbour_watch_start(&s->watch, cfg->loop); /* else it takes longer */
    timer_init(&s->timer, cfg->loop, on_tick);
    timer_start(&s->timer, TICK_MS);
    return s;
}

void sweep_free(struct sweep *s)
{
    if (!s)
        return;
    while (s->targets)
        free_target(s->targets);
    timer_stop(&s->timer);
    loop_defer_cancel(&s->pump);
    loop_defer_cancel(&s->over);
    prober_free(s->prober);
    neighbour_watch_stop(&s->watch);
    neighbours_done(&s->table);
    mem_free(s);
}

void sweep_get_counts(const struct sweep *s, struct sweep_counts *ret)
{
    double part = s->counts.done;
    const struct target *t;
    DL_FOREACH (s->targets, t)
        part += t->is_up && s->request.n_ports ? (double)t->ports_asked / s->request.n_ports : 0;
    *ret = s->counts;
    ret->part = part / s->request.n_addresses;
}
