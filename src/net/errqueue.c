#include "net/errqueue.h"

#include <errno.h>
#include <time.h> /* the next needs it */

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define CONTROL_SIZE 256
#define SKIPS_MAX    64

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */

void errqueue_watch(int fd, int family, bool is_on)
{
    int on = is_on;
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on)); /* of ::ffff:a.b.c.d, too */
    if (family != AF_INET)
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
}

static void read_sender(const struct sock_extended_err *e, struct icmp_cause *ret)
{
    const struct sockaddr *from = SO_EE_OFFENDER(e);
    if (from->sa_family == AF_INET) {
        memcpy(ret->from, mapped, sizeof(mapped));
        memcpy(ret->from + sizeof(mapped), &((const struct sockaddr_in *)from)->sin_addr, 4);
    } else if (from->sa_family == AF_INET6) {
        memcpy(ret->from, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    }
}

/* The error behind a control message of either family; false: it is not about one. */
static bool read_error(struct cmsghdr *c, struct errqueue_entry *ret)
{
    /* With what SO_EE_OFFENDER points to. */
    _Alignas(struct sock_extended_err)
        uint8_t data[sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6)] = {0};
    const struct sock_extended_err *e = (const struct sock_extended_err *)data;
    size_t len = c->cmsg_len - CMSG_LEN(0);
    bool is_error = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                    (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);
    if (!is_error || len < sizeof(*e))
        return false;
    memcpy(data, CMSG_DATA(c), len < sizeof(data) ? len : sizeof(data));
    ret->errnum = (int)e->ee_errno;
    if (e->ee_origin != SO_EE_ORIGIN_ICMP && e->ee_origin != SO_EE_ORIGIN_ICMP6)
        return true;
    ret->cause.version = e->ee_origin == SO_EE_ORIGIN_ICMP ? 4 : 6;
    ret->cause.type = e->ee_type;
    ret->cause.code = e->ee_code;
    read_sender(e, &ret->cause);
    if (!icmp_cause_is_error(&ret->cause))
        ret->cause = (struct icmp_cause){0};
    return true;
}

int errqueue_take(int fd, struct errqueue_entry *ret)
{
    for (int i = 0; i < SKIPS_MAX; i++) {
        _Alignas(struct cmsghdr) char control[CONTROL_SIZE];
        struct errqueue_entry entry = {0};
        struct iovec iov = {entry.quote, sizeof(entry.quote)};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
        if (n < 0)
            return 0;
        entry.quote_len = (size_t)n;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            if (read_error(c, &entry))
                break;
        }
        if (entry.errnum && entry.errnum != EMSGSIZE) {
            *ret = entry;
            return 1;
        }
    }
    return 0;
}
