/*
 * A wire with delay, loss, rate and a bounded queue between two network namespaces, for kernels
 * without netem:
 *
 *   linkem NAMESPACE DEVICE NAMESPACE DEVICE
 *
 * makes a TUN device in each (names as `ip netns` has them, "-" for its own), prints "ready", and
 * carries packets between them until standard input ends. Devices come without any offload, so what
 * is lost is one packet of at most 1,500 bytes. Lines on standard input, each answered by one line:
 *
 *   ab|ba|both NAME=VALUE ...   delay_ms loss rate_mbit queue_ms queue_kib up seed  -> "ok"
 *   stats                                                                          -> JSON
 *
 * `ab` is the way from the first device to the second. A setting counts for packets that arrive
 * from now on, but for `up=0`, which also loses those on their way.
 */
#include "linkem_lane.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define BATCH          64 /* packets of one way before the other has its turn */
#define TUN_QUEUE      5000
#define LINE_MAX_BYTES 512
/* A pause between two turns, so that a turn has more than one packet. It adds up to its length to
 * the delay, of which it is a small part, therefore. */
#define PAUSE_MAX_NS  200000u
#define PAUSE_DIVISOR 200

struct linkem {
    int devices[2];
    struct lane lanes[2]; /* [0]: from devices[0] to devices[1] */
    char line[LINE_MAX_BYTES];
    size_t line_len;
};

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "linkem: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void enter_namespace(int fd)
{
    if (setns(fd, CLONE_NEWNET) < 0)
        fail("setns");
}

static int open_device(const char *namespace, const char *name)
{
    char path[256];
    int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there = here;
    if (strcmp(namespace, "-") != 0) {
        snprintf(path, sizeof(path), "/run/netns/%s", namespace);
        there = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (there < 0)
        fail(namespace);
    enter_namespace(there);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
        fail(name);
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_qlen = TUN_QUEUE;
    if (control < 0 || ioctl(control, SIOCSIFTXQLEN, &request) < 0)
        fail("queue length");
    close(control);
    enter_namespace(here);
    if (there != here)
        close(there);
    close(here);
    return fd;
}

/* Returns how many packets came in from the device that the lane begins at. */
static int fill(struct linkem *l, int way)
{
    int n = 0;
    for (; n < BATCH; n++) {
        ssize_t len = read(l->devices[way], lane_space(&l->lanes[way]), LANE_MTU);
        if (len <= 0)
            break;
        lane_put(&l->lanes[way], (size_t)len, now_ns());
    }
    return n;
}

static int deliver(struct linkem *l, int way)
{
    int n = 0;
    size_t len;
    for (const void *packet; n < BATCH && (packet = lane_take(&l->lanes[way], now_ns(), &len)); n++)
        if (write(l->devices[!way], packet, len) < 0 && errno != EIO && errno != ENOBUFS)
            fail("write"); /* EIO: the device is not up */
    return n;
}

static bool set(struct lane *lane, const char *name, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || number < 0)
        return false;
    struct lane_settings *s = &lane->settings;
    if (strcmp(name, "delay_ms") == 0)
        s->delay_ns = (uint64_t)(number * 1e6);
    else if (strcmp(name, "loss") == 0)
        s->loss = number;
    else if (strcmp(name, "rate_mbit") == 0)
        s->rate_bit = (uint64_t)(number * 1e6);
    else if (strcmp(name, "queue_ms") == 0)
        s->queue_ns = (uint64_t)(number * 1e6);
    else if (strcmp(name, "queue_kib") == 0)
        s->queue_bytes = (uint64_t)(number * 1024);
    else if (strcmp(name, "up") == 0)
        s->is_up = number != 0;
    else if (strcmp(name, "seed") == 0)
        lane_seed(lane, (uint64_t)number);
    else
        return false;
    return true;
}

static void print_stats(const struct linkem *l)
{
    for (int way = 0; way < 2; way++) {
        const struct lane_stats *s = &l->lanes[way].stats;
        printf("%s\"%s\": {\"packets\": %llu, \"bytes\": %llu, \"lost\": %llu, \"dropped\": %llu, "
               "\"cut\": %llu, \"waiting\": %u}",
               way ? ", " : "{", way ? "ba" : "ab", (unsigned long long)s->packets,
               (unsigned long long)s->bytes, (unsigned long long)s->lost,
               (unsigned long long)s->dropped, (unsigned long long)s->cut, l->lanes[way].count);
    }
    puts("}");
}

/* Returns false for a line that makes no sense; what stood before the mistake has been done. */
static bool obey(struct linkem *l, char *line)
{
    char *rest, *word = strtok_r(line, " ", &rest);
    bool both = word && strcmp(word, "both") == 0;
    bool ways[2] = {both || (word && strcmp(word, "ab") == 0),
                    both || (word && strcmp(word, "ba") == 0)};
    if (!ways[0] && !ways[1])
        return false;
    while ((word = strtok_r(NULL, " ", &rest))) {
        char *value = strchr(word, '=');
        if (!value)
            return false;
        *value++ = 0;
        for (int way = 0; way < 2; way++)
            if (ways[way] && !set(&l->lanes[way], word, value))
                return false;
    }
    return true;
}

/* Reads what there is on standard input. Returns false at its end. */
static bool listen_to_input(struct linkem *l)
{
    ssize_t n = read(STDIN_FILENO, l->line + l->line_len, sizeof(l->line) - l->line_len);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    l->line_len += (size_t)n;
    for (char *end; (end = memchr(l->line, '\n', l->line_len));) {
        *end = 0;
        if (strcmp(l->line, "stats") == 0)
            print_stats(l);
        else
            puts(obey(l, l->line) ? "ok" : "error: not understood");
        l->line_len -= (size_t)(end + 1 - l->line);
        memmove(l->line, end + 1, l->line_len);
    }
    fflush(stdout);
    return l->line_len < sizeof(l->line);
}

static uint64_t pause_ns(const struct linkem *l)
{
    uint64_t both_ns = l->lanes[0].settings.delay_ns + l->lanes[1].settings.delay_ns;
    return both_ns / PAUSE_DIVISOR < PAUSE_MAX_NS ? both_ns / PAUSE_DIVISOR : PAUSE_MAX_NS;
}

static int wait_for(const struct linkem *l, bool was_busy, struct pollfd polls[3])
{
    uint64_t due_ns = lane_due_ns(&l->lanes[0]), other_ns = lane_due_ns(&l->lanes[1]);
    uint64_t at_ns = now_ns(), wait_ns = was_busy ? pause_ns(l) : 0;
    if (other_ns < due_ns)
        due_ns = other_ns;
    nfds_t watched = 1; /* during a pause, only standard input */
    if (wait_ns == 0) {
        wait_ns = due_ns > at_ns ? due_ns - at_ns : 0;
        watched = 3;
    }
    struct timespec t = {.tv_sec = (time_t)(wait_ns / 1000000000u),
                         .tv_nsec = (long)(wait_ns % 1000000000u)};
    polls[0] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    for (int i = 0; i < 2; i++)
        polls[1 + i] = (struct pollfd){.fd = l->devices[i], .events = POLLIN};
    return ppoll(polls, watched, due_ns == LANE_NEVER && watched == 3 ? NULL : &t, NULL);
}

int main(int argc, char **argv)
{
    static struct linkem l;
    if (argc != 5) {
        fprintf(stderr, "usage: linkem NAMESPACE DEVICE NAMESPACE DEVICE\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        l.devices[i] = open_device(argv[1 + 2 * i], argv[2 + 2 * i]);
        if (!lane_init(&l.lanes[i], (uint64_t)i))
            fail("memory");
    }
    prctl(PR_SET_TIMERSLACK, 1);
    setpriority(PRIO_PROCESS, 0, -20);
    puts("ready");
    fflush(stdout);
    for (bool was_busy = false;;) {
        struct pollfd polls[3];
        if (wait_for(&l, was_busy, polls) > 0 && polls[0].revents && !listen_to_input(&l))
            return 0;
        int moved = fill(&l, 0) + fill(&l, 1);
        moved += deliver(&l, 0) + deliver(&l, 1);
        was_busy = moved > 0;
    }
}
