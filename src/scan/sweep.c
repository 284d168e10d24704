/*
 * Each tick allows so many new probes; they go in turns to the next port of a host that is there
 * and to the next address, so that results come soon while the range is still being looked through.
 */
#include "scan/sweep_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <utlist.h>

#define TICK_MS     5
#define TARGETS_MAX 1024 /* at once */
#define ASKS_MAX    2048

static const char *const sign_names[] = {"tcp", "udp", "echo", "snmp", "arp"};
static_assert(ARRAY_SIZE(sign_names) == SWEEP_SIGN_COUNT, "a name each");

const char *sweep_sign_name(enum sweep_sign s)
{
    return sign_names[s];
}

void sweep_wake(struct sweep *s)
{
    loop_defer(s->cfg.loop, &s->pump);
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
    sweep_targets_try_again(s);
    while (!s->is_paused && !s->is_short && s->tokens >= 1 && s->n_asks < ASKS_MAX) {
        s->is_ports_turn = !s->is_ports_turn;
        if (s->ready && (s->is_ports_turn || !may_take_address(s)))
            sweep_target_ask_port(s->ready);
        else if (may_take_address(s))
            sweep_target_begin(s);
        else
            break;
    }
    if (s->is_stuck || (s->next == s->request.n_addresses && !s->n_targets))
        loop_defer(s->cfg.loop, &s->over);
}

static void on_tick(struct timer *t)
{
    struct sweep *s = container_of(t, struct sweep, timer);
    fill(s);
    timer_start(t, TICK_MS);
    sweep_wake(s);
}

static void on_over(struct defer *d)
{
    struct sweep *s = container_of(d, struct sweep, over);
    timer_stop(&s->timer);
    s->cfg.ops->on_end(s->cfg.arg, s->is_stuck ? ERR_LIMIT : 0);
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
    s->watch.on_answer = sweep_on_neighbour;
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
        sweep_target_free(s->targets);
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
    const struct sweep_target *t;
    DL_FOREACH (s->targets, t)
        part += t->is_up && s->request.n_ports ? (double)t->ports_asked / s->request.n_ports : 0;
    *ret = s->counts;
    ret->part = part / s->request.n_addresses;
}
