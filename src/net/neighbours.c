#include "net/neighbours.h"

#include "base/macro.h"
#include "base/mem.h"

#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (32 << 10)

/* With the attributes that are no longer than `want`. */
static const void *attribute(const struct nlmsghdr *h, int type, size_t want)
{
    const struct ndmsg *m = NLMSG_DATA(h);
    const struct rtattr *a = (const void *)((const char *)m + NLMSG_ALIGN(sizeof(*m)));
    int len = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));
    for (; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
        if (a->rta_type == type && RTA_PAYLOAD(a) >= want)
            return RTA_DATA(a);
    }
    return NULL;
}

static void add(struct neighbours *list, const struct nlmsghdr *h)
{
    const struct ndmsg *m = NLMSG_DATA(h);
    const unsigned known = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || !(m->ndm_state & known) ||
        list->n == NEIGHBOURS_READ_MAX)
        return;
    bool is_v4 = m->ndm_family == AF_INET;
    const uint8_t *ip = attribute(h, NDA_DST, is_v4 ? 4 : 16), *mac = attribute(h, NDA_LLADDR, 6);
    if (!ip || !mac || (!is_v4 && m->ndm_family != AF_INET6))
        return;
    if ((list->n & (list->n - 1)) == 0) /* it is full */
        list->items = mem_grow(list->items, MAX(list->n * 2, (size_t)1) * sizeof(*list->items));
    struct neighbour *n = &list->items[list->n++];
    *n = (struct neighbour){.ip = {[10] = 0xff, 0xff},
                            .is_answered = m->ndm_state & (NUD_REACHABLE | NUD_PERMANENT)};
    memcpy(is_v4 ? n->ip + 12 : n->ip, ip, is_v4 ? 4 : 16);
    snprintf(n->mac, sizeof(n->mac), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
             mac[3], mac[4], mac[5]);
}

/* Whether more is to come. */
static bool take(struct neighbours *list, const void *data, int len)
{
    for (const struct nlmsghdr *h = data; NLMSG_OK(h, (unsigned)len); h = NLMSG_NEXT(h, len)) {
        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
            return false;
        if (h->nlmsg_type == RTM_NEWNEIGH)
            add(list, h);
    }
    return true;
}

void neighbours_read(struct neighbours *ret)
{
    const struct {
        struct nlmsghdr h;
        struct ndmsg m;
    } ask = {{.nlmsg_len = sizeof(ask),
              .nlmsg_type = RTM_GETNEIGH,
              .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
             {.ndm_family = AF_UNSPEC}};
    *ret = (struct neighbours){0};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return;
    CLEANUP(mem_free) void *data = mem_new(READ_BYTES);
    ssize_t n = send(fd, &ask, sizeof(ask), 0);
    while (n > 0) {
        n = recv(fd, data, READ_BYTES, 0);
        if (n > 0 && !take(ret, data, (int)n))
            break;
    }
    close(fd);
}

void neighbours_done(struct neighbours *n)
{
    mem_free(n->items);
    *n = (struct neighbours){0};
}

const struct neighbour *neighbours_find(const struct neighbours *n, const struct addr *a)
{
    uint8_t ip[16];
    addr_mapped(a, ip);
    for (size_t i = 0; i < n->n; i++) {
        if (memcmp(n->items[i].ip, ip, sizeof(ip)) == 0)
            return &n->items[i];
    }
    return NULL;
}
