/* Capsules from foreign bytes, in pieces of a length that the first byte chooses; what is delivered
 * goes through a small queue and is read back. */
#include "base/macro.h"
#include "wire/capsule_queue.h"

#include <stdlib.h>
#include <string.h>

static void read_back(struct capsule_queue *q, size_t step)
{
    struct capsule_reader r = {0};
    struct capsule c;
    uint8_t out[512];
    size_t n;
    while ((n = capsule_queue_take(q, out, MIN(step * 8, sizeof(out)))) > 0) {
        const uint8_t *p = out;
        while (capsule_next(&r, &p, &n, &c) > 0) {
            if (c.kind == CAPSULE_DATAGRAM && c.len > CAPSULE_PAYLOAD_MAX)
                abort();
        }
        if (r.reason || n)
            abort();
    }
    if (!capsule_is_between(&r) || capsule_queue_bytes(q))
        abort();
    capsule_reader_done(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct capsule_queue q = {.limit = CAPSULE_QUEUE_MIN};
    struct capsule_reader r = {0};
    struct capsule c;
    size_t step = 1 + data[0] % 16;
    int rc = 0;
    for (size_t at = 1; at < size && rc >= 0; at += step) {
        const uint8_t *p = data + at;
        size_t len = MIN(step, size - at);
        while ((rc = capsule_next(&r, &p, &len, &c)) > 0) {
            if (c.kind == CAPSULE_DATAGRAM)
                capsule_queue_put(&q, c.data, c.len, &c.mark);
            if (c.kind == CAPSULE_ERROR && c.error >= 0)
                abort();
        }
        if ((rc < 0) != (r.reason != NULL) || (rc == 0 && len))
            abort();
    }
    capsule_reader_done(&r);
    read_back(&q, step);
    capsule_queue_done(&q);
    return 0;
}
