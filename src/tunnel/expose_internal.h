/* Between expose.c and expose_dial.c only. */
#pragma once

#include "tunnel/expose.h"

struct relay;

struct loop *exposure_worker(const struct exposure *e);
struct loop *exposure_main(const struct exposure *e);

/* Worker. expose.c: relays `fd` (taken) to the target for `d`; NULL: exposure_dial_ended was
 * called. */
struct relay *exposure_open_dial(struct exposure *e, struct exposure_dial *d, int fd,
                                 const struct addr *client);

/* Worker. expose_dial.c is told: */
void exposure_dial_opened(struct exposure_dial *d);
void exposure_dial_ended(struct exposure_dial *d, int err); /* of the relay; last */
