/*
 * Asynchronous dialling: resolves the name (every time), races the addresses, and classifies what
 * went wrong.
 *
 * The first attempts start 250 ms apart, families alternating (RFC 8305). A persistent dial (an
 * agent looking for its hub) goes on: a fresh attempt at least each second over all addresses,
 * re-resolving, all raced until one connects or the deadline ends it, so a network that comes back
 * is used within a second. One refusal by every address ends either kind at once.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "loop/loop.h"
#include "net/conn.h"
#include "net/tls.h"
#include "wire/icmp_cause.h"

struct dial;

struct dial_result {
    /* 0, or ERR_REFUSED, ERR_TIMEOUT, ERR_UNREACHABLE, ERR_DNS, ERR_DENIED (check), ERR_LIMIT (out
     * of descriptors), ERR_TLS, ERR_RESET, ERR_CLOSED... */
    int err;
    int fd; /* plain dial: connected, non-blocking, TCP_NODELAY; the callee's, or in params' io */
    struct conn *conn; /* TLS dial: handshake done, paused, not started; the callee's */
    struct addr peer;
    struct icmp_cause cause; /* of `err`, as far as it was asked for (wants_cause) */
    bool is_answered;        /* the other side said something (connected, refused): back off */
    struct diag diag;
};

struct dial_params {
    struct host_port target;
    uint32_t deadline_ms; /* 0: 10 s; resolving, connecting, handshake together */
    bool is_persistent;
    /* Also tried when the resolver is slow or fails: where the last dial succeeded. len 0: none. */
    struct addr known;
    /* Asked for each resolved address; non-zero: not dialled. ERR_DENIED if all were refused so.
     * May be NULL. */
    int (*check)(void *arg, const struct addr *a);
    /* The last packet of the handshake is held back for a while: who closes with a reset at once
     * has learnt that the port answers, and the program behind it never hears of it. */
    bool is_probe;
    bool wants_cause;       /* which ICMP error it was, where it was one */
    uint8_t ttl;            /* of the packets of the attempt; 0: as usual */
    struct tls_client *tls; /* NULL: plain */
    const char *ask_for;    /* see conn_set_server_name; outlives the dial. NULL: its own name */
    bool is_datagram;       /* a connected UDP socket; plain */
    /* Not NULL: a plain connection is watched here, with this on_event, when on_done is called: the
     * descriptor stays in the loop, where it was. Untouched by a failure. */
    struct io *io;
    void (*on_event)(struct io *io);
    void (*on_done)(void *arg, const struct dial_result *r); /* once, later; not after cancel */
    void *arg;
};

struct dial *dial_start(struct loop *l, const struct dial_params *p);
void dial_cancel(struct dial *d); /* not from or after on_done */
