/*
 * The clients. Each runs one epoll set on one thread. A mode that needs rest around it (hold,
 * stall) reports once its streams stand, waits for end of file on standard input, and reports
 * again.
 */
#include "load.h"
#include "histogram.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define DRAIN_NS    (2 * 1000000000ull)
#define REPLY_MS    10000
#define STALL_BLOCK 65536

static uint64_t to_ns(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

static double gbit(uint64_t bytes, uint64_t ns)
{
    return ns ? (double)bytes * 8.0 / (double)ns : 0;
}

static int *connect_all(const struct load_options *o, enum load_op op)
{
    int *fds = calloc((size_t)o->streams, sizeof(*fds));
    for (int i = 0; i < o->streams; i++)
        fds[i] = load_connect_start(&o->to);
    for (int i = 0; i < o->streams; i++)
        load_connect_finish(fds[i], op);
    return fds;
}

/* Moves one block on a stream. Returns bytes moved, 0 when it would block, negative at its end. */
static ssize_t move_block(int fd, bool reading, char *block)
{
    ssize_t n = reading ? recv(fd, block, LOAD_BLOCK, MSG_DONTWAIT)
                        : send(fd, block, LOAD_BLOCK, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        return n;
    return n < 0 && errno == EAGAIN ? 0 : -1;
}

/* Runs the streams until `until_ns`; returns the bytes moved by this end. */
static uint64_t run_bulk(int epoll, const int *fds, bool reading, uint64_t until_ns, int *ended)
{
    static char block[LOAD_BLOCK];
    struct epoll_event events[LOAD_EVENTS_MAX];
    uint64_t moved = 0;
    while (load_now_ns() < until_ns) {
        int n = epoll_wait(epoll, events, LOAD_EVENTS_MAX, 100);
        for (int i = 0; i < n; i++) {
            int fd = fds[events[i].data.u32];
            ssize_t got = move_block(fd, reading, block);
            if (got >= 0) {
                moved += (uint64_t)got;
                continue;
            }
            epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
            ++*ended;
        }
    }
    return moved;
}

/* Ends the streams from this side and reads to the other side's end, so that every byte sent was
 * also relayed. Returns the bytes that still came in. */
static uint64_t drain(const int *fds, int streams)
{
    static char block[LOAD_BLOCK];
    uint64_t until_ns = load_now_ns() + DRAIN_NS, moved = 0;
    for (int i = 0; i < streams; i++)
        shutdown(fds[i], SHUT_WR);
    for (int i = 0; i < streams; i++) {
        struct pollfd p = {.fd = fds[i], .events = POLLIN};
        while (load_now_ns() < until_ns && poll(&p, 1, 100) >= 0) {
            ssize_t n = recv(fds[i], block, sizeof(block), MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN))
                break;
            moved += n > 0 ? (uint64_t)n : 0;
        }
        close(fds[i]);
    }
    return moved;
}

static void abandon(const int *fds, int streams)
{
    struct linger reset = {.l_onoff = 1};
    for (int i = 0; i < streams; i++) {
        setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(fds[i]);
    }
}

/* What has arrived at the target; of what comes from there this end knows itself. */
static struct load_counter arrived(const struct load_options *o)
{
    return o->from_target ? (struct load_counter){0} : load_counter_get(&o->counter);
}

int load_bulk(const struct load_options *o)
{
    struct load_counter start = arrived(o), from, to;
    int ended = 0, epoll = load_epoll();
    int *fds = connect_all(o, o->from_target ? LOAD_SOURCE : LOAD_SINK);
    for (int i = 0; i < o->streams; i++)
        load_watch(epoll, fds[i], o->from_target ? EPOLLIN : EPOLLOUT, (uint32_t)i);

    uint64_t total =
        run_bulk(epoll, fds, o->from_target, load_now_ns() + to_ns(o->warmup_seconds), &ended);
    from = arrived(o);
    uint64_t begin_ns = load_now_ns();
    uint64_t moved = run_bulk(epoll, fds, o->from_target, begin_ns + to_ns(o->seconds), &ended);
    uint64_t took_ns = load_now_ns() - begin_ns;
    to = arrived(o);
    total += moved;
    if (o->abandon)
        abandon(fds, o->streams);
    else
        total += drain(fds, o->streams);
    if (!o->from_target) { /* what arrived is the truth, not what was sent */
        moved = to.bytes - from.bytes;
        took_ns = to.at_ns - from.at_ns;
        total = arrived(o).bytes - start.bytes;
    }
    printf("{\"gbit\": %.4f, \"bytes\": %llu, \"errors\": %d}\n", gbit(moved, took_ns),
           (unsigned long long)total, ended);
    free(fds);
    return 0;
}

void load_print_latency(const struct histogram *h, double seconds, uint64_t errors, uint64_t lost)
{
    printf(
        "{\"rate\": %.1f, \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, "
        "\"p999_us\": %.2f, \"max_us\": %.2f, \"count\": %llu, \"errors\": %llu, \"lost\": %llu}\n",
        (double)h->count / seconds, histogram_percentile_us(h, 50), histogram_percentile_us(h, 90),
        histogram_percentile_us(h, 99), histogram_percentile_us(h, 99.9),
        (double)h->max_ns / 1000.0, (unsigned long long)h->count, (unsigned long long)errors,
        (unsigned long long)lost);
}

static bool ping(int fd)
{
    return send(fd, "x", 1, MSG_NOSIGNAL) == 1;
}

static void wait_echo(int fd)
{
    char byte;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (!ping(fd) || poll(&p, 1, REPLY_MS) != 1 || recv(fd, &byte, 1, MSG_DONTWAIT) != 1)
        load_fail("a stream does not answer");
}

int load_rr(const struct load_options *o)
{
    static struct histogram h;
    struct epoll_event events[LOAD_EVENTS_MAX];
    int epoll = load_epoll(), *fds = connect_all(o, LOAD_ECHO);
    uint64_t *sent_ns = calloc((size_t)o->streams, sizeof(*sent_ns)), errors = 0;
    for (int i = 0; i < o->streams; i++) {
        wait_echo(fds[i]);
        load_watch(epoll, fds[i], EPOLLIN, (uint32_t)i);
    }
    uint64_t begin_ns = load_now_ns() + to_ns(o->warmup_seconds);
    uint64_t end_ns = begin_ns + to_ns(o->seconds), now_ns = load_now_ns();
    for (int i = 0; i < o->streams; i++) {
        sent_ns[i] = load_now_ns();
        ping(fds[i]);
    }
    while (now_ns < end_ns) {
        int n = epoll_wait(epoll, events, LOAD_EVENTS_MAX, 100);
        now_ns = load_now_ns();
        for (int i = 0; i < n; i++) {
            uint32_t stream = events[i].data.u32;
            char byte;
            if (recv(fds[stream], &byte, 1, MSG_DONTWAIT) != 1) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, fds[stream], NULL);
                errors++;
                continue;
            }
            now_ns = load_now_ns();
            if (sent_ns[stream] >= begin_ns)
                histogram_add(&h, now_ns - sent_ns[stream]);
            sent_ns[stream] = now_ns;
            ping(fds[stream]);
        }
    }
    load_print_latency(&h, o->seconds, errors, 0);
    free(sent_ns);
    free(fds);
    return 0;
}

struct exchange {
    int fd;
    bool sent;
    int received;
    uint64_t began_ns;
};

static void exchange_start(struct exchange *x, int epoll, uint32_t index,
                           const struct load_options *o)
{
    *x = (struct exchange){.began_ns = load_now_ns(), .fd = load_connect_start(&o->to)};
    load_watch(epoll, x->fd, EPOLLOUT, index);
}

/* One step of connect, send, receive. Returns 0 while it goes on, 1 when done, -1 on failure. */
static int exchange_step(struct exchange *x, int epoll, uint32_t index, bool one_byte)
{
    char data[LOAD_RESPONSE + 1];
    if (!x->sent) {
        memset(data, one_byte ? 'x' : 0, sizeof(data));
        data[0] = one_byte ? LOAD_ECHO : LOAD_REPLY;
        ssize_t len = one_byte ? 2 : LOAD_REQUEST;
        if (send(x->fd, data, (size_t)len, MSG_NOSIGNAL) != len)
            return -1;
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = index};
        epoll_ctl(epoll, EPOLL_CTL_MOD, x->fd, &e);
        x->sent = true;
        return 0;
    }
    ssize_t n = recv(x->fd, data, sizeof(data), MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    x->received += (int)n;
    if (one_byte)
        return n == 1 ? 1 : -1;
    if (n == 0)
        return x->received == LOAD_RESPONSE ? 1 : -1;
    return 0;
}

int load_conn(const struct load_options *o)
{
    static struct histogram h;
    struct epoll_event events[LOAD_EVENTS_MAX];
    struct exchange *all = calloc((size_t)o->streams, sizeof(*all));
    uint64_t errors = 0, begin_ns = load_now_ns() + to_ns(o->warmup_seconds);
    uint64_t end_ns = begin_ns + to_ns(o->seconds), now_ns = 0;
    int epoll = load_epoll();
    for (int i = 0; i < o->streams; i++)
        exchange_start(&all[i], epoll, (uint32_t)i, o);
    while (now_ns < end_ns) {
        int n = epoll_wait(epoll, events, LOAD_EVENTS_MAX, 100);
        now_ns = load_now_ns();
        for (int i = 0; i < n; i++) {
            uint32_t index = events[i].data.u32;
            struct exchange *x = &all[index];
            int r = exchange_step(x, epoll, index, o->one_byte);
            if (r == 0)
                continue;
            now_ns = load_now_ns();
            if (now_ns >= begin_ns && r > 0)
                histogram_add(&h, now_ns - x->began_ns);
            errors += r < 0;
            close(x->fd);
            exchange_start(x, epoll, index, o);
        }
    }
    load_print_latency(&h, o->seconds, errors, 0);
    free(all);
    return 0;
}

static void wait_for_end_of_input(void)
{
    char byte;
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

int load_hold(const struct load_options *o)
{
    int *fds = calloc((size_t)o->streams, sizeof(*fds)), alive = 0;
    for (int i = 0; i < o->streams; i++) {
        fds[i] = load_connect(&o->to, LOAD_ECHO);
        wait_echo(fds[i]);
    }
    printf("{\"open\": %d}\n", o->streams);
    wait_for_end_of_input();
    for (int i = 0; i < o->streams; i++) {
        struct pollfd p = {.fd = fds[i], .events = POLLIN};
        char byte;
        alive += ping(fds[i]) && poll(&p, 1, REPLY_MS) == 1 && recv(fds[i], &byte, 1, 0) == 1;
    }
    free(fds);
    printf("{\"alive\": %d}\n", alive);
    return alive == o->streams ? 0 : 1;
}

/* Streams whose reader stands still: this end (from the target), or the server (to it), which this
 * end then feeds whenever the tunnel takes more. */
int load_stall(const struct load_options *o)
{
    static char block[STALL_BLOCK];
    struct epoll_event events[LOAD_EVENTS_MAX];
    int epoll = load_epoll(), *fds = connect_all(o, o->from_target ? LOAD_SOURCE : LOAD_STALL);
    uint64_t pushed = 0;
    for (int i = 0; i < o->streams && !o->from_target; i++)
        load_watch(epoll, fds[i], EPOLLOUT, (uint32_t)i);
    load_watch(epoll, STDIN_FILENO, EPOLLIN | EPOLLHUP, UINT32_MAX);
    printf("{\"open\": %d}\n", o->streams);
    fflush(stdout);
    for (bool going = true; going;) {
        int n = epoll_wait(epoll, events, LOAD_EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == UINT32_MAX) {
                going = false;
                continue;
            }
            int fd = fds[events[i].data.u32];
            ssize_t sent = send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent > 0)
                pushed += (uint64_t)sent;
            else if (errno != EAGAIN)
                epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
        }
    }
    printf("{\"pushed\": %llu}\n", (unsigned long long)pushed);
    free(fds);
    return 0;
}
