/*
 * What an agent says of itself on its LAN, sealed with a key that only its tenant's agents and the
 * hub have (AES-256-GCM, a fresh nonce each time): who has not the key learns nothing, not even
 * whether two beacons are of one agent or of one tenant. All are of one length.
 *
 * What a beacon proves is bound to the link it was sent on: it names the address and the prefix it
 * was sent from and the time by the hub's clock, and each one of a process has a later time than
 * the one before. So a copy proves nothing on another subnet, later, or twice. That both ends hear
 * each other is for the hub to ask (fleet/lan_model.h).
 */
#pragma once

#include "base/id.h"
#include "pki/seal.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAN_KEYS_MAX     3
#define LAN_KEY_SIZE     SEAL_KEY_SIZE
#define LAN_BEACON_SIZE  (12 + 96 + 16) /* nonce, text, tag */
#define LAN_WINDOW_MS    60000          /* how far a beacon's time may be off */
#define LAN_PREFIX_SIZE  64             /* "fd00:1234::/64" */
#define LAN_ADDRESS_SIZE 46

/* The first key seals, all of them open. */
struct lan_keys {
    size_t n;
    uint8_t key[LAN_KEYS_MAX][LAN_KEY_SIZE];
};

/* An address of this machine on a link, or where a packet came from. */
struct lan_address {
    int family; /* AF_INET or AF_INET6 */
    uint8_t ip[16];
    uint8_t prefix; /* bits */
};

struct lan_beacon {
    char agent[ID_SIZE];
    uint64_t instance; /* random, of the process */
    uint64_t epoch;    /* of its session with the hub; 0: none yet */
    int64_t time_ms;   /* the hub's clock */
    struct lan_address from;
};

/* 0 or a negative code; `out` is LAN_BEACON_SIZE bytes. */
int lan_beacon_seal(const struct lan_keys *keys, const struct lan_beacon *b, uint8_t *out);
/* ERR_DENIED: no key of ours opens it; ERR_PROTO: one does, and the text is malformed. */
int lan_beacon_open(const struct lan_keys *keys, const void *data, size_t len,
                    struct lan_beacon *ret);

enum lan_verdict {
    LAN_HEARD,     /* it is who it says, here and now */
    LAN_OWN,       /* our own, looped back */
    LAN_FOREIGN,   /* another tenant's, or forged */
    LAN_REPLAYED,  /* too old, or heard before */
    LAN_ELSEWHERE, /* made for another link */
    LAN_CLONE,     /* another process that bears our identity */
    LAN_DROPPED,   /* too many to look at */
    LAN_VERDICT_COUNT
};
const char *lan_verdict_name(enum lan_verdict v);

/* Of an opened beacon: `src` is where its packet came from, `here` our address on that link. What
 * was heard before is the table's question (fleet/lan_peers.h). */
enum lan_verdict lan_beacon_judge(const struct lan_beacon *b, const char *self, uint64_t instance,
                                  const struct lan_address *src, const struct lan_address *here,
                                  int64_t hub_now_ms);

void lan_address_format(const struct lan_address *a, char out[LAN_ADDRESS_SIZE]);
void lan_prefix_format(const struct lan_address *a, char out[LAN_PREFIX_SIZE]);
bool lan_same_subnet(const struct lan_address *a, const struct lan_address *b);
