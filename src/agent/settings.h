/*
 * What can be set about an agent. The rows (names, defaults, help) are in agent_conf.c.
 */
#pragma once

#include "base/log.h"
#include "conf/conf.h"

#define AGENT_DATA "/var/lib/warren-agent" /* the default folder */

struct agent_settings {
    char *data;             /* folder of key, certificate and state */
    struct conf_list hubs;  /* URLs of hubs; empty: the one it enrolled at */
    struct conf_list allow; /* the owner's ceiling, addr_rule texts; empty: everything */
    int log_level;          /* enum log_level */
    int log_format;         /* enum log_format */
    bool fixed_hubs;        /* dials those only, whatever the cluster tells */
    bool no_discovery;      /* neither speaks nor listens on its LANs */
    bool no_read_ahead;     /* asks SNMP devices nothing of its own */
    int64_t drain_grace_ms; /* how long open streams may finish at SIGTERM */
};

extern const struct conf_table agent_conf_table;
