#include "wire/grpc.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <stdio.h>
#include <string.h>

/* --- messages --------------------------------------------------------------------------------- */

static int read_prefix(struct grpc_reader *r)
{
    if (r->prefix[0] > 1)
        return ERR_PROTO;
    if (r->prefix[0] == 1)
        return ERR_UNSUPPORTED;
    r->length = (uint32_t)r->prefix[1] << 24 | (uint32_t)r->prefix[2] << 16 |
                (uint32_t)r->prefix[3] << 8 | r->prefix[4];
    return r->length > r->max ? ERR_TOO_LARGE : 0;
}

int grpc_read(struct grpc_reader *r, const void *data, size_t len,
              int (*on_message)(void *arg, const uint8_t *msg, size_t len), void *arg)
{
    const uint8_t *at = data, *end = at + len;
    for (;;) {
        while (r->n_prefix < GRPC_PREFIX_SIZE) {
            if (at == end)
                return 0;
            r->prefix[r->n_prefix++] = *at++;
            if (r->n_prefix == GRPC_PREFIX_SIZE)
                TRY(read_prefix(r));
        }
        size_t missing = r->length - r->body.len;
        size_t part = MIN((size_t)(end - at), missing);
        bool is_whole = r->body.len == 0 && part == missing;
        if (!is_whole)
            TRY(buf_append(&r->body, at, part));
        if (part < missing)
            return 0;
        const uint8_t *msg = is_whole ? at : (const uint8_t *)r->body.data;
        at += part;
        r->n_prefix = 0;
        int rc = on_message(arg, msg, r->length);
        buf_done(&r->body);
        if (rc)
            return rc;
    }
}

bool grpc_reader_is_between(const struct grpc_reader *r)
{
    return r->n_prefix == 0;
}

void grpc_reader_done(struct grpc_reader *r)
{
    buf_done(&r->body);
}

void grpc_prefix(size_t len, uint8_t out[GRPC_PREFIX_SIZE])
{
    out[0] = 0;
    out[1] = (uint8_t)(len >> 24);
    out[2] = (uint8_t)(len >> 16);
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
}

/* --- header values ---------------------------------------------------------------------------- */

int grpc_timeout_parse(const char *s, uint64_t *ret_ms)
{
    uint64_t n = 0;
    size_t digits = 0;
    for (; *s >= '0' && *s <= '9'; s++, digits++)
        n = n * 10 + (uint64_t)(*s - '0');
    if (digits == 0 || digits > 8 || s[0] == '\0' || s[1] != '\0')
        return ERR_INVALID;
    switch (*s) {
    case 'H':
        *ret_ms = n * 3600 * 1000;
        return 0;
    case 'M':
        *ret_ms = n * 60 * 1000;
        return 0;
    case 'S':
        *ret_ms = n * 1000;
        return 0;
    case 'm':
        *ret_ms = n;
        return 0;
    case 'u':
        *ret_ms = (n + 999) / 1000;
        return 0;
    case 'n':
        *ret_ms = (n + 999999) / 1000000;
        return 0;
    default:
        return ERR_INVALID;
    }
}

void grpc_timeout_format(uint64_t ms, char out[16])
{
    if (ms < 100000000)
        snprintf(out, 16, "%um", (unsigned)ms);
    else
        snprintf(out, 16, "%uS", (unsigned)MIN(ms / 1000, (uint64_t)99999999));
}

void grpc_message_escape(const char *s, char *out, size_t size)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;
    for (const unsigned char *c = (const unsigned char *)s; *c; c++) {
        if (*c >= ' ' && *c <= '~' && *c != '%') {
            if (n + 2 > size)
                break;
            out[n++] = (char)*c;
        } else {
            if (n + 4 > size)
                break;
            out[n++] = '%';
            out[n++] = hex[*c >> 4];
            out[n++] = hex[*c & 15];
        }
    }
    out[n] = '\0';
}

void grpc_message_unescape(const char *s, char *out, size_t size)
{
    size_t n = 0;
    while (*s && n + 1 < size) {
        int high = *s == '%' ? text_hex_value(s[1]) : -1;
        int low = high >= 0 ? text_hex_value(s[2]) : -1;
        int byte = low >= 0 ? high << 4 | low : 0;
        out[n++] = byte ? (char)byte : *s;
        s += byte ? 3 : 1;
    }
    out[n] = '\0';
}
