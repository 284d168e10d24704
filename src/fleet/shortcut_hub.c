/*
 * Shortcuts, at the hub where clients come in: connections of agents that are logged in at other
 * hubs, to which streams that came by those hubs are moved (net/relay.h, relay_take_shortcut).
 *
 * An agent dials them by itself when such a stream is busy (fleet/shortcut.h), and asks for the
 * worker that has it. For each session and worker they are a pool; what they are used for is known
 * on the worker only. They end with the agent's session at its hub, for the agent closes them then.
 */
#include "fleet/internal.h"

#include "base/mem.h"
#include "net/h2conn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- main ---- */

static void ignore(void *arg, struct fleet_pool *p)
{
}

static void forget(struct fleet_pool *p)
{
    HASH_DEL(p->fleet->shortcuts, p);
}

/* Its last connection frees it. */
static void on_link_gone(void *arg, struct fleet_pool *p, uint32_t far_worker)
{
    if (p->members)
        return;
    forget(p);
    p->is_over = true;
}

static const struct fleet_pool_ops shortcut_ops = {ignore, ignore, on_link_gone};

struct fleet_pool *fleet_shortcut_pool(struct fleet_agent *a, int worker)
{
    struct fleet *f = a->fleet;
    struct fleet_pool *p;
    char name[FLEET_SHORTCUT_NAME_SIZE];
    size_t home = worker < 0 ? 0 : (size_t)worker % f->n_homes;
    snprintf(name, sizeof(name), "%s %" PRIu64 " %zu", a->id, a->epoch, home);
    HASH_FIND_STR(f->shortcuts, name, p);
    if (p)
        return p->n_members < FLEET_SHORTCUTS_MAX ? p : NULL;
    p = fleet_pool_new_to_hub(f, a->id, home, &shortcut_ops, NULL);
    p->is_shortcut = true;
    p->epoch = a->epoch;
    memcpy(p->name, name, sizeof(p->name));
    HASH_ADD_STR(f->shortcuts, name, p);
    return p;
}

void fleet_shortcuts_cut(struct fleet *f, const char *agent)
{
    struct fleet_pool *p, *next;
    HASH_ITER (hh, f->shortcuts, p, next) {
        if (agent && strcmp(p->agent, agent) != 0)
            continue;
        forget(p);
        fleet_pool_end(p);
    }
}

size_t fleet_shortcut_links(const struct fleet *f)
{
    size_t n = 0;
    for (const struct fleet_pool *p = f->shortcuts; p; p = p->hh.next)
        n += p->n_members;
    return n;
}

/* ---- worker ---- */

/* That of the newest session counts. */
void fleet_shortcut_up(struct fleet_pool *p)
{
    struct fleet_home *home = &p->fleet->homes[p->home];
    struct fleet_pool *old;
    HASH_FIND(worker_hh, home->shortcuts, p->agent, strlen(p->agent), old);
    if (old && old->epoch > p->epoch)
        return;
    if (old)
        fleet_shortcut_down(old);
    HASH_ADD_KEYPTR(worker_hh, home->shortcuts, p->agent, strlen(p->agent), p);
    p->is_found = true;
}

void fleet_shortcut_down(struct fleet_pool *p)
{
    struct fleet_home *home = &p->fleet->homes[p->home];
    if (p->is_found)
        HASH_DELETE(worker_hh, home->shortcuts, p);
    p->is_found = false;
}

struct h2conn *fleet_shortcut_pick(struct fleet_pool *p, const char *agent, size_t *ret_streams,
                                   bool *ret_is_last)
{
    const struct fleet_pool *to;
    struct h2conn *best = NULL;
    size_t n = 0, least = SIZE_MAX;
    HASH_FIND(worker_hh, p->fleet->homes[p->home].shortcuts, agent, strlen(agent), to);
    for (const struct fleet_link *l = to ? to->links : NULL; l; l = l->next) {
        size_t streams = h2_stream_count(h2conn_session(l->hc));
        n++;
        if (h2conn_is_ending(l->hc) || streams >= least)
            continue;
        best = l->hc;
        least = streams;
    }
    *ret_streams = least;
    *ret_is_last = n >= FLEET_SHORTCUTS_MAX;
    return best;
}

void fleet_shortcut_taken(struct fleet_pool *p)
{
    atomic_fetch_add_explicit(&p->fleet->shortcuts_taken, 1, memory_order_relaxed);
}
