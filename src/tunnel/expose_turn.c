/*
 * Clients that another hub turned away: from the worker to the main loop, which finds out who
 * serves the tunnel now, and back to a worker.
 */
#include "tunnel/expose_internal.h"

#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* It comes before the message by which the exposure ends. */
struct turn {
    struct exposure *exposure;
    struct exposure_turned *turned;
};

static void turn_on_main(void *arg)
{
    CLEANUP(mem_free) struct turn *m = arg;
    m->exposure->ops->on_turned(m->exposure->arg, m->turned);
}

void exposure_turn(struct exposure *e, const struct exposure_turned *from)
{
    struct exposure_turned *t = mem_dup(from, sizeof(*from));
    struct turn *m = NEW(struct turn);
    t->epoch = e->lease_epoch;
    t->is_shown = !e->is_any;
    snprintf(t->tunnel, sizeof(t->tunnel), "%s", e->tunnel);
    *m = (struct turn){e, t};
    loop_post(e->main, turn_on_main, m);
}

void exposure_give_up(struct exposure_turned *t)
{
    const struct linger reset = {.l_onoff = 1};
    setsockopt(t->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(t->fd);
    if (t->dial)
        exposure_dial_turned_away(t->dial);
    if (t->retry)
        exposure_retry_give_up(t->retry);
    mem_free(t);
}

void exposure_try_again(struct exposure_turned *t, struct exposure *e)
{
    if ((t->dial && !exposure_dial_is_wanted(t->dial)) ||
        (t->retry && !exposure_retry_is_wanted(t->retry))) {
        exposure_give_up(t);
        return;
    }
    if (t->dial)
        exposure_dial_again(t->dial, e, t->fd);
    else if (t->retry)
        exposure_retry_dial(t->retry, e, t->fd, &t->peer);
    else
        exposure_give_again(e, t->fd, &t->peer);
    mem_free(t);
}
