#include "mount/early.h"

#include "base/macro.h"
#include "base/mem.h"

#include <string.h>

#define before packet_seq_before

static _Thread_local size_t held;

static size_t cost(size_t len)
{
    return sizeof(struct early_piece) + 16 + len; /* and what the allocator needs */
}

static uint32_t end_of(const struct early_piece *p)
{
    return p->seq + p->len + p->has_fin;
}

/* false: there is no room. */
static bool insert(struct early *e, struct early_piece **at, uint32_t seq, const uint8_t *data,
                   uint32_t len, bool has_fin)
{
    if (e->n == EARLY_PIECES_MAX || held + cost(len) > EARLY_BUDGET)
        return false;
    struct early_piece *p = mem_grow(NULL, sizeof(*p) + len);
    *p = (struct early_piece){*at, seq, len, has_fin};
    if (len)
        memcpy(p->data, data, len);
    *at = p;
    held += cost(len);
    e->n++;
    return true;
}

/* Into the gaps between what is there: what was told to the program as received stays. */
void early_put(struct early *e, uint32_t begin, const uint8_t *data, size_t len, bool has_fin)
{
    struct early_piece **at = &e->first;
    uint32_t seq = begin, end = begin + (uint32_t)len + has_fin;
    e->latest = begin;
    while (before(seq, end)) {
        if (*at && !before(seq, (*at)->seq)) {
            seq = before(seq, end_of(*at)) ? end_of(*at) : seq;
            at = &(*at)->next;
            continue;
        }
        uint32_t gap_end = *at && before((*at)->seq, end) ? (*at)->seq : end;
        bool is_last = has_fin && gap_end == end;
        if (!insert(e, at, seq, data + (seq - begin), gap_end - seq - is_last, is_last))
            return;
    }
}

const struct early_piece *early_at(struct early *e, uint32_t seq)
{
    while (e->first && !before(seq, end_of(e->first)))
        early_drop(e);
    return e->first && !before(seq, e->first->seq) ? e->first : NULL;
}

void early_drop(struct early *e)
{
    struct early_piece *p = e->first;
    e->first = p->next;
    held -= cost(p->len);
    e->n--;
    mem_free(p);
}

void early_done(struct early *e)
{
    while (e->first)
        early_drop(e);
}

/* What touches `p` at its end is one range with it. */
static const struct early_piece *join(const struct early_piece *p, struct packet_range *ret)
{
    *ret = (struct packet_range){p->seq, end_of(p)};
    while ((p = p->next) && p->seq == ret->end)
        ret->end = end_of(p);
    return p;
}

uint8_t early_ranges(const struct early *e, struct packet_range ret[PACKET_SACKS_MAX])
{
    uint8_t n = 1;
    if (!e->first)
        return 0;
    bool has_latest = false;
    for (const struct early_piece *p = e->first; p && (n < PACKET_SACKS_MAX || !has_latest);) {
        struct packet_range r;
        p = join(p, &r);
        if (!before(e->latest, r.begin) && before(e->latest, r.end)) {
            ret[0] = r;
            has_latest = true;
        } else if (n < PACKET_SACKS_MAX) {
            ret[n++] = r;
        }
    }
    if (!has_latest) { /* it has found its place since */
        n--;
        memmove(ret, ret + 1, n * sizeof(*ret));
    }
    return n;
}
