#include "mount/reassembly.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <string.h>
#include <utlist.h>

#define UNIT  8
#define UNITS (PACKET_MAX / UNIT + 1)

struct reassembly_set {
    struct packet_ends ends;
    uint32_t id;
    uint8_t protocol;
    bool is_v6;
    uint64_t started_ms;
    size_t total, got; /* bytes; total 0: the last fragment has not come */
    uint8_t have[UNITS / 8 + 1];
    struct reassembly_set *prev, *next;
    uint8_t data[PACKET_HEADER_MAX + PACKET_MAX]; /* room for headers, then the payload */
};

static void drop(struct reassembly *r, struct reassembly_set *s)
{
    DL_DELETE(r->sets, s);
    r->count--;
    mem_free(s);
}

static struct reassembly_set *find(struct reassembly *r, const struct packet *p)
{
    struct reassembly_set *s;
    DL_FOREACH (r->sets, s) {
        if (s->id == p->fragment_id && s->protocol == p->protocol && s->is_v6 == p->is_v6 &&
            memcmp(&s->ends, &p->ends, sizeof(s->ends)) == 0)
            return s;
    }
    return NULL;
}

static struct reassembly_set *add(struct reassembly *r, const struct packet *p, uint64_t now_ms)
{
    if (r->count == REASSEMBLY_SETS)
        drop(r, r->sets);
    struct reassembly_set *s = NEW(struct reassembly_set);
    s->ends = p->ends;
    s->id = p->fragment_id;
    s->protocol = p->protocol;
    s->is_v6 = p->is_v6;
    s->started_ms = now_ms;
    DL_APPEND(r->sets, s);
    r->count++;
    return s;
}

static void forget_old(struct reassembly *r, uint64_t now_ms)
{
    while (r->sets && now_ms - r->sets->started_ms >= REASSEMBLY_MS)
        drop(r, r->sets);
}

/* Marks the fragment's units; false: some are there already. */
static bool claim(struct reassembly_set *s, size_t at, size_t len)
{
    for (size_t i = at / UNIT; i < (at + len + UNIT - 1) / UNIT; i++) {
        if (s->have[i / 8] & 1 << i % 8)
            return false;
        s->have[i / 8] |= (uint8_t)(1 << i % 8);
    }
    return true;
}

/* False: it cannot be part of this packet, or of any. */
static bool put(struct reassembly_set *s, const struct packet *p)
{
    size_t at = p->fragment_at, end = at + p->payload_len, header = p->is_v6 ? 0 : 20;
    if (!p->payload_len || end + header > PACKET_MAX)
        return false;
    if (p->more_fragments ? p->payload_len % UNIT || (s->total && end > s->total)
                          : s->total && end != s->total)
        return false;
    if (!claim(s, at, p->payload_len))
        return false;
    memcpy(s->data + PACKET_HEADER_MAX + at, p->payload, p->payload_len);
    s->got += p->payload_len;
    if (!p->more_fragments)
        s->total = end;
    return s->got <= s->total || !s->total;
}

int reassembly_add(struct reassembly *r, const struct packet *p, uint64_t now_ms,
                   const uint8_t **ret_data, size_t *ret_len)
{
    mem_free(TAKE(r->whole));
    forget_old(r, now_ms);
    struct reassembly_set *s = find(r, p);
    if (!s)
        s = add(r, p, now_ms);
    if (!put(s, p)) {
        drop(r, s);
        return ERR_PROTO;
    }
    if (!s->total || s->got < s->total)
        return 0;
    DL_DELETE(r->sets, s);
    r->count--;
    r->whole = s;
    uint8_t head[PACKET_HEADER_MAX];
    size_t n = packet_put_whole(head, &s->ends, s->protocol, p->ttl, p->tos, s->total);
    memcpy(s->data + PACKET_HEADER_MAX - n, head, n);
    *ret_data = s->data + PACKET_HEADER_MAX - n;
    *ret_len = n + s->total;
    return 1;
}

void reassembly_done(struct reassembly *r)
{
    mem_free(TAKE(r->whole));
    while (r->sets)
        drop(r, r->sets);
}
