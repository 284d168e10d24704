/*
 * Reading ahead at the agent (wire/walker.h): a second socket to a flow's device, so that answers
 * to us are never taken for answers to the program.
 *
 * Each device is asked one thing at a time, whatever number of flows lead to it; who waits for a
 * device has its turn in order. What a device taught us (walker_lesson) is kept for a while.
 * Bounded: flows, sockets, and devices
 * known. Thread: one loop.
 */
#pragma once

#include "net/flow.h"

struct flow_devices;
struct flow_ahead;

/* For all flows of an agent, the last of which may outlive flow_devices_free. */
struct flow_devices *flow_devices_new(struct loop *l);
void flow_devices_free(struct flow_devices *d);

struct flow_devices_stats {
    uint64_t asked, answered; /* requests that no program has sent, and their answers */
    uint64_t kept;            /* requests of programs that did not go to the device */
};
void flow_devices_stats(const struct flow_devices *d, struct flow_devices_stats *ret);

/* `send` sends a program's request to the device after all. NULL: there are too many. */
struct flow_ahead *flow_ahead_new(struct flow_devices *d, struct flow *f,
                                  void (*send)(void *arg, const uint8_t *data, size_t len),
                                  void *arg);
void flow_ahead_free(struct flow_ahead *a);

void flow_ahead_connected(struct flow_ahead *a, const struct addr *peer);
void flow_ahead_note(struct flow_ahead *a, const uint8_t *value, size_t len);
/* true: it is kept; else it is to be sent. */
bool flow_ahead_request(struct flow_ahead *a, const uint8_t *data, size_t len);
void flow_ahead_response(struct flow_ahead *a, const uint8_t *data, size_t len);
