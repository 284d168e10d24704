#include "wire/read_ahead.h"

#include "base/error.h"
#include "base/macro.h"
#include "wire/varint.h"

#include <assert.h>
#include <stdbool.h>
#include <zlib.h>

#define DEFLATE_FROM   512 /* bytes; less is not worth it */
#define DEFLATE_LEVEL  3
#define DEFLATE_WINDOW 14 /* log2, bytes; with the next, what an agent has of memory meanwhile */
#define DEFLATE_MEMORY 5

enum packing { PLAIN, DEFLATED };

static size_t write_all(const uint64_t *fields, size_t n, uint8_t *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at += varint_write(out + at, MIN(fields[i], VARINT_MAX));
    return at;
}

static int read_all(const uint8_t **data, size_t *len, uint64_t *const *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t used = varint_read(*data, *len, fields[i]);
        if (used == 0)
            return ERR_PROTO;
        *data += used;
        *len -= used;
    }
    return 0;
}

size_t read_ahead_note_write(const struct read_ahead_note *n, uint8_t out[READ_AHEAD_NOTE_SIZE])
{
    const uint64_t fields[] = {n->generation, n->received, n->held,   n->held_bytes, n->hits,
                               n->wasted,     n->think_us, n->ttl_ms, n->now_ms};
    static_assert(ARRAY_SIZE(fields) * VARINT_SIZE <= READ_AHEAD_NOTE_SIZE, "room for all");
    return write_all(fields, ARRAY_SIZE(fields), out);
}

int read_ahead_note_read(const uint8_t *data, size_t len, struct read_ahead_note *ret)
{
    struct read_ahead_note n;
    uint64_t *const fields[] = {&n.generation, &n.received, &n.held,   &n.held_bytes, &n.hits,
                                &n.wasted,     &n.think_us, &n.ttl_ms, &n.now_ms};
    TRY(read_all(&data, &len, fields, ARRAY_SIZE(fields)));
    *ret = n;
    return 0;
}

size_t read_ahead_head_write(const struct read_ahead_answer *a, uint8_t out[READ_AHEAD_HEAD_SIZE])
{
    const uint64_t fields[] = {a->generation, a->number, a->read_ms, a->request_len, a->answer_len};
    static_assert(ARRAY_SIZE(fields) * VARINT_SIZE <= READ_AHEAD_HEAD_SIZE, "room for all");
    return write_all(fields, ARRAY_SIZE(fields), out);
}

int read_ahead_answer_next(const uint8_t **data, size_t *len, struct read_ahead_answer *ret)
{
    struct read_ahead_answer a = {0};
    uint64_t request, answer;
    uint64_t *const fields[] = {&a.generation, &a.number, &a.read_ms, &request, &answer};
    if (*len == 0)
        return 0;
    TRY(read_all(data, len, fields, ARRAY_SIZE(fields)));
    if (request == 0 || answer == 0 || request > *len || answer > *len - request)
        return ERR_PROTO;
    a.request = *data;
    a.request_len = (size_t)request;
    a.answer = *data + request;
    a.answer_len = (size_t)answer;
    *data += request + answer;
    *len -= (size_t)(request + answer);
    *ret = a;
    return 1;
}

/* ---- packing ---- */

/* Its size; 0: it does not get smaller. */
static size_t deflated(const uint8_t *data, size_t len, uint8_t *out, size_t cap)
{
    z_stream z = {
        .next_in = (Bytef *)data, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)cap};
    if (deflateInit2(&z, DEFLATE_LEVEL, Z_DEFLATED, -DEFLATE_WINDOW, DEFLATE_MEMORY,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    bool is_whole = deflate(&z, Z_FINISH) == Z_STREAM_END;
    deflateEnd(&z);
    return is_whole ? cap - z.avail_out : 0;
}

void read_ahead_pack(const uint8_t *answers, size_t len, struct buf *out)
{
    uint8_t how = PLAIN;
    assert(len <= READ_AHEAD_BATCH_MAX);
    (void)buf_reserve(out, 1 + len); /* has no limit */
    uint8_t *at = (uint8_t *)out->data + out->len;
    size_t n = len < DEFLATE_FROM ? 0 : deflated(answers, len, at + 1, len);
    if (n) {
        at[0] = DEFLATED;
        out->len += 1 + n;
    } else {
        (void)buf_append(out, &how, 1);
        (void)buf_append(out, answers, len);
    }
}

static int inflated(const uint8_t *data, size_t len, struct buf *out)
{
    (void)buf_reserve(out, READ_AHEAD_BATCH_MAX); /* has no limit */
    z_stream z = {.next_in = (Bytef *)data,
                  .avail_in = (uInt)len,
                  .next_out = (Bytef *)out->data + out->len,
                  .avail_out = READ_AHEAD_BATCH_MAX};
    if (inflateInit2(&z, -DEFLATE_WINDOW) != Z_OK)
        return ERR_LIMIT;
    bool is_whole = inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_in == 0;
    inflateEnd(&z);
    if (!is_whole)
        return ERR_PROTO;
    out->len += READ_AHEAD_BATCH_MAX - z.avail_out;
    return 0;
}

int read_ahead_unpack(const uint8_t *value, size_t len, struct buf *out)
{
    if (len == 0 || len > 1 + READ_AHEAD_BATCH_MAX || value[0] > DEFLATED)
        return ERR_PROTO;
    if (value[0] == DEFLATED)
        return inflated(value + 1, len - 1, out);
    return buf_append(out, value + 1, len - 1);
}
