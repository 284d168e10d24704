/*
 * How many attempts an address has left: a token bucket per IPv4 address or IPv6 /64, for a bounded
 * number of addresses (the one longest unused is forgotten first).
 */
#pragma once

#include "base/addr.h"

#include <stdint.h>

struct rate;

struct rate *rate_new(uint32_t per_minute, uint32_t max_addresses);
void rate_free(struct rate *r);
void rate_set(struct rate *r, uint32_t per_minute);

/* Takes one attempt. 0, or the milliseconds after which there will be one. A fresh address has a
 * whole minute's worth. */
uint64_t rate_take(struct rate *r, const struct addr *a, uint64_t now_ms);
