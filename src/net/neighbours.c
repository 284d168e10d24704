#include "net/neighbours.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES   (32 << 10)
#define NOTE_BYTES   2048
#define ROOM_DEFAULT 1024 /* of kernels that do not tell */
#define NEWS_BYTES   (1 << 20)

/* ---- messages ---- */

/* An attribute of at least `want` bytes, behind a message's own `head` bytes. */
static const void *attribute(const struct nlmsghdr *h, size_t head, int type, size_t want)
{
    const struct rtattr *a = (const void *)((const char *)NLMSG_DATA(h) + NLMSG_ALIGN(head));
    int len = (int)h->nlmsg_len - (int)NLMSG_SPACE(head);
    for (; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
        if ((a->rta_type & NLA_TYPE_MASK) == type && RTA_PAYLOAD(a) >= want)
            return RTA_DATA(a);
    }
    return NULL;
}

static int open_socket(unsigned groups)
{
    const struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_groups = groups};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&own, sizeof(own)) == 0)
        return fd;
    int rc = error_from_errno(errno);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Whether more is to come. */
static bool take(const void *data, int len, int type, void *arg,
                 void (*each)(void *arg, const struct nlmsghdr *h))
{
    for (const struct nlmsghdr *h = data; NLMSG_OK(h, (unsigned)len); h = NLMSG_NEXT(h, len)) {
        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
            return false;
        if (h->nlmsg_type == type)
            each(arg, h);
    }
    return true;
}

static void dump(int ask_type, int type, void *arg,
                 void (*each)(void *arg, const struct nlmsghdr *h))
{
    const struct {
        struct nlmsghdr h;
        struct ndmsg m; /* only the family counts, which is its beginning */
    } ask = {{.nlmsg_len = sizeof(ask),
              .nlmsg_type = (uint16_t)ask_type,
              .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
             {.ndm_family = AF_UNSPEC}};
    int fd = open_socket(0);
    if (fd < 0)
        return;
    CLEANUP(mem_free) void *data = mem_new(READ_BYTES);
    ssize_t n = send(fd, &ask, sizeof(ask), 0);
    while (n > 0) {
        n = recv(fd, data, READ_BYTES, 0);
        if (n > 0 && !take(data, (int)n, type, arg, each))
            break;
    }
    close(fd);
}

/* ---- who is there ---- */

void neighbour_mac_text(const uint8_t mac[6], char ret[NEIGHBOUR_MAC_SIZE])
{
    snprintf(ret, NEIGHBOUR_MAC_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
             mac[3], mac[4], mac[5]);
}

/* false: it is no address with a hardware address. */
static bool read_neighbour(const struct nlmsghdr *h, struct neighbour *ret)
{
    const struct ndmsg *m = NLMSG_DATA(h);
    const unsigned known = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || !(m->ndm_state & known))
        return false;
    bool is_v4 = m->ndm_family == AF_INET;
    const uint8_t *ip = attribute(h, sizeof(*m), NDA_DST, is_v4 ? 4 : 16);
    const uint8_t *mac = attribute(h, sizeof(*m), NDA_LLADDR, 6);
    if (!ip || !mac || (!is_v4 && m->ndm_family != AF_INET6))
        return false;
    *ret = (struct neighbour){.is_answered = m->ndm_state & (NUD_REACHABLE | NUD_PERMANENT)};
    if (is_v4)
        ret->ip[10] = ret->ip[11] = 0xff;
    memcpy(is_v4 ? ret->ip + 12 : ret->ip, ip, is_v4 ? 4 : 16);
    neighbour_mac_text(mac, ret->mac);
    return true;
}

/* Those that have not answered are thrown out for others, and what an administrator or a routing
 * daemon has put there is not counted against the limit (Linux 5.0). */
static bool takes_no_room(const struct ndmsg *m)
{
    return m->ndm_state & (NUD_FAILED | NUD_PERMANENT) || m->ndm_flags & NTF_EXT_LEARNED;
}

static void add(void *arg, const struct nlmsghdr *h)
{
    struct neighbours *list = arg;
    struct neighbour n;
    const struct ndmsg *m = NLMSG_DATA(h);
    if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(*m))) {
        list->n_roomless[m->ndm_family == AF_INET6] += takes_no_room(m);
        list->n_asked[m->ndm_family == AF_INET6] += (m->ndm_state & NUD_INCOMPLETE) != 0;
    }
    if (list->n == NEIGHBOURS_READ_MAX || !read_neighbour(h, &n))
        return;
    if ((list->n & (list->n - 1)) == 0) /* it is full */
        list->items = mem_grow(list->items, MAX(list->n * 2, (size_t)1) * sizeof(*list->items));
    list->items[list->n++] = n;
}

static int by_address(const void *a, const void *b)
{
    return memcmp(((const struct neighbour *)a)->ip, ((const struct neighbour *)b)->ip, 16);
}

void neighbours_read(struct neighbours *ret)
{
    *ret = (struct neighbours){0};
    dump(RTM_GETNEIGH, RTM_NEWNEIGH, ret, add);
    if (ret->n)
        qsort(ret->items, ret->n, sizeof(*ret->items), by_address);
}

void neighbours_done(struct neighbours *n)
{
    mem_free(n->items);
    *n = (struct neighbours){0};
}

const struct neighbour *neighbours_find(const struct neighbours *n, const uint8_t ip[16])
{
    struct neighbour key;
    memcpy(key.ip, ip, sizeof(key.ip));
    return n->n ? bsearch(&key, n->items, n->n, sizeof(key), by_address) : NULL;
}

/* ---- how many more there may be ---- */

struct tables {
    uint32_t limit[2], used[2]; /* IPv4, IPv6; limit 0: not told */
};

static void read_table(void *arg, const struct nlmsghdr *h)
{
    struct tables *t = arg;
    const struct ndtmsg *m = NLMSG_DATA(h);
    const struct ndt_config *c = attribute(h, sizeof(*m), NDTA_CONFIG, sizeof(*c));
    const uint32_t *limit = attribute(h, sizeof(*m), NDTA_THRESH3, sizeof(*limit));
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || !c || !limit ||
        (m->ndtm_family != AF_INET && m->ndtm_family != AF_INET6))
        return;
    t->limit[m->ndtm_family == AF_INET6] = *limit;
    t->used[m->ndtm_family == AF_INET6] = c->ndtc_entries;
}

void neighbours_room(struct neighbour_room *ret)
{
    struct neighbours list;
    struct tables t = {0};
    *ret = (struct neighbour_room){.free = SIZE_MAX};
    neighbours_read(&list);
    dump(RTM_GETNEIGHTBL, RTM_NEWNEIGHTBL, &t, read_table);
    for (size_t i = 0; i < ARRAY_SIZE(t.limit); i++) {
        size_t used = t.used[i] > list.n_roomless[i] ? t.used[i] - list.n_roomless[i] : 0;
        size_t room = t.limit[i] > used ? t.limit[i] - used : 0;
        if (t.limit[i] && room < ret->free)
            *ret = (struct neighbour_room){room, list.n_asked[i]};
    }
    neighbours_done(&list);
    if (ret->free == SIZE_MAX)
        ret->free = ROOM_DEFAULT;
}

/* ---- as it happens ---- */

static void tell(void *arg, const struct nlmsghdr *h)
{
    struct neighbour_watch *w = arg;
    struct neighbour n;
    if (read_neighbour(h, &n) && n.is_answered)
        w->on_answer(w, &n);
}

static void on_event(struct io *io)
{
    struct neighbour_watch *w = container_of(io, struct neighbour_watch, io);
    _Alignas(struct nlmsghdr) char data[NOTE_BYTES];
    io->error = false; /* some were left out */
    while (io->loop) {
        ssize_t n = recv(io->fd, data, sizeof(data), 0);
        if (n < 0 && errno == ENOBUFS)
            continue;
        if (n <= 0)
            break;
        take(data, (int)n, RTM_NEWNEIGH, w, tell);
    }
    io->readable = false;
}

int neighbour_watch_start(struct neighbour_watch *w, struct loop *l)
{
    int size = NEWS_BYTES;
    w->io.fd = open_socket(RTMGRP_NEIGH);
    if (w->io.fd < 0) {
        int rc = w->io.fd;
        w->io.fd = -1;
        return rc;
    }
    setsockopt(w->io.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    int fd = w->io.fd, rc = io_start(&w->io, l, fd, on_event);
    if (rc < 0) {
        close(fd);
        w->io.fd = -1;
    }
    return rc;
}

void neighbour_watch_stop(struct neighbour_watch *w)
{
    io_close(&w->io);
}
