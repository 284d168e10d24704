#include "histogram.h"

/* Values below 2^STEP_BITS have a bucket each; above, the top STEP_BITS + 1 bits choose it. */
static unsigned bucket_of(uint64_t ns)
{
    if (ns < (1u << HISTOGRAM_STEP_BITS))
        return (unsigned)ns;
    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - HISTOGRAM_STEP_BITS;
    unsigned bucket = (shift << HISTOGRAM_STEP_BITS) + (unsigned)(ns >> shift);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static double bucket_middle_ns(unsigned bucket)
{
    if (bucket < (2u << HISTOGRAM_STEP_BITS))
        return bucket;
    unsigned shift = (bucket >> HISTOGRAM_STEP_BITS) - 1;
    uint64_t top = bucket - ((uint64_t)shift << HISTOGRAM_STEP_BITS);
    return ((double)top + 0.5) * (double)(1ull << shift);
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    h->buckets[bucket_of(ns)]++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

double histogram_percentile_us(const struct histogram *h, double percent)
{
    uint64_t want = (uint64_t)((double)h->count * percent / 100.0), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (h->buckets[i] && seen >= want)
            return bucket_middle_ns(i) / 1000.0;
    }
    return 0;
}
