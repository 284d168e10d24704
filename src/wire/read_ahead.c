#include "wire/read_ahead.h"

#include "base/error.h"
#include "base/macro.h"
#include "wire/varint.h"

#include <assert.h>

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
    const uint64_t fields[] = {a->generation, a->number, a->read_ms, a->request_len};
    static_assert(ARRAY_SIZE(fields) * VARINT_SIZE <= READ_AHEAD_HEAD_SIZE, "room for all");
    return write_all(fields, ARRAY_SIZE(fields), out);
}

int read_ahead_answer_read(const uint8_t *data, size_t len, struct read_ahead_answer *ret)
{
    struct read_ahead_answer a = {0};
    uint64_t size;
    uint64_t *const fields[] = {&a.generation, &a.number, &a.read_ms, &size};
    TRY(read_all(&data, &len, fields, ARRAY_SIZE(fields)));
    if (size == 0 || size >= len)
        return ERR_PROTO;
    a.request = data;
    a.request_len = (size_t)size;
    a.answer = data + size;
    a.answer_len = len - (size_t)size;
    *ret = a;
    return 0;
}
