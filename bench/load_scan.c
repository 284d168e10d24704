/*
 * A port scan by connect(), as nmap -sT does it: every port of one host, so many at a time. What
 * counts is how soon all of them were told open or refused; a probe that got no answer was lost.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORTS   65535
#define GIVE_UP (15 * 1000000000ull)

struct scan {
    struct sockaddr_in to;
    int epoll;
    int *fds; /* of the probes under way; -1: free */
    uint32_t next_port;
    uint64_t open, refused, failed, under_way;
};

static void count(struct scan *s, int error)
{
    s->open += error == 0;
    s->refused += error == ECONNREFUSED;
    s->failed += error != 0 && error != ECONNREFUSED;
}

/* Probes the next ports until one of them has to be waited for. */
static void probe(struct scan *s, uint32_t index)
{
    while (s->next_port <= PORTS) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct linger reset = {.l_onoff = 1};
        if (fd < 0)
            load_fail("socket: %s", strerror(errno));
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        s->to.sin_port = htons((uint16_t)s->next_port++);
        int error = connect(fd, (struct sockaddr *)&s->to, sizeof(s->to)) < 0 ? errno : 0;
        if (error == EINPROGRESS) {
            s->fds[index] = fd;
            s->under_way++;
            load_watch(s->epoll, fd, EPOLLOUT, index);
            return;
        }
        count(s, error);
        close(fd);
    }
}

static void finish(struct scan *s, uint32_t index)
{
    int error = 0;
    socklen_t len = sizeof(error);
    getsockopt(s->fds[index], SOL_SOCKET, SO_ERROR, &error, &len);
    count(s, error);
    close(s->fds[index]);
    s->fds[index] = -1;
    s->under_way--;
    probe(s, index);
}

int load_scan(const struct load_options *o)
{
    struct epoll_event events[LOAD_EVENTS_MAX];
    struct scan s = {.to = o->to, .epoll = load_epoll(), .next_port = 1};
    uint64_t begin_ns = load_now_ns(), answered_ns = begin_ns;
    s.fds = malloc((size_t)o->streams * sizeof(*s.fds));
    for (int i = 0; i < o->streams; i++)
        probe(&s, (uint32_t)i);
    while (s.under_way && load_now_ns() - answered_ns < GIVE_UP) {
        int n = epoll_wait(s.epoll, events, LOAD_EVENTS_MAX, 100);
        for (int i = 0; i < n; i++)
            finish(&s, events[i].data.u32);
        if (n > 0)
            answered_ns = load_now_ns();
    }
    if (!s.under_way)
        answered_ns = load_now_ns();
    double seconds = (double)(answered_ns - begin_ns) / 1e9;
    printf("{\"rate\": %.0f, \"open\": %llu, \"refused\": %llu, \"errors\": %llu}\n",
           seconds > 0 ? (double)(s.open + s.refused) / seconds : 0, (unsigned long long)s.open,
           (unsigned long long)s.refused, (unsigned long long)s.failed + s.under_way);
    free(s.fds);
    return 0;
}
