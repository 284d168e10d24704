#include "net/udp.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/buffers.h"
#include "net/errqueue.h"
#include "net/listener.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define SOCKET_BUFFER (4 << 20)
#define GATHERED_MAX  1024
#define CONTROL_SIZE  128 /* packet info and the count of losses */

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */

static bool is_local_set(const struct udp_local *l)
{
    static const uint8_t none[16];
    return memcmp(l->ip, none, sizeof(none)) != 0;
}

/* ---- sockets ---- */

/* More than the system's maximum needs a privilege. */
static void enlarge(int fd)
{
    int size = SOCKET_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int udp_bind(const struct addr *a, int *ret_fd, struct addr *ret_bound, struct diag *d)
{
    int one = 1;
    int fd = socket(a->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot make a socket");
    enlarge(fd);
    setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &one, sizeof(one));
    if (a->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
    else
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one));
    if (bind(fd, &a->sa, a->len) < 0)
        return listener_bind_failed(fd, a, d);
    if (ret_bound) {
        ret_bound->len = sizeof(ret_bound->in6);
        getsockname(fd, &ret_bound->sa, &ret_bound->len);
    }
    *ret_fd = fd;
    return 0;
}

void udp_watch_errors(int fd)
{
    enlarge(fd);
    errqueue_watch(fd, AF_UNSPEC, true);
}

/* ---- receiving ---- */

static void read_control(struct msghdr *m, struct udp_local *local, uint32_t *lost)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(local->ip, mapped, sizeof(mapped));
            memcpy(local->ip + sizeof(mapped), &info.ipi_addr, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(local->ip, &info.ipi6_addr, 16);
            local->interface =
                IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) ? (unsigned)info.ipi6_ifindex : 0;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL && lost) {
            memcpy(lost, CMSG_DATA(c), sizeof(*lost));
        }
    }
}

int udp_receive(int fd, struct udp_datagram ret[UDP_BATCH], uint32_t *ret_lost)
{
    struct buffers *b = buffers_of_thread();
    struct mmsghdr messages[UDP_BATCH];
    struct iovec iov[UDP_BATCH];
    _Alignas(struct cmsghdr) char control[UDP_BATCH][CONTROL_SIZE];
    static_assert(ARRAY_SIZE(b->datagrams) == UDP_BATCH, "a buffer for each");
    for (size_t i = 0; i < UDP_BATCH; i++) {
        iov[i] = (struct iovec){b->datagrams[i], sizeof(b->datagrams[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &ret[i].peer.sa,
                                              .msg_namelen = sizeof(ret[i].peer.in6),
                                              .msg_iov = &iov[i],
                                              .msg_iovlen = 1,
                                              .msg_control = control[i],
                                              .msg_controllen = CONTROL_SIZE};
    }
    int n;
    do {
        n = recvmmsg(fd, messages, UDP_BATCH, 0, NULL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : error_from_errno(errno);
    for (int i = 0; i < n; i++) {
        ret[i].data = b->datagrams[i];
        ret[i].len = messages[i].msg_len;
        ret[i].peer.len = messages[i].msg_hdr.msg_namelen;
        ret[i].local = (struct udp_local){0};
        read_control(&messages[i].msg_hdr, &ret[i].local, ret_lost);
    }
    return n;
}

int udp_take_error(int fd)
{
    int pending = 0;
    socklen_t len = sizeof(pending);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &pending, &len) < 0 || pending == EMSGSIZE)
        return 0;
    return pending ? error_from_errno(pending) : 0;
}

/* ---- sending ---- */

struct gathered {
    const uint8_t *data;
    const struct udp_path *path;
    uint32_t len;
    uint16_t next; /* one more than the index; 0: the last */
};

/* Shared by all senders of the thread. */
static _Thread_local struct {
    struct gathered items[GATHERED_MAX];
    uint16_t used;
    uint32_t owners; /* senders that have some; at 0 all items are free again */
} pool;

bool udp_is_gathering(const struct udp_sender *s)
{
    return s->first != 0;
}

static void put_control(struct msghdr *m, const struct udp_path *path, char *control)
{
    struct cmsghdr *c = (struct cmsghdr *)control;
    if (path->peer.sa.sa_family == AF_INET6) {
        struct in6_pktinfo info = {.ipi6_ifindex = path->local.interface};
        memcpy(&info.ipi6_addr, path->local.ip, 16);
        *c = (struct cmsghdr){CMSG_LEN(sizeof(info)), IPPROTO_IPV6, IPV6_PKTINFO};
        memcpy(CMSG_DATA(c), &info, sizeof(info));
        m->msg_controllen = CMSG_SPACE(sizeof(info));
    } else {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, path->local.ip + sizeof(mapped), 4);
        *c = (struct cmsghdr){CMSG_LEN(sizeof(info)), IPPROTO_IP, IP_PKTINFO};
        memcpy(CMSG_DATA(c), &info, sizeof(info));
        m->msg_controllen = CMSG_SPACE(sizeof(info));
    }
    m->msg_control = control;
}

/* What one call sends. */
struct packed {
    struct mmsghdr messages[UDP_BATCH];
    struct iovec iov[UDP_BATCH];
    _Alignas(struct cmsghdr) char control[UDP_BATCH][CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

static void pack(struct packed *p, size_t i, const struct gathered *g)
{
    struct msghdr *m = &p->messages[i].msg_hdr;
    p->iov[i] = (struct iovec){(void *)g->data, g->len};
    *m = (struct msghdr){.msg_iov = &p->iov[i], .msg_iovlen = 1};
    if (!g->path || g->path->peer.len == 0)
        return;
    m->msg_name = (void *)&g->path->peer.sa;
    m->msg_namelen = g->path->peer.len;
    if (is_local_set(&g->path->local))
        put_control(m, g->path, p->control[i]);
}

static bool is_about_one_datagram(int errnum)
{
    return errnum == EMSGSIZE || errnum == EINVAL || errnum == EPERM || errnum == EACCES;
}

/* A datagram that fails is left out, but for the error of an earlier one: that makes way. */
static void send_packed(struct udp_sender *s, struct mmsghdr *m, unsigned n)
{
    bool was_error = false;
    while (n > 0) {
        int sent = sendmmsg(s->fd, m, n, MSG_NOSIGNAL);
        if (sent > 0) {
            m += sent;
            n -= (unsigned)sent;
            was_error = false;
            continue;
        }
        int failure = errno;
        if (failure == EINTR)
            continue;
        if (failure == EAGAIN || failure == ENOBUFS) {
            s->unsent += n;
            return;
        }
        if (!is_about_one_datagram(failure))
            s->err = error_from_errno(failure);
        if (is_about_one_datagram(failure) || was_error) {
            s->unsent++;
            m++;
            n--;
        }
        was_error = !was_error;
    }
}

void udp_flush(struct udp_sender *s)
{
    struct packed p;
    unsigned n = 0;
    if (!s->first)
        return;
    for (uint16_t at = s->first; at; at = pool.items[at - 1].next) {
        pack(&p, n++, &pool.items[at - 1]);
        if (n == UDP_BATCH) {
            send_packed(s, p.messages, n);
            n = 0;
        }
    }
    send_packed(s, p.messages, n);
    s->first = s->last = 0;
    if (--pool.owners == 0)
        pool.used = 0;
}

void udp_send(struct udp_sender *s, const uint8_t *data, size_t len, const struct udp_path *path)
{
    const struct gathered g = {data, path, (uint32_t)len, 0};
    if (pool.used == GATHERED_MAX)
        udp_flush(s);
    if (pool.used == GATHERED_MAX) { /* all are others' */
        struct packed p;
        pack(&p, 0, &g);
        send_packed(s, p.messages, 1);
        return;
    }
    pool.items[pool.used++] = g;
    if (!s->first)
        pool.owners++;
    else
        pool.items[s->last - 1].next = pool.used;
    s->first = s->first ? s->first : pool.used;
    s->last = pool.used;
}

static void put_option(struct msghdr *m, int level, int type, int value)
{
    struct cmsghdr *c = (struct cmsghdr *)((char *)m->msg_control + m->msg_controllen);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(value)), level, type};
    memcpy(CMSG_DATA(c), &value, sizeof(value));
    m->msg_controllen += CMSG_SPACE(sizeof(value));
}

size_t udp_mark_control(char control[UDP_MARK_SIZE], const struct capsule_mark *mark, bool is_v6)
{
    struct msghdr m = {.msg_control = control};
    static_assert(UDP_MARK_SIZE >= 2 * CMSG_SPACE(sizeof(int)), "room for both");
    memset(control, 0, UDP_MARK_SIZE);
    if (mark->ttl)
        put_option(&m, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, is_v6 ? IPV6_HOPLIMIT : IP_TTL,
                   mark->ttl);
    if (mark->tos)
        put_option(&m, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, is_v6 ? IPV6_TCLASS : IP_TOS, mark->tos);
    return m.msg_controllen;
}

static bool is_v6(int fd)
{
    int domain = AF_INET;
    socklen_t len = sizeof(domain);
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
    return domain == AF_INET6;
}

void udp_send_marked(struct udp_sender *s, const uint8_t *data, size_t len,
                     const struct capsule_mark *mark)
{
    _Alignas(struct cmsghdr) char control[UDP_MARK_SIZE];
    struct iovec iov = {(void *)data, len};
    struct mmsghdr m = {
        .msg_hdr = {.msg_iov = &iov,
                    .msg_iovlen = 1,
                    .msg_control = control,
                    .msg_controllen = udp_mark_control(control, mark, is_v6(s->fd))}};
    udp_flush(s);
    send_packed(s, &m, 1);
}
