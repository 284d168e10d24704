/*
 * One socket for multicast DNS: an interface and an address family. It is bound to the group and
 * not to any address, so that a responder of the machine (avahi, systemd-resolved) keeps its port
 * and the unicast that comes to it; no privilege is needed.
 */
#pragma once

#include "fleet/lan_peers.h"
#include "loop/io.h"
#include "wire/mdns.h"

#define LAN_IFNAME_SIZE 16

/* An interface that can speak: up, with a carrier and multicast, no loopback, not point-to-point.
 */
struct lan_link {
    unsigned int index;
    char name[LAN_IFNAME_SIZE];
    struct lan_address speaks[2]; /* by IPv4, and link-local by IPv6; family 0: does not */
    char prefix[LAN_PREFIX_SIZE]; /* what tells its subnet from others; "": link-local only */
};
/* Returns how many; those beyond `room` are left out. */
size_t lan_links_scan(struct lan_link *out, size_t room);

/* The hardware address of the link's default router, where the system knows it; else "". */
#define LAN_GATEWAY_SIZE 18
void lan_gateway(const char *interface, char out[LAN_GATEWAY_SIZE]);

struct lan_port {
    struct io io;
    struct timer more; /* after a burst of packets the loop gets a pause */
    unsigned int link;
    struct lan_address here;
    struct lan_pace pace;
    char label[MDNS_LABEL_SIZE]; /* our name in DNS-SD, random */
    void (*on_packet)(struct lan_port *p, const struct lan_address *src, const uint8_t *data,
                      size_t len);
    void *owner;
};

/* NULL: no socket (the reason is logged). on_packet gets what came from the link itself, which a
 * hop limit of 255 shows (RFC 6762, 11). */
struct lan_port *lan_port_open(struct loop *loop, unsigned int link, const struct lan_address *here,
                               void (*on_packet)(struct lan_port *p, const struct lan_address *src,
                                                 const uint8_t *data, size_t len),
                               void *owner);
void lan_port_send(struct lan_port *p, const uint8_t *data, size_t len);
void lan_port_close(struct lan_port *p);

/* A netlink socket that becomes readable when links or addresses change; -1: there is none. */
int lan_watch_open(void);
