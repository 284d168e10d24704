#include "net/pacer.h"

#include "base/macro.h"

#include <utlist.h>

#define SHARE_MIN 1460u
#define SHARE_MAX (64u << 10)
#define TAKE_MAX  (256u << 10)
#define TURNS_MIN 256 /* a tick may have */

static struct bucket *bucket_of(const struct pacer *p, int i)
{
    struct meter *m = p->meters[i];
    return !m ? NULL : p->is_out ? &m->out : &m->in;
}

static uint64_t rate_of(const struct bucket *b)
{
    return b ? atomic_load_explicit(&b->rate, memory_order_relaxed) : 0;
}

bool pacer_is_limited(const struct pacer *p)
{
    for (int i = 0; i < PACER_METERS; i++)
        if (rate_of(bucket_of(p, i)))
            return true;
    return false;
}

/* Small enough to go round within a few ticks, large enough to be worth a frame. */
static size_t share_of(const struct pacer *p)
{
    uint64_t share = SHARE_MAX;
    for (int i = 0; i < PACER_METERS; i++) {
        uint64_t rate = rate_of(bucket_of(p, i));
        if (rate)
            share = MIN(share, rate * PACER_TICK_MS / 1000 / (p->n_waiting + 1));
    }
    return MAX((size_t)share, (size_t)SHARE_MIN);
}

static size_t draw(struct pacer *p, size_t want, size_t least)
{
    uint64_t now = loop_now_ms(p->loop);
    size_t n = want;
    for (int i = 0; i < PACER_METERS && n > 0; i++) {
        struct bucket *b = bucket_of(p, i);
        size_t got = b ? bucket_take(b, n, MIN(least, n), now) : n;
        for (int before = 0; before < i && got < n; before++)
            if (bucket_of(p, before))
                bucket_give_back(bucket_of(p, before), n - got);
        n = got;
    }
    return n;
}

size_t pacer_take(struct pacer *p, size_t want)
{
    return p->waiting ? 0 : draw(p, MIN(want, (size_t)TAKE_MAX), SHARE_MIN);
}

void pacer_give_back(struct pacer *p, size_t n)
{
    for (int i = 0; n && i < PACER_METERS; i++)
        if (bucket_of(p, i))
            bucket_give_back(bucket_of(p, i), n);
}

void pacer_wait(struct pacer *p, struct pacer_turn *t, size_t n)
{
    if (t->is_waiting)
        return;
    t->is_waiting = true;
    DL_APPEND(p->waiting, t);
    p->n_waiting++;
    for (int i = 0; i < PACER_METERS; i++)
        if (p->meters[i])
            atomic_fetch_add_explicit(&p->meters[i]->delayed, n, memory_order_relaxed);
    if (!timer_is_running(&p->timer))
        timer_start(&p->timer, PACER_TICK_MS);
}

void pacer_forget(struct pacer *p, struct pacer_turn *t)
{
    if (!t->is_waiting)
        return;
    t->is_waiting = false;
    DL_DELETE(p->waiting, t);
    p->n_waiting--;
}

/* Who waits again has its next turn after all others. */
static void on_tick(struct timer *timer)
{
    struct pacer *p = container_of(timer, struct pacer, timer);
    size_t share = share_of(p);
    for (size_t turns = 4 * p->n_waiting + TURNS_MIN; turns > 0 && p->waiting; turns--) {
        struct pacer_turn *t = p->waiting;
        size_t n = draw(p, share, SHARE_MIN);
        if (n == 0)
            break;
        pacer_forget(p, t);
        t->fn(t, n);
    }
    if (p->waiting && !timer_is_running(timer))
        timer_start(timer, PACER_TICK_MS);
}

void pacer_init(struct pacer *p, struct loop *l, struct meter *const meters[PACER_METERS],
                bool is_out)
{
    *p = (struct pacer){.loop = l, .is_out = is_out};
    for (int i = 0; i < PACER_METERS; i++)
        p->meters[i] = meters[i];
    timer_init(&p->timer, l, on_tick);
}

void pacer_done(struct pacer *p)
{
    timer_stop(&p->timer);
}
