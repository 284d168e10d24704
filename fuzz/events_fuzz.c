/* Server-sent events from a foreign server: the events must not depend on how the bytes are cut. */
#include "http/events.h"

#include "base/macro.h"

#include <stdlib.h>
#include <string.h>

static int note(void *arg, const struct http_event *e)
{
    return buf_printf(arg, "[%s|%s|%s]", e->id, e->event, e->data);
}

static void run(const uint8_t *data, size_t len, size_t step, struct buf *out)
{
    struct http_event_reader r = {0};
    int rc = 0;
    for (size_t at = 0; at < len && rc == 0; at += step)
        rc = http_events_read(&r, data + at, MIN(step, len - at), note, out);
    http_events_done(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct buf whole = {0}, cut = {0};
    run(data + 1, size - 1, size, &whole);
    run(data + 1, size - 1, 1 + data[0] % 16, &cut);
    if (whole.len != cut.len || memcmp(buf_text(&whole), buf_text(&cut), whole.len) != 0)
        abort();
    buf_done(&whole);
    buf_done(&cut);
    return 0;
}
