#include "base/backoff.h"

#include "base/id.h"

uint32_t backoff_next(struct backoff *b)
{
    uint64_t delay = b->first_ms;
    for (uint32_t i = 0; i < b->attempts && delay < b->max_ms; i++)
        delay *= 2;
    if (delay > b->max_ms)
        delay = b->max_ms;
    if (b->attempts < UINT32_MAX)
        b->attempts++;
    return (uint32_t)(delay / 2) + random_below((uint32_t)(delay / 2 + 1));
}

void backoff_reset(struct backoff *b)
{
    b->attempts = 0;
}
