/*
 * The few messages of DNS-SD over multicast DNS (RFC 6762, RFC 6763) by which agents of one LAN
 * find each other: a question for the service, and the answer of one instance, whose TXT record
 * carries a sealed beacon (fleet/lan_beacon.h) that is opaque here. The records are encoded and
 * decoded by libmdnsd; nothing here touches a socket.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MDNS_PORT       5353
#define MDNS_PACKET_MAX 1440 /* bytes of a message that is sent or looked at */
#define MDNS_BLOB_MAX   200  /* bytes of a beacon */
#define MDNS_BLOBS_MAX  8    /* beacons looked at in one message */
#define MDNS_LABEL_SIZE 33   /* of an instance or a host, with its NUL */

/* What a message holds that concerns us. */
struct mdns_message {
    bool asks_service; /* a question for instances of the service */
    bool asks_types;   /* a question for the types of service there are */
    size_t n_blobs;
    struct {
        uint8_t data[MDNS_BLOB_MAX];
        size_t len;
    } blobs[MDNS_BLOBS_MAX];
};

/* A message of somebody else on the link; `ret` is always filled. ERR_PROTO: it is malformed. */
int mdns_read(const uint8_t *data, size_t len, struct mdns_message *ret);

/* The question for the service. Returns the bytes written. */
size_t mdns_write_query(uint8_t out[MDNS_PACKET_MAX]);

struct mdns_instance {
    char label[MDNS_LABEL_SIZE]; /* of the instance and of its host's name */
    int family;                  /* AF_INET or AF_INET6 */
    uint8_t address[16];
    uint32_t ttl_s;  /* 0: it goes away */
    bool with_types; /* also answers the question for types */
    const uint8_t *blob;
    size_t blob_len;
};

/* The answer: PTR, SRV, TXT and the address. Returns the bytes written. */
size_t mdns_write_instance(const struct mdns_instance *i, uint8_t out[MDNS_PACKET_MAX]);
