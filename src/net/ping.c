#include "net/ping.h"

#include "base/error.h"
#include "base/id.h"
#include "net/buffers.h"
#include "net/errqueue.h"
#include "net/udp.h"

#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <unistd.h>

#define ICMP_HEADER   8
#define IP4_HEADER    20
#define SKIPS_MAX     64
#define CONTROL_SIZE  128
#define SOCKET_BUFFER (1 << 20)

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */

/* ---- sockets ---- */

static int make(bool is_v6, int type)
{
    return socket(is_v6 ? AF_INET6 : AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC,
                  is_v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

enum ping_way ping_find_way(bool is_v6)
{
    struct ping p;
    if (ping_open(is_v6, &p) < 0)
        return PING_NOT_PERMITTED;
    close(p.fd);
    return p.is_raw ? PING_RAW : PING_SOCKET;
}

const char *ping_way_text(enum ping_way way)
{
    static const char *const texts[] = {"not permitted", "ping socket", "raw socket"};
    return texts[way];
}

/* A raw socket hears every message of its protocol: only replies shall arrive. */
static void filter(const struct ping *p)
{
    const uint32_t others = ~(1U << ICMP_ECHOREPLY);
    struct icmp6_filter others6;
    if (!p->is_v6) {
        setsockopt(p->fd, SOL_RAW, 1 /* ICMP_FILTER */, &others, sizeof(others));
        return;
    }
    ICMP6_FILTER_SETBLOCKALL(&others6);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &others6);
    setsockopt(p->fd, IPPROTO_ICMPV6, ICMP6_FILTER, &others6, sizeof(others6));
}

int ping_open(bool is_v6, struct ping *ret)
{
    struct ping p = {.fd = make(is_v6, SOCK_DGRAM), .is_v6 = is_v6};
    int one = 1, size = SOCKET_BUFFER, dont = IP_PMTUDISC_DONT;
    if (p.fd < 0) {
        p.is_raw = true;
        p.fd = make(is_v6, SOCK_RAW);
    }
    if (p.fd < 0)
        return errno == EMFILE || errno == ENFILE ? ERR_LIMIT : ERR_DENIED;
    if (p.is_raw) {
        random_bytes(&p.id, sizeof(p.id));
        filter(&p);
    }
    errqueue_watch(p.fd, is_v6 ? AF_INET6 : AF_INET, true);
    setsockopt(p.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    setsockopt(p.fd, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, is_v6 ? IPV6_RECVHOPLIMIT : IP_RECVTTL,
               &one, sizeof(one));
    setsockopt(p.fd, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, is_v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER,
               &dont, sizeof(dont));
    *ret = p;
    return 0;
}

/* ---- sending ---- */

/* RFC 1071; of the header, whose size is even, and the data. */
static uint16_t checksum(const uint8_t *head, const uint8_t *data, size_t len)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < ICMP_HEADER; i += 2)
        sum += (uint32_t)head[i] << 8 | head[i + 1];
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    if (len & 1)
        sum += (uint32_t)data[len - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

int ping_send(const struct ping *p, const struct ping_request *r)
{
    uint8_t head[ICMP_HEADER] = {p->is_v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO};
    _Alignas(struct cmsghdr) char control[UDP_MARK_SIZE];
    const struct capsule_mark mark = {r->ttl, r->tos};
    struct addr to = *r->to;
    struct iovec iov[] = {{head, sizeof(head)}, {(void *)r->data, r->len}};
    struct msghdr m = {.msg_name = &to.sa,
                       .msg_namelen = to.len,
                       .msg_iov = iov,
                       .msg_iovlen = 2,
                       .msg_control = control,
                       .msg_controllen = udp_mark_control(control, &mark, p->is_v6)};
    addr_set_port(&to, 0); /* a raw socket takes it for the protocol */
    put16(head + 4, p->id);
    put16(head + 6, r->seq);
    if (p->is_raw && !p->is_v6) /* the kernel makes the others */
        put16(head + 2, checksum(head, r->data, r->len));
    if (!m.msg_controllen)
        m.msg_control = NULL;
    return sendmsg(p->fd, &m, MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* ---- receiving ---- */

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* Whether an ICMP header is of one of our echoes. */
static bool is_ours(const struct ping *p, const uint8_t *head, size_t len, uint8_t type)
{
    return len >= ICMP_HEADER && head[0] == type && (!p->is_raw || get16(head + 4) == p->id);
}

static bool take_error(const struct ping *p, struct ping_answer *ret)
{
    struct errqueue_entry e;
    for (int i = 0; i < SKIPS_MAX && errqueue_take(p->fd, &e) > 0; i++) {
        uint8_t type = p->is_v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
        if (!e.cause.version || !is_ours(p, e.quote, e.quote_len, type))
            continue;
        *ret = (struct ping_answer){.is_error = true, .cause = e.cause, .seq = get16(e.quote + 6)};
        return true;
    }
    return false;
}

static void read_sender(const struct addr *a, uint8_t out[16])
{
    if (a->sa.sa_family == AF_INET6) {
        memcpy(out, &a->in6.sin6_addr, 16);
        return;
    }
    memcpy(out, mapped, sizeof(mapped));
    memcpy(out + sizeof(mapped), &a->in4.sin_addr, 4);
}

static uint8_t read_ttl(struct msghdr *m)
{
    int ttl = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) ||
            (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT))
            memcpy(&ttl, CMSG_DATA(c), sizeof(ttl));
    }
    return (uint8_t)ttl;
}

/* What precedes the ICMP header. */
static size_t ip_header(const struct ping *p, const uint8_t *data, size_t len)
{
    return p->is_raw && !p->is_v6 && len >= IP4_HEADER ? (size_t)(data[0] & 15) * 4 : 0;
}

/* 1: an answer; 0: nothing waits; negative: passed over. */
static int take_reply(const struct ping *p, struct ping_answer *ret)
{
    uint8_t *data = buffers_of_thread()->datagrams[0];
    _Alignas(struct cmsghdr) char control[CONTROL_SIZE];
    struct addr from = {0};
    struct iovec iov = {data, sizeof(buffers_of_thread()->datagrams[0])};
    struct msghdr m = {.msg_name = &from.sa,
                       .msg_namelen = sizeof(from.in6),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(p->fd, &m, 0);
    if (n < 0)
        return errno == EAGAIN ? 0 : ERR_IO; /* an error whose text is in the queue */
    size_t at = ip_header(p, data, (size_t)n);
    uint8_t type = p->is_v6 ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY;
    if (at > (size_t)n || !is_ours(p, data + at, (size_t)n - at, type))
        return ERR_PROTO;
    *ret = (struct ping_answer){.seq = get16(data + at + 6),
                                .ttl = read_ttl(&m),
                                .data = data + at + ICMP_HEADER,
                                .len = (size_t)n - at - ICMP_HEADER};
    read_sender(&from, ret->from);
    return 1;
}

int ping_receive(const struct ping *p, struct ping_answer *ret)
{
    return take_error(p, ret) ? 1 : take_reply(p, ret);
}
