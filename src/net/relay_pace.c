/*
 * Relays under a bandwidth limit. From the socket no more is read than the pacer lets through, and
 * the stream is resumed at its turn. To the socket all goes by the stash, as to a slow one, and is
 * written turn by turn. What is granted and not used is given back at once.
 */
#include "net/relay_internal.h"

#include "base/macro.h"
#include "base/mem.h"
#include "net/pacer.h"

/* One relay's place in both queues; made when a limit is first met, for most have none. */
struct relay_paced {
    struct relay *relay;
    struct pacer_turn read, write;
    size_t may_read, may_write; /* granted and not used yet */
};

static void give_back_read(struct relay *r)
{
    pacer_give_back(r->set->read_pace, r->paced->may_read);
    r->paced->may_read = 0;
}

static void give_back_write(struct relay *r)
{
    pacer_give_back(r->set->write_pace, r->paced->may_write);
    r->paced->may_write = 0;
}

static void on_read_turn(struct pacer_turn *t, size_t n)
{
    struct relay_paced *p = container_of(t, struct relay_paced, read);
    p->may_read += n;
    relay_resume(p->relay);
}

static void on_write_turn(struct pacer_turn *t, size_t n)
{
    struct relay_paced *p = container_of(t, struct relay_paced, write);
    struct relay *r = p->relay;
    p->may_write += n;
    if (!r->stash.len || !r->io.writable) {
        give_back_write(r);
        return; /* when it can be written, it asks again */
    }
    relay_write_kept(r); /* what is left waits for its next turn */
    if (!r->is_cut)
        relay_shut_if_done(r);
}

/* Limits may come at any time. */
static bool is_paced(struct relay *r, const struct pacer *p)
{
    if (!p || !pacer_is_limited(p))
        return false;
    if (!r->paced) {
        r->paced = NEW(struct relay_paced);
        r->paced->relay = r;
        r->paced->read.fn = on_read_turn;
        r->paced->write.fn = on_write_turn;
    }
    return true;
}

bool relay_is_write_paced(struct relay *r)
{
    return is_paced(r, r->set->write_pace);
}

size_t relay_may_write(struct relay *r)
{
    size_t kept = relay_count_kept(r);
    if (!relay_is_write_paced(r))
        return kept;
    struct relay_paced *p = r->paced;
    if (!p->may_write)
        p->may_write = pacer_take(r->set->write_pace, kept);
    if (!p->may_write)
        pacer_wait(r->set->write_pace, &p->write, kept);
    return MIN(p->may_write, kept);
}

void relay_did_write(struct relay *r, size_t n)
{
    if (!r->paced)
        return;
    r->paced->may_write -= MIN(n, r->paced->may_write);
    give_back_write(r);
}

size_t relay_may_read(struct relay *r, size_t cap)
{
    if (!is_paced(r, r->set->read_pace))
        return cap;
    struct relay_paced *p = r->paced;
    if (!p->may_read)
        p->may_read = pacer_take(r->set->read_pace, cap);
    if (!p->may_read)
        pacer_wait(r->set->read_pace, &p->read, cap);
    return MIN(p->may_read, cap);
}

void relay_did_read(struct relay *r, size_t n)
{
    if (!r->paced)
        return;
    r->paced->may_read -= MIN(n, r->paced->may_read);
    give_back_read(r);
}

void relay_stop_pacing(struct relay *r)
{
    if (!r->paced)
        return;
    pacer_forget(r->set->read_pace, &r->paced->read);
    pacer_forget(r->set->write_pace, &r->paced->write);
    give_back_read(r);
    give_back_write(r);
    mem_free(TAKE(r->paced));
}
