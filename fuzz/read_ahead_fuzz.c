/* Both halves of reading ahead against an other end, a program and a device that say anything:
 * steps of a kind (1 byte), a length (1 byte) and bytes. */
#include "base/macro.h"
#include "mount/ahead.h"
#include "wire/snmp.h"
#include "wire/walker.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NOTE, REQUEST, RESPONSE, ANSWER, PUSH, RESET, TIME, KINDS };

struct both {
    struct walker *walker;
    struct ahead_stats stats;
    struct ahead *ahead;
    uint64_t now_ms;
    struct buf out;
};

static void note(struct both *b, const uint8_t *data, size_t len)
{
    struct read_ahead_note n;
    if (read_ahead_note_read(data, len, &n) == 0)
        walker_note(b->walker, &n, b->now_ms);
    ahead_note(b->ahead, b->now_ms, &n);
    if (len < 2)
        walker_note(b->walker, &n, b->now_ms);
}

/* What the walker has sent, the mount may get. */
static void answer(struct both *b, const uint8_t *data, size_t len)
{
    uint8_t id[2048];
    uint8_t asked[WALKER_REQUEST_MAX];
    size_t n = walker_next(b->walker, b->now_ms, asked);
    struct snmp request, m;
    buf_clear(&b->out);
    if (n && snmp_read(asked, n, &request) == 0 && snmp_read(data, len, &m) == 0) {
        int size = snmp_with_id(&m, request.id, id, sizeof(id));
        if (size > 0 && walker_answer(b->walker, id, (size_t)size, b->now_ms, &b->out)) {
            __attribute__((cleanup(buf_done_cleanup))) struct buf given = {0};
            struct read_ahead_answer a;
            const uint8_t *answers = (const uint8_t *)b->out.data;
            size_t left = b->out.len;
            assert(read_ahead_answer_next(&answers, &left, &a) == 1 && left == 0);
            ahead_push(b->ahead, &a, b->now_ms, &given);
        }
    }
    walker_answer(b->walker, data, len, b->now_ms, &b->out);
}

/* As packed, and then as a mount unpacks it. */
static void push(struct both *b, const uint8_t *data, size_t len)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf packed = {0}, answers = {0};
    struct read_ahead_answer a;
    if (read_ahead_unpack(data, len, &answers) < 0)
        return;
    assert(answers.len <= READ_AHEAD_BATCH_MAX);
    read_ahead_pack((const uint8_t *)answers.data, answers.len, &packed);
    size_t left = answers.len;
    buf_clear(&answers);
    assert(read_ahead_unpack((const uint8_t *)packed.data, packed.len, &answers) == 0 &&
           answers.len == left);
    const uint8_t *at = (const uint8_t *)answers.data;
    while (read_ahead_answer_next(&at, &left, &a) > 0) {
        buf_clear(&b->out);
        ahead_push(b->ahead, &a, b->now_ms, &b->out);
    }
}

static void step(struct both *b, uint8_t kind, const uint8_t *data, size_t len)
{
    buf_clear(&b->out);
    switch (kind % KINDS) {
    case NOTE:
        note(b, data, len);
        break;
    case REQUEST:
        walker_request(b->walker, data, len, b->now_ms);
        ahead_request(b->ahead, data, len, b->now_ms, &b->out);
        break;
    case RESPONSE:
        walker_response(b->walker, data, len, b->now_ms);
        ahead_response(b->ahead, data, len);
        break;
    case ANSWER:
        answer(b, data, len);
        break;
    case PUSH:
        push(b, data, len);
        break;
    case RESET:
        ahead_reset(b->ahead);
        walker_fail(b->walker);
        break;
    case TIME:
        b->now_ms += len * 20;
        walker_timeout(b->walker, b->now_ms);
        ahead_expire(b->ahead, b->now_ms);
        break;
    }
    walker_orphan(b->walker, &len);
    while (ahead_take_waiting(b->ahead))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct both b = {.walker = walker_new(1)};
    b.ahead = ahead_new(READ_AHEAD_TTL_MS, &b.stats);
    for (size_t at = 0; at + 2 <= size;) {
        size_t len = MIN((size_t)data[at + 1], size - at - 2);
        step(&b, data[at], data + at + 2, len);
        at += 2 + len;
    }
    ahead_free(b.ahead);
    assert(b.stats.bytes == 0);
    walker_free(b.walker);
    buf_done(&b.out);
    return 0;
}
