/*
 * SYNs that wait to be dialled. A dial costs a hundred times as much as any other packet: if each
 * SYN were dialled as it is read, a flood of them would leave no time to read what belongs to open
 * connections, and the device's queue would drop that.
 *
 * Targets (address and port, by hash) have their turns one after another. Who is one too many has
 * its newest SYN dropped, as a full queue would: its kernel sends it again.
 */
#pragma once

#include "mount/packet.h"

#define SYN_QUEUE_CLASSES 64
#define SYN_QUEUE_MAX     4096
#define SYN_QUOTE         80 /* bytes of the packet that are kept with it */

struct syn_waiting {
    struct packet packet; /* its `ip` is `quote`; without payload */
    uint8_t quote[SYN_QUOTE];
    struct syn_waiting *prev, *next;
};

/* Zero-initialised is valid and empty. */
struct syn_queue {
    struct syn_waiting *classes[SYN_QUEUE_CLASSES];
    uint16_t counts[SYN_QUEUE_CLASSES];
    size_t n, turn;
};

void syn_queue_put(struct syn_queue *q, const struct packet *syn);
/* The next one, which is the caller's to free (mem_free); NULL: none. */
struct syn_waiting *syn_queue_take(struct syn_queue *q);
void syn_queue_done(struct syn_queue *q);
