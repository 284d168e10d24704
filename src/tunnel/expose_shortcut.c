/*
 * Streams to another hub's agent that go on past that hub, over a connection which the agent has
 * dialled (fleet/shortcut.h). Worker.
 *
 *   here: CONNECT with a tag ─► the other hub: the same ─► the agent: busy? dials us
 *   here: busy, and there is such a connection: relay_take_shortcut, by the tag
 */
#include "tunnel/expose_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TRIES_MAX 4
#define WAITS_MAX 32 /* times RELAY_BULK_BYTES */

static void write_tag(const struct exposure *e, uint64_t number, char out[RELAY_TAG_SIZE])
{
    snprintf(out, RELAY_TAG_SIZE, "%s/%zu/%016" PRIx64, e->forward->hub, e->pool->home, number);
}

bool exposure_tag(struct exposure *e, struct exposure_shortcut *s,
                  const struct exposure_goal *asked, const struct exposure_goal *goal,
                  char out[RELAY_TAG_SIZE])
{
    if (goal->is_udp || goal->protocol)
        return false;
    if (e->forward && e->forward->has_shortcuts) {
        s->has_tag = true;
        s->tag = e->next_tag++;
        write_tag(e, s->tag, out);
        return true;
    }
    if (e->forward || !asked || !asked->tag[0])
        return false;
    memcpy(out, asked->tag, RELAY_TAG_SIZE);
    return true;
}

/* One that is bulk waits a little for a connection of its own, which the agent may be dialling. */
static struct h2conn *find(const struct exposure *e, struct exposure_shortcut *s, bool is_bulk)
{
    size_t streams;
    bool is_last;
    struct h2conn *hc = fleet_shortcut_pick(e->pool, e->agent, &streams, &is_last);
    if (!hc || !is_bulk || !streams || is_last)
        return hc;
    return ++s->n_waited < WAITS_MAX ? NULL : hc;
}

bool exposure_take_shortcut(struct exposure *e, struct exposure_shortcut *s, struct relay *r,
                            bool is_bulk)
{
    char tag[RELAY_TAG_SIZE];
    if (relay_is_on_shortcut(r))
        return true;
    if (!s->has_tag || s->n_tries == TRIES_MAX)
        return false;
    struct h2conn *hc = find(e, s, is_bulk);
    if (!hc)
        return false;
    write_tag(e, s->tag, tag);
    if (relay_take_shortcut(r, hc, tag) < 0)
        return false;
    s->n_tries++;
    fleet_shortcut_taken(e->pool);
    return true;
}
