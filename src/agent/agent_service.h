/*
 * The agent as a service of systemd: a hardened unit that starts with the machine, runs as a
 * dynamic user without any capability, and is restarted for ever and by its watchdog.
 * Blocking; for the commands `warren-agent install|uninstall|status`.
 */
#pragma once

#include "base/buf.h"
#include "conf/conf.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct agent_service {
    const char *root;              /* files go below it, "" is this machine; for images and tests */
    bool is_offline;               /* nothing is started: `root` is not the running system */
    bool is_dry_run;               /* says what it would do, does nothing */
    const char *program;           /* absolute path of warren-agent; NULL: this executable */
    const struct conf_flag *flags; /* of `warren-agent run`, already checked by conf_load */
    size_t n_flags;
    FILE *out; /* each step is told here */
};

/* Writes the unit, enables it, (re)starts it. ERR_NOT_FOUND when the agent has not enrolled into
 * its data folder yet; ERR_INVALID for a data folder or a program that such a unit cannot reach. */
int agent_service_install(const struct agent_service *s, struct diag *d);

/* Stops, disables, removes the unit; the data folder stays. ERR_NOT_FOUND: no unit. */
int agent_service_uninstall(const struct agent_service *s, struct diag *d);

struct agent_service_state {
    bool is_installed, is_enabled, is_running;
    char state[64];   /* "active (running)" */
    char status[256]; /* what the agent last said of itself */
    int64_t pid, restarts;
};
int agent_service_status(const struct agent_service *s, struct agent_service_state *ret,
                         struct diag *d);

/* The unit's text alone. */
int agent_service_unit(const struct agent_service *s, struct buf *ret, struct diag *d);
