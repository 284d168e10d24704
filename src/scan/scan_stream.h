/*
 * The agent's end of a scan: an HTTP/2 stream (extended CONNECT, `:protocol` SCAN_PROTOCOL) on
 * which the request comes as one line of JSON (scan_request.h) and the results go back, a line of
 * JSON each, as they are found:
 *
 *     {"type": "host", "address": "10.0.0.17", "found_by": "tcp/443", "rtt_ms": 0.4, …}
 *     {"type": "progress", "addresses": 1024, "done": 300, "up": 5, …}      twice a second
 *     {"type": "end", "addresses": 1024, "done": 1024, …}                   last, unless cut short
 *
 * What the hub does not read waits here and, beyond a limit, stops the sweep meanwhile. A reset of
 * the stream ends the scan.
 */
#pragma once

#include "base/addr.h"
#include "wire/h2.h"

struct dial_gate;
struct loop;
struct scan_stream;

#define SCAN_PROTOCOL     "warren-scan"
#define SCAN_STREAMS_MAX  4            /* at once, of one agent */
#define SCAN_LINE_MAX     (256u << 10) /* bytes of a line of results */
#define SCAN_PORTS_LISTED 4096         /* open ports of one host that are named */

/* Embedded by its owner, zero-initialised; empty before it goes away. */
struct scan_set {
    struct scan_stream *head;
    size_t n;
};
/* Stops them at once: gate and check are not used any more. on_end follows, from the loop. */
void scan_set_abort(struct scan_set *set);

struct scan_stream_params {
    struct loop *loop;
    struct dial_gate *gate;
    int (*check)(void *arg, const struct addr *a); /* the owner's ceiling */
    void *check_arg;
    struct scan_set *set;
    void (*on_end)(void *arg); /* last call, once, later */
    void *arg;
};

/* Answers the request 200 and begins. */
void scan_stream_accept(struct h2_stream *s, const struct scan_stream_params *p);
