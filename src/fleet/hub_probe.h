/*
 * How far the hubs of a list are: the time of a TCP handshake, the least of two, one hub after the
 * other, without a byte sent. Those that were not measured are when asked, and all each half hour
 * or so: a hub that goes would otherwise bring the probes of all agents upon each of the others.
 */
#pragma once

#include "fleet/hub_list.h"
#include "loop/loop.h"

struct hub_probe;

/* `list` is borrowed and changed in place; `on_done` after each round. */
struct hub_probe *hub_probe_new(struct loop *l, struct hub_list *list, void (*on_done)(void *arg),
                                void *arg);
/* A round in `delay_ms`, or sooner if one is due sooner; the one under way ends first. */
void hub_probe_soon(struct hub_probe *p, uint32_t delay_ms);
void hub_probe_free(struct hub_probe *p);
