/*
 * Delays between attempts: exponential with full jitter over the upper half, so that many who
 * failed together do not come back together.
 */
#pragma once

#include <stdint.h>

struct backoff {
    uint32_t first_ms, max_ms; /* constant */
    uint32_t attempts;         /* since the last success */
};

/* The delay before the next attempt. */
uint32_t backoff_next(struct backoff *b);
void backoff_reset(struct backoff *b);
