#include "net/arp.h"

#include "base/error.h"
#include "base/macro.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <string.h>
#include <unistd.h>

static bool has_mac(const struct ifaddrs *list, const char *name, struct arp_link *ret)
{
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        const struct sockaddr_ll *l = (const void *)i->ifa_addr;
        if (!l || l->sll_family != AF_PACKET || strcmp(i->ifa_name, name) != 0)
            continue;
        ret->interface = l->sll_ifindex;
        memcpy(ret->mac, l->sll_addr, sizeof(ret->mac));
        return l->sll_hatype == ARPHRD_ETHER && l->sll_halen == sizeof(ret->mac);
    }
    return false;
}

static void read_links(struct arp *a)
{
    struct ifaddrs *list;
    if (getifaddrs(&list) < 0)
        return;
    for (const struct ifaddrs *i = list; i && a->n_links < ARP_LINKS_MAX; i = i->ifa_next) {
        struct arp_link *l = &a->links[a->n_links];
        bool is_link = i->ifa_flags & IFF_UP && !(i->ifa_flags & (IFF_LOOPBACK | IFF_NOARP));
        if (!is_link || !i->ifa_addr || !i->ifa_netmask || i->ifa_addr->sa_family != AF_INET ||
            !has_mac(list, i->ifa_name, l))
            continue;
        l->own = ((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr;
        l->mask = ((const struct sockaddr_in *)(const void *)i->ifa_netmask)->sin_addr;
        a->n_links++;
    }
    freeifaddrs(list);
}

/* NULL: none, or it is our own. */
static const struct arp_link *link_to(const struct arp *a, struct in_addr ip)
{
    const struct arp_link *found = NULL;
    for (size_t i = 0; i < a->n_links; i++) {
        const struct arp_link *l = &a->links[i];
        if (l->own.s_addr == ip.s_addr)
            return NULL;
        if (!found && !((l->own.s_addr ^ ip.s_addr) & l->mask.s_addr))
            found = l;
    }
    return found;
}

bool arp_reaches(const struct arp *a, const struct addr *to)
{
    return a->io.fd >= 0 && to->sa.sa_family == AF_INET && link_to(a, to->in4.sin_addr);
}

int arp_ask(struct arp *a, const struct addr *to)
{
    const struct arp_link *l = link_to(a, to->in4.sin_addr);
    struct ether_arp m = {.ea_hdr = {.ar_hrd = htons(ARPHRD_ETHER),
                                     .ar_pro = htons(ETHERTYPE_IP),
                                     .ar_hln = ETH_ALEN,
                                     .ar_pln = sizeof(struct in_addr),
                                     .ar_op = htons(ARPOP_REQUEST)}};
    struct sockaddr_ll all = {.sll_family = AF_PACKET,
                              .sll_protocol = htons(ETHERTYPE_ARP),
                              .sll_ifindex = l ? l->interface : 0,
                              .sll_halen = ETH_ALEN};
    if (!l)
        return EHOSTUNREACH;
    memset(all.sll_addr, 0xff, ETH_ALEN);
    memcpy(m.arp_sha, l->mac, sizeof(m.arp_sha));
    memcpy(m.arp_spa, &l->own, sizeof(m.arp_spa));
    memcpy(m.arp_tpa, &to->in4.sin_addr, sizeof(m.arp_tpa));
    ssize_t n =
        sendto(a->io.fd, &m, sizeof(m), MSG_NOSIGNAL, (const struct sockaddr *)&all, sizeof(all));
    return n < 0 ? errno : 0;
}

static bool is_to_us(const struct arp *a, const struct ether_arp *m)
{
    for (size_t i = 0; i < a->n_links; i++) {
        if (memcmp(m->arp_tpa, &a->links[i].own, sizeof(m->arp_tpa)) == 0)
            return true;
    }
    return false;
}

static void on_event(struct io *io)
{
    struct arp *a = container_of(io, struct arp, io);
    struct ether_arp m;
    io->error = false; /* an interface went down, or so */
    while (io->loop) {
        ssize_t n = recv(io->fd, &m, sizeof(m), 0);
        if (n < 0 && errno == EAGAIN)
            break;
        struct in_addr from;
        memcpy(&from, m.arp_spa, sizeof(from));
        if (n == (ssize_t)sizeof(m) && m.ea_hdr.ar_op == htons(ARPOP_REPLY) &&
            m.ea_hdr.ar_pro == htons(ETHERTYPE_IP) && is_to_us(a, &m))
            a->on_answer(a, from, m.arp_sha);
    }
    io->readable = false;
}

int arp_start(struct arp *a, struct loop *l)
{
    a->io = (struct io){.fd = -1};
    a->n_links = 0;
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETHERTYPE_ARP));
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE ? ERR_LIMIT : ERR_DENIED;
    read_links(a);
    int rc = io_start(&a->io, l, fd, on_event);
    if (rc < 0) {
        close(fd);
        a->io.fd = -1;
    }
    return rc;
}

void arp_stop(struct arp *a)
{
    io_close(&a->io);
}
