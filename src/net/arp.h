/*
 * Who has an address of an attached network, asked without the kernel's table of neighbours, which
 * therefore has no part in it (RFC 826). Needs CAP_NET_RAW; IPv4 on Ethernet only.
 */
#pragma once

#include "base/addr.h"
#include "loop/io.h"

#define ARP_LINKS_MAX 16

struct arp_link {
    int interface;
    uint8_t mac[6];
    struct in_addr own, mask;
};

struct arp {
    struct io io; /* fd -1: not open */
    struct arp_link links[ARP_LINKS_MAX];
    size_t n_links;
    void (*on_answer)(struct arp *a, struct in_addr ip, const uint8_t mac[6]);
};

/* `on_answer` is set. ERR_DENIED, ERR_LIMIT: it is not open then, which stopping does not mind. */
int arp_start(struct arp *a, struct loop *l);
void arp_stop(struct arp *a);

bool arp_reaches(const struct arp *a, const struct addr *to); /* another host's, on a link */
int arp_ask(struct arp *a, const struct addr *to);            /* 0, or a positive errno value */
