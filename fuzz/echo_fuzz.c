/* A record of an echo stream, as either end reads it: what parses reads the same once written. */
#include "wire/echo.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct echo_record r, again;
    uint8_t *exact = malloc(size ? size : 1), *copy;
    uint8_t head[ECHO_HEAD_MAX];
    memcpy(exact, data, size);
    if (echo_record_parse(exact, size, &r) == 0) {
        if (r.data < exact || r.data + r.len != exact + size)
            abort();
        size_t n = echo_record_head(head, &r);
        copy = malloc(n + r.len);
        memcpy(copy, head, n);
        memcpy(copy + n, r.data, r.len);
        if (n + r.len != size || echo_record_parse(copy, n + r.len, &again) < 0 ||
            again.kind != r.kind || again.cookie != r.cookie || again.ttl != r.ttl ||
            again.tos != r.tos || again.type != r.type ||
            memcmp(again.address, r.address, sizeof(r.address)) != 0)
            abort();
        free(copy);
    }
    free(exact);
    return 0;
}
