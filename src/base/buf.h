/*
 * A growable byte buffer with an optional ceiling. Zero-initialised is valid and empty. The bytes
 * are always followed by a NUL that is not counted, so `buf.data` of text is a C string once
 * anything was written (use buf_text() when it may be empty).
 */
#pragma once

#include "base/macro.h"

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t limit; /* bytes; 0: none */
};

/* ERR_TOO_LARGE when the limit would be passed; nothing is written then. */
int buf_append(struct buf *b, const void *data, size_t len);
int buf_puts(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);

/* Room for `len` more bytes at data + len; the caller then adds to `len`. */
int buf_reserve(struct buf *b, size_t len);
void buf_consume(struct buf *b, size_t len); /* drops bytes from the front */
void buf_clear(struct buf *b);               /* keeps the memory */
void buf_done(struct buf *b);
const char *buf_text(const struct buf *b);
char *buf_take(struct buf *b); /* the heap string (never NULL); the buffer is empty afterwards */

static inline void buf_done_cleanup(struct buf *b)
{
    buf_done(b);
}
