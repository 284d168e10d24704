#include "wire/capsule.h"

#include "base/error.h"
#include "base/macro.h"
#include "wire/proxy_status.h"
#include "wire/varint.h"

#include <assert.h>
#include <string.h>

#define TYPE_DATAGRAM 0x00
#define TYPE_ERROR    0x2777726e
#define TYPE_LOSS     0x2777726f
#define TYPE_NOTE     0x27777282
#define TYPE_AHEAD    0x27777283

/* Contexts of datagrams: as the RFC has them, and with a struct capsule_mark before the payload.
 * The latter is far from where clients begin to number their own. */
#define PLAIN  0
#define MARKED 0x2777726c

enum state { AT_HEAD, IN_VALUE, IN_SKIPPED };

/* ---- reading ---- */

/* What stands before a value, and what to do with it. */
struct head {
    enum state then;
    enum capsule_kind kind;
    struct capsule_mark mark;
    uint64_t length; /* of the value, without a datagram's context and mark */
};

static int refuse(struct capsule_reader *r, int err, const char *reason)
{
    r->reason = reason;
    return err;
}

static int read_datagram_head(struct capsule_reader *r, const uint8_t *p, size_t n, struct head *h)
{
    uint64_t context;
    if (h->length == 0)
        return refuse(r, ERR_PROTO, "a datagram without a context");
    size_t size = varint_read(p, MIN((uint64_t)n, h->length), &context);
    if (size == 0 && n >= h->length)
        return refuse(r, ERR_PROTO, "a datagram whose context is cut off");
    if (size == 0)
        return 0;
    h->then = context == PLAIN || context == MARKED ? IN_VALUE : IN_SKIPPED;
    if (context == MARKED && h->length < size + 2)
        return refuse(r, ERR_PROTO, "a datagram whose mark is cut off");
    if (context == MARKED && n < size + 2)
        return 0;
    if (context == MARKED) {
        h->mark = (struct capsule_mark){p[size], p[size + 1]};
        size += 2;
    }
    h->length -= size;
    if (h->then == IN_VALUE && h->length > CAPSULE_PAYLOAD_MAX)
        return refuse(r, ERR_TOO_LARGE, "a datagram longer than UDP can carry");
    return (int)size;
}

static int check_note(struct capsule_reader *r, struct head *h, uint64_t max)
{
    h->then = IN_VALUE;
    return h->length == 0 || h->length > max
               ? refuse(r, ERR_PROTO, "an error or loss capsule of a wrong length")
               : 0;
}

/* Bytes used; 0: more are needed; negative: refused. */
static int read_head(struct capsule_reader *r, const uint8_t *p, size_t n, struct head *ret)
{
    uint64_t type;
    struct head h = {.then = IN_SKIPPED};
    size_t at = varint_read(p, n, &type);
    size_t used = at ? varint_read(p + at, n - at, &h.length) : 0;
    if (used == 0)
        return 0;
    at += used;
    if (type == TYPE_DATAGRAM) {
        int context = TRY(read_datagram_head(r, p + at, n - at, &h));
        if (context == 0)
            return 0;
        at += (size_t)context;
    } else if (type == TYPE_ERROR) {
        h.kind = CAPSULE_ERROR;
        TRY(check_note(r, &h, CAPSULE_ERROR_MAX));
    } else if (type == TYPE_LOSS) {
        h.kind = CAPSULE_LOSS;
        TRY(check_note(r, &h, VARINT_SIZE));
    } else if (type == TYPE_NOTE || type == TYPE_AHEAD) {
        h.kind = type == TYPE_NOTE ? CAPSULE_NOTE : CAPSULE_AHEAD;
        h.then = IN_VALUE;
        if (h.length == 0 || h.length > CAPSULE_PAYLOAD_MAX)
            return refuse(r, ERR_PROTO, "a read-ahead capsule of a wrong length");
    }
    *ret = h;
    return (int)at;
}

static int deliver(struct capsule_reader *r, const uint8_t *value, size_t len, bool is_kept,
                   struct capsule *ret)
{
    char text[CAPSULE_ERROR_MAX + 1];
    struct capsule c = {.kind = r->kind, .is_kept = is_kept};
    r->state = AT_HEAD;
    switch (c.kind) {
    case CAPSULE_DATAGRAM:
    case CAPSULE_NOTE:
    case CAPSULE_AHEAD:
        c.data = value;
        c.len = len;
        c.mark = r->mark;
        break;
    case CAPSULE_ERROR:
        memcpy(text, value, len);
        text[len] = '\0';
        c.error = proxy_status_parse(502, text);
        proxy_status_cause(text, &c.cause);
        break;
    case CAPSULE_LOSS:
        if (varint_read(value, len, &c.lost) != len)
            return refuse(r, ERR_PROTO, "a loss capsule of a wrong length");
        break;
    }
    *ret = c;
    return 1;
}

/* Parses a head in the input, or in what is left of the last one and the input. 1: done. */
static int take_head(struct capsule_reader *r, const uint8_t **data, size_t *len)
{
    struct head h;
    int used = r->n_head ? 0 : TRY(read_head(r, *data, *len, &h));
    if (used > 0) {
        *data += used;
        *len -= (size_t)used;
    }
    while (used == 0 && *len > 0) {
        assert(r->n_head < sizeof(r->head));
        r->head[r->n_head++] = *(*data)++;
        (*len)--;
        used = TRY(read_head(r, r->head, r->n_head, &h));
    }
    if (used == 0)
        return 0;
    r->n_head = 0;
    r->state = h.then;
    r->kind = h.kind;
    r->mark = h.mark;
    r->left = h.length;
    return 1;
}

static void skip(struct capsule_reader *r, const uint8_t **data, size_t *len)
{
    size_t n = MIN((uint64_t)*len, r->left);
    *data += n;
    *len -= n;
    r->left -= n;
    if (r->left == 0)
        r->state = AT_HEAD;
}

/* 1: the value is complete and delivered. */
static int take_value(struct capsule_reader *r, const uint8_t **data, size_t *len,
                      struct capsule *ret)
{
    const uint8_t *value = *data;
    size_t n = MIN((uint64_t)*len, r->left);
    bool is_whole = n == r->left && r->kept.len == 0;
    *data += n;
    *len -= n;
    r->left -= n;
    if (is_whole)
        return deliver(r, value, n, false, ret);
    (void)buf_append(&r->kept, value, n); /* has no limit but the length, which was checked */
    if (r->left)
        return 0;
    return deliver(r, (const uint8_t *)r->kept.data, r->kept.len, true, ret);
}

int capsule_next(struct capsule_reader *r, const uint8_t **data, size_t *len, struct capsule *ret)
{
    if (r->reason)
        return ERR_PROTO;
    if (r->state == AT_HEAD && r->kept.data)
        buf_done(&r->kept); /* of the one before */
    for (;;) {
        if (r->state == AT_HEAD) {
            if (TRY(take_head(r, data, len)) == 0)
                return 0;
        } else if (r->state == IN_VALUE) {
            if (*len == 0 && r->left)
                return 0;
            int rc = take_value(r, data, len, ret);
            if (rc)
                return rc;
        } else {
            skip(r, data, len);
            if (r->left)
                return 0;
        }
    }
}

bool capsule_is_between(const struct capsule_reader *r)
{
    return r->state == AT_HEAD && r->n_head == 0;
}

void capsule_reader_done(struct capsule_reader *r)
{
    buf_done(&r->kept);
}

/* ---- writing ---- */

size_t capsule_datagram_head(uint8_t out[CAPSULE_HEAD_MAX], size_t len,
                             const struct capsule_mark *mark)
{
    bool is_marked = mark && (mark->ttl || mark->tos);
    assert(len <= CAPSULE_PAYLOAD_MAX);
    uint8_t context[VARINT_SIZE];
    size_t n = varint_write(context, is_marked ? MARKED : PLAIN);
    out[0] = TYPE_DATAGRAM;
    size_t at = 1 + varint_write(out + 1, n + (is_marked ? 2 : 0) + len);
    memcpy(out + at, context, n);
    at += n;
    if (is_marked) {
        out[at++] = mark->ttl;
        out[at++] = mark->tos;
    }
    return at;
}

size_t capsule_error(uint8_t out[CAPSULE_NOTE_MAX], int error, const struct icmp_cause *cause)
{
    char field[PROXY_STATUS_SIZE];
    proxy_status_format(error, field);
    if (cause)
        proxy_status_add_cause(field, cause);
    size_t len = strlen(field), at = varint_write(out, TYPE_ERROR);
    at += varint_write(out + at, len);
    memcpy(out + at, field, len);
    return at + len;
}

size_t capsule_loss(uint8_t out[CAPSULE_NOTE_MAX], uint64_t lost)
{
    uint8_t value[VARINT_SIZE];
    size_t len = varint_write(value, lost), at = varint_write(out, TYPE_LOSS);
    at += varint_write(out + at, len);
    memcpy(out + at, value, len);
    return at + len;
}

size_t capsule_ahead_head(uint8_t out[CAPSULE_AHEAD_HEAD_MAX], enum capsule_kind kind, size_t len)
{
    assert(len > 0 && len <= CAPSULE_PAYLOAD_MAX);
    size_t at = varint_write(out, kind == CAPSULE_NOTE ? TYPE_NOTE : TYPE_AHEAD);
    return at + varint_write(out + at, len);
}

size_t capsule_size(const uint8_t *data)
{
    uint64_t type, length;
    size_t at = varint_read(data, SIZE_MAX, &type);
    at += varint_read(data + at, SIZE_MAX, &length);
    return at + length;
}
