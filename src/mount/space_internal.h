/* Shared by the files of a space: space.c (outside), space_net.c, space_init.c (process 1),
 * space_join.c. */
#pragma once

#include "mount/space.h"

/* What a child says before it waits: 0, or an error with a text. */
struct space_report {
    int err;
    char text[256];
};

/* Fills the report with `what` and errno; returns `err`. */
int space_fail(struct space_report *r, int err, const char *what);
int space_write_file(const char *path, const char *text);

/* space_net.c: in the new network namespace; *ret_tun is the interface's descriptor. */
int space_set_up_network(const struct space_config *cfg, int *ret_tun, struct space_report *r);

/* space_init.c */
/* Of process 1. Never returns. `control` brings bytes: the first one lets the program go, the
 * others are signals for it; the program's end (an int, of waitpid) goes back. */
__attribute__((noreturn)) void space_run_init(char *const *argv, int control, bool is_user);
/* In a new child: becomes the program. `is_user`: the namespaces are in one of a user. */
__attribute__((noreturn)) void space_become(char *const *argv, bool is_user);
