/*
 * Socket addresses, host:port texts, and the CIDR rules of an owner's ceiling. Values only: nothing
 * here resolves a name or opens a socket.
 */
#pragma once

#include "base/diag.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define HOST_SIZE      256 /* longest DNS name with its NUL */
#define ADDR_TEXT_SIZE 64  /* "[ipv6%scope]:port" */

struct addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    };
    socklen_t len; /* 0: no address */
};

/* A place to dial: name or literal, and port. */
struct host_port {
    char host[HOST_SIZE]; /* without brackets */
    uint16_t port;
};

/* "host:port", "10.0.0.17:80", "[::1]:80". The port is required; 0 only if `zero_ok`. */
int host_port_parse(const char *s, bool zero_ok, struct host_port *ret, struct diag *d);
void host_port_format(const struct host_port *hp, char *out, size_t size);
bool host_port_equal(const struct host_port *a, const struct host_port *b); /* as text */

/* A host name, not an address: labels of letters, digits and '-' (RFC 1123), at most 253 bytes; a
 * dot at the end is left out, capitals become small. ERR_INVALID. */
int host_name_parse(const char *s, char ret[HOST_SIZE]);

int addr_parse(const char *host, uint16_t port, struct addr *ret); /* literals only */
void addr_format(const struct addr *a, char *out, size_t size);    /* "ip:port" */
void addr_format_ip(const struct addr *a, char *out, size_t size);
uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);
bool addr_equal_ip(const struct addr *a, const struct addr *b);
/* IPv4 as ::ffff:a.b.c.d, so that one comparison serves both. */
void addr_mapped(const struct addr *a, uint8_t out[16]);
/* Whom limits for each address count: an IPv4 address, also where it came to an IPv6 socket as
 * ::ffff:a.b.c.d, or the /64 of an IPv6 address, which one customer has to himself. */
void addr_origin(const struct addr *a, uint8_t out[16]);
bool addr_same_origin(const struct addr *a, const struct addr *b);

/* One line of an allow-list: "10.0.0.0/8", "10.0.0.17/32:80,443,8000-8100", "[fd00::]/8:22".
 * No ports: every port. */
#define ADDR_RULE_PORTS 16

struct addr_rule {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t prefix; /* bits of the 128 */
    uint8_t n_ports;
    struct {
        uint16_t first, last;
    } ports[ADDR_RULE_PORTS];
};

int addr_rule_parse(const char *s, struct addr_rule *ret, struct diag *d);
bool addr_rule_match(const struct addr_rule *r, const struct addr *a);

/* Addresses that begin alike: "10.0.0.0/24", "fd00::/8", "10.0.0.17". */
struct addr_range {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d; zero behind the prefix */
    uint8_t prefix; /* bits of the 128 */
};

int addr_range_parse(const char *s, struct addr_range *ret);
void addr_range_format(const struct addr_range *r, char out[ADDR_TEXT_SIZE]); /* with its bits */
bool addr_range_match(const struct addr_range *r, const struct addr *a);
