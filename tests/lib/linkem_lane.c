#include "linkem_lane.h"

#include <sys/mman.h>

struct lane_slot {
    uint64_t due_ns;
    uint32_t len;
    uint8_t data[LANE_MTU];
};

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* splitmix64 */
static uint64_t next_random(struct lane *lane)
{
    uint64_t z = lane->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void lane_seed(struct lane *lane, uint64_t seed)
{
    lane->random = seed;
}

bool lane_init(struct lane *lane, uint64_t seed)
{
    *lane = (struct lane){.settings.is_up = true};
    lane_seed(lane, seed);
    lane->slots = mmap(NULL, LANE_SLOTS * sizeof(*lane->slots), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return lane->slots != MAP_FAILED;
}

void *lane_space(struct lane *lane)
{
    if (lane->count == 0)
        lane->head = 0; /* few packets use few pages, which stay in the cache */
    return lane->slots[(lane->head + lane->count) % LANE_SLOTS].data;
}

static bool queue_is_full(const struct lane *lane, uint64_t bits, uint64_t now_ns)
{
    const struct lane_settings *s = &lane->settings;
    uint64_t waits_ns = lane->free_ns > now_ns ? lane->free_ns - now_ns : 0;
    if (s->queue_ns && waits_ns > s->queue_ns)
        return true;
    double waits_bit = (double)waits_ns / 1e9 * (double)s->rate_bit;
    return s->queue_bytes && waits_bit + (double)bits > (double)s->queue_bytes * 8;
}

void lane_put(struct lane *lane, size_t len, uint64_t now_ns)
{
    const struct lane_settings *s = &lane->settings;
    if (!s->is_up) {
        lane->stats.cut++;
        return;
    }
    uint64_t leaves_ns = now_ns;
    if (s->rate_bit) {
        uint64_t bits = (len + LANE_OVERHEAD) * 8;
        if (queue_is_full(lane, bits, now_ns)) {
            lane->stats.dropped++;
            return;
        }
        leaves_ns = later(lane->free_ns, now_ns) + bits * 1000000000u / s->rate_bit;
        lane->free_ns = leaves_ns;
    }
    if (s->loss > 0 && (double)(next_random(lane) >> 11) * 0x1p-53 < s->loss) {
        lane->stats.lost++;
        return;
    }
    if (lane->count == LANE_SLOTS - 1) { /* the last one is always there to be read into */
        lane->stats.dropped++;
        return;
    }
    struct lane_slot *slot = &lane->slots[(lane->head + lane->count++) % LANE_SLOTS];
    slot->len = (uint32_t)len;
    slot->due_ns = lane->last_ns = later(leaves_ns + s->delay_ns, lane->last_ns);
}

uint64_t lane_due_ns(const struct lane *lane)
{
    return lane->count ? lane->slots[lane->head].due_ns : LANE_NEVER;
}

const void *lane_take(struct lane *lane, uint64_t now_ns, size_t *ret_len)
{
    while (lane->count && lane->slots[lane->head].due_ns <= now_ns) {
        struct lane_slot *slot = &lane->slots[lane->head];
        lane->head = (lane->head + 1) % LANE_SLOTS;
        lane->count--;
        if (!lane->settings.is_up) {
            lane->stats.cut++;
            continue;
        }
        lane->stats.packets++;
        lane->stats.bytes += slot->len;
        *ret_len = slot->len;
        return slot->data;
    }
    return NULL;
}
