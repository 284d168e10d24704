/*
 * One direction of an emulated wire, with no I/O: packets go in with the time of their arrival and
 * come out when they are due. Their order never changes.
 *
 * A packet waits for those before it (`rate_bit`), is dropped when that would take longer than the
 * queue is long, may be lost on the wire (having used its time there), and travels for `delay_ns`.
 * All times are nanoseconds of one monotonic clock that the caller reads.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LANE_MTU      1500
#define LANE_OVERHEAD 38 /* Ethernet around an IP packet: header, FCS, preamble, gap */
#define LANE_SLOTS    (1u << 16)
#define LANE_NEVER    UINT64_MAX

struct lane_settings {
    uint64_t delay_ns;
    double loss;          /* probability, 0 to 1 */
    uint64_t rate_bit;    /* a second, with LANE_OVERHEAD; 0: no limit */
    uint64_t queue_ns;    /* what may wait for its turn, in time ... */
    uint64_t queue_bytes; /* ... and in bytes; 0: no such limit. Without rate, nothing waits. */
    bool is_up;           /* when down, what arrives or is due vanishes */
};

struct lane_stats {
    uint64_t packets, bytes; /* delivered */
    uint64_t lost;           /* by chance */
    uint64_t dropped;        /* the queue was full */
    uint64_t cut;            /* the wire was down */
};

struct lane {
    struct lane_settings settings;
    struct lane_stats stats;
    struct lane_slot *slots; /* ring of LANE_SLOTS; pages are used when packets are */
    uint32_t head, count;
    uint64_t free_ns; /* when the last packet will have left the queue */
    uint64_t last_ns; /* when the last packet is due */
    uint64_t random;
};

/* Returns false without memory. The lane is up, without delay, loss and rate. */
bool lane_init(struct lane *lane, uint64_t seed);
void lane_seed(struct lane *lane, uint64_t seed);

/* Where the next packet may be written, LANE_MTU bytes; valid until lane_put(). */
void *lane_space(struct lane *lane);
/* The packet in lane_space() has arrived. */
void lane_put(struct lane *lane, size_t len, uint64_t now_ns);

/* When the next packet is due, or LANE_NEVER. */
uint64_t lane_due_ns(const struct lane *lane);
/* The next packet if it is due by `now_ns`, else NULL; valid until the next lane_space(). */
const void *lane_take(struct lane *lane, uint64_t now_ns, size_t *ret_len);
