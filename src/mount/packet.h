/*
 * IP packets as a mount sees them: IPv4 (RFC 791) and IPv6 (RFC 8200) with TCP (RFC 9293), UDP
 * (RFC 768), ICMP (RFC 792) or ICMPv6 (RFC 4443). Reading and writing headers, nothing else.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, so that nothing above needs to
 * know two kinds. Everything read is checked against the packet's own length.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX        65535 /* bytes of one packet */
#define PACKET_HEADER_MAX 128   /* what the packet_put_* headers take at most */
#define PACKET_ERROR_MAX  1280  /* a whole ICMP error */

struct ring_block;

/* Both ends of a flow, as the program inside the mount sees them: it is `near`. */
struct packet_ends {
    uint8_t near[16], far[16];
    uint16_t near_port, far_port; /* host order; 0 where there are none */
};

enum packet_tcp_flag {
    PACKET_FIN = 1,
    PACKET_SYN = 2,
    PACKET_RST = 4,
    PACKET_PSH = 8,
    PACKET_ACK = 16,
};

/* Sequence numbers wrap: a is before b if it is less than 2^31 behind. */
static inline bool packet_seq_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* Of sequence numbers: those from `begin` on, before `end`. */
struct packet_range {
    uint32_t begin, end;
};

#define PACKET_SACKS_MAX 4

struct packet_tcp {
    uint32_t seq, ack;
    uint16_t window; /* as in the header, unscaled */
    uint8_t flags;
    uint16_t mss;        /* of a SYN; 0: none was given */
    int8_t wscale;       /* of a SYN; -1: none was given */
    bool sack_permitted; /* of a SYN */
    uint8_t n_sacks;     /* of the others (RFC 2018); read as they come: any numbers */
    struct packet_range sacks[PACKET_SACKS_MAX];
};

struct packet_icmp {
    uint8_t type, code;
    uint16_t id, seq; /* of an echo */
};

struct packet {
    const uint8_t *ip; /* the whole packet */
    size_t ip_len;
    bool is_v6;
    uint8_t protocol; /* IPPROTO_TCP, _UDP, _ICMP, _ICMPV6 or whatever else it says */
    uint8_t ttl, tos;
    bool dont_fragment;
    struct packet_ends ends;
    struct packet_tcp tcp;   /* valid for TCP */
    struct packet_icmp icmp; /* valid for ICMP and ICMPv6 */
    const uint8_t *payload;  /* behind the transport's header; of an unknown protocol behind IP's */
    size_t payload_len;
    struct ring_block **block; /* what the packet was read into; NULL: valid for the call alone */

    /* A fragment: only these, the addresses and the protocol are valid, and the payload is what
     * follows the headers of IP. */
    bool is_fragment, more_fragments;
    uint32_t fragment_id;
    uint16_t fragment_at; /* bytes */
};

/* Reads one packet, sent by the program. Its transport's checksum is verified unless
 * `sum_is_partial` (the kernel left it to the device). 0, ERR_PROTO: malformed or a wrong checksum,
 * to be dropped in silence as a kernel does. */
int packet_parse(const uint8_t *data, size_t len, bool sum_is_partial, struct packet *ret);

bool packet_is_v4(const uint8_t address[16]);
/* An address that is no other machine's: unspecified, loopback. To a machine that relays it, it
 * would be its own. */
bool packet_is_of_no_network(const uint8_t address[16]);

/*
 * Headers of packets to the program (from `far` to `near`); the payload of `payload_len` bytes is
 * put behind them by the caller. Returned: their length; `*ret_sum_at` is the offset where the
 * transport's header begins. The checksum field has the sum of the pseudo-header only, to be
 * completed by the device (VIRTIO_NET_HDR_F_NEEDS_CSUM). TCP over IPv4 may be longer than
 * PACKET_MAX; the length in the header is 0 then, as Linux has it between its own parts (BIG TCP).
 */
size_t packet_put_tcp(uint8_t *out, const struct packet_ends *e, const struct packet_tcp *t,
                      size_t payload_len, size_t *ret_sum_at);
size_t packet_put_udp(uint8_t *out, const struct packet_ends *e, uint8_t tos, size_t payload_len,
                      size_t *ret_sum_at);

/* The header of IP for a packet of the program (from `near` to `far`) whose `len` bytes follow; its
 * length. */
size_t packet_put_whole(uint8_t *out, const struct packet_ends *e, uint8_t protocol, uint8_t ttl,
                        uint8_t tos, size_t len);

/* Whole packets, with their checksums; returned: their length. */

/* An ICMP error about a packet of the program, of which the first `quoted` bytes, at least its
 * header of IP, are at `about`. It comes from `from`, of the packet's own version; NULL: from its
 * target. */
size_t packet_put_error(uint8_t out[PACKET_ERROR_MAX], const uint8_t *about, size_t quoted,
                        uint8_t type, uint8_t code, const uint8_t from[16]);
void packet_quoted_target(const uint8_t *about, uint8_t ret[16]); /* where that packet went */
/* The headers of an answer to an echo request, behind which the payload is to be put. */
size_t packet_put_echo_reply(uint8_t out[PACKET_HEADER_MAX], const struct packet_ends *e,
                             uint8_t ttl, uint16_t id, uint16_t seq, const uint8_t *payload,
                             size_t payload_len);
