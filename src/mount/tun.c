#include "mount/tun.h"

#include "base/error.h"
#include "base/macro.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#define READS_A_TURN 64
#define BYTES_A_TURN (256u << 10) /* what is read is still in the cache when it is sent on */
#define BUFFER_SIZE  (sizeof(struct virtio_net_hdr) + 65535)

static_assert(BUFFER_SIZE <= RING_SPACE, "a packet fits a block");

int tun_open(const char *name)
{
    struct ifreq req = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_from_errno(errno);
    snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
    if (ioctl(fd, TUNSETIFF, &req) < 0 ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) {
        int err = error_from_errno(errno);
        close(fd);
        return err;
    }
    return fd;
}

/* The packet's length, or 0: nothing more to read now, or the device is gone. */
static size_t read_one(struct tun *t)
{
    if (!t->block)
        t->block = ring_block_new();
    const uint8_t *data = ring_block_data(t->block);
    struct virtio_net_hdr v;
    ssize_t n;
    do {
        n = read(t->io.fd, ring_block_data(t->block), BUFFER_SIZE);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        t->io.readable = false;
        if (n < 0 && errno != EAGAIN) /* EBADFD: the interface went with its namespace */
            t->ops->on_gone(t->arg);
        return 0;
    }
    if ((size_t)n <= sizeof(v))
        return (size_t)n;
    memcpy(&v, data, sizeof(v));
    t->ops->on_packet(t->arg, &t->block, data + sizeof(v), (size_t)n - sizeof(v),
                      v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
    return (size_t)n;
}

static void read_batch(struct tun *t)
{
    size_t bytes = 0, n = 1;
    for (int i = 0; i < READS_A_TURN && bytes < BYTES_A_TURN && n; i++, bytes += n)
        n = t->io.readable && t->io.fd >= 0 ? read_one(t) : 0;
    if (t->io.fd < 0)
        return;
    t->ops->on_batch_end(t->arg);
    if (t->io.fd >= 0 && t->io.readable)
        loop_defer(t->io.loop, &t->more);
}

static void on_more(struct defer *d)
{
    read_batch(container_of(d, struct tun, more));
}

static void on_event(struct io *io)
{
    if (io->readable)
        read_batch(container_of(io, struct tun, io));
}

int tun_start(struct tun *t, struct loop *l, int fd, const struct tun_ops *ops, void *arg)
{
    *t = (struct tun){.ops = ops, .arg = arg, .more.fn = on_more, .io.fd = -1};
    TRY(io_start(&t->io, l, fd, on_event));
    t->is_started = true;
    return 0;
}

void tun_stop(struct tun *t)
{
    if (!t->is_started)
        return;
    t->is_started = false;
    loop_defer_cancel(&t->more);
    io_close(&t->io);
    ring_block_free(TAKE(t->block));
}

bool tun_write(struct tun *t, const struct tun_offload *o, const uint8_t *headers,
               const struct iovec *pieces, int n_pieces)
{
    struct virtio_net_hdr v = {.hdr_len = (uint16_t)o->header_len};
    struct iovec iov[2 + TUN_PIECES_MAX] = {{&v, sizeof(v)}, {(void *)headers, o->header_len}};
    assert(n_pieces <= TUN_PIECES_MAX);
    for (int i = 0; i < n_pieces; i++)
        iov[2 + i] = pieces[i];
    if (o->sum_at) {
        v.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        v.csum_start = (uint16_t)o->sum_at;
        v.csum_offset = (uint16_t)o->sum_offset;
    }
    if (o->mss) {
        v.gso_type = o->is_v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
        v.gso_size = o->mss;
    }
    ssize_t n;
    do {
        n = writev(t->io.fd, iov, 2 + n_pieces);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        t->dropped++;
    return n >= 0;
}

bool tun_takes_large(void)
{
    struct utsname u;
    unsigned major, minor;
    return uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 3));
}
