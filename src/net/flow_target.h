/*
 * The target's end of a flow: a connected UDP socket, made when a connect-udp request comes.
 */
#pragma once

#include "net/dial_gate.h"
#include "net/flow.h"
#include "net/flow_ahead.h"

struct flow_target_params {
    struct host_port target;
    uint32_t deadline_ms; /* to resolve the name; 0: 10 s */
    /* The owner's ceiling, asked for each resolved address: 0 or ERR_DENIED. May be NULL. */
    int (*check)(void *arg, const struct addr *a);
    void *check_arg;
    struct dial_gate *gate;       /* asked before a first datagram goes out; may be NULL */
    struct flow_devices *devices; /* NULL: nothing is read ahead */
    struct flow_set *set;
    void (*on_end)(void *arg, const struct flow_result *res); /* last call, once, later */
    void *arg;
};

/* Answers the request 200, or with the failure's status and Proxy-Status. */
void flow_target_accept(struct h2_stream *s, const struct flow_target_params *p);
