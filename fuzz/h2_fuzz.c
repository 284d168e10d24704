/* HTTP/2 from a foreign peer, as server (bit 0 of the first byte clear) or client, cut into pieces.
 * Streams answer, consume and reset as the bytes of the input say. */
#include "wire/h2.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct peer {
    unsigned mood; /* decides what a stream does */
    size_t open;
    bool wants_output;
};

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct peer *p = arg;
    size_t n = p->mood % 3 ? cap / 2 : 0;
    memset(out, 'x', n);
    *eof = p->mood % 5 == 0;
    return (int)n;
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct peer *p = arg;
    if (p->mood % 2)
        h2_consume(s, len);
    if (p->mood % 7 == 0)
        h2_reset(s, H2_CANCEL);
}

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct peer *p = arg;
    if (p->open == 0)
        abort();
    p->open--;
}

static const struct h2_stream_ops stream_ops = {
    .on_data = on_data,
    .on_produce = on_produce,
    .on_close = on_close,
};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct peer *p = arg;
    if (p->mood % 11 == 10)
        return; /* nobody follows it */
    h2_stream_set(s, &stream_ops, p);
    p->open++;
    h2_headers_get(h, ":path");
    if (p->mood % 4)
        h2_respond(s, H2_HEADERS({":status", "200"}), 1, p->mood % 2);
}

static void on_wants_output(void *arg)
{
    ((struct peer *)arg)->wants_output = true;
}

static const struct h2_ops ops = {.on_wants_output = on_wants_output, .on_request = on_request};

static void drain(struct h2 *h)
{
    static uint8_t out[4 * H2_OUTPUT_MIN];
    for (int i = 0; i < 8 && h2_output(h, out, sizeof(out)) > 0; i++)
        ;
}

static void make_requests(struct h2 *h, struct peer *p)
{
    for (int i = 0; i < 3; i++) {
        struct h2_stream *s;
        if (h2_request(h, H2_HEADERS({":method", "CONNECT"}, {":authority", "t:1"}), 2, true,
                       &stream_ops, p, &s) == 0)
            p->open++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if (size < 2)
        return 0;
    struct peer p = {.mood = data[1]};
    struct h2_config cfg = {.is_server = !(data[0] & 1), .enable_connect = true};
    struct h2 *h;
    if (h2_new(&cfg, &ops, &p, &h) < 0)
        abort();
    size_t step = 1 + (data[0] >> 1);
    data += 2;
    size -= 2;
    if (!cfg.is_server)
        make_requests(h, &p);
    else if (h2_input(h, (const uint8_t *)preface, sizeof(preface) - 1) < 0)
        abort();
    drain(h);
    while (size > 0) {
        size_t n = step < size ? step : size;
        if (h2_input(h, data, n) < 0 || h2_is_done(h))
            break;
        drain(h);
        data += n;
        size -= n;
        p.mood = p.mood * 31 + 7;
    }
    drain(h);
    h2_free(h);
    if (p.open != 0)
        abort(); /* on_close exactly once for each */
    return 0;
}
