#include "fleet/internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <utlist.h>

/* ---- worker ---- */

bool fleet_pool_is_usable(const struct fleet_pool *p)
{
    return p->links != NULL;
}

void fleet_pool_use(struct fleet_pool *p, struct pool_user *u)
{
    DL_APPEND(p->users, u);
}

void fleet_pool_unuse(struct fleet_pool *p, struct pool_user *u)
{
    if (u->prev)
        DL_DELETE(p->users, u);
    u->prev = u->next = NULL;
}

/* Both tell main in the order in which they happened. */

static void up_on_main(void *arg)
{
    struct fleet_link *first = arg;
    if (!first->is_cut) /* else main has forgotten what it had, this one among it */
        fleet_pool_up(first->pool);
}

static void down_on_main(void *arg)
{
    struct fleet_pool *p = arg;
    fleet_pool_down(p);
    fleet_left_over(p);
}

void fleet_pool_join(struct fleet_link *l)
{
    struct fleet_pool *p = l->pool;
    bool is_first = !p->links;
    DL_APPEND(p->links, l);
    l->is_usable = true;
    fleet_pool_link_joined(l);
    if (is_first && p->is_shortcut)
        fleet_shortcut_up(p);
    if (is_first)
        loop_post(p->fleet->cfg.loop, up_on_main, l);
}

void fleet_pool_leave(struct fleet_link *l)
{
    struct fleet_pool *p = l->pool;
    if (!l->is_usable)
        return;
    l->is_usable = false;
    DL_DELETE(p->links, l);
    fleet_pool_link_left(l);
    if (p->links)
        return;
    if (p->is_shortcut)
        fleet_shortcut_down(p);
    while (p->users) {
        struct pool_user *u = p->users;
        fleet_pool_unuse(p, u);
        u->on_gone(u);
    }
    loop_post(p->fleet->cfg.loop, down_on_main, p);
}

/* ---- main ---- */

static size_t choose_home(const struct fleet *f)
{
    size_t best = 0;
    for (size_t i = 1; i < f->n_homes; i++) {
        if (f->homes[i].n_pools < f->homes[best].n_pools)
            best = i;
    }
    return best;
}

static struct fleet_pool *new_pool(struct fleet *f, size_t home, const char *tenant,
                                   const char *agent)
{
    struct fleet_pool *p = NEW(struct fleet_pool);
    p->fleet = f;
    p->home = home;
    p->worker = f->homes[home].worker;
    p->wanted = p->wanted_before = 1;
    p->budget = (struct h2_budget)FLEET_BUDGET;
    timer_init(&p->timer, p->worker, fleet_pool_tick);
    snprintf(p->tenant, sizeof(p->tenant), "%s", tenant);
    snprintf(p->agent, sizeof(p->agent), "%s", agent);
    f->n_pools++;
    return p;
}

struct fleet_pool *fleet_pool_new(struct fleet_agent *a)
{
    struct fleet *f = a->fleet;
    struct fleet_pool *p = new_pool(f, choose_home(f), a->tenant, a->id);
    p->epoch = a->epoch;
    f->homes[p->home].n_pools++;
    return p;
}

struct fleet_pool *fleet_pool_new_to_hub(struct fleet *f, const char *hub, size_t home,
                                         const struct fleet_pool_ops *ops, void *arg)
{
    struct fleet_pool *p = new_pool(f, home, "", hub);
    p->ops = ops;
    p->arg = arg;
    return p;
}

size_t fleet_n_workers(const struct fleet *f)
{
    return f->n_homes;
}

static void free_on_worker(void *arg)
{
    mem_free(arg);
}

void fleet_pool_free_if_over(struct fleet_pool *p)
{
    struct fleet *f = p->fleet;
    if (!p->is_over || p->members)
        return;
    f->homes[p->home].n_pools -= !p->ops;
    f->n_pools--;
    loop_post(p->worker, free_on_worker, p);
    if (f->on_stopped && !f->n_pools)
        f->on_stopped(f->on_stopped_arg);
}

void fleet_pool_up(struct fleet_pool *p)
{
    struct fleet_observer *o;
    p->is_up = true;
    if (p->ops) {
        p->ops->on_up(p->arg, p);
        return;
    }
    LL_FOREACH (p->fleet->observers, o)
        o->on_pool_up(o, p);
}

void fleet_pool_down(struct fleet_pool *p)
{
    struct fleet_observer *o;
    if (!p->is_up)
        return;
    if (p->ops) {
        p->is_up = false;
        p->ops->on_down(p->arg, p);
        return;
    }
    LL_FOREACH (p->fleet->observers, o)
        o->on_pool_down(o, p);
    p->is_up = false;
}

void fleet_pool_cut(struct fleet_pool *p)
{
    struct fleet_link *l;
    fleet_pool_down(p);
    DL_FOREACH2 (p->members, l, member_next)
        fleet_link_cut(l);
}

void fleet_pool_end(struct fleet_pool *p)
{
    fleet_pool_cut(p);
    p->is_over = true;
    fleet_pool_free_if_over(p);
}
