/*
 * ICMP echo (RFC 792, RFC 4443 section 4) in datagrams of a stream: what is to be pinged, and what
 * came back. No I/O.
 *
 *     kind and version (4 bits each) · ttl · type or tos · code · cookie (4 bytes) · address (4 or
 *     16 bytes) · data of the echo
 *
 * A request names the target, a reply and an error say who sent them. The cookie is the asker's
 * own.
 */
#pragma once

#include "wire/icmp_cause.h"

#define ECHO_HEAD_MAX 24
#define ECHO_DATA_MAX 65507 /* bytes: what a packet of IPv4 has room for */

enum echo_kind { ECHO_REQUEST, ECHO_REPLY, ECHO_ERROR, ECHO_KIND_COUNT };

struct echo_record {
    enum echo_kind kind;
    uint8_t version; /* of IP: 4, 6 */
    uint8_t ttl;     /* of the request as it is to be sent (0: as usual), of the reply as it came */
    uint8_t tos;     /* REQUEST */
    uint8_t type, code;  /* ERROR */
    uint32_t cookie;     /* errors and replies have that of the request */
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d; ERROR: all zero as in struct icmp_cause */
    const uint8_t *data; /* of a parsed record: in the input */
    size_t len;          /* at most ECHO_DATA_MAX; 0 for an error */
};

/* The head alone; its size. */
size_t echo_record_head(uint8_t out[ECHO_HEAD_MAX], const struct echo_record *r);
/* ERR_PROTO: malformed. */
int echo_record_parse(const uint8_t *data, size_t len, struct echo_record *ret);
