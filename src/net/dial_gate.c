/*
 * Targets are in a table by address. One that has dials under way is also in the list of those that
 * have as many (`by_count`), so that the fullest one is found at once. Tickets of a target are in
 * the order in which they came.
 *
 * A target without dials is kept while it holds an entry of the neighbour table (`slots`), and as
 * one that has answered for KNOWN_MS (`idle`), both in the order in which that ends.
 */
#include "net/dial_gate.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define NEIGHBOUR_MS 3100 /* three requests, a second each */
#define KNOWN_MS     60000
#define MISSES_MAX   16 /* looked at in vain for a place, in one turn */
#define KNOWN_MAX    8192
#define LINKS_MAX    64
#define LINKS_MS     5000 /* how old the list of attached networks may be */
#define TABLE_MS     500  /* ... the copy of the table of neighbours, and how much room there is */
#define SLOTS_MIN    16

enum {
    WAITS_NOT,
    WAITS_FOR_NEIGHBOUR, /* a dial */
    WAITS_TO_PASS,       /* the same, a datagram */
    WAITS_PATIENTLY,     /* the same, a sweep */
    WAITS_FOR_PLACE,
    WAITS_COUNT
};

struct dial_target {
    struct dial_gate *gate;
    uint8_t ip[16]; /* key */
    struct dial_ticket *tickets;
    size_t n;                /* of tickets */
    size_t n_waiting;        /* of those that wait for their turn, or are about to be let in */
    uint64_t known_until_ms; /* 0: has not answered */
    uint64_t slot_until_ms;  /* 0: holds none */
    bool is_idle;
    struct dial_target *prev, *next;           /* of by_count, or of idle */
    struct dial_target *slot_prev, *slot_next; /* of slots */
    UT_hash_handle hh;
};

struct link {
    uint8_t ip[16];
    uint8_t mask[16];
};

struct dial_gate {
    struct dial_gate_config cfg;
    size_t n_refs;
    struct dial_target *targets, *idle, *slots;
    struct dial_target **by_count; /* [1..per_target] */
    size_t most;                   /* of by_count; an upper bound */
    size_t n_dials, n_waiting, n_slots, n_idle;
    struct dial_ticket *waiting[WAITS_COUNT]; /* by what for; each in its order */
    struct defer turns;
    struct timer timer; /* the next slot or idle target ends */
    struct link links[LINKS_MAX];
    size_t n_links;
    uint64_t links_ms; /* 0: never read */
    struct neighbours table;
    uint64_t table_ms; /* 0: never read */
    size_t n_slots_max;
    uint64_t room_ms; /* when that was found out; 0: never */
    size_t n_taken;   /* slots since */
    uint64_t n_refused, n_gave_way;
};

/* ---- attached networks ---- */

static void add_link(struct dial_gate *g, const struct ifaddrs *i)
{
    struct link *l = &g->links[g->n_links];
    struct addr a = {0}, mask = {0};
    if (!i->ifa_addr || !i->ifa_netmask || g->n_links == LINKS_MAX ||
        i->ifa_flags & (IFF_LOOPBACK | IFF_POINTOPOINT | IFF_NOARP))
        return;
    if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6)
        return;
    a.len = mask.len = i->ifa_addr->sa_family == AF_INET ? sizeof(a.in4) : sizeof(a.in6);
    memcpy(&a.sa, i->ifa_addr, a.len);
    memcpy(&mask.sa, i->ifa_netmask, mask.len);
    addr_mapped(&a, l->ip);
    memset(l->mask, 0xff, 12);
    if (i->ifa_addr->sa_family == AF_INET)
        memcpy(l->mask + 12, &mask.in4.sin_addr, 4);
    else
        memcpy(l->mask, &mask.in6.sin6_addr, 16);
    g->n_links++;
}

static void read_links(struct dial_gate *g)
{
    uint64_t now = loop_now_ms(g->cfg.loop);
    struct ifaddrs *list;
    if (g->links_ms && now - g->links_ms < LINKS_MS)
        return;
    g->links_ms = now ? now : 1;
    g->n_links = 0;
    if (getifaddrs(&list) < 0)
        return;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next)
        add_link(g, i);
    freeifaddrs(list);
}

static bool is_attached(struct dial_gate *g, const uint8_t ip[16])
{
    if (g->cfg.is_attached)
        return g->cfg.is_attached(ip);
    read_links(g);
    for (size_t i = 0; i < g->n_links; i++) {
        const struct link *l = &g->links[i];
        size_t at = 0;
        while (at < 16 && !((ip[at] ^ l->ip[at]) & l->mask[at]))
            at++;
        if (at == 16)
            return true;
    }
    return false;
}

/* ---- targets ---- */

static bool waits_for_neighbours(const struct dial_gate *g)
{
    return g->waiting[WAITS_FOR_NEIGHBOUR] || g->waiting[WAITS_TO_PASS] ||
           g->waiting[WAITS_PATIENTLY];
}

static void arm(struct dial_gate *g)
{
    uint64_t now = loop_now_ms(g->cfg.loop), due = UINT64_MAX;
    if (g->slots)
        due = g->slots->slot_until_ms;
    if (g->idle)
        due = MIN(due, g->idle->known_until_ms);
    if (g->waiting[WAITS_FOR_PLACE])
        due = MIN(due, now + g->cfg.spare_ms / 2 + 1);
    if (waits_for_neighbours(g))
        due = MIN(due, g->room_ms + TABLE_MS + 1);
    if (due == UINT64_MAX)
        timer_stop(&g->timer);
    else if (!timer_is_running(&g->timer) || g->timer.due_ms > due)
        timer_start(&g->timer, due > now ? due - now : 0);
}

static void unlist(struct dial_target *t)
{
    struct dial_gate *g = t->gate;
    if (t->is_idle) {
        DL_DELETE(g->idle, t);
        g->n_idle--;
        t->is_idle = false;
    } else if (t->n) {
        DL_DELETE(g->by_count[t->n], t);
    }
}

static void forget(struct dial_target *t)
{
    unlist(t);
    HASH_DEL(t->gate->targets, t);
    mem_free(t);
}

/* Puts a target where it belongs by its count, or lets go of it. */
static void list(struct dial_target *t)
{
    struct dial_gate *g = t->gate;
    if (t->n) {
        DL_APPEND(g->by_count[t->n], t);
        g->most = MAX(g->most, t->n);
        return;
    }
    if (t->slot_until_ms || t->n_waiting)
        return;
    if (t->known_until_ms <= loop_now_ms(g->cfg.loop)) {
        forget(t);
        return;
    }
    DL_APPEND(g->idle, t);
    t->is_idle = true;
    if (++g->n_idle > KNOWN_MAX)
        forget(g->idle);
    arm(g);
}

static void refile(struct dial_target *t)
{
    unlist(t);
    list(t);
}

static struct dial_target *target_of(struct dial_gate *g, const struct addr *a)
{
    struct dial_target *t;
    uint8_t ip[16];
    addr_mapped(a, ip);
    HASH_FIND(hh, g->targets, ip, sizeof(ip), t);
    if (t)
        return t;
    t = NEW(struct dial_target);
    t->gate = g;
    memcpy(t->ip, ip, sizeof(ip));
    HASH_ADD(hh, g->targets, ip, sizeof(t->ip), t);
    return t;
}

/* ---- places ---- */

static void wake(struct dial_gate *g)
{
    if (g->n_waiting)
        loop_defer(g->cfg.loop, &g->turns);
}

static void take_out(struct dial_ticket *k)
{
    struct dial_target *t = k->target;
    unlist(t);
    DL_DELETE(t->tickets, k);
    t->n--;
    t->gate->n_dials--;
    k->target = NULL;
    wake(t->gate);
    list(t);
}

/* false: the oldest is too fresh. */
static bool make_room(struct dial_gate *g, struct dial_target *fullest)
{
    struct dial_ticket *oldest = fullest->tickets;
    if (loop_now_ms(g->cfg.loop) - oldest->since_ms < g->cfg.spare_ms)
        return false;
    g->n_gave_way++;
    take_out(oldest);
    oldest->give_way(oldest);
    return true;
}

static struct dial_target *fullest(struct dial_gate *g)
{
    while (g->most && !g->by_count[g->most])
        g->most--;
    return g->by_count[g->most];
}

static int take_place(struct dial_gate *g, struct dial_target *t, struct dial_ticket *k)
{
    if (t->n >= g->cfg.per_target && !make_room(g, t))
        return ERR_LIMIT;
    if (g->n_dials >= g->cfg.max && !make_room(g, fullest(g)))
        return ERR_LIMIT;
    unlist(t);
    k->target = t;
    k->waits = WAITS_NOT;
    k->since_ms = loop_now_ms(g->cfg.loop);
    DL_APPEND(t->tickets, k);
    t->n++;
    g->n_dials++;
    list(t);
    return 0;
}

/* ---- neighbours ---- */

static bool needs_slot(struct dial_gate *g, const struct dial_target *t)
{
    return g->cfg.unresolved_max && !t->slot_until_ms &&
           t->known_until_ms <= loop_now_ms(g->cfg.loop) && is_attached(g, t->ip);
}

/* It has its entry in the table already. */
static bool is_neighbour(struct dial_gate *g, const struct dial_target *t)
{
    uint64_t now = loop_now_ms(g->cfg.loop);
    if (g->cfg.is_attached) /* a made-up network */
        return false;
    if (!g->table_ms || now - g->table_ms > TABLE_MS) {
        neighbours_done(&g->table);
        neighbours_read(&g->table);
        g->table_ms = MAX(now, UINT64_C(1));
    }
    return neighbours_find(&g->table, t->ip);
}

/* What is in use beyond our own is others', which come and go: it is looked at again after a while,
 * and when an eighth of our part was taken, so that several who begin at once do not fill it. */
static void look_for_room(struct dial_gate *g)
{
    uint64_t now = loop_now_ms(g->cfg.loop);
    if (g->room_ms && now - g->room_ms <= TABLE_MS &&
        g->n_taken < MAX(g->n_slots_max / 8, (size_t)SLOTS_MIN))
        return;
    struct neighbour_room room;
    (g->cfg.room ? g->cfg.room : neighbours_room)(&room);
    size_t all = room.free + MIN(room.asked, g->n_slots);
    size_t part = MAX(all / 4 * 3, (size_t)SLOTS_MIN);
    g->n_slots_max = MIN(part, g->cfg.unresolved_max);
    g->room_ms = MAX(now, UINT64_C(1));
    g->n_taken = 0;
}

static bool has_slot(struct dial_gate *g, bool is_patient)
{
    look_for_room(g);
    return g->n_slots < g->n_slots_max - (is_patient ? g->n_slots_max / 8 : 0);
}

static void take_slot(struct dial_target *t)
{
    struct dial_gate *g = t->gate;
    t->slot_until_ms = loop_now_ms(g->cfg.loop) + NEIGHBOUR_MS;
    DL_APPEND2(g->slots, t, slot_prev, slot_next);
    g->n_slots++;
    g->n_taken++;
    arm(g);
}

static void give_slot(struct dial_target *t)
{
    struct dial_gate *g = t->gate;
    if (!t->slot_until_ms)
        return;
    DL_DELETE2(g->slots, t, slot_prev, slot_next);
    t->slot_until_ms = 0;
    g->n_slots--;
    wake(g);
}

static void start_waiting(struct dial_ticket *k, uint8_t what_for)
{
    struct dial_gate *g = k->target->gate;
    k->waits = what_for;
    DL_APPEND(g->waiting[what_for], k);
    g->n_waiting++;
    arm(g);
}

static void stop_waiting(struct dial_ticket *k)
{
    struct dial_gate *g = k->target->gate;
    DL_DELETE(g->waiting[k->waits], k); /* NOLINT(clang-analyzer-core.NullDereference): linked */
    g->n_waiting--;
    k->waits = WAITS_NOT;
}

/* 0, or ERR_LIMIT: it waits, now for a place. */
static int let_in(struct dial_ticket *k)
{
    struct dial_target *t = k->target;
    stop_waiting(k);
    if (!k->is_passing && take_place(t->gate, t, k) < 0) {
        start_waiting(k, WAITS_FOR_PLACE);
        return ERR_LIMIT;
    }
    t->n_waiting--;
    if (k->is_passing) {
        k->target = NULL;
        refile(t);
    }
    k->on_turn(k);
    return 0;
}

/* The first of a queue, if there is one and it may go. */
static bool let_in_first(struct dial_gate *g, uint8_t queue)
{
    struct dial_ticket *k = g->waiting[queue];
    if (!k)
        return false;
    if (needs_slot(g, k->target)) {
        if (!has_slot(g, k->is_patient))
            return false;
        take_slot(k->target);
    }
    (void)let_in(k);
    return true;
}

static void on_turns(struct defer *d)
{
    struct dial_gate *g = container_of(d, struct dial_gate, turns);
    struct dial_ticket *k;
    bool is_more = true;
    while (is_more) {
        is_more = let_in_first(g, WAITS_FOR_NEIGHBOUR);
        is_more |= let_in_first(g, WAITS_TO_PASS);
    }
    while (let_in_first(g, WAITS_PATIENTLY))
        ;
    /* One whose target has enough of them steps back behind the others. */
    for (int missed = 0; missed < MISSES_MAX && (k = g->waiting[WAITS_FOR_PLACE]);)
        missed += let_in(k) < 0;
    arm(g);
}

static void on_timer(struct timer *timer)
{
    struct dial_gate *g = container_of(timer, struct dial_gate, timer);
    uint64_t now = loop_now_ms(g->cfg.loop);
    while (g->slots && g->slots->slot_until_ms <= now) {
        struct dial_target *t = g->slots;
        give_slot(t);
        refile(t);
    }
    while (g->idle && g->idle->known_until_ms <= now)
        forget(g->idle);
    if (g->n_waiting)
        wake(g);
    else
        arm(g);
}

/* ---- in and out ---- */

int dial_gate_enter(struct dial_gate *g, struct dial_ticket *k, const struct addr *target)
{
    struct dial_target *t = target_of(g, target);
    uint8_t what_for = WAITS_NOT, queue = k->is_patient   ? WAITS_PATIENTLY
                                          : k->is_passing ? WAITS_TO_PASS
                                                          : WAITS_FOR_NEIGHBOUR;
    assert(!k->target);
    if (t->is_idle)
        unlist(t);
    t->n_waiting++; /* keeps it */
    if (needs_slot(g, t)) {
        if (!g->waiting[queue] && has_slot(g, k->is_patient))
            take_slot(t);
        else if (!is_neighbour(g, t))
            what_for = queue;
    }
    if (!what_for && !k->is_passing && (g->waiting[WAITS_FOR_PLACE] || take_place(g, t, k) < 0))
        what_for = WAITS_FOR_PLACE;
    if (what_for && g->n_waiting < (k->is_passing ? g->cfg.max / 2 : g->cfg.max)) {
        k->target = t;
        start_waiting(k, what_for);
        wake(g);
        return DIAL_GATE_WAIT;
    }
    t->n_waiting--;
    g->n_refused += what_for != WAITS_NOT;
    if (!k->target)
        refile(t);
    return what_for ? ERR_LIMIT : 0;
}

static void note_answer(struct dial_target *t)
{
    if (t->gate->cfg.unresolved_max)
        t->known_until_ms = loop_now_ms(t->gate->cfg.loop) + KNOWN_MS;
    give_slot(t);
}

void dial_gate_answered(struct dial_gate *g, const struct addr *a)
{
    struct dial_target *t;
    uint8_t ip[16];
    addr_mapped(a, ip);
    HASH_FIND(hh, g->targets, ip, sizeof(ip), t);
    if (!t)
        return; /* it took nothing to ask it */
    note_answer(t);
    refile(t);
}

void dial_gate_leave(struct dial_ticket *k, int err)
{
    struct dial_target *t = k->target;
    if (!t)
        return;
    if (k->waits) {
        stop_waiting(k);
        k->target = NULL;
        t->n_waiting--;
        refile(t);
        return;
    }
    if (err == 0 || err == ERR_REFUSED || err == ERR_RESET)
        note_answer(t);
    else if (err == ERR_UNREACHABLE)
        give_slot(t);
    take_out(k);
}

bool dial_gate_is_attached(struct dial_gate *g, const struct addr *a)
{
    uint8_t ip[16];
    addr_mapped(a, ip);
    return is_attached(g, ip);
}

size_t dial_gate_pending(const struct dial_gate *g)
{
    return g->n_dials + g->n_waiting;
}

void dial_gate_get_stats(struct dial_gate *g, struct dial_gate_stats *ret)
{
    size_t waiting[WAITS_COUNT];
    const struct dial_ticket *k;
    for (int i = WAITS_NOT; i < WAITS_COUNT; i++)
        DL_COUNT2(g->waiting[i], k, waiting[i], next);
    *ret = (struct dial_gate_stats){.dials = g->n_dials,
                                    .fullest = fullest(g) ? fullest(g)->n : 0,
                                    .waiting_place = waiting[WAITS_FOR_PLACE],
                                    .waiting_address = waiting[WAITS_FOR_NEIGHBOUR] +
                                                       waiting[WAITS_TO_PASS] +
                                                       waiting[WAITS_PATIENTLY],
                                    .unresolved = g->n_slots,
                                    .unresolved_max = g->n_slots_max,
                                    .refused = g->n_refused,
                                    .gave_way = g->n_gave_way};
}

/* ---- its life ---- */

struct dial_gate *dial_gate_new(const struct dial_gate_config *cfg)
{
    struct dial_gate *g = NEW(struct dial_gate);
    g->cfg = *cfg;
    g->n_refs = 1;
    g->cfg.per_target = MIN(cfg->per_target, cfg->max);
    g->by_count = mem_new((g->cfg.per_target + 1) * sizeof(*g->by_count));
    g->turns.fn = on_turns;
    timer_init(&g->timer, cfg->loop, on_timer);
    return g;
}

struct dial_gate *dial_gate_ref(struct dial_gate *g)
{
    g->n_refs++;
    return g;
}

void dial_gate_free(struct dial_gate *g)
{
    struct dial_target *t, *next;
    if (!g || --g->n_refs)
        return;
    assert(!g->n_dials && !g->n_waiting);
    HASH_ITER (hh, g->targets, t, next) {
        HASH_DEL(g->targets, t);
        mem_free(t);
    }
    timer_stop(&g->timer);
    loop_defer_cancel(&g->turns);
    neighbours_done(&g->table);
    mem_free(g->by_count);
    mem_free(g);
}
