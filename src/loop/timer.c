/*
 * Timers as a binary heap under one libuv timer, so that a timer is plain memory of its owner:
 * stopping one is immediate, and there is no handle to close.
 */
#include "loop/internal.h"

#include "base/mem.h"

static bool earlier(const struct timer *a, const struct timer *b)
{
    return a->due_ms < b->due_ms;
}

static void place(struct loop *l, uint32_t i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i + 1;
}

static void sift_up(struct loop *l, uint32_t i)
{
    struct timer *t = l->heap[i];
    while (i > 0 && earlier(t, l->heap[(i - 1) / 2])) {
        place(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(l, i, t);
}

static void sift_down(struct loop *l, uint32_t i)
{
    struct timer *t = l->heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= l->heap_len)
            break;
        if (child + 1 < l->heap_len && earlier(l->heap[child + 1], l->heap[child]))
            child++;
        if (!earlier(l->heap[child], t))
            break;
        place(l, i, l->heap[child]);
        i = child;
    }
    place(l, i, t);
}

static void on_uv_timer(uv_timer_t *uv);

static void arm(struct loop *l)
{
    if (l->is_virtual)
        return;
    if (!l->heap_len) {
        uv_timer_stop(&l->uv_timer);
        return;
    }
    uint64_t now = uv_now(&l->uv), due = l->heap[0]->due_ms;
    uv_timer_start(&l->uv_timer, on_uv_timer, due > now ? due - now : 0, 0);
}

static void fire_due(struct loop *l)
{
    while (l->heap_len && l->heap[0]->due_ms <= loop_now_ms(l)) {
        struct timer *t = l->heap[0];
        timer_stop(t);
        t->fn(t);
    }
}

static void on_uv_timer(uv_timer_t *uv)
{
    struct loop *l = uv->data;
    l->has_worked = true;
    fire_due(l);
    arm(l);
}

void loop_timer_init(struct loop *l)
{
    uv_timer_init(&l->uv, &l->uv_timer);
    l->uv_timer.data = l;
}

void loop_timer_done(struct loop *l)
{
    while (l->heap_len)
        timer_stop(l->heap[0]);
    mem_free(l->heap);
    l->heap = NULL;
    l->heap_cap = 0;
}

void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t))
{
    *t = (struct timer){.loop = l, .fn = fn};
}

void timer_start(struct timer *t, uint64_t delay_ms)
{
    struct loop *l = t->loop;
    timer_stop(t);
    t->due_ms = loop_now_ms(l) + delay_ms;
    if (l->heap_len == l->heap_cap) {
        l->heap_cap = l->heap_cap ? 2 * l->heap_cap : 32;
        l->heap = mem_grow(l->heap, l->heap_cap * sizeof(struct timer *));
    }
    l->heap[l->heap_len++] = t;
    sift_up(l, l->heap_len - 1);
    if (l->heap[0] == t)
        arm(l);
}

void timer_stop(struct timer *t)
{
    if (!t->slot)
        return;
    struct loop *l = t->loop;
    uint32_t i = t->slot - 1;
    t->slot = 0;
    struct timer *last = l->heap[--l->heap_len];
    if (last != t) {
        l->heap[i] = last;
        last->slot = i + 1;
        sift_down(l, i);
        sift_up(l, last->slot - 1);
    }
}

bool timer_is_running(const struct timer *t)
{
    return t->slot != 0;
}

void loop_advance(struct loop *l, uint64_t ms)
{
    uint64_t until = l->virtual_ms + ms;
    loop_turn(l, false);
    while (l->heap_len && l->heap[0]->due_ms <= until) {
        if (l->heap[0]->due_ms > l->virtual_ms)
            l->virtual_ms = l->heap[0]->due_ms;
        fire_due(l);
        loop_turn(l, false);
    }
    l->virtual_ms = until;
    loop_turn(l, false);
}
