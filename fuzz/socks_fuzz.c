/* What a local program sends to a SOCKS listener: first byte: which message. */
#include "wire/socks.h"

#include "base/error.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse(uint8_t kind, const uint8_t *data, size_t len)
{
    struct socks_greeting greeting;
    struct socks_login login;
    struct socks_request request;
    switch (kind % 4) {
    case 0:
        return socks_greeting_parse(data, len, &greeting);
    case 1:
        return socks_login_parse(data, len, &login);
    case 2:
        return socks_request_parse(data, len, &request);
    default:
        return socks4_request_parse(data, len, &request);
    }
}

/* A copy, so that reading beyond it is seen. */
static int parse_copy(uint8_t kind, const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len + 1);
    if (!copy)
        abort();
    memcpy(copy, data, len);
    int rc = parse(kind, copy, len);
    free(copy);
    return rc;
}

static void check_datagram(const uint8_t *data, size_t len)
{
    struct host_port hp, again;
    uint8_t out[SOCKS_DATAGRAM_HEAD_MAX];
    int n = socks_datagram_parse(data, len, &hp);
    assert(n <= (int)len);
    if (n <= 0)
        return;
    size_t size = socks_datagram_head(&hp, out);
    assert(size <= sizeof(out));
    assert(socks_datagram_parse(out, size, &again) == (int)size);
    assert(strcmp(hp.host, again.host) == 0 && hp.port == again.port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    int n = parse_copy(data[0], data + 1, size - 1);
    assert(n <= (int)size - 1 && (n >= 0 || n == ERR_PROTO || n == ERR_INVALID));
    for (int i = 0; i < n; i++)
        assert(parse_copy(data[0], data + 1, (size_t)i) == 0);
    assert(size < SOCKS_MESSAGE_MAX || n != 0);
    check_datagram(data + 1, size - 1);
    return 0;
}
