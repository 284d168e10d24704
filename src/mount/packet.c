#include "mount/packet.h"

#include "base/error.h"
#include "base/macro.h"

#include <netinet/in.h>
#include <netinet/ip6.h>
#include <string.h>

#define IP4_HEADER  20
#define IP6_HEADER  40
#define TCP_HEADER  20
#define UDP_HEADER  8
#define ICMP_HEADER 8
#define TTL         64
#define V4_ABOUT                                                                                  \
    548              /* of the offending packet in an error: 576 in all, RFC 1812 section 4.3.2.3 \
                      */
#define V6_HEADERS 8 /* extension headers we walk through */

#define DONT_FRAGMENT  0x4000
#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_UNITS 0x1fff

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)(v >> 16));
    put16(p + 2, (uint16_t)v);
}

bool packet_is_v4(const uint8_t address[16])
{
    return memcmp(address, v4_prefix, sizeof(v4_prefix)) == 0;
}

bool packet_is_of_no_network(const uint8_t address[16])
{
    static const uint8_t zero[15];
    if (packet_is_v4(address))
        return address[12] == 0 || address[12] == 127;
    return memcmp(address, zero, sizeof(zero)) == 0 && address[15] <= 1;
}

/* ---- checksums (RFC 1071) ---- */

static uint64_t sum_bytes(uint64_t sum, const uint8_t *p, size_t len)
{
    for (; len >= 4; p += 4, len -= 4)
        sum += get32(p);
    if (len >= 2)
        sum += (uint64_t)get16(p) << 16;
    if (len & 1)
        sum += (uint64_t)p[len & 2 ? 2 : 0] << (len & 2 ? 8 : 24);
    return sum;
}

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t pseudo_sum(const struct packet_ends *e, uint8_t protocol, size_t len)
{
    uint64_t sum = (uint64_t)len + protocol;
    bool is_v4 = packet_is_v4(e->near);
    size_t skip = is_v4 ? 12 : 0;
    sum = sum_bytes(sum, e->near + skip, 16 - skip);
    sum = sum_bytes(sum, e->far + skip, 16 - skip);
    return fold(sum);
}

/* ---- reading ---- */

static void parse_sacks(const uint8_t *p, size_t len, struct packet_tcp *t)
{
    for (t->n_sacks = 0; len >= 8 && t->n_sacks < PACKET_SACKS_MAX; p += 8, len -= 8)
        t->sacks[t->n_sacks++] = (struct packet_range){get32(p), get32(p + 4)};
}

static int parse_tcp_options(const uint8_t *p, size_t len, struct packet_tcp *t)
{
    bool is_syn = t->flags & PACKET_SYN;
    while (len > 0 && p[0] != 0) {
        if (p[0] == 1) {
            p++;
            len--;
            continue;
        }
        if (len < 2 || p[1] < 2 || p[1] > len)
            return ERR_PROTO;
        if (is_syn && p[0] == 2 && p[1] == 4)
            t->mss = get16(p + 2);
        if (is_syn && p[0] == 3 && p[1] == 3)
            t->wscale = (int8_t)MIN(p[2], 14);
        if (is_syn && p[0] == 4 && p[1] == 2)
            t->sack_permitted = true;
        if (!is_syn && p[0] == 5)
            parse_sacks(p + 2, p[1] - 2u, t);
        len -= p[1];
        p += p[1];
    }
    return 0;
}

static int parse_tcp(const uint8_t *p, size_t len, struct packet *ret)
{
    struct packet_tcp *t = &ret->tcp;
    size_t header = len >= TCP_HEADER ? (size_t)(p[12] >> 4) * 4 : 0;
    if (header < TCP_HEADER || header > len)
        return ERR_PROTO;
    ret->ends.near_port = get16(p);
    ret->ends.far_port = get16(p + 2);
    *t = (struct packet_tcp){.seq = get32(p + 4),
                             .ack = get32(p + 8),
                             .flags = p[13] & 0x1f,
                             .window = get16(p + 14),
                             .wscale = -1};
    ret->payload = p + header;
    ret->payload_len = len - header;
    int rc = parse_tcp_options(p + TCP_HEADER, header - TCP_HEADER, t);
    return t->flags & PACKET_SYN ? rc : 0; /* as kernels do: what else they say stands */
}

static int parse_udp(const uint8_t *p, size_t len, struct packet *ret)
{
    size_t said = len >= UDP_HEADER ? get16(p + 4) : 0;
    if (said < UDP_HEADER || said > len)
        return ERR_PROTO;
    ret->ends.near_port = get16(p);
    ret->ends.far_port = get16(p + 2);
    ret->payload = p + UDP_HEADER;
    ret->payload_len = said - UDP_HEADER;
    return 0;
}

static int parse_icmp(const uint8_t *p, size_t len, struct packet *ret)
{
    if (len < ICMP_HEADER)
        return ERR_PROTO;
    ret->icmp =
        (struct packet_icmp){.type = p[0], .code = p[1], .id = get16(p + 4), .seq = get16(p + 6)};
    ret->payload = p + ICMP_HEADER;
    ret->payload_len = len - ICMP_HEADER;
    return 0;
}

static bool sum_is_right(const struct packet *k, const uint8_t *p, size_t len)
{
    if (k->protocol == IPPROTO_UDP && !k->is_v6 && len >= UDP_HEADER && get16(p + 6) == 0)
        return true; /* none was made */
    uint64_t sum = k->protocol == IPPROTO_ICMP ? 0 : pseudo_sum(&k->ends, k->protocol, len);
    return fold(sum_bytes(sum, p, len)) == 0xffff;
}

static int parse_transport(const uint8_t *p, size_t len, bool sum_is_partial, struct packet *ret)
{
    ret->payload = p;
    ret->payload_len = len;
    if (ret->is_fragment)
        return 0;
    switch (ret->protocol) {
    case IPPROTO_TCP:
        TRY(parse_tcp(p, len, ret));
        break;
    case IPPROTO_UDP:
        TRY(parse_udp(p, len, ret));
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        TRY(parse_icmp(p, len, ret));
        break;
    default:
        return 0;
    }
    return sum_is_partial || sum_is_right(ret, p, len) ? 0 : ERR_PROTO;
}

static int parse_v4(const uint8_t *data, size_t len, bool sum_is_partial, struct packet *ret)
{
    size_t header = len >= IP4_HEADER ? (size_t)(data[0] & 15) * 4 : 0;
    size_t total = len >= IP4_HEADER ? get16(data + 2) : 0;
    if (header < IP4_HEADER || total < header || total > len)
        return ERR_PROTO;
    if (fold(sum_bytes(0, data, header)) != 0xffff)
        return ERR_PROTO;
    uint16_t fragment = get16(data + 6);
    ret->ip_len = total;
    ret->tos = data[1];
    ret->ttl = data[8];
    ret->protocol = data[9];
    ret->dont_fragment = fragment & DONT_FRAGMENT;
    ret->more_fragments = fragment & MORE_FRAGMENTS;
    ret->fragment_at = (uint16_t)((fragment & FRAGMENT_UNITS) * 8);
    ret->fragment_id = get16(data + 4);
    ret->is_fragment = ret->more_fragments || ret->fragment_at;
    memcpy(ret->ends.near, v4_prefix, 12);
    memcpy(ret->ends.near + 12, data + 12, 4);
    memcpy(ret->ends.far, v4_prefix, 12);
    memcpy(ret->ends.far + 12, data + 16, 4);
    return parse_transport(data + header, total - header, sum_is_partial, ret);
}

static bool is_extension(uint8_t header)
{
    return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_DSTOPTS ||
           header == IPPROTO_FRAGMENT;
}

/* Walks to the transport's header; its offset, or ERR_PROTO. */
static int skip_extensions(const uint8_t *data, size_t total, struct packet *ret)
{
    size_t at = IP6_HEADER;
    for (int n = 0; n < V6_HEADERS && is_extension(ret->protocol); n++) {
        if (at + 8 > total)
            return ERR_PROTO;
        const uint8_t *p = data + at;
        if (ret->protocol == IPPROTO_FRAGMENT) {
            ret->fragment_at = get16(p + 2) & 0xfff8;
            ret->more_fragments = p[3] & 1;
            ret->fragment_id = get32(p + 4);
            ret->is_fragment = ret->more_fragments || ret->fragment_at;
            at += 8;
        } else {
            at += ((size_t)p[1] + 1) * 8;
        }
        ret->protocol = p[0];
        if (ret->is_fragment)
            break;
    }
    return at <= total ? (int)at : ERR_PROTO;
}

static int parse_v6(const uint8_t *data, size_t len, bool sum_is_partial, struct packet *ret)
{
    size_t total = len >= IP6_HEADER ? IP6_HEADER + (size_t)get16(data + 4) : 0;
    if (len < IP6_HEADER || total > len)
        return ERR_PROTO;
    ret->is_v6 = true;
    ret->ip_len = total;
    ret->tos = (uint8_t)(data[0] << 4 | data[1] >> 4);
    ret->protocol = data[6];
    ret->ttl = data[7];
    ret->dont_fragment = true;
    memcpy(ret->ends.near, data + 8, 16);
    memcpy(ret->ends.far, data + 24, 16);
    if (packet_is_v4(ret->ends.near) || packet_is_v4(ret->ends.far))
        return ERR_PROTO; /* never on a wire: RFC 4291 section 2.5.5.2, RFC 4942 section 2.2 */
    size_t at = (size_t)TRY(skip_extensions(data, total, ret));
    return parse_transport(data + at, total - at, sum_is_partial, ret);
}

int packet_parse(const uint8_t *data, size_t len, bool sum_is_partial, struct packet *ret)
{
    *ret = (struct packet){.ip = data};
    if (len < 1)
        return ERR_PROTO;
    switch (data[0] >> 4) {
    case 4:
        return parse_v4(data, len, sum_is_partial, ret);
    case 6:
        return parse_v6(data, len, sum_is_partial, ret);
    default:
        return ERR_PROTO;
    }
}

/* ---- writing ---- */

/* The header of IP; `len`: what follows it. */
static size_t put_ip(uint8_t *out, const uint8_t from[16], const uint8_t to[16], uint8_t protocol,
                     uint8_t ttl, uint8_t tos, size_t len)
{
    if (packet_is_v4(to)) {
        size_t whole = IP4_HEADER + len;
        memset(out, 0, IP4_HEADER);
        out[0] = 0x45;
        out[1] = tos;
        put16(out + 2, whole <= PACKET_MAX ? (uint16_t)whole : 0);
        put16(out + 6, DONT_FRAGMENT);
        out[8] = ttl;
        out[9] = protocol;
        memcpy(out + 12, from + 12, 4);
        memcpy(out + 16, to + 12, 4);
        put16(out + 10, (uint16_t)~fold(sum_bytes(0, out, IP4_HEADER)));
        return IP4_HEADER;
    }
    out[0] = (uint8_t)(0x60 | tos >> 4);
    out[1] = (uint8_t)(tos << 4);
    put16(out + 2, 0);
    put16(out + 4, (uint16_t)len);
    out[6] = protocol;
    out[7] = ttl;
    memcpy(out + 8, from, 16);
    memcpy(out + 24, to, 16);
    return IP6_HEADER;
}

size_t packet_put_whole(uint8_t *out, const struct packet_ends *e, uint8_t protocol, uint8_t ttl,
                        uint8_t tos, size_t len)
{
    return put_ip(out, e->near, e->far, protocol, ttl, tos, len);
}

static size_t put_syn_options(uint8_t *p, const struct packet_tcp *t)
{
    size_t n = 0;
    if (t->mss) {
        p[n++] = 2;
        p[n++] = 4;
        put16(p + n, t->mss);
        n += 2;
    }
    if (t->wscale >= 0) {
        p[n++] = 1;
        p[n++] = 3;
        p[n++] = 3;
        p[n++] = (uint8_t)t->wscale;
    }
    if (t->sack_permitted) {
        memcpy(p + n, (uint8_t[]){1, 1, 4, 2}, 4);
        n += 4;
    }
    return n;
}

static size_t put_sacks(uint8_t *p, const struct packet_tcp *t)
{
    size_t n = 4;
    if (!t->n_sacks)
        return 0;
    memcpy(p, (uint8_t[]){1, 1, 5, (uint8_t)(2 + 8 * t->n_sacks)}, n);
    for (size_t i = 0; i < t->n_sacks; i++, n += 8) {
        put32(p + n, t->sacks[i].begin);
        put32(p + n + 4, t->sacks[i].end);
    }
    return n;
}

size_t packet_put_tcp(uint8_t *out, const struct packet_ends *e, const struct packet_tcp *t,
                      size_t payload_len, size_t *ret_sum_at)
{
    size_t ip = packet_is_v4(e->near) ? IP4_HEADER : IP6_HEADER;
    uint8_t *p = out + ip;
    uint8_t *options = p + TCP_HEADER;
    size_t header =
        TCP_HEADER + (t->flags & PACKET_SYN ? put_syn_options(options, t) : put_sacks(options, t));
    put_ip(out, e->far, e->near, IPPROTO_TCP, TTL, 0, header + payload_len);
    put16(p, e->far_port);
    put16(p + 2, e->near_port);
    put32(p + 4, t->seq);
    put32(p + 8, t->ack);
    p[12] = (uint8_t)(header / 4 << 4);
    p[13] = t->flags;
    put16(p + 14, t->window);
    put16(p + 16, pseudo_sum(e, IPPROTO_TCP, header + payload_len));
    put16(p + 18, 0);
    *ret_sum_at = ip;
    return ip + header;
}

size_t packet_put_udp(uint8_t *out, const struct packet_ends *e, uint8_t tos, size_t payload_len,
                      size_t *ret_sum_at)
{
    size_t len = UDP_HEADER + payload_len;
    size_t ip = put_ip(out, e->far, e->near, IPPROTO_UDP, TTL, tos, len);
    uint8_t *p = out + ip;
    put16(p, e->far_port);
    put16(p + 2, e->near_port);
    put16(p + 4, (uint16_t)len);
    put16(p + 6, pseudo_sum(e, IPPROTO_UDP, len));
    *ret_sum_at = ip;
    return ip + UDP_HEADER;
}

/* Completes the checksum of an ICMP message: its header, and what will follow it. */
static void sum_icmp(uint8_t *p, const uint8_t *payload, size_t len, const struct packet_ends *e)
{
    uint64_t sum = packet_is_v4(e->near) ? 0 : pseudo_sum(e, IPPROTO_ICMPV6, ICMP_HEADER + len);
    put16(p + 2, 0);
    sum = sum_bytes(sum, p, ICMP_HEADER);
    put16(p + 2, (uint16_t)~fold(sum_bytes(sum, payload, len)));
}

/* Whose packet it was: its sender becomes `near`. */
static void quoted_ends(const uint8_t *about, bool is_v4, struct packet_ends *ret)
{
    *ret = (struct packet_ends){0};
    if (is_v4) {
        memcpy(ret->near, v4_prefix, 12);
        memcpy(ret->near + 12, about + 12, 4);
        memcpy(ret->far, v4_prefix, 12);
        memcpy(ret->far + 12, about + 16, 4);
    } else {
        memcpy(ret->near, about + 8, 16);
        memcpy(ret->far, about + 24, 16);
    }
}

void packet_quoted_target(const uint8_t *about, uint8_t ret[16])
{
    struct packet_ends e;
    quoted_ends(about, about[0] >> 4 == 4, &e);
    memcpy(ret, e.far, sizeof(e.far));
}

size_t packet_put_error(uint8_t out[PACKET_ERROR_MAX], const uint8_t *about, size_t quoted,
                        uint8_t type, uint8_t code, const uint8_t from[16])
{
    bool is_v4 = about[0] >> 4 == 4;
    size_t room = is_v4 ? V4_ABOUT : PACKET_ERROR_MAX - IP6_HEADER - ICMP_HEADER;
    size_t len = is_v4 ? get16(about + 2) : IP6_HEADER + (size_t)get16(about + 4);
    struct packet_ends e;
    quoted_ends(about, is_v4, &e);
    if (from)
        memcpy(e.far, from, sizeof(e.far));
    len = MIN(len, quoted);
    len = MIN(len, room);
    size_t ip = put_ip(out, e.far, e.near, is_v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, TTL, 0,
                       ICMP_HEADER + len);
    uint8_t *p = out + ip;
    memset(p, 0, ICMP_HEADER);
    p[0] = type;
    p[1] = code;
    memcpy(p + ICMP_HEADER, about, len);
    sum_icmp(p, about, len, &e);
    return ip + ICMP_HEADER + len;
}

size_t packet_put_echo_reply(uint8_t out[PACKET_HEADER_MAX], const struct packet_ends *e,
                             uint8_t ttl, uint16_t id, uint16_t seq, const uint8_t *payload,
                             size_t payload_len)
{
    bool is_v4 = packet_is_v4(e->near);
    size_t len = ICMP_HEADER + payload_len;
    size_t ip = put_ip(out, e->far, e->near, is_v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, ttl, 0, len);
    uint8_t *p = out + ip;
    memset(p, 0, ICMP_HEADER);
    p[0] = is_v4 ? 0 : 129;
    put16(p + 4, id);
    put16(p + 6, seq);
    sum_icmp(p, payload, payload_len, e);
    return ip + ICMP_HEADER;
}
