/*
 * The PROXY protocol of HAProxy, versions 1 and 2 (doc/proxy-protocol.txt, 2020/03/05): the line or
 * block that a proxy puts before a connection's first byte to tell who is really there. No I/O.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"

#include <stddef.h>
#include <stdint.h>

enum proxy_version { PROXY_NONE, PROXY_V1, PROXY_V2, PROXY_VERSION_COUNT };

const char *proxy_version_name(enum proxy_version v); /* "v1"; NULL for none */
int proxy_version_parse(const char *s, enum proxy_version *ret);

#define PROXY_HEADER_OUT_MAX 108 /* bytes that proxy_header_write makes */

/* Writes a header and returns its length. An IPv4 address in IPv6 form is sent as IPv4; where the
 * two families differ, both go as IPv6. A destination that is not known (`len` 0) is the
 * unspecified address, port 0. `is_datagram`: UDP, version 2 only. */
size_t proxy_header_write(enum proxy_version v, bool is_datagram, const struct addr *source,
                          const struct addr *destination, uint8_t out[PROXY_HEADER_OUT_MAX]);

#define PROXY_HEADER_V1_MAX 107
#define PROXY_HEADER_MAX    4096 /* accepted, TLVs of version 2 included */

struct proxy_header {
    enum proxy_version version;
    /* False: LOCAL, UNKNOWN or a family without addresses; the connection speaks for itself. */
    bool has_addresses;
    bool is_datagram;
    struct addr source, destination; /* valid if has_addresses */
};

/* Positive: the header's size, *ret is filled. 0: it goes on beyond `len`. ERR_PROTO or
 * ERR_TOO_LARGE with a text, as early as that is certain. TLVs are skipped, but must fit. */
int proxy_header_parse(const uint8_t *data, size_t len, struct proxy_header *ret, struct diag *d);
