/*
 * What somebody (a tunnel, a tenant) may use, and has used: streams open at once, new streams per
 * second of one source, and bytes per second in each direction. One meter is shared by all threads
 * that serve its owner. Limits may be changed at any time; 0 is none.
 */
#pragma once

#include "base/addr.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that may pass: refilled by time, full at METER_BURST_MS worth. Any thread. */
#define METER_BURST_MS 100

struct bucket {
    _Atomic uint64_t rate; /* bytes per second; 0: no limit */
    _Atomic int64_t level;
    _Atomic uint64_t filled_us;
};
/* As much of `want` as there is; less than `least` (and than `want`): nothing. */
size_t bucket_take(struct bucket *b, size_t want, size_t least, uint64_t now_ms);
void bucket_give_back(struct bucket *b, size_t n);

/* All of `n` or nothing, for what cannot be cut or wait: one more passes as long as something is
 * left, and what it takes too much is owed. */
bool bucket_pass(struct bucket *b, size_t n, uint64_t now_ms);

enum meter_refusal {
    METER_OK,
    METER_STREAMS, /* ERR_LIMIT */
    METER_SOURCE,  /* ERR_RATE */
    METER_REFUSAL_COUNT
};
int meter_refusal_error(enum meter_refusal r);

#define METER_SOURCES 4096 /* addresses remembered; the one longest unused is forgotten first */

struct meter_source;

struct meter {
    struct bucket in, out; /* in: from clients to targets */
    _Atomic uint32_t max_streams, per_source;
    _Atomic uint32_t open;
    _Atomic uint64_t refused[METER_REFUSAL_COUNT];
    _Atomic uint64_t delayed; /* bytes that had to wait, once for each turn */
    pthread_mutex_t lock;     /* of the sources */
    struct meter_source *sources;
};

struct meter_limits {
    uint64_t bandwidth; /* bytes per second, each direction */
    uint32_t streams, streams_per_second;
};

void meter_init(struct meter *m);
void meter_done(struct meter *m);
void meter_set(struct meter *m, const struct meter_limits *limits);

/* One more stream of this source, or why not, which is counted. Each METER_OK is followed by one
 * meter_leave. */
enum meter_refusal meter_enter(struct meter *m, const struct addr *source, uint64_t now_ms);
void meter_leave(struct meter *m);
