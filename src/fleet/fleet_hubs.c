/*
 * The other hubs as this one sees them, and what follows for the agents that are there. Who they
 * are is read from the database by peer/, which also knows whether they answer.
 *
 * Agents are told of all hubs that live, and over what time to come back should this one be gone:
 * at login, and when it has changed, a batch at a time.
 */
#include "fleet/internal.h"

#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define TOLD_MAX      64  /* hubs that an agent is told of */
#define TELL_BATCH    100 /* agents that are told at a time, */
#define TELL_MS       50  /* and how long until the next ones */
#define RETURN_MIN_MS 200 /* below that nobody is told of a change */
#define RETURN_MAX_MS 1800000

struct fleet_hub *fleet_hub_find(const struct fleet *f, const char *id)
{
    struct fleet_hub *h;
    HASH_FIND_STR(f->hubs, id, h);
    return h;
}

struct fleet_hub *fleet_hub_put(struct fleet *f, const char *id)
{
    struct fleet_hub *h = fleet_hub_find(f, id);
    if (h)
        return h;
    h = NEW(struct fleet_hub);
    snprintf(h->id, sizeof(h->id), "%s", id);
    HASH_ADD_STR(f->hubs, id, h);
    return h;
}

void fleet_hub_remove(struct fleet *f, struct fleet_hub *h)
{
    HASH_DEL(f->hubs, h);
    mem_free(h);
}

struct fleet_hub *fleet_hubs(const struct fleet *f)
{
    return f->hubs;
}

static bool is_alive(const struct fleet *f, const struct fleet_hub *h)
{
    return h->is_linked || h->ends_ms > loop_now_ms(f->cfg.loop);
}

struct fleet_hub *fleet_hub_self(struct fleet *f)
{
    return &f->self;
}

void fleet_set_sure_until(struct fleet *f, uint64_t mono_ms)
{
    atomic_store_explicit(&f->sure_until_ms, mono_ms, memory_order_release);
}

bool fleet_is_sure(const struct fleet *f)
{
    uint64_t until = atomic_load_explicit(&f->sure_until_ms, memory_order_acquire);
    return until == UINT64_MAX || time_mono_ms() <= until;
}

static size_t count_others(const struct fleet *f)
{
    size_t n = 0;
    for (const struct fleet_hub *h = f->hubs; h; h = h->hh.next)
        n += !h->draining && is_alive(f, h);
    return n;
}

bool fleet_has_other_hub(const struct fleet *f)
{
    return count_others(f) > 0;
}

uint32_t fleet_return_ms(const struct fleet *f)
{
    uint64_t rate = (uint64_t)f->cfg.logins_per_second * MAX(count_others(f), (size_t)1);
    return (uint32_t)MIN(f->online * 1000 / rate, (uint64_t)RETURN_MAX_MS);
}

/* ---- what agents are told ---- */

struct telling {
    Warren__V1__Hub hubs[TOLD_MAX], *list[TOLD_MAX];
    Warren__V1__Hubs message;
    Warren__V1__HubEvent event;
};

static void add(struct telling *t, struct fleet_hub *h)
{
    size_t n = t->message.n_hubs;
    if (!h->agent_address[0] || n == TOLD_MAX)
        return;
    warren__v1__hub__init(&t->hubs[n]);
    t->hubs[n].id = h->id;
    t->hubs[n].address = h->agent_address;
    t->hubs[n].leaving = h->draining != 0;
    t->list[n] = &t->hubs[n];
    t->message.n_hubs++;
}

static void gather(struct fleet *f, struct telling *t)
{
    warren__v1__hubs__init(&t->message);
    warren__v1__hub_event__init(&t->event);
    t->message.hubs = t->list;
    t->message.return_ms = f->told.return_ms;
    t->event.event_case = WARREN__V1__HUB_EVENT__EVENT_HUBS;
    t->event.hubs = &t->message;
    add(t, &f->self);
    for (struct fleet_hub *h = f->hubs; h; h = h->hh.next) {
        if (is_alive(f, h))
            add(t, h);
    }
}

/* FNV-1a of what the list says. */
static uint64_t digest_of(const struct telling *t)
{
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; i < t->message.n_hubs; i++) {
        const Warren__V1__Hub *h = t->list[i];
        char text[ID_SIZE + FLEET_HUB_ADDRESS_SIZE + 8];
        snprintf(text, sizeof(text), "%s %s %d", h->id, h->address, h->leaving);
        for (const char *c = text; *c; c++)
            sum = (sum ^ (uint8_t)*c) * 0x100000001b3;
    }
    return sum;
}

static void tell(struct fleet *f, struct fleet_agent *a, const struct telling *t)
{
    a->hubs_told = f->told.version;
    fleet_send(a, &t->event);
}

static void on_tell_timer(struct timer *timer)
{
    struct fleet *f = container_of(timer, struct fleet, told.timer);
    struct telling t = {0};
    struct fleet_agent *a;
    size_t n = 0;
    gather(f, &t);
    while ((a = f->told.next) && n < TELL_BATCH) {
        f->told.next = a->hh.next;
        if (!a->call || a->hubs_told == f->told.version)
            continue;
        tell(f, a, &t);
        n++;
    }
    if (f->told.next)
        timer_start(timer, TELL_MS);
}

/* Never less than it takes now, with room for more agents. */
static uint32_t with_room(uint32_t return_ms)
{
    return (uint32_t)MIN((uint64_t)return_ms * 3 / 2, (uint64_t)RETURN_MAX_MS);
}

/* Whether the time that was told is too short, or so long that agents should know. */
static bool is_another(uint32_t told_ms, uint32_t now_ms)
{
    return MAX(told_ms, now_ms) >= RETURN_MIN_MS && (now_ms > told_ms || told_ms / 3 > now_ms);
}

static void note_news(struct fleet *f)
{
    struct telling t = {0};
    gather(f, &t);
    uint64_t digest = digest_of(&t);
    uint32_t return_ms = fleet_return_ms(f);
    if (digest == f->told.digest && !is_another(f->told.return_ms, return_ms))
        return;
    f->told.digest = digest;
    f->told.return_ms = with_room(return_ms);
    f->told.version++;
    f->told.next = f->agents;
    if (!timer_is_running(&f->told.timer) && !f->is_stopping)
        timer_start(&f->told.timer, TELL_MS);
}

void fleet_tell_hubs(struct fleet_agent *a)
{
    struct fleet *f = a->fleet;
    struct telling t = {0};
    note_news(f);
    gather(f, &t);
    if (t.message.n_hubs || t.message.return_ms)
        tell(f, a, &t);
}

void fleet_hubs_init(struct fleet *f)
{
    struct telling t = {0};
    timer_init(&f->told.timer, f->cfg.loop, on_tell_timer);
    snprintf(f->self.id, sizeof(f->self.id), "%s", f->cfg.hub.id);
    f->self.epoch = (uint64_t)f->cfg.hub.epoch;
    gather(f, &t);
    f->told.digest = digest_of(&t);
}

void fleet_hubs_changed(struct fleet *f)
{
    struct fleet_observer *o;
    note_news(f);
    LL_FOREACH (f->observers, o)
        o->on_hubs(o);
}

bool fleet_hub_is_live(const struct fleet *f, const char *id, uint64_t epoch)
{
    if (strcmp(id, f->cfg.hub.id) == 0)
        return epoch == (uint64_t)f->cfg.hub.epoch;
    const struct fleet_hub *h = fleet_hub_find(f, id);
    return h && h->epoch == epoch && is_alive(f, h);
}

bool fleet_hub_is_first(const struct fleet *f)
{
    for (const struct fleet_hub *h = f->hubs; h; h = h->hh.next) {
        if (is_alive(f, h) && strcmp(h->id, f->cfg.hub.id) < 0)
            return false;
    }
    return true;
}

bool fleet_agent_is_online(const struct fleet_agent *a)
{
    if (a->call)
        return true;
    return a->connected && !a->disconnected && !a->revoked && a->hub[0] &&
           strcmp(a->hub, a->fleet->cfg.hub.id) != 0 &&
           fleet_hub_is_live(a->fleet, a->hub, a->hub_epoch);
}

bool fleet_network_is_online(const struct fleet_network *n)
{
    const struct fleet_agent *a;
    if (n->online)
        return true;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (fleet_agent_is_online(a))
            return true;
    }
    return false;
}
