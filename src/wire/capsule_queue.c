#include "wire/capsule_queue.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

#define FIRST_BYTES 2048

bool capsule_queue_drop(struct capsule_queue *q)
{
    if (q->head == q->tail)
        return false;
    bool is_datagram = q->data[q->head] == 0;
    q->dropped += is_datagram;
    q->head += (uint32_t)capsule_size(q->data + q->head);
    return true;
}

/* Room for `size` bytes at the tail. Twice the limit, so that what is moved to the front was paid
 * for by as much that has left. */
static void reserve(struct capsule_queue *q, uint32_t size)
{
    uint32_t used = q->tail - q->head;
    if (q->head == q->tail)
        q->head = q->tail = 0;
    if (q->tail + size <= q->cap)
        return;
    if (used + size > q->cap / 2) {
        uint32_t cap = MAX(q->cap, (uint32_t)FIRST_BYTES);
        while (cap < 2 * (used + size))
            cap *= 2;
        uint8_t *data = mem_grow(NULL, cap);
        if (used)
            memcpy(data, q->data + q->head, used);
        mem_free(q->data);
        q->data = data;
        q->cap = cap;
    } else {
        memmove(q->data, q->data + q->head, used);
    }
    q->head = 0;
    q->tail = used;
}

/* Makes the oldest go until `size` bytes fit. */
static void make_room(struct capsule_queue *q, size_t size)
{
    assert(size <= q->limit);
    while (q->tail - q->head + size > q->limit)
        capsule_queue_drop(q);
    reserve(q, (uint32_t)size);
}

void capsule_queue_put(struct capsule_queue *q, const void *payload, size_t len,
                       const struct capsule_mark *mark)
{
    uint8_t head[CAPSULE_HEAD_MAX];
    size_t n = capsule_datagram_head(head, len, mark);
    make_room(q, n + len);
    memcpy(q->data + q->tail, head, n);
    if (len)
        memcpy(q->data + q->tail + n, payload, len);
    q->tail += (uint32_t)(n + len);
}

void capsule_queue_note(struct capsule_queue *q, const uint8_t *capsule, size_t size)
{
    make_room(q, size);
    memcpy(q->data + q->tail, capsule, size);
    q->tail += (uint32_t)size;
}

static size_t take_rest(struct capsule_queue *q, uint8_t *out, size_t cap)
{
    size_t n = MIN(q->rest.len, cap);
    memcpy(out, q->rest.data, n);
    buf_consume(&q->rest, n);
    if (q->rest.len == 0)
        buf_done(&q->rest);
    return n;
}

/* The bytes of as many whole capsules as fit in `cap`. */
static size_t whole(const struct capsule_queue *q, size_t cap)
{
    size_t n = 0, used = q->tail - q->head;
    if (used <= cap)
        return used;
    for (;;) {
        size_t next = capsule_size(q->data + q->head + n);
        if (n + next > cap)
            return n;
        n += next;
    }
}

static size_t take_part(struct capsule_queue *q, uint8_t *out, size_t cap)
{
    size_t size = capsule_size(q->data + q->head);
    memcpy(out, q->data + q->head, cap);
    (void)buf_append(&q->rest, q->data + q->head + cap, size - cap);
    q->head += (uint32_t)size;
    return cap;
}

/* An idle flow keeps little. */
static void release_if_empty(struct capsule_queue *q)
{
    if (q->head != q->tail)
        return;
    q->head = q->tail = 0;
    if (q->cap > FIRST_BYTES) {
        mem_free(TAKE(q->data));
        q->cap = 0;
    }
}

size_t capsule_queue_take(struct capsule_queue *q, uint8_t *out, size_t cap)
{
    size_t n = q->rest.len ? take_rest(q, out, cap) : 0;
    if (q->head == q->tail || n == cap)
        return n;
    size_t more = whole(q, cap - n);
    if (more) {
        memcpy(out + n, q->data + q->head, more);
        q->head += (uint32_t)more;
    } else if (n == 0) {
        more = take_part(q, out, cap);
    }
    release_if_empty(q);
    return n + more;
}

size_t capsule_queue_bytes(const struct capsule_queue *q)
{
    return q->rest.len + q->tail - q->head;
}

bool capsule_queue_is_between(const struct capsule_queue *q)
{
    return q->rest.len == 0;
}

void capsule_queue_done(struct capsule_queue *q)
{
    mem_free(q->data);
    buf_done(&q->rest);
    *q = (struct capsule_queue){.limit = q->limit, .dropped = q->dropped};
}
