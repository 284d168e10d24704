/* What a load balancer, or whoever passes for one, sends before a connection's first byte. */
#include "wire/proxy_header.h"

#include "base/error.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was understood can be said again, and is understood the same. */
static void check_again(const struct proxy_header *h)
{
    uint8_t out[PROXY_HEADER_OUT_MAX];
    struct proxy_header again;
    for (int v = PROXY_V1; v <= PROXY_V2; v++) {
        if (v == PROXY_V1 && h->is_datagram)
            continue;
        size_t n = proxy_header_write((enum proxy_version)v, h->is_datagram, &h->source,
                                      &h->destination, out);
        assert(proxy_header_parse(out, n, &again, NULL) == (int)n);
        assert(again.has_addresses && again.is_datagram == h->is_datagram);
        assert(addr_equal_ip(&again.source, &h->source));
        assert(addr_equal_ip(&again.destination, &h->destination));
        assert(addr_port(&again.source) == addr_port(&h->source));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header h, part;
    struct diag d = {0};
    int rc = proxy_header_parse(data, size, &h, &d);
    assert(rc <= (int)size && (rc >= 0 || rc == ERR_PROTO || rc == ERR_TOO_LARGE));
    assert(rc >= 0 || d.text[0]);
    if (rc > 0 && h.has_addresses)
        check_again(&h);
    /* It comes in pieces: none of the beginnings of a good header is refused or enough. */
    for (int n = 0; n < rc; n++) {
        uint8_t *copy = malloc((size_t)n + 1);
        if (!copy)
            abort();
        memcpy(copy, data, (size_t)n);
        assert(proxy_header_parse(copy, (size_t)n, &part, NULL) == 0);
        free(copy);
    }
    return 0;
}
