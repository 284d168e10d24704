#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 10000
/* More than 28,000 connections to one address would run out of ports, so sources rotate. */
#define SOURCES 8

void load_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    exit(1);
}

uint64_t load_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int load_connect_start(const struct sockaddr_in *to)
{
    static unsigned next_source;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        load_fail("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + next_source++ % SOURCES);
    if (ntohl(to->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET &&
        bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0)
        load_fail("bind: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0 && errno != EINPROGRESS)
        load_fail("connect: %s", strerror(errno));
    return fd;
}

void load_connect_finish(int fd, enum load_op op)
{
    int error = 0;
    socklen_t len = sizeof(error);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (poll(&p, 1, CONNECT_TIMEOUT_MS) != 1)
        load_fail("connect: no answer");
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error)
        load_fail("connect: %s", strerror(error));
    char byte = (char)op;
    if (write(fd, &byte, 1) != 1)
        load_fail("write: %s", strerror(errno));
}

int load_connect(const struct sockaddr_in *to, enum load_op op)
{
    int fd = load_connect_start(to);
    load_connect_finish(fd, op);
    return fd;
}

int load_epoll(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        load_fail("epoll: %s", strerror(errno));
    return epoll;
}

void load_watch(int epoll, int fd, uint32_t events, uint32_t index)
{
    struct epoll_event e = {.events = events, .data.u32 = index};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        load_fail("epoll: %s", strerror(errno));
}

struct load_counter load_counter_get(const struct sockaddr_in *server)
{
    struct load_counter counter;
    int fd = load_connect(server, LOAD_COUNTER);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, CONNECT_TIMEOUT_MS) != 1 ||
        read(fd, &counter, sizeof(counter)) != sizeof(counter))
        load_fail("the server at --counter does not answer");
    close(fd);
    return counter;
}
