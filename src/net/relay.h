/*
 * The relay: a TCP socket and an HTTP/2 stream (CONNECT, RFC 9113 section 8.5) joined, bytes both
 * ways, with back-pressure, half-close and reset carried faithfully.
 *
 *     client ── fd ─ relay_open ═══ stream ═══ relay_accept ─ fd ── target
 *                   (hub, h2 client)        (agent, h2 server)
 *
 * Memory: nothing is read from the socket that the windows and the output buffer do not take, so
 * that direction owns no buffer; the other keeps only what the socket refuses, at most the stream's
 * window. FIN <-> END_STREAM; RST <-> RST_STREAM (CANCEL from a client, CONNECT_ERROR from a
 * target).
 *
 * A relay belongs to a relay_set (a tunnel's relays on this loop), which counts, and through which
 * all of them can be cut at once. Thread: the loop of the h2conn, except where stated.
 */
#pragma once

#include "base/addr.h"
#include "net/h2conn.h"
#include "wire/icmp_cause.h"

#include <stdatomic.h>

struct dial_gate;
struct pacer;
struct relay;

/* Embedded by its owner, zero-initialised; must be empty before it goes away. The counters are
 * live, only ever rise (but open) and may be read from any thread. */
struct relay_set {
    struct relay *head;
    _Atomic uint32_t open;
    _Atomic uint64_t total;
    _Atomic uint64_t bytes_read;    /* from sockets, towards streams */
    _Atomic uint64_t bytes_written; /* from streams, to sockets */
    /* Hold the two directions to a bandwidth; NULL: no limit. Outlive the set's relays. */
    struct pacer *read_pace, *write_pace;
};
/* Cuts every relay (on_end follows for each, from the loop): sockets are reset, streams too. */
void relay_set_abort(struct relay_set *set, int err);

enum relay_end {
    RELAY_END_FINISHED,     /* both directions ended properly */
    RELAY_END_NOT_OPENED,   /* the target was not reached: err says why */
    RELAY_END_SOCKET_RESET, /* our socket's peer reset, or vanished */
    RELAY_END_STREAM_RESET, /* the far side of the stream did */
    RELAY_END_LOST,         /* the HTTP/2 connection was lost */
    RELAY_END_ABORTED,      /* relay_abort, relay_set_abort */
    RELAY_END_COUNT
};
const char *relay_end_name(enum relay_end e); /* "finished", "socket_reset"... */

struct relay_result {
    enum relay_end end;
    int err;                 /* 0 if finished */
    struct icmp_cause cause; /* not opened: the ICMP error behind it; version 0: there was none */
    uint64_t bytes_read;     /* from our socket */
    uint64_t bytes_written;  /* to our socket */
    uint64_t duration_ms;
    int fd; /* relay_open_params.keeps_fd and not opened: the socket, the callee's; else -1 */
};

#define RELAY_BULK_BYTES  (128u << 10)
#define RELAY_BULK_MS     2000
#define RELAY_BUSY_PIECES 64

struct relay_ops {
    void (*on_open)(void *arg, struct relay *r); /* the target is reached; may be NULL */
    /* It has moved RELAY_BULK_BYTES more within RELAY_BULK_MS. From within the output or input of
     * its connection; relay_move is allowed. May be NULL. */
    void (*on_bulk)(void *arg, struct relay *r);
    /* The same of RELAY_BUSY_PIECES more pieces, however small. May be NULL. */
    void (*on_busy)(void *arg, struct relay *r);
    /* Last call, exactly once, never from within relay_open; then the relay is freed. */
    void (*on_end)(void *arg, struct relay *r, const struct relay_result *res);
};

struct relay_open_params {
    struct addr peer;                /* of the descriptor */
    const char *authority;           /* "host:port" of the target */
    const struct h2_header *headers; /* more request headers */
    size_t n_headers;
    struct relay_set *set;
    const struct relay_ops *ops;
    void *arg;
    /* Not NULL: of an extended CONNECT (RFC 8441), such as connect-udp; the relay does not look
     * into the bytes. */
    const char *protocol, *path;
    bool is_local;           /* one end of a socketpair: see relay_other_ended */
    struct relay_pair *pair; /* in place of a socket, which is -1 then; an end of it is taken */
    const void *prefix; /* sent before the socket's bytes, not counted as theirs; may be NULL */
    uint16_t prefix_len;
    /* A target that was not reached leaves the socket as it is: see relay_result.fd; a relay_open
     * that fails does too. */
    bool keeps_fd;
    /* Nothing is read from the socket before the target is reached: one that is kept has all its
     * bytes. Costs a round trip. */
    bool waits;
};

/* Hub: asks the agent behind `hc` to connect, and relays `fd` (taken, also on failure, when it is
 * reset; its options are the caller's affair). ERR_LIMIT, ERR_UNAVAILABLE as of h2_request,
 * ERR_UNSUPPORTED as of flow_open. */
int relay_open(struct h2conn *hc, int fd, const struct relay_open_params *p, struct relay **ret);

/* A local socket cannot say "reset": who closes its other end tells how that end went, always. An
 * end-of-file of a closed one counts only then: 0: it was the proper end; else the stream is reset.
 */
void relay_other_ended(struct relay *r, int err);

/*
 * Two relays of one loop that are each other's client or target, in place of a socketpair between
 * them. What the stream of one receives is offered to the stream of the other at once, from where
 * it was decrypted to; only what that does not take is copied and kept, within the window of the
 * stream that it came by, which opens as it leaves by the other. How one ends the other is told
 * directly, so that relay_other_ended says nothing here.
 *
 *     stream ═══ relay_begin_pair ─ pair ─ relay_open ═══ stream
 */
struct relay_pair;
/* Any thread. Has two ends; each goes to a relay or is dropped, on the loop of both. */
struct relay_pair *relay_pair_new(void);
void relay_pair_drop(struct relay_pair *p); /* to the other end: a reset */

/* A request header: the TTL of what is sent to connect, where it is not the usual one, as
 * traceroute over TCP wants it. */
#define RELAY_TTL "warren-ttl"
uint8_t relay_read_ttl(const struct h2_headers *h); /* 0: the usual */

/* Agent: relays by the tags that hubs gave their streams. Embedded by its owner, zero-initialised;
 * a relay is in it until it is cut, ends, or has taken a shortcut. */
#define RELAY_TAG_SIZE 64
#define RELAY_SHORTCUT "warren-shortcut" /* the request header that bears one */
struct relay_tag;
struct relay_tags {
    struct relay_tag *all;
};

struct relay_accept_params {
    struct host_port target;
    uint32_t deadline_ms; /* to resolve and connect; 0: 10 s */
    uint8_t ttl;          /* of what is sent to connect; 0: as usual */
    bool wants_cause;     /* a failure is told with its ICMP error; two system calls a dial */
    /* The owner's ceiling, asked for each resolved address: 0 or ERR_DENIED. May be NULL. */
    int (*check)(void *arg, const struct addr *a);
    void *check_arg;
    struct dial_gate *gate; /* bounds dials to addresses; outlives the relay. NULL: no bounds */
    const char *tag;        /* copied; NULL: it has none */
    struct relay_tags *tags;
    struct relay_set *set;
    const struct relay_ops *ops;
    void *arg;
};

/* Agent: dials the target of a CONNECT request, answers 200 or the failure's status and
 * Proxy-Status, and relays. */
struct relay *relay_accept(struct h2_stream *s, const struct relay_accept_params *p);
/* A proxy: takes a request that will be answered later, by one of the two below unless on_end comes
 * first (the client has gone). Until then its bytes wait, at most a window of them. */
struct relay *relay_await(struct h2_stream *s, struct relay_set *set, const struct relay_ops *ops,
                          void *arg);
/* Relays a local socket (taken, also on failure), into which early bytes go at once; then, when the
 * target is reached, answers 200. relay_other_ended counts here too. */
int relay_begin(struct relay *r, int fd);
void relay_begin_pair(struct relay *r, struct relay_pair *p);                   /* takes one end */
void relay_confirm(struct relay *r, const struct h2_header *headers, size_t n); /* beside :status */
/* Answers with the error's status and Proxy-Status, or with these headers; on_end follows. */
void relay_fail(struct relay *r, int err, const struct h2_header *headers, size_t n);

/* Agent: answers a request with an error's status and Proxy-Status (stale lease, limit...). */
void relay_refuse(struct h2_stream *s, int err);
void relay_refuse_because(struct h2_stream *s, int err, const struct icmp_cause *cause);

/*
 * Hub: lets an open relay go on over another connection of the same agent, on the same loop; no
 * byte is lost or repeated. `from`: the number by which the agent knows the present connection.
 * ERR_UNAVAILABLE: not possible now, as while it moves already or an end has been seen.
 */
int relay_move(struct relay *r, struct h2conn *to, uint32_t from);
/* Agent: whether a request is a move, and from where; then whether the move is accepted (answered
 * here) or not (ERR_CONFLICT, the caller refuses). */
bool relay_is_move(const struct h2_headers *h, uint32_t *ret_from, uint32_t *ret_stream);
int relay_accept_move(struct h2_stream *s, struct h2conn *from, uint32_t stream);
struct h2conn *relay_conn(const struct relay *r); /* where it goes to if it moves */

/*
 * A shortcut: an open relay whose stream passes through another hub goes on over a connection to
 * the agent itself. The agent knows it by its tag. The stream that it had stays open without bytes,
 * as its anchor: for the hub between, it is still there, and what cuts it there cuts the relay.
 *
 * Hub: errors as of relay_move; a shortcut that the agent refuses changes nothing.
 */
int relay_take_shortcut(struct relay *r, struct h2conn *to, const char *tag);
bool relay_is_on_shortcut(const struct relay *r); /* or on its way there */
/* Agent: a request on a connection for shortcuts: answered here, or ERR_CONFLICT, ERR_PROTO (the
 * caller refuses). */
int relay_accept_shortcut(struct h2_stream *s, const struct relay_tags *tags,
                          const struct h2_headers *h);
const char *relay_tag(const struct relay *r); /* NULL: it has none, or not any more */

/* A response header of another hub: "1/2", which of how many workers has the agent's connections.
 * Streams that come by one which ends there need not change threads. */
#define RELAY_WORKER "warren-worker"
struct relay_worker {
    uint16_t number, count; /* count 0: not known */
};
struct relay_worker relay_far_worker(const struct relay *r); /* once it is open */

void relay_abort(struct relay *r, int err); /* on_end follows from the loop */

uint64_t relay_bytes_read(const struct relay *r);
uint64_t relay_bytes_written(const struct relay *r);
const struct addr *relay_peer(const struct relay *r); /* of our socket; agent: once open */
int relay_fd(const struct relay *r); /* of our socket, for what precedes the stream's bytes */
void *relay_arg(const struct relay *r);
struct relay *relay_next(const struct relay *r); /* in its set */
