#include "scan/probe.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "scan/snmp_get.h"

#include <assert.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_BYTES 2048

struct probe {
    struct io io;
    struct probe_params p;
    struct loop *loop;
    struct timer timer;
    struct defer over;
    uint64_t started_us;
    bool was_repeated;
    struct probe_result result;
};

static bool is_v6(const struct probe *p)
{
    return p->p.target.sa.sa_family == AF_INET6;
}

/* ---- the end ---- */

static void close_socket(struct probe *p)
{
    const struct linger reset = {.l_onoff = 1};
    if (p->io.fd < 0)
        return;
    if (p->p.kind == PROBE_TCP)
        setsockopt(p->io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (p->io.loop)
        io_close(&p->io);
    else
        close(p->io.fd);
    p->io.fd = -1;
}

static void done(struct probe *p)
{
    timer_stop(&p->timer);
    loop_defer_cancel(&p->over);
    close_socket(p);
    mem_free(p);
}

static void on_over(struct defer *d)
{
    struct probe *p = container_of(d, struct probe, over);
    struct probe_params params = p->p;
    struct probe_result r = p->result;
    done(p);
    params.on_end(params.arg, &r);
}

static void end(struct probe *p, enum probe_end how, bool is_alive)
{
    timer_stop(&p->timer);
    if (p->io.loop)
        io_stop(&p->io);
    p->result.end = how;
    p->result.is_alive = is_alive;
    p->result.rtt_us = (uint32_t)(time_mono_us() - p->started_us);
    loop_defer(p->loop, &p->over);
}

void probe_cancel(struct probe *p)
{
    if (p)
        done(p);
}

/* ---- questions ---- */

static ssize_t ask_echo(struct probe *p)
{
    const struct icmphdr v4 = {.type = ICMP_ECHO, .un.echo.sequence = htons(1)};
    const struct icmp6_hdr v6 = {.icmp6_type = ICMP6_ECHO_REQUEST, .icmp6_seq = htons(1)};
    return is_v6(p) ? send(p->io.fd, &v6, sizeof(v6), 0) : send(p->io.fd, &v4, sizeof(v4), 0);
}

/* ERR_LIMIT: the kernel has no room for it now, such as in its table of neighbours. */
static int ask(struct probe *p)
{
    uint8_t message[SNMP_GET_MAX];
    ssize_t n = 0;
    switch (p->p.kind) {
    case PROBE_UDP:
        n = send(p->io.fd, "", 0, 0);
        break;
    case PROBE_ECHO:
        n = ask_echo(p);
        break;
    case PROBE_SNMP:
        n = send(p->io.fd, message, snmp_get_write(p->p.community, message), 0);
        break;
    default:
        break;
    }
    return n < 0 && (errno == ENOBUFS || errno == ENOMEM) ? ERR_LIMIT : 0;
}

static void on_timer(struct timer *t)
{
    struct probe *p = container_of(t, struct probe, timer);
    if (p->p.kind == PROBE_TCP || p->was_repeated) {
        end(p, PROBE_SILENT, false);
        return;
    }
    p->was_repeated = true;
    (void)ask(p);
    timer_start(&p->timer, p->p.timeout_ms - p->p.timeout_ms / 2);
}

/* ---- answers ---- */

/* Whether the ICMP error that waits was sent by the target itself. */
static bool is_from_target(struct probe *p)
{
    union {
        char bytes[CMSG_SPACE(sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6))];
        struct cmsghdr align;
    } control;
    char quote[64];
    struct iovec iov = {quote, sizeof(quote)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    if (recvmsg(p->io.fd, &m, MSG_ERRQUEUE) < 0)
        return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        bool is_error = (c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
                        (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR);
        if (!is_error)
            continue;
        const struct sock_extended_err *e = (const void *)CMSG_DATA(c);
        struct addr from = {.len = sizeof(from.in6)};
        memcpy(&from.in6, SO_EE_OFFENDER(e), is_v6(p) ? sizeof(from.in6) : sizeof(from.in4));
        if (e->ee_origin == SO_EE_ORIGIN_ICMP || e->ee_origin == SO_EE_ORIGIN_ICMP6)
            return addr_equal_ip(&from, &p->p.target);
    }
    return false;
}

static void failed(struct probe *p, int errnum)
{
    int err = error_from_errno(errnum);
    bool is_told = is_from_target(p);
    if (err != ERR_REFUSED && err != ERR_RESET)
        end(p, PROBE_SILENT, is_told);
    else if (p->p.kind == PROBE_TCP && is_told)
        end(p, PROBE_SILENT, true); /* "port unreachable" is what firewalls say */
    else
        end(p, PROBE_REFUSED, true);
}

static void on_tcp_event(struct io *io)
{
    struct probe *p = container_of(io, struct probe, io);
    int err = 0;
    socklen_t len = sizeof(err);
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer);
    if (!io->writable && !io->hup)
        return;
    if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        err = errno;
    if (err)
        failed(p, err);
    else if (getpeername(io->fd, (struct sockaddr *)&peer, &peer_len) == 0)
        end(p, PROBE_OPEN, true);
}

/* false: it is something else. */
static bool read_answer(struct probe *p, const uint8_t *data, size_t len)
{
    if (p->p.kind == PROBE_ECHO)
        return len && data[0] == (is_v6(p) ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY);
    if (p->p.kind == PROBE_SNMP)
        return snmp_get_read(data, len, p->result.descr, p->result.name, PROBE_TEXT_SIZE) == 0;
    return true;
}

static void on_datagram_event(struct io *io)
{
    struct probe *p = container_of(io, struct probe, io);
    uint8_t data[ANSWER_BYTES];
    if (!io->readable && !io->error)
        return;
    for (;;) {
        ssize_t n = recv(io->fd, data, sizeof(data), 0);
        if (n < 0 && errno == EAGAIN) {
            io->readable = false;
            return;
        }
        if (n < 0) {
            failed(p, errno);
            return;
        }
        if (read_answer(p, data, (size_t)n)) {
            end(p, PROBE_OPEN, true);
            return;
        }
    }
}

/* ---- the beginning ---- */

static int open_socket(const struct probe *p)
{
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_DGRAM, SOCK_DGRAM};
    static_assert(ARRAY_SIZE(types) == PROBE_KIND_COUNT, "a type each");
    int protocol = p->p.kind != PROBE_ECHO ? 0 : is_v6(p) ? IPPROTO_ICMPV6 : IPPROTO_ICMP, one = 1;
    int fd =
        socket(p->p.target.sa.sa_family, types[p->p.kind] | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE ? ERR_LIMIT : error_from_errno(errno);
    if (is_v6(p))
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one));
    else
        setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one));
    return fd;
}

static int begin(struct probe *p)
{
    p->io.fd = TRY(open_socket(p));
    if (connect(p->io.fd, &p->p.target.sa, p->p.target.len) < 0 && errno != EINPROGRESS)
        return error_from_errno(errno);
    TRY(io_start(&p->io, p->loop, p->io.fd,
                 p->p.kind == PROBE_TCP ? on_tcp_event : on_datagram_event));
    TRY(ask(p));
    timer_start(&p->timer, p->p.kind == PROBE_TCP ? p->p.timeout_ms : p->p.timeout_ms / 2);
    return 0;
}

int probe_start(struct loop *l, const struct probe_params *params, struct probe **ret)
{
    struct probe *p = NEW(struct probe);
    p->p = *params;
    p->loop = l;
    p->io.fd = -1;
    p->over.fn = on_over;
    p->started_us = time_mono_us();
    timer_init(&p->timer, l, on_timer);
    if (p->p.kind == PROBE_UDP)
        addr_set_port(&p->p.target, PROBE_UDP_PORT);
    else if (p->p.kind == PROBE_SNMP)
        addr_set_port(&p->p.target, PROBE_SNMP_PORT);
    int rc = begin(p);
    if (rc < 0) {
        done(p);
        return rc;
    }
    *ret = p;
    return 0;
}
