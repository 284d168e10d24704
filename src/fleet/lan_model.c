#include "fleet/lan_model.h"

#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* ---- places ---- */

void lan_place_format(const char *prefix, const char *gateway, char out[LAN_PLACE_SIZE])
{
    if (!prefix[0])
        out[0] = '\0';
    else
        snprintf(out, LAN_PLACE_SIZE, "%.*s%s%.18s", LAN_PREFIX_SIZE - 1, prefix,
                 gateway[0] ? " " : "", gateway);
}

static bool same(const char *a, size_t a_len, const char *b, size_t b_len)
{
    const char *a_gap = memchr(a, ' ', a_len), *b_gap = memchr(b, ' ', b_len);
    size_t a_net = a_gap ? (size_t)(a_gap - a) : a_len, b_net = b_gap ? (size_t)(b_gap - b) : b_len;
    if (a_net != b_net || memcmp(a, b, a_net) != 0)
        return false;
    return !a_gap || !b_gap || (a_len == b_len && memcmp(a, b, a_len) == 0);
}

bool lan_place_same(const char *a, const char *b)
{
    return same(a, strlen(a), b, strlen(b));
}

bool lan_places_have(const char *places, const char *place)
{
    while (places && *places) {
        size_t len = strcspn(places, "\n");
        if (same(places, len, place, strlen(place)))
            return true;
        places += len + (places[len] == '\n');
    }
    return false;
}

char *lan_places_add(char *places, const char *place)
{
    size_t n = 0;
    const char *from = places ? places : "";
    for (const char *s = from; *s; s++)
        n += *s == '\n';
    if (n >= LAN_PLACES_MAX)
        from += strcspn(from, "\n") + 1;
    char *joined = mem_printf("%s%s\n", from, place);
    mem_free(places);
    return joined;
}

/* ---- merging and moving ---- */

bool lan_network_prevails(const struct lan_network *a, const struct lan_network *b)
{
    if (a->is_named != b->is_named)
        return a->is_named;
    if ((a->objects > 0) != (b->objects > 0))
        return a->objects > 0;
    if (a->created != b->created)
        return a->created < b->created;
    return strcmp(a->id, b->id) < 0;
}

enum lan_decision lan_decide(const struct lan_end *first, const struct lan_end *second,
                             bool is_apart)
{
    if (is_apart || first->speaks_for_none || second->speaks_for_none)
        return LAN_STAY;
    if (first->is_away && second->is_away)
        return LAN_STAY; /* two visitors: whose LAN this is, neither can say */
    if (first->is_away || second->is_away)
        return first->is_away ? LAN_MOVE_FIRST : LAN_MOVE_SECOND;
    return first->is_named && second->is_named ? LAN_CONFLICT : LAN_MERGE;
}

bool lan_is_settled(size_t at_home, size_t heard, size_t staying, size_t total, int64_t away_ms)
{
    if (at_home || staying)
        return at_home > 0;
    if (total > 1)
        return (heard + 1) * 2 > total;
    return away_ms >= LAN_SETTLE_MS;
}

/* ---- copies of an agent ---- */

bool lan_lineage_login(struct lan_lineage *l, const char *instance, bool is_taking, int64_t now_ms)
{
    if (!instance[0] || strcmp(l->now, instance) == 0)
        return false;
    bool is_back =
        is_taking && strcmp(l->before, instance) == 0 && now_ms - l->taken_ms < LAN_CLONE_MS;
    if (is_taking)
        memcpy(l->before, l->now, sizeof(l->before));
    else
        l->before[0] = '\0';
    snprintf(l->now, sizeof(l->now), "%.19s", instance);
    l->taken_ms = now_ms;
    return is_back;
}
