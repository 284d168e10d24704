/* Both kinds of HTTP/1.1 messages from foreign bytes, cut in two places: the result must not depend
 * on the cut. The first two bytes choose parser and cut. */
#include "wire/http1.h"

#include "base/macro.h"

#include <stdlib.h>
#include <string.h>

struct heard {
    struct http1 parser;
    struct buf text;
};

static int on_head(struct http1 *p, const struct http1_head *h)
{
    struct heard *t = container_of(p, struct heard, parser);
    buf_printf(&t->text, "%s %s %d\n", h->method ? h->method : "", h->target ? h->target : "",
               h->status);
    for (size_t i = 0; i < h->n_fields; i++) {
        if (!http_value_is_safe(h->fields[i].value) || !http_is_token(h->fields[i].name))
            abort();
        buf_printf(&t->text, "%s=%s\n", h->fields[i].name, h->fields[i].value);
    }
    return 0;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    return buf_append(&container_of(p, struct heard, parser)->text, data, len);
}

static int on_end(struct http1 *p)
{
    return buf_puts(&container_of(p, struct heard, parser)->text, "\n.\n");
}

static const struct http1_ops ops = {on_head, on_body, on_end};

static int feed(struct heard *t, const uint8_t *data, size_t len)
{
    while (len) {
        int64_t used = TRY(http1_feed(&t->parser, data, len));
        data += used;
        len -= (size_t)used;
        if (t->parser.ended)
            http1_next(&t->parser);
    }
    return 0;
}

static void run(struct heard *t, int kind, const uint8_t *data, size_t len, size_t cut)
{
    struct http1_limits limits = {.head_bytes = 4096, .field_count = 16};
    if (kind)
        http1_init_server(&t->parser, &ops, limits);
    else
        http1_init_client(&t->parser, &ops, limits);
    if (feed(t, data, cut) == 0 && feed(t, data + cut, len - cut) == 0)
        http1_finish(&t->parser);
    http1_done(&t->parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct heard whole = {0}, halves = {0};
    size_t len = size - 2;
    run(&whole, data[0] & 1, data + 2, len, len);
    run(&halves, data[0] & 1, data + 2, len, len ? data[1] % len : 0);
    if (whole.text.len != halves.text.len ||
        memcmp(buf_text(&whole.text), buf_text(&halves.text), whole.text.len) != 0)
        abort();
    buf_done(&whole.text);
    buf_done(&halves.text);
    return 0;
}
