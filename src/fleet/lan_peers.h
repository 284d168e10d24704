/*
 * Whom this agent hears on its LANs, and when it speaks itself: the rules, without sockets and
 * with the time passed in.
 *
 * A peer is an agent on one link. It stays while its beacons come; the newest beacon's time of
 * each address family is kept, so that a copy is not heard twice. At most LAN_PEERS_MAX peers are
 * kept: on a larger LAN those whose pairing with us hashes lowest, which both ends of a pair
 * agree on, so that the pairs that are kept are kept by both.
 */
#pragma once

#include "fleet/lan_beacon.h"

#define LAN_PEERS_MAX 64
#define LAN_PEER_MS   110000 /* a peer that is not heard for so long has gone */
#define LAN_STEADY_MS 30000  /* between beacons once all is said, give or take a fifth */
#define LAN_SPACE_MS  1000   /* at least between two beacons on a link */
#define LAN_BURST     4      /* beacons in quick succession when a link comes up */
#define LAN_LINKS_MAX 16     /* interfaces */

struct lan_peer {
    char agent[ID_SIZE];
    uint64_t instance, epoch;
    unsigned int link; /* interface index */
    struct lan_address from;
    int64_t newest[2]; /* time of the newest beacon by IPv4, IPv6 */
    uint64_t since_ms, heard_ms;
    uint32_t rank;
};

struct lan_peers {
    struct lan_peer *list; /* grown as needed */
    size_t n, room;
    bool has_changed; /* somebody came, went or was replaced since the flag was cleared */
};

/* A beacon that was judged LAN_HEARD. LAN_REPLAYED: it, or a later one, was heard before;
 * *ret_is_new: this peer was not there. `self` is our own id. */
enum lan_verdict lan_peers_hear(struct lan_peers *p, const char *self, unsigned int link,
                                const struct lan_beacon *b, uint64_t now_ms, bool *ret_is_new);
void lan_peers_expire(struct lan_peers *p, uint64_t now_ms);
void lan_peers_drop_link(struct lan_peers *p, unsigned int link);
void lan_peers_done(struct lan_peers *p);

/* When to send on one socket. `random` is any 32 random bits. */
struct lan_pace {
    uint64_t due_ms, sent_ms;
    unsigned int burst; /* quick ones that are left */
};
void lan_pace_start(struct lan_pace *p, uint64_t now_ms, uint32_t random);
/* Somebody asks, or was not heard before: soon, but never sooner than LAN_SPACE_MS after the last.
 */
void lan_pace_hurry(struct lan_pace *p, uint64_t now_ms, uint32_t random);
void lan_pace_sent(struct lan_pace *p, uint64_t now_ms, uint32_t random);
