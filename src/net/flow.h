/*
 * A flow: the datagrams between one client and one target, in an HTTP/2 stream of their own
 * (connect-udp, RFC 9298: extended CONNECT, DATAGRAM capsules).
 *
 *     client ─ flow_port ─ flow_open ═══ stream ═══ flow_accept ─ flow_target ─ target
 *                       (hub, h2 client)         (agent, h2 server)
 *
 * A flow is one end of the stream. Whoever owns it gives datagrams by flow_send, gets them by
 * on_datagram. What the connection does not take waits in the flow, the oldest going first when
 * there is too much, and is counted; so no datagram is queued without bound, and none waits for
 * another flow's.
 *
 * Errors do not end a flow, as they do not end a UDP socket: an ICMP error that a target answers
 * with travels as a capsule (wire/capsule.h) to on_error. Nor does a lost datagram; the accepting
 * end's losses are told to the other, so that the hub counts both directions.
 *
 * A flow belongs to a flow_set (a tunnel's flows on this loop). Thread: the loop of the h2conn.
 */
#pragma once

#include "base/addr.h"
#include "net/h2conn.h"
#include "wire/capsule.h"

#include <stdatomic.h>

struct flow;

#define FLOW_QUEUE_BYTES     (256u << 10) /* waiting in one flow */
#define FLOW_SET_QUEUE_BYTES (16u << 20)  /* in all of a set */
#define FLOW_CONGESTED_BYTES (64u << 10)  /* ... from which on nothing should be read ahead */

/* Embedded by its owner, zero-initialised; must be empty before it goes away. The counters are
 * live, only ever rise (but open) and may be read from any thread. */
struct flow_set {
    struct flow *head;
    size_t queued; /* bytes; the loop's */
    _Atomic uint32_t open;
    _Atomic uint64_t total;
    _Atomic uint64_t bytes_read, datagrams_read;       /* flow_send: towards streams */
    _Atomic uint64_t bytes_written, datagrams_written; /* on_datagram: from streams */
    _Atomic uint64_t dropped;                          /* datagrams, at both ends of the stream */
};
void flow_set_abort(struct flow_set *set, int err);   /* on_end follows for each, from the loop */
void flow_set_lost(struct flow_set *set, uint64_t n); /* counts datagrams dropped elsewhere */

enum flow_end {
    FLOW_END_FINISHED,     /* the other end of the stream ended it */
    FLOW_END_IDLE,         /* flow_finish */
    FLOW_END_NOT_OPENED,   /* the target was not reached: err says why */
    FLOW_END_STREAM_RESET, /* the other end reset it, or what came from there was malformed */
    FLOW_END_LOST,         /* the HTTP/2 connection was lost */
    FLOW_END_ABORTED,      /* flow_abort, flow_set_abort */
    FLOW_END_COUNT
};

struct flow_result {
    enum flow_end end;
    int err; /* 0 if finished or idle */
};

/* What a flow has carried so far. */
struct flow_traffic {
    int64_t opened; /* wall ms */
    uint64_t bytes_read, bytes_written;
    uint64_t datagrams_written;
    int error; /* the last that the target answered with and no datagram followed; 0: none */
};

struct flow_ops {
    void (*on_open)(void *arg, struct flow *f); /* the target's socket is there; may be NULL */
    /* The bytes stay valid until the end of the input batch, or of the call if `is_kept`. */
    void (*on_datagram)(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept);
    /* ERR_REFUSED...; flow_cause has more. May be NULL. */
    void (*on_error)(void *arg, struct flow *f, int err);
    /* A capsule of reading ahead (wire/read_ahead.h), valid during the call; may be NULL. */
    void (*on_ahead)(void *arg, struct flow *f, enum capsule_kind kind, const uint8_t *value,
                     size_t len);
    /* Last call, exactly once, never from within flow_open; then the flow is freed. */
    void (*on_end)(void *arg, struct flow *f, const struct flow_result *res);
};

struct flow_open_params {
    const struct host_port *target;
    const char *authority;           /* of the proxy that is asked */
    const struct h2_header *headers; /* more request headers */
    size_t n_headers;
    struct flow_set *set;
    const struct flow_ops *ops;
    void *arg;
};

/* Asks the server behind `hc` for a flow; datagrams may be sent at once. ERR_UNSUPPORTED: it does
 * not know extended CONNECT; ERR_LIMIT, ERR_UNAVAILABLE as of h2_request. */
int flow_open(struct h2conn *hc, const struct flow_open_params *p, struct flow **ret);

/* The server's end. Datagrams may come before flow_answer, which is told 0 (200 goes out), or why
 * not (status and Proxy-Status go out, on_end follows). Always later than flow_accept. */
struct flow *flow_accept(struct h2_stream *s, struct flow_set *set, const struct flow_ops *ops,
                         void *arg);
void flow_answer(struct flow *f, int err, const struct icmp_cause *cause, const struct addr *peer);

void flow_send(struct flow *f, const uint8_t *data, size_t len); /* copied */
/* ... to be sent to the target with this TTL and TOS. */
void flow_send_marked(struct flow *f, const uint8_t *data, size_t len,
                      const struct capsule_mark *mark);
/* To the other end's on_error; `cause` may be NULL. */
void flow_tell_error(struct flow *f, int err, const struct icmp_cause *cause);

/* From within on_datagram: how it is to be sent; all zero: as usual. */
const struct capsule_mark *flow_mark(const struct flow *f);
/* From within on_error, and on_end of one that was not opened: the ICMP error behind it; version 0:
 * there was none. */
const struct icmp_cause *flow_cause(const struct flow *f);

/* To the other end's on_ahead. */
void flow_send_ahead(struct flow *f, enum capsule_kind kind, const uint8_t *value, size_t len);
bool flow_is_congested(const struct flow *f); /* more waits than is on its way soon */

/* on_end follows, from the loop. */
void flow_finish(struct flow *f); /* orderly; it was idle */
void flow_abort(struct flow *f, int err);

void flow_traffic(const struct flow *f, struct flow_traffic *ret);
const struct addr *flow_peer(const struct flow *f); /* as flow_answer was told; len 0: not yet */
struct h2conn *flow_h2conn(const struct flow *f);
void *flow_arg(const struct flow *f);
struct flow *flow_next(const struct flow *f); /* in its set */
