/*
 * Capsules (RFC 9297 section 3.2) as connect-udp uses them (RFC 9298 section 5): UDP datagrams in a
 * byte stream. No I/O.
 *
 *     type (varint) · length (varint) · value
 *     DATAGRAM 0x00: context id (varint, 0) · UDP payload
 *     DATAGRAM 0x00: context id (varint, 0x2777726c) · TTL (1 byte) · TOS (1 byte) · UDP payload
 *
 * Types of our own, which others skip as the RFC demands, tell what a byte stream alone cannot:
 *
 *     ERROR 0x2777726e: a Proxy-Status value ("warren; error=connection_refused; icmp=\"3.3
 *                       10.0.0.1\""): a datagram came back as an ICMP error. The flow goes on, as a
 *                       UDP socket does.
 *     LOSS  0x2777726f: a varint: how many datagrams the sender of this capsule had to drop so far.
 *     NOTE  0x27777282: how far a mount has come, which lets the agent read ahead, and
 *     AHEAD 0x27777283: answers that it has read so (both: wire/read_ahead.h).
 *
 * Skipped: unknown types, and datagrams of unknown contexts, of any length. Refused: a datagram
 * without a context, or longer than UDP can carry; errors and losses that are malformed.
 */
#pragma once

#include "base/buf.h"
#include "wire/icmp_cause.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAPSULE_PAYLOAD_MAX 65527 /* over IPv6; over IPv4 20 less */
#define CAPSULE_HEAD_MAX    11    /* in front of such a payload */
#define CAPSULE_ERROR_MAX   128   /* bytes of a Proxy-Status value */

/* How a datagram is to be sent that is not like others; all zero: as usual. */
struct capsule_mark {
    uint8_t ttl; /* 0: as usual */
    uint8_t tos;
};

enum capsule_kind { CAPSULE_DATAGRAM, CAPSULE_ERROR, CAPSULE_LOSS, CAPSULE_NOTE, CAPSULE_AHEAD };

struct capsule {
    enum capsule_kind kind;
    const uint8_t *data; /* DATAGRAM: the UDP payload; NOTE, AHEAD: the value */
    size_t len;
    bool is_kept; /* `data` is the reader's own, valid until its next call; else in the input */
    struct capsule_mark mark; /* DATAGRAM */
    int error;                /* ERROR: an error code (base/error.h) */
    struct icmp_cause cause;  /* ERROR */
    uint64_t lost;            /* LOSS */
};

/* Cuts a byte stream into capsules. Zero-initialised; memory: at most one payload. */
struct capsule_reader {
    uint8_t head[32];
    uint8_t n_head;
    uint8_t state, kind;
    struct capsule_mark mark;
    uint64_t left; /* of a value that is kept or skipped */
    struct buf kept;
    const char *reason; /* of the last refusal, a static text */
};

/* Takes the next capsule of interest out of the input, moving *data and *len on. 1: there is one;
 * 0: the input is used up; ERR_PROTO, ERR_TOO_LARGE: refused, see `reason`, there is no going on.
 */
int capsule_next(struct capsule_reader *r, const uint8_t **data, size_t *len, struct capsule *ret);
bool capsule_is_between(const struct capsule_reader *r); /* where a stream may end */
void capsule_reader_done(struct capsule_reader *r);

/* What goes in front of `len` payload bytes (at most CAPSULE_PAYLOAD_MAX); returns its size. */
size_t capsule_datagram_head(uint8_t out[CAPSULE_HEAD_MAX], size_t len,
                             const struct capsule_mark *mark);

/* Whole capsules; return their size. */
#define CAPSULE_NOTE_MAX (8 + CAPSULE_ERROR_MAX)
size_t capsule_error(uint8_t out[CAPSULE_NOTE_MAX], int error, const struct icmp_cause *cause);
size_t capsule_loss(uint8_t out[CAPSULE_NOTE_MAX], uint64_t lost);

/* What goes in front of the value of a NOTE or AHEAD, of at least one byte. */
#define CAPSULE_AHEAD_HEAD_MAX 8
size_t capsule_ahead_head(uint8_t out[CAPSULE_AHEAD_HEAD_MAX], enum capsule_kind kind, size_t len);

/* The size of the capsule that begins at `data`, which one of the functions above has written. */
size_t capsule_size(const uint8_t *data);
