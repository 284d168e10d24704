#include "fleet/lan_peers.h"

#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* FNV-1a over both ids, the smaller first: the same number at both ends. */
static uint32_t rank_of(const char *a, const char *b)
{
    uint32_t h = 2166136261u;
    const char *first = strcmp(a, b) < 0 ? a : b, *second = first == a ? b : a;
    for (const char *s = first; *s; s++)
        h = (h ^ (unsigned char)*s) * 16777619u;
    for (const char *s = second; *s; s++)
        h = (h ^ (unsigned char)*s) * 16777619u;
    h = (h ^ h >> 16) * 0x85ebca6bu; /* ids may differ in few bits */
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

static struct lan_peer *find(struct lan_peers *p, unsigned int link, const char *agent)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->list[i].link == link && strcmp(p->list[i].agent, agent) == 0)
            return &p->list[i];
    }
    return NULL;
}

static void take_away(struct lan_peers *p, size_t i)
{
    p->list[i] = p->list[--p->n];
    p->has_changed = true;
}

/* NULL: the table is full of peers of a lower rank. */
static struct lan_peer *make_room(struct lan_peers *p, uint32_t rank)
{
    if (p->n == LAN_PEERS_MAX) {
        size_t highest = 0;
        for (size_t i = 1; i < p->n; i++) {
            if (p->list[i].rank > p->list[highest].rank)
                highest = i;
        }
        if (p->list[highest].rank <= rank)
            return NULL;
        take_away(p, highest);
    }
    if (p->n == p->room) {
        p->room = MIN(p->room ? p->room * 2 : 4, (size_t)LAN_PEERS_MAX);
        p->list = mem_grow(p->list, p->room * sizeof(*p->list));
    }
    return &p->list[p->n++];
}

enum lan_verdict lan_peers_hear(struct lan_peers *p, const char *self, unsigned int link,
                                const struct lan_beacon *b, uint64_t now_ms, bool *ret_is_new)
{
    int by = b->from.family == AF_INET ? 0 : 1;
    struct lan_peer *peer = find(p, link, b->agent);
    *ret_is_new = false;
    if (peer && b->time_ms <= peer->newest[by])
        return LAN_REPLAYED;
    if (!peer) {
        uint32_t rank = rank_of(self, b->agent);
        peer = make_room(p, rank);
        if (!peer)
            return LAN_DROPPED;
        *peer = (struct lan_peer){.link = link, .rank = rank, .since_ms = now_ms};
        snprintf(peer->agent, sizeof(peer->agent), "%s", b->agent);
        *ret_is_new = true;
    }
    p->has_changed = p->has_changed || *ret_is_new || peer->instance != b->instance;
    peer->instance = b->instance;
    peer->epoch = b->epoch;
    if (!peer->from.family || b->from.family == AF_INET)
        peer->from = b->from;
    peer->newest[by] = b->time_ms;
    peer->heard_ms = now_ms;
    return LAN_HEARD;
}

void lan_peers_expire(struct lan_peers *p, uint64_t now_ms)
{
    for (size_t i = p->n; i-- > 0;) {
        if (now_ms - p->list[i].heard_ms >= LAN_PEER_MS)
            take_away(p, i);
    }
}

void lan_peers_drop_link(struct lan_peers *p, unsigned int link)
{
    for (size_t i = p->n; i-- > 0;) {
        if (p->list[i].link == link)
            take_away(p, i);
    }
}

void lan_peers_done(struct lan_peers *p)
{
    mem_free(p->list);
    *p = (struct lan_peers){0};
}

/* ---- when to speak ---- */

void lan_pace_start(struct lan_pace *p, uint64_t now_ms, uint32_t random)
{
    *p = (struct lan_pace){.due_ms = now_ms + 20 + random % 230, .burst = LAN_BURST};
}

void lan_pace_hurry(struct lan_pace *p, uint64_t now_ms, uint32_t random)
{
    uint64_t soon = now_ms + 20 + random % 100;
    if (p->sent_ms)
        soon = MAX(soon, p->sent_ms + LAN_SPACE_MS + random % 100);
    p->due_ms = MIN(p->due_ms, soon);
}

void lan_pace_sent(struct lan_pace *p, uint64_t now_ms, uint32_t random)
{
    uint64_t pause = LAN_STEADY_MS - LAN_STEADY_MS / 5 + random % (LAN_STEADY_MS / 5 * 2);
    if (p->burst && --p->burst) /* after 1, 2 and 4 seconds */
        pause = ((uint64_t)LAN_SPACE_MS << (LAN_BURST - 1 - p->burst)) + random % 250;
    p->sent_ms = now_ms;
    p->due_ms = now_ms + pause;
}
