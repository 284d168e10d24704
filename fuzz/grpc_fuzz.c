/* gRPC framing and header values from foreign bytes. */
#include "wire/grpc.h"

#include "base/macro.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 1024

static int on_message(void *arg, const uint8_t *msg, size_t len)
{
    if (len > MESSAGE_MAX)
        abort();
    size_t *total = arg;
    *total += len;
    return 0;
}

static void try_values(const uint8_t *data, size_t size)
{
    char text[256], out[256];
    size_t len = MIN(size, sizeof(text) - 1);
    memcpy(text, data, len);
    text[len] = '\0';
    uint64_t ms;
    (void)grpc_timeout_parse(text, &ms);
    grpc_message_unescape(text, out, sizeof(out));
    char escaped[1024], back[1024];
    grpc_message_escape(text, escaped, sizeof(escaped));
    grpc_message_unescape(escaped, back, sizeof(back));
    if (strcmp(text, back) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    size_t step = 1 + data[0] % 16, total = 0;
    struct grpc_reader r = {.max = MESSAGE_MAX};
    int rc = 0;
    for (size_t at = 1; at < size && rc == 0; at += step)
        rc = grpc_read(&r, data + at, MIN(step, size - at), on_message, &total);
    grpc_reader_done(&r);
    try_values(data + 1, size - 1);
    return 0;
}
