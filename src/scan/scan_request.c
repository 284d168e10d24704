#include "scan/scan_request.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"
#include "http/rest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const members[] = {"addresses", "ports", "snmp", "rate", "timeout", NULL};
static const char *const snmp_members[] = {"community", NULL};

/* ---- addresses ---- */

static int add_range(struct scan_request *r, const char *text, struct diag *d)
{
    struct addr_rule rule;
    if (addr_rule_parse(text, &rule, NULL) < 0 || rule.n_ports)
        return diag_set_field(d, ERR_INVALID, "addresses",
                              "'%.60s' is no range, such as 10.0.0.0/24 or 10.0.0.17", text);
    unsigned bits = 128u - rule.prefix;
    if (bits > 16 || r->n_addresses + (1u << bits) > SCAN_ADDRESSES_MAX)
        return diag_set_field(d, ERR_INVALID, "addresses", "one scan has at most %d addresses",
                              SCAN_ADDRESSES_MAX);
    struct scan_range *range = &r->ranges[r->n_ranges++];
    memcpy(range->first, rule.ip, sizeof(range->first));
    for (unsigned i = 0; i < bits; i++)
        range->first[15 - i / 8] &= (uint8_t) ~(1u << i % 8);
    range->count = 1u << bits;
    r->n_addresses += range->count;
    return 0;
}

static int read_addresses(json_t *o, struct scan_request *r, struct diag *d)
{
    json_t *list = NULL, *item;
    size_t i;
    TRY(rest_array(o, "addresses", SCAN_RANGES_MAX, true, &list, d));
    if (json_array_size(list) == 0)
        return diag_set_field(d, ERR_INVALID, "addresses", "must have at least one range");
    json_array_foreach (list, i, item) {
        if (!json_is_string(item))
            return diag_set_field(d, ERR_INVALID, "addresses", "must be texts");
        TRY(add_range(r, json_string_value(item), d));
    }
    return 0;
}

void scan_request_address(const struct scan_request *r, uint32_t n, struct addr *ret)
{
    const struct scan_range *range = r->ranges;
    uint8_t ip[16];
    while (n >= range->count)
        n -= range++->count;
    memcpy(ip, range->first, sizeof(ip));
    ip[14] |= (uint8_t)(n >> 8); /* the range begins at a multiple of its size */
    ip[15] |= (uint8_t)n;
    *ret = (struct addr){0};
    if (IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)ip)) {
        ret->in4.sin_family = AF_INET;
        ret->len = sizeof(ret->in4);
        memcpy(&ret->in4.sin_addr, ip + 12, 4);
    } else {
        ret->in6.sin6_family = AF_INET6;
        ret->len = sizeof(ret->in6);
        memcpy(&ret->in6.sin6_addr, ip, 16);
    }
}

/* ---- ports ---- */

static void add_port(struct scan_request *r, unsigned port)
{
    uint64_t bit = UINT64_C(1) << port % 64;
    r->n_ports += !(r->ports[port / 64] & bit);
    r->ports[port / 64] |= bit;
}

static int read_port(const char **at, uint64_t *ret)
{
    char number[8];
    size_t n = strspn(*at, "0123456789");
    if (n == 0 || n >= sizeof(number))
        return ERR_INVALID;
    memcpy(number, *at, n);
    number[n] = '\0';
    *at += n;
    TRY(text_to_u64(number, 65535, ret));
    return *ret ? 0 : ERR_INVALID;
}

/* "22,80,8000-8100" */
static int add_ports(struct scan_request *r, const char *at)
{
    for (;;) {
        uint64_t first, last;
        TRY(read_port(&at, &first));
        last = first;
        if (*at == '-') {
            at++;
            TRY(read_port(&at, &last));
        }
        if (last < first)
            return ERR_INVALID;
        for (uint64_t p = first; p <= last; p++)
            add_port(r, (unsigned)p);
        if (!*at)
            return 0;
        if (*at++ != ',')
            return ERR_INVALID;
    }
}

uint16_t scan_request_port_after(const struct scan_request *r, uint16_t port)
{
    for (unsigned at = port + 1u; at < 65536; at++) {
        uint64_t rest = r->ports[at / 64] >> at % 64;
        if (rest)
            return (uint16_t)(at + (unsigned)__builtin_ctzll(rest));
        at |= 63;
    }
    return 0;
}

/* ---- all of it ---- */

int scan_request_read(json_t *o, struct scan_request *ret, struct diag *d)
{
    struct scan_request *r = ret;
    const char *ports = NULL, *community = NULL;
    json_t *snmp = NULL;
    int64_t rate = SCAN_RATE_DEFAULT, timeout = SCAN_TIMEOUT_MS;
    *r = (struct scan_request){0};
    TRY(rest_only(o, "", members, d));
    TRY(read_addresses(o, r, d));
    TRY(rest_text(o, "ports", false, &ports, d));
    if (ports && add_ports(r, ports) < 0)
        return diag_set_field(d, ERR_INVALID, "ports",
                              "'%.60s' is no list of ports, such as 22,80,8000-8100", ports);
    TRY(rest_object(o, "snmp", false, &snmp, d));
    if (snmp) {
        TRY(rest_only(o, "snmp", snmp_members, d));
        TRY(rest_text(o, "snmp.community", true, &community, d));
        if (!community[0] || strlen(community) >= SCAN_COMMUNITY_SIZE)
            return diag_set_field(d, ERR_INVALID, "snmp.community", "must have 1 to %d bytes",
                                  SCAN_COMMUNITY_SIZE - 1);
        snprintf(r->community, sizeof(r->community), "%s", community);
    }
    TRY(rest_int(o, "rate", 1, SCAN_RATE_MAX, false, &rate, d));
    TRY(rest_duration_ms(o, "timeout", false, &timeout, d));
    if (timeout < SCAN_TIMEOUT_MIN_MS || timeout > SCAN_TIMEOUT_MAX_MS)
        return diag_set_field(d, ERR_INVALID, "timeout", "must be from %dms to %ds",
                              SCAN_TIMEOUT_MIN_MS, SCAN_TIMEOUT_MAX_MS / 1000);
    r->rate = (uint32_t)rate;
    r->timeout_ms = (uint32_t)timeout;
    return 0;
}

void scan_request_describe(const struct scan_request *r, char *out, size_t size)
{
    struct addr a;
    char ip[ADDR_TEXT_SIZE];
    size_t at = 0;
    uint32_t first = 0;
    for (size_t i = 0; i < r->n_ranges && at < size; i++) {
        scan_request_address(r, first, &a);
        addr_format_ip(&a, ip, sizeof(ip));
        int bits = (a.sa.sa_family == AF_INET ? 32 : 128) - __builtin_ctz(r->ranges[i].count);
        at += (size_t)snprintf(out + at, size - at, "%s%s/%d", i ? " " : "", ip, bits);
        first += r->ranges[i].count;
    }
    if (at < size)
        snprintf(out + at, size - at, ", %" PRIu32 " ports%s", r->n_ports,
                 r->community[0] ? ", SNMP" : "");
}
