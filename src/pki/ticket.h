/*
 * A ticket by which one hub lets a client's stream through another: the first has decided that it
 * may, the second only checks this. Text for a header:
 *
 *   HUB.HUB-EPOCH.TUNNEL.LEASE-EPOCH.END.MAC      numbers in decimal, MAC in base64url
 *
 * MAC is HMAC-SHA256 of what precedes its point, by a key that only hubs have (ca_derive_key). END
 * is in ms of the database's clock. No I/O, no clock of its own.
 */
#pragma once

#include "base/id.h"

#include <stddef.h>
#include <stdint.h>

#define TICKET_KEY_SIZE  32
#define TICKET_TEXT_SIZE 192
#define TICKET_LABEL     "warren hub ticket 1" /* of ca_derive_key */

#define TICKET_KEYS_MAX 4

/* The first makes tickets, all are good: while the CA is rotated, each root has its own. Immutable.
 */
struct ticket_keys {
    uint8_t keys[TICKET_KEYS_MAX][TICKET_KEY_SIZE];
    size_t n;
    struct ticket_keys *older; /* what was in use before: another thread may still read it */
};

struct ticket {
    char hub[ID_SIZE]; /* where the client came in */
    uint64_t hub_epoch;
    char tunnel[ID_SIZE];
    uint64_t lease_epoch; /* of the route that it goes by */
    int64_t ends_ms;
};

void ticket_format(const struct ticket *t, const uint8_t key[TICKET_KEY_SIZE],
                   char out[TICKET_TEXT_SIZE]);

/* ERR_INVALID: no ticket; ERR_DENIED: not signed by this key; ERR_EXPIRED: it was good before
 * `now_ms`. `ret` is untouched then. */
int ticket_check(const char *text, const uint8_t key[TICKET_KEY_SIZE], int64_t now_ms,
                 struct ticket *ret);
/* By any of the keys. */
int ticket_check_any(const char *text, const struct ticket_keys *keys, int64_t now_ms,
                     struct ticket *ret);
