#include "fleet/hub_probe.h"

#include "base/id.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "net/dialer.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIAL_MS  3000
#define TRIES    2
#define AGAIN_MS (30 * 60 * 1000)

struct hub_probe {
    struct loop *loop;
    struct hub_list *list;
    void (*on_done)(void *arg);
    void *arg;
    struct timer timer;
    struct dial *dial;
    bool is_again; /* asked for while a round is under way */
    bool is_all;   /* the next round is for those that were measured, too */
    struct {
        char id[ID_SIZE];
        struct host_port at;
    } queue[HUB_LIST_CLUSTER]; /* of this round */
    size_t n, next, tries;
    uint64_t began_us;
    uint32_t best_us;
};

static void dial_next(struct hub_probe *p);

/* Some agents' half hours begin together. */
static uint32_t jitter(uint32_t ms)
{
    return ms / 2 + random_below(ms / 2 + 1);
}

static void note(struct hub_probe *p)
{
    struct hub_entry *e = hub_list_find(p->list, p->queue[p->next].id, &p->queue[p->next].at);
    if (e)
        e->rtt_us = p->best_us;
    LOG_DEBUG("hub measured", LOG_STR("hub", p->queue[p->next].id), LOG_INT("rtt_us", p->best_us));
    p->next++;
    p->tries = 0;
    p->best_us = 0;
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    const struct linger reset = {.l_onoff = 1};
    struct hub_probe *p = arg;
    uint64_t took = time_mono_us() - p->began_us;
    p->dial = NULL;
    if (r->err == 0) {
        uint32_t us = (uint32_t)MIN(took, (uint64_t)UINT32_MAX - 1) + 1; /* 0: not measured */
        p->best_us = p->best_us ? MIN(p->best_us, us) : us;
        setsockopt(r->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(r->fd);
    }
    if (++p->tries == TRIES || r->err < 0)
        note(p);
    dial_next(p);
}

static void dial_next(struct hub_probe *p)
{
    if (p->next == p->n) {
        p->is_all = !p->is_again;
        timer_start(&p->timer, TAKE(p->is_again) ? 0 : jitter(AGAIN_MS));
        p->on_done(p->arg);
        return;
    }
    const struct dial_params params = {.target = p->queue[p->next].at,
                                       .deadline_ms = DIAL_MS,
                                       .is_probe = true,
                                       .on_done = on_dialled,
                                       .arg = p};
    p->began_us = time_mono_us();
    p->dial = dial_start(p->loop, &params);
}

static void on_timer(struct timer *t)
{
    struct hub_probe *p = container_of(t, struct hub_probe, timer);
    p->n = p->next = p->tries = 0;
    p->best_us = 0;
    for (size_t i = p->list->n_configured; i < p->list->n; i++) {
        const struct hub_entry *e = &p->list->entries[i];
        if (e->rtt_us && !p->is_all)
            continue;
        snprintf(p->queue[p->n].id, sizeof(p->queue[p->n].id), "%s", e->id);
        p->queue[p->n++].at = e->at;
    }
    dial_next(p);
}

struct hub_probe *hub_probe_new(struct loop *l, struct hub_list *list, void (*on_done)(void *arg),
                                void *arg)
{
    struct hub_probe *p = NEW(struct hub_probe);
    p->loop = l;
    p->list = list;
    p->on_done = on_done;
    p->arg = arg;
    timer_init(&p->timer, l, on_timer);
    return p;
}

void hub_probe_soon(struct hub_probe *p, uint32_t delay_ms)
{
    uint64_t due = loop_now_ms(p->loop) + delay_ms;
    if (p->dial) {
        p->is_again = true;
    } else if (!timer_is_running(&p->timer) || p->timer.due_ms > due) {
        p->is_all = false;
        timer_start(&p->timer, delay_ms);
    }
}

void hub_probe_free(struct hub_probe *p)
{
    if (!p)
        return;
    timer_stop(&p->timer);
    if (p->dial)
        dial_cancel(p->dial);
    mem_free(p);
}
