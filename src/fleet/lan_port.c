#include "fleet/lan_port.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PACKETS_PER_TURN 64
#define PAUSE_MS         5
#define HOPS             255

static const struct in_addr group4 = {.s_addr = 0xfb0000e0}; /* 224.0.0.251 */
static const struct in6_addr group6 = {{{0xff, 0x02, [15] = 0xfb}}};

/* ---- the machine's links ---- */

static struct lan_link *link_of(struct lan_link *list, size_t *n, size_t room, const char *name)
{
    for (size_t i = 0; i < *n; i++) {
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    }
    unsigned int index = *n < room ? if_nametoindex(name) : 0;
    if (!index)
        return NULL;
    struct lan_link *l = &list[(*n)++];
    *l = (struct lan_link){.index = index};
    snprintf(l->name, sizeof(l->name), "%s", name);
    return l;
}

static uint8_t mask_bits(const uint8_t *mask, size_t size)
{
    uint8_t bits = 0;
    for (size_t i = 0; i < size; i++)
        bits = (uint8_t)(bits + __builtin_popcount(mask[i]));
    return bits;
}

static bool take_address(const struct ifaddrs *ifa, struct lan_address *ret)
{
    *ret = (struct lan_address){.family = ifa->ifa_addr->sa_family};
    if (!ifa->ifa_netmask)
        return false;
    if (ret->family == AF_INET) {
        memcpy(ret->ip, &((struct sockaddr_in *)ifa->ifa_addr)->sin_addr, 4);
        ret->prefix =
            mask_bits((const uint8_t *)&((struct sockaddr_in *)ifa->ifa_netmask)->sin_addr, 4);
    } else {
        memcpy(ret->ip, &((struct sockaddr_in6 *)ifa->ifa_addr)->sin6_addr, 16);
        ret->prefix =
            mask_bits((const uint8_t *)&((struct sockaddr_in6 *)ifa->ifa_netmask)->sin6_addr, 16);
    }
    return true;
}

/* IPv4's subnet says where a link is; without one, a global IPv6 prefix. */
static void add_address(struct lan_link *l, const struct lan_address *a)
{
    if (a->family == AF_INET) {
        if (!l->speaks[0].family) {
            l->speaks[0] = *a;
            lan_prefix_format(a, l->prefix);
        }
    } else if (IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)a->ip)) {
        if (!l->speaks[1].family)
            l->speaks[1] = *a;
    } else if (!l->prefix[0]) {
        lan_prefix_format(a, l->prefix);
    }
}

size_t lan_links_scan(struct lan_link *out, size_t room)
{
    static const unsigned int wanted = IFF_UP | IFF_RUNNING | IFF_MULTICAST;
    struct ifaddrs *all, *i;
    size_t n = 0;
    if (getifaddrs(&all) < 0)
        return 0;
    for (i = all; i; i = i->ifa_next) {
        struct lan_address a;
        if (!i->ifa_addr || (i->ifa_flags & wanted) != wanted ||
            (i->ifa_flags & (IFF_LOOPBACK | IFF_POINTOPOINT)) ||
            (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) ||
            strlen(i->ifa_name) >= LAN_IFNAME_SIZE || !take_address(i, &a))
            continue;
        struct lan_link *l = link_of(out, &n, room, i->ifa_name);
        if (l)
            add_address(l, &a);
    }
    freeifaddrs(all);
    return n;
}

static bool default_router(const char *interface, char out[LAN_ADDRESS_SIZE])
{
    char line[256], name[LAN_IFNAME_SIZE];
    unsigned int destination, router, flags;
    bool found = false;
    FILE *f = fopen("/proc/self/net/route", "re");
    while (f && !found && fgets(line, sizeof(line), f))
        found = sscanf(line, "%15s %x %x %x", name, &destination, &router, &flags) == 4 &&
                strcmp(name, interface) == 0 && destination == 0 && router != 0;
    if (f)
        fclose(f);
    struct in_addr ip = {.s_addr = found ? router : 0};
    return found && inet_ntop(AF_INET, &ip, out, LAN_ADDRESS_SIZE);
}

void lan_gateway(const char *interface, char out[LAN_GATEWAY_SIZE])
{
    char line[256], router[LAN_ADDRESS_SIZE], ip[LAN_ADDRESS_SIZE], mac[LAN_GATEWAY_SIZE];
    unsigned int type, flags;
    out[0] = '\0';
    if (!default_router(interface, router))
        return;
    FILE *f = fopen("/proc/self/net/arp", "re");
    while (f && !out[0] && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%45s 0x%x 0x%x %17s", ip, &type, &flags, mac) == 4 && flags &&
            strcmp(ip, router) == 0)
            memcpy(out, mac, LAN_GATEWAY_SIZE);
    }
    if (f)
        fclose(f);
}

int lan_watch_open(void)
{
    const struct sockaddr_nl at = {.nl_family = AF_NETLINK,
                                   .nl_groups =
                                       RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- a socket ---- */

static bool set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

static bool set_up4(const struct lan_port *p)
{
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(MDNS_PORT), .sin_addr = group4};
    struct ip_mreqn how = {.imr_multiaddr = group4, .imr_ifindex = (int)p->link};
    memcpy(&how.imr_address, p->here.ip, 4);
    int fd = p->io.fd;
    return set(fd, SOL_SOCKET, SO_REUSEADDR, 1) && set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0) &&
           set(fd, IPPROTO_IP, IP_MULTICAST_TTL, HOPS) && set(fd, IPPROTO_IP, IP_RECVTTL, 1) &&
           bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0 &&
           setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &how, sizeof(how)) == 0 &&
           setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &how, sizeof(how)) == 0;
}

static bool set_up6(const struct lan_port *p)
{
    const struct sockaddr_in6 at = {.sin6_family = AF_INET6,
                                    .sin6_port = htons(MDNS_PORT),
                                    .sin6_addr = group6,
                                    .sin6_scope_id = p->link};
    const struct ipv6_mreq how = {.ipv6mr_multiaddr = group6, .ipv6mr_interface = p->link};
    int fd = p->io.fd;
    return set(fd, SOL_SOCKET, SO_REUSEADDR, 1) && set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) &&
           set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, HOPS) &&
           set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1) &&
           bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0 &&
           set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)p->link) &&
           setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &how, sizeof(how)) == 0;
}

static int hops_of(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        int hops;
        if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) ||
            (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT)) {
            memcpy(&hops, CMSG_DATA(c), sizeof(hops));
            return hops;
        }
    }
    return -1;
}

/* False: nothing was there. */
static bool receive(struct lan_port *p)
{
    uint8_t data[MDNS_PACKET_MAX + 1];
    char control[64] __attribute__((aligned(8)));
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } from;
    struct iovec iov = {data, sizeof(data)};
    struct msghdr m = {.msg_name = &from,
                       .msg_namelen = sizeof(from),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(p->io.fd, &m, 0);
    if (n < 0)
        return errno == EINTR;
    struct lan_address src = {.family = p->here.family};
    if (from.sa.sa_family == AF_INET)
        memcpy(src.ip, &from.in4.sin_addr, 4);
    else
        memcpy(src.ip, &from.in6.sin6_addr, 16);
    if (from.sa.sa_family == p->here.family && hops_of(&m) == HOPS && n <= MDNS_PACKET_MAX)
        p->on_packet(p, &src, data, (size_t)n);
    return true;
}

static void drain(struct lan_port *p)
{
    for (int i = 0; i < PACKETS_PER_TURN; i++) {
        if (!receive(p)) {
            p->io.readable = false;
            return;
        }
    }
    timer_start(&p->more, PAUSE_MS);
}

static void on_event(struct io *io)
{
    struct lan_port *p = container_of(io, struct lan_port, io);
    if (!timer_is_running(&p->more))
        drain(p);
}

static void on_more(struct timer *t)
{
    drain(container_of(t, struct lan_port, more));
}

static void draw_label(char out[MDNS_LABEL_SIZE])
{
    uint8_t random[(MDNS_LABEL_SIZE - 1) / 2];
    random_bytes(random, sizeof(random));
    text_hex(random, sizeof(random), out);
}

struct lan_port *lan_port_open(struct loop *loop, unsigned int link, const struct lan_address *here,
                               void (*on_packet)(struct lan_port *p, const struct lan_address *src,
                                                 const uint8_t *data, size_t len),
                               void *owner)
{
    struct lan_port *p = NEW(struct lan_port);
    p->io.fd = socket(here->family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    p->link = link;
    p->here = *here;
    p->on_packet = on_packet;
    p->owner = owner;
    timer_init(&p->more, loop, on_more);
    draw_label(p->label);
    int fd = p->io.fd;
    if (fd >= 0 && (here->family == AF_INET ? set_up4(p) : set_up6(p)) &&
        io_start(&p->io, loop, fd, on_event) == 0)
        return p;
    char text[LAN_ADDRESS_SIZE];
    lan_address_format(here, text);
    LOG_DEBUG("no multicast DNS on an address", LOG_STR("address", text),
              LOG_STR("why", strerror(errno)));
    if (fd >= 0)
        close(fd);
    mem_free(p);
    return NULL;
}

/* A packet that cannot leave now (no address yet, no carrier) is as one that was lost. */
void lan_port_send(struct lan_port *p, const uint8_t *data, size_t len)
{
    const struct sockaddr_in to4 = {
        .sin_family = AF_INET, .sin_port = htons(MDNS_PORT), .sin_addr = group4};
    const struct sockaddr_in6 to6 = {.sin6_family = AF_INET6,
                                     .sin6_port = htons(MDNS_PORT),
                                     .sin6_addr = group6,
                                     .sin6_scope_id = p->link};
    bool is4 = p->here.family == AF_INET;
    const struct sockaddr *to = is4 ? (const struct sockaddr *)&to4 : (const struct sockaddr *)&to6;
    if (len && sendto(p->io.fd, data, len, 0, to, is4 ? sizeof(to4) : sizeof(to6)) < 0)
        LOG_DEBUG("a beacon was not sent", LOG_STR("why", strerror(errno)));
}

void lan_port_close(struct lan_port *p)
{
    if (!p)
        return;
    timer_stop(&p->more);
    io_close(&p->io);
    mem_free(p);
}
