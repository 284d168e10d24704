/*
 * Which exposures serve on a worker, as other hubs' clients need to know it who go by them without
 * asking the main loop. An exposure is in the index from its beginning until it stops or lingers,
 * as the worker hears of it.
 */
#include "tunnel/expose_internal.h"

#include <stdio.h>

static void fill_key(struct exposure_key *key, const char *tunnel, uint64_t lease_epoch)
{
    *key = (struct exposure_key){.lease_epoch = lease_epoch};
    snprintf(key->tunnel, sizeof(key->tunnel), "%s", tunnel);
}

void exposure_index_add(struct exposure *e)
{
    if (!e->index)
        return;
    fill_key(&e->key, e->tunnel, e->lease_epoch);
    HASH_ADD(hh, e->index->all, key, sizeof(e->key), e);
    e->is_indexed = true;
}

void exposure_index_remove(struct exposure *e)
{
    if (e->is_indexed)
        HASH_DEL(e->index->all, e);
    e->is_indexed = false;
}

struct exposure *exposure_find(const struct exposure_index *x, const char *tunnel,
                               uint64_t lease_epoch)
{
    struct exposure_key key;
    struct exposure *e;
    fill_key(&key, tunnel, lease_epoch);
    HASH_FIND(hh, x->all, &key, sizeof(key), e);
    return e && !exposure_stop_reason(e) ? e : NULL;
}

uint64_t exposure_passed_ms(const struct exposure *e)
{
    return atomic_load_explicit(&e->passed_ms, memory_order_relaxed);
}
