/*
 * The network interfaces of this machine.
 */
#pragma once

#include "base/addr.h"

/* The addresses at which the interface that has `own` can be reached by others, that one first;
 * neither loopback nor link-local ones. Their number, 0 if there are none. */
size_t interface_addresses(const struct addr *own, char (*ret)[ADDR_TEXT_SIZE], size_t max);
