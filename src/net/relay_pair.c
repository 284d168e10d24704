/*
 * Two relays of one loop in place of a socket between them (relay.h).
 *
 *     stream A ─► on_data ─► chunks ─► end of A's batch: B's stream is resumed, its connection
 *                                      pushed (h2conn.h): B's on_produce takes them
 *                              └─ what it did not take ─► A's stash ─► B's on_produce, later
 *
 * Only what B has taken is credited to A's window (relay_give). The stash and the chunks stay A's,
 * so there is one copy of each byte, into what B's connection encrypts, unless B is blocked.
 *
 * When A is cut, B hears it at once. If B goes on to a client, it first sends what A still had: A's
 * target may have said its last words before it reset. At most LEFT_MAX of them are kept, for no
 * window bounds them any more.
 */
#include "net/relay_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <string.h>

#define LEFT_MAX (256u << 10) /* about what the kernel would have had on its way */

struct relay_pair {
    struct relay *ends[2]; /* NULL: not yet, or gone */
    struct buf left[2];    /* of an end that was cut */
    bool is_shut[2];
    uint8_t n_joined, n_refs;
    bool is_dropped;
};

struct relay_pair *relay_pair_new(void)
{
    struct relay_pair *p = NEW(struct relay_pair);
    p->n_refs = 2;
    return p;
}

static void unref(struct relay_pair *p)
{
    if (--p->n_refs)
        return;
    buf_done(&p->left[0]);
    buf_done(&p->left[1]);
    mem_free(p);
}

static struct relay *other_of(const struct relay *r)
{
    return r->pair->ends[!r->side];
}

int relay_pair_join(struct relay *r, struct relay_pair *p)
{
    if (p->is_dropped) {
        unref(p);
        return ERR_CLOSED;
    }
    r->pair = p;
    r->side = p->n_joined++;
    r->io.writable = true;
    p->ends[r->side] = r;
    return 0;
}

/* The other one of the pair of `r` was cut. */
static void other_was_cut(struct relay *r, int err)
{
    if (r->is_hub || r->socket_ended) {
        relay_cut_both(r, RELAY_END_SOCKET_RESET, err);
        return;
    }
    r->socket_err = err;
    relay_resume(r);
}

void relay_pair_drop(struct relay_pair *p)
{
    struct relay *r = p->n_joined ? p->ends[0] : NULL;
    p->is_dropped = true;
    if (r)
        other_was_cut(r, ERR_RESET);
    unref(p);
}

bool relay_pair_read(struct relay *r, uint8_t *out, size_t cap, size_t *ret_n)
{
    struct relay_pair *p = r->pair;
    struct relay *other = other_of(r);
    struct buf *left = &p->left[!r->side];
    if (other) {
        *ret_n = relay_give(other, out, cap);
    } else if ((*ret_n = MIN(cap, left->len))) {
        memcpy(out, left->data, *ret_n);
        buf_consume(left, *ret_n);
    }
    return *ret_n || !(p->is_shut[!r->side] || r->socket_err);
}

void relay_pair_write(struct relay *r)
{
    if (r->stash.len && other_of(r))
        relay_resume(other_of(r));
}

void relay_pair_offer(struct relay *r)
{
    struct relay *other = other_of(r);
    struct h2_stream *s = other ? relay_sender(other) : NULL;
    bool is_new = r->first_chunk != RELAY_NO_CHUNK && !r->was_offered;
    r->was_offered = is_new && s && !r->stash.len && !relay_is_write_paced(r);
    if (r->was_offered) {
        h2_resume(s);
        h2conn_push_at_batch_end(r->hc, h2conn_of(s));
        h2conn_at_batch_end(r->hc, &r->at_end);
        return;
    }
    relay_keep_chunks(r);
    relay_pair_write(r);
    relay_shut_if_done(r);
}

void relay_pair_shut(struct relay *r)
{
    r->pair->is_shut[r->side] = true;
    if (other_of(r))
        relay_resume(other_of(r));
}

/* Its last words: see above. */
static void leave_behind(struct relay *r)
{
    struct buf *left = &r->pair->left[r->side];
    if (r->end != RELAY_END_STREAM_RESET && r->end != RELAY_END_LOST)
        return;
    (void)buf_append(left, r->stash.data + r->given,
                     MIN(r->stash.len - r->given, (size_t)LEFT_MAX));
    (void)buf_append(left, r->more.data, MIN(r->more.len, LEFT_MAX - left->len));
}

void relay_pair_leave(struct relay *r)
{
    struct relay_pair *p = r->pair;
    struct relay *other = other_of(r);
    p->ends[r->side] = NULL;
    /* that a target was not reached is told with more than a reset: relay_fail */
    if (other && r->is_cut && !(r->is_hub && r->end == RELAY_END_NOT_OPENED)) {
        leave_behind(r);
        other_was_cut(other, r->err < 0 ? r->err : ERR_RESET);
    }
    r->pair = NULL;
    unref(p);
}
