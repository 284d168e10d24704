/*
 * A bad wire between a program and its mount: packets are lost, doubled, held back, and cut where a
 * device would cut them (so that part of a large segment may be lost), both ways. For tests of the
 * terminator against this kernel's own TCP.
 */
#pragma once

/* Takes the TUN descriptor; *ret_fd takes its place for the mount. The same seed makes the same
 * decisions. A thread does the work until the process ends. 0 or a negative code. */
int shim_start(int tun, unsigned seed, int *ret_fd);
