/*
 * The far end: one listening port, three threads. The main thread accepts, reads the operation and
 * serves everything small; streams that sink or pour without end move to a second thread, so that
 * they do not delay a round trip that is measured beside them. The third has the datagrams.
 *
 * Connections are looked up by descriptor in one table that both threads index; a descriptor
 * belongs to the thread whose epoll set it is in.
 */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_BATCH 64

struct connection {
    enum load_op op; /* 0 until its byte arrived */
    int received;    /* LOAD_REPLY: bytes of the request so far */
};

static struct connection *table;
static size_t table_size;
static int small_epoll, bulk_epoll;
static _Atomic uint64_t sunk_bytes, sunk_datagrams;
static char zeros[LOAD_BLOCK];

/* Ignores errors of a peer that left: the next read of that connection sees them. */
static void send_some(int fd, const void *data, size_t len)
{
    if (send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN && errno != EPIPE &&
        errno != ECONNRESET)
        load_fail("send: %s", strerror(errno));
}

static void move_to_bulk(int fd)
{
    uint32_t events = EPOLLIN | EPOLLRDHUP | (table[fd].op == LOAD_SOURCE ? EPOLLOUT : 0);
    epoll_ctl(small_epoll, EPOLL_CTL_DEL, fd, NULL);
    load_watch(bulk_epoll, fd, events, (uint32_t)fd);
}

/* Consumes the operation byte. Returns false when the connection is finished. */
static bool begin(int fd, char op)
{
    table[fd].op = (enum load_op)op;
    switch (op) {
    case LOAD_ECHO:
    case LOAD_REPLY:
        table[fd].received = 1;
        return true;
    case LOAD_SINK:
    case LOAD_SOURCE:
        move_to_bulk(fd);
        return true;
    case LOAD_STALL:
        epoll_ctl(small_epoll, EPOLL_CTL_DEL, fd, NULL);
        load_watch(small_epoll, fd, EPOLLHUP, (uint32_t)fd);
        return true;
    case LOAD_COUNTER: {
        struct load_counter c = {sunk_bytes, sunk_datagrams, load_now_ns()};
        send_some(fd, &c, sizeof(c));
        return false;
    }
    default:
        return false;
    }
}

/* One event of a small connection; false: close it. */
static bool serve_small(int fd)
{
    char data[4096];
    struct connection *c = &table[fd];
    if (c->op == LOAD_STALL)
        return false; /* only a reset is reported */
    ssize_t n = recv(fd, data, c->op ? sizeof(data) : 1, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN;
    if (n == 0)
        return false;
    if (!c->op)
        return begin(fd, data[0]);
    c->received += (int)n;
    if (c->op == LOAD_ECHO)
        send_some(fd, data, (size_t)n);
    if (c->op == LOAD_REPLY && c->received >= LOAD_REQUEST) {
        send_some(fd, zeros, LOAD_RESPONSE);
        return false;
    }
    return true;
}

static bool serve_bulk(int fd, uint32_t events, char *block)
{
    if (table[fd].op == LOAD_SOURCE) {
        if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
            return false;
        ssize_t n = send(fd, zeros, sizeof(zeros), MSG_NOSIGNAL | MSG_DONTWAIT);
        return n > 0 || errno == EAGAIN;
    }
    ssize_t n = recv(fd, block, LOAD_BLOCK, MSG_DONTWAIT);
    if (n > 0)
        sunk_bytes += (uint64_t)n;
    return n > 0 || (n < 0 && errno == EAGAIN);
}

static void *bulk_thread(void *unused)
{
    static char block[LOAD_BLOCK];
    struct epoll_event events[LOAD_EVENTS_MAX];
    for (;;) {
        int n = epoll_wait(bulk_epoll, events, LOAD_EVENTS_MAX, -1);
        for (int i = 0; i < n; i++)
            if (!serve_bulk((int)events[i].data.u32, events[i].events, block))
                close((int)events[i].data.u32);
    }
    return unused;
}

static void *udp_thread(void *fd)
{
    load_udp_serve(*(int *)fd, &sunk_datagrams);
}

static void accept_some(int listener)
{
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if ((size_t)fd >= table_size) {
            close(fd);
            return;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        table[fd] = (struct connection){0};
        load_watch(small_epoll, fd, EPOLLIN, (uint32_t)fd);
    }
}

/* Listens there for streams, and on the same port for datagrams. */
static int listen_on(const struct sockaddr_in *address, int *ret_udp)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 || listen(fd, 4096) < 0)
        load_fail("listen: %s", strerror(errno));
    struct sockaddr_in bound = {0};
    socklen_t len = sizeof(bound);
    getsockname(fd, (struct sockaddr *)&bound, &len);
    *ret_udp = load_udp_bind(&bound);
    printf("{\"port\": %d}\n", ntohs(bound.sin_port));
    fflush(stdout);
    return fd;
}

int load_serve(const struct load_options *o)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    table_size = limit.rlim_cur;
    table = calloc(table_size, sizeof(*table));
    small_epoll = load_epoll();
    bulk_epoll = load_epoll();
    static int udp;
    int listener = listen_on(&o->to, &udp);
    load_watch(small_epoll, listener, EPOLLIN, (uint32_t)listener);
    pthread_t thread;
    if (pthread_create(&thread, NULL, bulk_thread, NULL) != 0 ||
        pthread_create(&thread, NULL, udp_thread, &udp) != 0)
        load_fail("no thread");
    struct epoll_event events[LOAD_EVENTS_MAX];
    for (;;) {
        int n = epoll_wait(small_epoll, events, LOAD_EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            int fd = (int)events[i].data.u32;
            if (fd == listener)
                accept_some(listener);
            else if (!serve_small(fd))
                close(fd);
        }
    }
}
