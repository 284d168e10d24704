/*
 * ICMP errors to UDP clients, as a router or host sends them: so a client learns at once that its
 * datagram reached nobody, instead of waiting for a timeout. Needs CAP_NET_RAW; without it nothing
 * is sent. At most ICMP_PER_SECOND a thread, for who is told may not be who asked.
 */
#pragma once

#include "net/udp.h"

#define ICMP_PER_SECOND 1000

/* Tells `path->peer` that its datagram to port `port` of `path->local` failed by `err`:
 * ERR_REFUSED is "port unreachable", ERR_DENIED "prohibited", others "host unreachable". */
void icmp_unreachable(const struct udp_path *path, uint16_t port, int err, uint64_t now_ms);

#define ICMP_ERROR_MAX 64

/* The message alone: type, code, checksum (0 for IPv6, which the kernel fills in), and the headers
 * of the datagram it is about. Returns its length. */
size_t icmp_error_write(const struct udp_path *path, uint16_t port, int err,
                        uint8_t out[ICMP_ERROR_MAX]);
