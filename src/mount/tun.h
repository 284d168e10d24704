/*
 * The device of a mount: a TUN descriptor with virtio headers, so that segments of up to 64 KiB,
 * to a program also larger ones, pass whole (TSO) and checksums of what never leaves this machine
 * are not computed.
 *
 * Packets are read in batches of a bounded size a turn; the rest waits for the next turn. Each is
 * read into a block of a ring (ring.h), which may keep it.
 */
#pragma once

#include "loop/io.h"
#include "mount/ring.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tun_ops {
    /* `sum_is_partial`: the transport's checksum was left to the device. The bytes are valid during
     * the call, and in *block, which may be taken. */
    void (*on_packet)(void *arg, struct ring_block **block, const uint8_t *data, size_t len,
                      bool sum_is_partial);
    /* After each batch: what it asks for can now be sent. */
    void (*on_batch_end)(void *arg);
    /* The device is gone: its network namespace has ended. Called once; then tun_stop. */
    void (*on_gone)(void *arg);
};

struct tun {
    struct io io;
    struct defer more;
    const struct tun_ops *ops;
    void *arg;
    struct ring_block *block; /* to read into; NULL: the last one was taken */
    bool is_started;
    uint64_t dropped; /* packets that the kernel did not take */
};

/* Creates an interface in the calling thread's network namespace. Returns its descriptor,
 * ERR_DENIED (no permission for /dev/net/tun or in the namespace), ERR_NOT_FOUND (no such device),
 * or another code of the system's. */
int tun_open(const char *name);

int tun_start(struct tun *t, struct loop *l, int fd, const struct tun_ops *ops, void *arg);
void tun_stop(struct tun *t); /* closes the descriptor; harmless twice */

/* What the device is to do with a packet. */
struct tun_offload {
    size_t sum_at;     /* where the transport's header begins; 0: checksums are complete */
    size_t sum_offset; /* of the field in it */
    size_t header_len; /* all headers, where the payload is to be cut */
    uint16_t mss;      /* payload of a segment; 0: not to be cut */
    bool is_v6;
};

/* Whether the kernel takes TCP over IPv4 in packets larger than IP has (packet_put_tcp). */
bool tun_takes_large(void);

#define TUN_PIECES_MAX 5

/* Gives one packet to the kernel: headers, then the pieces of its payload. False: not taken. */
bool tun_write(struct tun *t, const struct tun_offload *o, const uint8_t *headers,
               const struct iovec *pieces, int n_pieces);
