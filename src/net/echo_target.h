/*
 * The agent's end of an echo stream: a flow (net/flow.h) whose datagrams are records of
 * wire/echo.h, each an echo request to a target of its own. Replies and ICMP errors go back as they
 * come, with TTL, type, code and sender; where nothing comes, nothing is said.
 *
 * Bounded: streams at once, echoes a second of each, and echoes under way or waiting for their turn
 * (net/dial_gate.h), of which the oldest is forgotten.
 */
#pragma once

#include "net/dial_gate.h"
#include "net/flow.h"

#define ECHO_STREAMS_MAX 64    /* of one thread */
#define ECHO_PER_SECOND  20000 /* of one stream; what is beyond is lost, and counted */
#define ECHO_PENDING     8192
#define ECHO_WAITING     1024         /* of one stream, for their turn */
#define ECHO_WAITING_MAX (256u << 10) /* ... bytes */

struct echo_target_params {
    /* The owner's ceiling, asked for each target, whose port is 0: 0 or ERR_DENIED. */
    int (*check)(void *arg, const struct addr *a);
    void *check_arg;
    struct dial_gate *gate; /* may be NULL */
    struct flow_set *set;
    void (*on_end)(void *arg, const struct flow_result *res); /* last call, once, later */
    void *arg;
};

/* Answers the request 200, or with a status and Proxy-Status: prohibited if this process may not
 * send echoes at all (net/ping.h). */
void echo_target_accept(struct h2_stream *s, const struct echo_target_params *p);
