/*
 * The name server this machine asks (resolv.conf(5)).
 */
#pragma once

#include "base/addr.h"

/* The first that is configured, read anew each time; ERR_NOT_FOUND: none. */
int nameserver_find(struct host_port *ret);
