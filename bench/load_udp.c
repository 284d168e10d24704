/*
 * Datagrams: what the far end does with them, and its clients. A datagram begins with its
 * operation, LOAD_ECHO or LOAD_SINK; an echo's number tells a late answer from the one that is
 * waited for.
 */
#include "load.h"
#include "histogram.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BATCH        64
#define DATAGRAM_MAX 2048
#define SOCKET_BYTES (4 << 20)
#define LOST_NS      1000000000ull /* an echo that has not come by then */

struct datagram {
    uint8_t op;
    uint32_t number;
} __attribute__((packed));

struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in from[BATCH];
    char data[BATCH][DATAGRAM_MAX];
};

static int udp_socket(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = SOCKET_BYTES;
    if (fd < 0)
        load_fail("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    return fd;
}

int load_udp_bind(const struct sockaddr_in *address)
{
    int fd = udp_socket();
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        load_fail("bind: %s", strerror(errno));
    return fd;
}

static int receive(int fd, struct batch *b)
{
    for (int i = 0; i < BATCH; i++) {
        b->parts[i] = (struct iovec){b->data[i], DATAGRAM_MAX};
        b->messages[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                                 .msg_namelen = sizeof(b->from[i]),
                                                 .msg_iov = &b->parts[i],
                                                 .msg_iovlen = 1};
    }
    return recvmmsg(fd, b->messages, BATCH, MSG_WAITFORONE, NULL);
}

void load_udp_serve(int fd, _Atomic uint64_t *sunk)
{
    static struct batch b;
    for (;;) {
        int n = receive(fd, &b), echoes = 0;
        for (int i = 0; i < n; i++) {
            if (b.data[i][0] == LOAD_SINK) {
                ++*sunk;
                continue;
            }
            b.parts[i].iov_len = b.messages[i].msg_len;
            b.messages[echoes++] = b.messages[i];
        }
        if (echoes)
            sendmmsg(fd, b.messages, (unsigned)echoes, 0);
    }
}

static int *connect_all(const struct load_options *o)
{
    int *fds = calloc((size_t)o->streams, sizeof(*fds));
    for (int i = 0; i < o->streams; i++) {
        fds[i] = udp_socket();
        if (connect(fds[i], (const struct sockaddr *)&o->to, sizeof(o->to)) < 0)
            load_fail("connect: %s", strerror(errno));
    }
    return fds;
}

struct asked {
    int fd;
    uint32_t number;
    uint64_t sent_ns;
};

static void ask(struct asked *a, uint64_t now_ns, size_t size)
{
    static char data[DATAGRAM_MAX];
    struct datagram d = {.op = LOAD_ECHO, .number = ++a->number};
    memcpy(data, &d, sizeof(d));
    a->sent_ns = now_ns;
    (void)!send(a->fd, data, size, 0); /* refused or lost: it will be missed */
}

/* Whether the answer to the latest question is there; older ones are read and forgotten. */
static bool answered(struct asked *a)
{
    struct datagram d;
    while (recv(a->fd, &d, sizeof(d), MSG_DONTWAIT) == sizeof(d))
        if (d.number == a->number)
            return true;
    return false;
}

/* Asks anew where nothing came back. Returns how many that were. */
static uint64_t give_up(struct asked *all, const struct load_options *o, uint64_t now_ns)
{
    uint64_t lost = 0;
    for (int i = 0; i < o->streams; i++) {
        if (now_ns - all[i].sent_ns < LOST_NS)
            continue;
        lost++;
        ask(&all[i], now_ns, (size_t)o->size);
    }
    return lost;
}

int load_udp_rr(const struct load_options *o)
{
    static struct histogram h;
    struct epoll_event events[LOAD_EVENTS_MAX];
    struct asked *all = calloc((size_t)o->streams, sizeof(*all));
    int epoll = load_epoll(), *fds = connect_all(o);
    uint64_t now_ns = load_now_ns(), begin_ns = now_ns + (uint64_t)(o->warmup_seconds * 1e9);
    uint64_t end_ns = begin_ns + (uint64_t)(o->seconds * 1e9), lost = 0, swept_ns = now_ns;
    for (int i = 0; i < o->streams; i++) {
        all[i].fd = fds[i];
        load_watch(epoll, fds[i], EPOLLIN, (uint32_t)i);
        ask(&all[i], now_ns, (size_t)o->size);
    }
    while (now_ns < end_ns) {
        int n = epoll_wait(epoll, events, LOAD_EVENTS_MAX, 50);
        for (int i = 0; i < n; i++) {
            struct asked *a = &all[events[i].data.u32];
            if (!answered(a))
                continue;
            now_ns = load_now_ns();
            if (a->sent_ns >= begin_ns)
                histogram_add(&h, now_ns - a->sent_ns);
            ask(a, now_ns, (size_t)o->size);
        }
        now_ns = load_now_ns();
        if (now_ns - swept_ns > LOST_NS / 20) {
            swept_ns = now_ns;
            lost += give_up(all, o, now_ns);
        }
    }
    load_print_latency(&h, o->seconds, 0, lost);
    free(fds);
    free(all);
    return 0;
}

/* Sends on all sockets in turn until then. Returns the number of datagrams. */
static uint64_t pour(const int *fds, const struct load_options *o, uint64_t until_ns)
{
    static char data[DATAGRAM_MAX];
    struct mmsghdr messages[BATCH];
    struct iovec part = {data, (size_t)o->size};
    uint64_t sent = 0;
    data[0] = LOAD_SINK;
    for (int i = 0; i < BATCH; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    while (load_now_ns() < until_ns) {
        for (int i = 0; i < o->streams; i++) {
            int n = sendmmsg(fds[i], messages, BATCH, 0);
            sent += n > 0 ? (uint64_t)n : 0;
        }
    }
    return sent;
}

int load_udp_flood(const struct load_options *o)
{
    int *fds = connect_all(o);
    pour(fds, o, load_now_ns() + (uint64_t)(o->warmup_seconds * 1e9));
    struct load_counter from = load_counter_get(&o->counter);
    uint64_t sent = pour(fds, o, load_now_ns() + (uint64_t)(o->seconds * 1e9));
    struct load_counter to = load_counter_get(&o->counter);
    double took = (double)(to.at_ns - from.at_ns) / 1e9;
    printf("{\"rate\": %.0f, \"sent_rate\": %.0f}\n",
           (double)(to.datagrams - from.datagrams) / took, (double)sent / took);
    free(fds);
    return 0;
}
