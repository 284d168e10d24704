/*
 * What a scan is asked to do, as JSON: the body of POST /api/v1/networks/{network}/scans, which the
 * hub checks and passes on to the agent, who checks it again.
 *
 *     {"addresses": ["10.0.0.0/24", "10.1.0.17"], "ports": "22,80,8000-8100",
 *      "snmp": {"community": "public"}, "rate": 2000, "timeout": "1500ms"}
 */
#pragma once

#include "base/addr.h"

#include <jansson.h>

#define SCAN_RANGES_MAX     64
#define SCAN_ADDRESSES_MAX  65536 /* of all ranges together */
#define SCAN_RATE_DEFAULT   2000  /* probes a second */
#define SCAN_RATE_MAX       20000
#define SCAN_TIMEOUT_MS     1500 /* for an answer: a SYN is sent twice in it */
#define SCAN_TIMEOUT_MIN_MS 100
#define SCAN_TIMEOUT_MAX_MS 10000
#define SCAN_COMMUNITY_SIZE 65
#define SCAN_BODY_MAX       16384 /* bytes of the JSON */

struct scan_request {
    struct scan_range {
        uint8_t first[16]; /* IPv4 as ::ffff:a.b.c.d */
        uint32_t count;
    } ranges[SCAN_RANGES_MAX];
    size_t n_ranges;
    uint32_t n_addresses;
    uint64_t ports[65536 / 64]; /* a bit each */
    uint32_t n_ports;
    char community[SCAN_COMMUNITY_SIZE]; /* "": SNMP is not asked */
    uint32_t rate, timeout_ms;
};

/* ERR_INVALID with the member at fault. */
int scan_request_read(json_t *o, struct scan_request *ret, struct diag *d);
/* What of it may be written down: no community. */
void scan_request_describe(const struct scan_request *r, char *out, size_t size);

/* The n-th address of all ranges, port 0. */
void scan_request_address(const struct scan_request *r, uint32_t n, struct addr *ret);
/* The first port after this one that is asked for (begin with 0); 0: no more. */
uint16_t scan_request_port_after(const struct scan_request *r, uint16_t port);
