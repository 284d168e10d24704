/*
 * The place where a mounted program runs: a network namespace of its own whose only way out is a
 * TUN device, a mount namespace with its own resolv.conf, and, unless we are root, a user namespace
 * in which the program keeps its user and group ids.
 *
 * Everything belongs to the child: when it and its children have ended, or are killed, the kernel
 * takes interface, routes and mounts with it, so that nothing is left to clean up.
 */
#pragma once

#include "base/diag.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPACE_ADDRESS_4 "198.18.0.2" /* of the program (RFC 2544 range: on nobody's LAN) */
#define SPACE_ADDRESS_6 "fd57:6172:7265:6e::2"
#define SPACE_MTU       1500

struct space_config {
    char *const *argv;         /* of the program; NULL-terminated */
    bool has_v6;               /* whether the network behind can do IPv6 */
    bool as_root;              /* uid 0 in its user namespace, not its own */
    const char *const *routes; /* CIDRs; NULL: everything */
    size_t n_routes;
    const char *resolv_conf; /* text; NULL: the machine's */
};

struct space {
    pid_t pid; /* of the program */
    int pidfd; /* readable when it has ended */
    int tun;   /* of its interface; the caller's to close */
    int go;    /* closing it, or a byte, lets the program start */
};

/* Blocks until the place is ready; the program itself waits for space_go. On failure nothing is
 * left, and `d` says what the system refused and what to do. */
int space_open(const struct space_config *cfg, struct space *ret, struct diag *d);
void space_go(struct space *s);
/* Waits for the program's end, as a shell tells it (128 + signal); one that was not let go does not
 * run any more. Closes what the space owns. */
int space_wait(struct space *s);
