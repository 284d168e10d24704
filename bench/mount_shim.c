#include "mount_shim.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "mount/tcp.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX    (sizeof(struct virtio_net_hdr) + PACKET_HEADER_MAX + TCP_LARGE_MAX)
#define SOCKET_BYTES (4 << 20)
#define HELD_MAX     64
#define HOLD_MS      8
#define BURST        32 /* packets of one side before the other has its turn */

/* Of 1000 packets. */
#define LOST    4
#define DOUBLED 15
#define HELD    10
#define CUT     300 /* of those that can be */

struct held {
    uint8_t *data;
    size_t len;
    int to;
    uint64_t due_ms;
};

struct shim {
    int tun, mount;
    unsigned seed;
    struct held held[HELD_MAX];
    size_t n_held;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void put(int to, const void *data, size_t len)
{
    (void)!write(to, data, len); /* refused: lost */
}

static void hold(struct shim *s, int to, const void *data, size_t len, unsigned ms)
{
    if (s->n_held == HELD_MAX)
        return;
    struct held *h = &s->held[s->n_held++];
    *h = (struct held){.data = mem_new(len), .len = len, .to = to, .due_ms = now_ms() + ms};
    memcpy(h->data, data, len);
}

static void release(struct shim *s)
{
    uint64_t now = now_ms();
    for (size_t i = 0; i < s->n_held;) {
        if (s->held[i].due_ms > now) {
            i++;
            continue;
        }
        put(s->held[i].to, s->held[i].data, s->held[i].len);
        mem_free(s->held[i].data);
        s->held[i] = s->held[--s->n_held];
    }
}

static void disturb(struct shim *s, int to, const void *data, size_t len)
{
    int luck = rand_r(&s->seed) % 1000;
    if (luck < LOST)
        return;
    if (luck < LOST + DOUBLED)
        put(to, data, len);
    if (luck < LOST + DOUBLED + HELD)
        hold(s, to, data, len, 1 + (unsigned)rand_r(&s->seed) % HOLD_MS);
    else
        put(to, data, len);
}

/* What a device makes of a segment that is too large for it. */
static void cut(struct shim *s, int to, const struct packet *p, size_t mss)
{
    static uint8_t frame[FRAME_MAX];
    struct packet_ends e = {.near_port = p->ends.far_port, .far_port = p->ends.near_port};
    memcpy(e.near, p->ends.far, sizeof(e.near));
    memcpy(e.far, p->ends.near, sizeof(e.far));
    for (size_t at = 0; at < p->payload_len; at += mss) {
        size_t len = MIN(mss, p->payload_len - at), sum_at;
        struct packet_tcp h = p->tcp;
        struct virtio_net_hdr v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_offset = 16};
        h.seq += (uint32_t)at;
        if (at + len < p->payload_len)
            h.flags &= (uint8_t) ~(PACKET_FIN | PACKET_PSH);
        size_t headers = packet_put_tcp(frame + sizeof(v), &e, &h, len, &sum_at);
        v.hdr_len = (uint16_t)headers;
        v.csum_start = (uint16_t)sum_at;
        memcpy(frame, &v, sizeof(v));
        memcpy(frame + sizeof(v) + headers, p->payload + at, len);
        disturb(s, to, frame, sizeof(v) + headers + len);
    }
}

/* One that is larger than IP has says that it has no length: to a sum that is as good as the most.
 */
static bool parse(uint8_t *ip, size_t len, struct packet *ret)
{
    if (len <= PACKET_MAX)
        return packet_parse(ip, len, true, ret) == 0;
    memset(ip + 2, 0xff, 2);
    bool is_tcp = packet_parse(ip, PACKET_MAX, true, ret) == 0;
    memset(ip + 2, 0, 2);
    ret->payload_len += len - PACKET_MAX;
    return is_tcp;
}

static void pass(struct shim *s, int to, uint8_t *frame, size_t len)
{
    struct virtio_net_hdr v;
    struct packet p;
    memcpy(&v, frame, MIN(len, sizeof(v)));
    bool can_be_cut = len > sizeof(v) && v.gso_type != VIRTIO_NET_HDR_GSO_NONE && v.gso_size &&
                      parse(frame + sizeof(v), len - sizeof(v), &p);
    if (can_be_cut && rand_r(&s->seed) % 1000 < CUT)
        cut(s, to, &p, v.gso_size);
    else
        disturb(s, to, frame, len);
}

static void *run(void *arg)
{
    static uint8_t frame[FRAME_MAX];
    struct shim *s = arg;
    for (;;) {
        struct pollfd p[] = {{.fd = s->tun, .events = POLLIN}, {.fd = s->mount, .events = POLLIN}};
        if (poll(p, ARRAY_SIZE(p), s->n_held ? 1 : -1) < 0 || p[0].revents & POLLERR)
            return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
            ssize_t n;
            for (int k = 0; k < BURST && (n = read(p[i].fd, frame, sizeof(frame))) > 0; k++)
                pass(s, p[!i].fd, frame, (size_t)n);
        }
        release(s);
    }
}

int shim_start(int tun, unsigned seed, int *ret_fd)
{
    struct shim *s = NEW(struct shim);
    int fds[2], size = SOCKET_BYTES;
    pthread_t thread;
    *s = (struct shim){.tun = tun, .seed = seed};
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return ERR_LIMIT;
    for (int i = 0; i < 2; i++)
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    s->mount = fds[0];
    *ret_fd = fds[1];
    return pthread_create(&thread, NULL, run, s) == 0 ? 0 : ERR_LIMIT;
}
