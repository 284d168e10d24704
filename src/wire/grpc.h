/*
 * gRPC's message framing and header values (grpc/doc/PROTOCOL-HTTP2.md), without I/O: each message
 * is one byte "compressed", four bytes length, big-endian, and the bytes.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRPC_PREFIX_SIZE 5

/* Cuts a byte stream into messages. Zero-initialise and set `max`. */
struct grpc_reader {
    size_t max; /* longest message, bytes */
    uint8_t prefix[GRPC_PREFIX_SIZE];
    uint8_t n_prefix;
    uint32_t length;
    struct buf body; /* of a message that came in pieces */
};

/* Calls `on_message` for each message that is complete; its non-zero result ends the reading and is
 * the result. ERR_TOO_LARGE for a message above `max`, before any of it is stored; ERR_UNSUPPORTED
 * for a compressed one; ERR_PROTO for a bad flag. */
int grpc_read(struct grpc_reader *r, const void *data, size_t len,
              int (*on_message)(void *arg, const uint8_t *msg, size_t len), void *arg);
bool grpc_reader_is_between(const struct grpc_reader *r); /* no half-read message */
void grpc_reader_done(struct grpc_reader *r);

void grpc_prefix(size_t len, uint8_t out[GRPC_PREFIX_SIZE]);

/* grpc-timeout: up to eight digits and one of H M S m u n. Rounded up to milliseconds. */
int grpc_timeout_parse(const char *s, uint64_t *ret_ms);
void grpc_timeout_format(uint64_t ms, char out[16]);

/* grpc-message: percent-encoded UTF-8. Bad escapes are kept as they are (the spec asks for it). */
void grpc_message_escape(const char *s, char *out, size_t size);
void grpc_message_unescape(const char *s, char *out, size_t size);
