/*
 * The large buffers of one thread, used by whatever connection is being pumped and by nobody
 * between pumps. Made on first use, freed when the thread ends.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A full batch and a record that overlaps it; then TLS's overhead on top. */
#define BUFFERS_PLAIN  ((256u << 10) + (32u << 10))
#define BUFFERS_CIPHER (BUFFERS_PLAIN + (32u << 10))

#define BUFFERS_DATAGRAMS 32

struct buffers {
    uint8_t cipher_in[BUFFERS_CIPHER];
    uint8_t plain_in[BUFFERS_PLAIN];
    uint8_t plain_out[BUFFERS_PLAIN];
    uint8_t cipher_out[BUFFERS_CIPHER];
    uint8_t datagrams[BUFFERS_DATAGRAMS][64 << 10]; /* see net/udp.h */
};

struct buffers *buffers_of_thread(void);
