/*
 * The place where a mounted program runs: a network namespace of its own whose only way out is a
 * TUN device, a mount namespace with its own resolv.conf, a process namespace, and, unless we are
 * root, a user namespace in which the program keeps its user and group ids.
 *
 *     who mounts ── process 1 of the place ── the program, what it starts, what joins (space_join)
 *
 * Whoever of the three dies, even by SIGKILL, what is to its right dies too: process 1 goes with
 * its parent, and the kernel ends a process namespace with its process 1. Interface, routes and
 * mounts belong to these namespaces, so nothing is left to clean up. Inside, processes of the
 * machine have no numbers and no /proc, so no signal, ptrace or namespace of theirs is within
 * reach.
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
    char *const *argv;         /* of the program; NULL-terminated; NULL: none, the place lasts */
    bool has_v6;               /* whether the network behind can do IPv6 */
    bool as_root;              /* uid 0 in its user namespace, not its own */
    const char *const *routes; /* CIDRs; NULL: everything */
    size_t n_routes;
    const char *resolv_conf; /* text; NULL: the machine's */
};

struct space {
    pid_t pid;   /* of its process 1 */
    int pidfd;   /* readable when all of it has ended */
    int tun;     /* of its interface; the caller's to close */
    int control; /* to process 1 */
};

/* Blocks until the place is ready; the program itself waits for space_go. On failure nothing is
 * left, and `d` says what the system refused and what to do. While this process has one thread. */
int space_open(const struct space_config *cfg, struct space *ret, struct diag *d);
void space_go(struct space *s);
void space_signal(struct space *s, int signum); /* to the program */
/* Ends what still runs there, and waits. The program's end as waitpid(2) tells it: one that was not
 * let go, or that was ended so, was killed. Closes what the space owns. */
int space_wait(struct space *s);
/* The status of waitpid(2) as a shell tells it: 128 + signal. */
int space_exit_code(int status);

/* Runs a program in the place whose process 1 `pidfd` is, and waits for its end (of waitpid). This
 * process is in the place itself afterwards. While this process has one thread. */
int space_join(int pidfd, char *const *argv, int *ret_status, struct diag *d);
