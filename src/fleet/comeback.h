/*
 * When an agent that is without a session dials again. Which hub it dials: hub_list.h. Rules and
 * values, no I/O.
 *
 * Hubs tell their agents beforehand over what time to come back, so that not all agents of a hub
 * that is gone arrive at the others at once.
 */
#pragma once

#include "base/backoff.h"

#include <stdbool.h>
#include <stdint.h>

struct comeback {
    struct backoff backoff, busy;
    uint32_t return_ms; /* as the hub told; set it when it does */
};

enum comeback_dial {
    COMEBACK_UNANSWERED, /* nobody said a word: that burdens nobody */
    COMEBACK_REFUSED,    /* somebody did */
    COMEBACK_BUSY,       /* a hub has hung up before its first byte: it has too much to do */
};

void comeback_init(struct comeback *c);
void comeback_reset(struct comeback *c); /* there is a session */

/* For a dial to a hub of the cluster, where there are others: twice as long after each that was in
 * vain, up to 10 s. A handshake that is given up and begun anew costs hubs that have too much to do
 * already as much as one that ends well. */
uint32_t comeback_dial_ms(const struct comeback *c);

/* The others return milliseconds until the next dial. */
uint32_t comeback_after_session(struct comeback *c); /* it has ended without a word */
uint32_t comeback_after_login(struct comeback *c);   /* a hub was reached and has not let it in */
/* `has_untried`: another hub comes next, which may have time. */
uint32_t comeback_after_dial(struct comeback *c, enum comeback_dial how, bool has_untried);
