/*
 * What can be set about a hub. The rows (names, defaults, help) are in hub_conf.c.
 */
#pragma once

#include "base/log.h"
#include "conf/conf.h"

/* What happens to an agent that comes to renew a certificate which has expired meanwhile. */
enum late_renewal {
    LATE_RENEWAL_DENY,    /* it must enrol again */
    LATE_RENEWAL_GRACE,   /* renewed until late_renewal_grace_ms after the expiry */
    LATE_RENEWAL_APPROVE, /* waits until an operator approves it */
    LATE_RENEWAL_COUNT
};

/* Who may read /metrics without an administrator's token. */
enum metrics_access {
    METRICS_ACCESS_TOKEN,    /* nobody */
    METRICS_ACCESS_LOOPBACK, /* clients on this machine */
    METRICS_ACCESS_OPEN,     /* everybody */
    METRICS_ACCESS_COUNT
};

struct hub_settings {
    char *data; /* folder of database, CA and keys */
    char *db;   /* where the database is; NULL: a file in `data` */
    char *db_password_file;
    char *db_listen;               /* the same past a transaction pooler; NULL: db */
    struct host_port listen;       /* the one port */
    struct conf_list public_names; /* names and addresses that agents and users dial */
    struct conf_list certificates; /* files and folders, for the names of tunnels */
    char *ca_key_file;             /* of hubs that share a database; NULL: none */
    char *ca_passphrase_file;      /* in its place; NULL: none */
    struct host_port peer_address; /* where other hubs reach this one; empty: as it listens */
    char *agent_address;           /* the same for agents; NULL: the same; "none": they do not */
    bool no_shortcuts;             /* agents of other hubs do not dial this one for busy streams */
    char *trust_domain;            /* of SPIFFE ids; stays the same for the life of the CA */
    int64_t workers;               /* threads that move bytes; 0: one a core */
    int log_level;                 /* enum log_level */
    int log_format;                /* enum log_format */
    int64_t cert_ttl_ms;           /* life of an agent's certificate */
    int late_renewal;              /* enum late_renewal */
    int64_t late_renewal_grace_ms;
    int64_t reverse_quiet_ms; /* until reverse connections that are not needed are closed */
    int64_t drain_grace_ms;   /* how long open streams may finish at SIGTERM */
    int metrics_access;       /* enum metrics_access */
    struct conf_list proxy_protocol_from; /* load balancers that tell who their clients are */
    struct {
        int64_t reverse_connections;    /* of one agent */
        int64_t handshakes;             /* unfinished ones at a time */
        int64_t handshakes_per_address; /* of those, from one address */
        int64_t handshakes_per_second;  /* begun; 0: as many as come */
        int64_t enroll_per_minute;      /* attempts per address */
        int64_t logins_per_second;      /* at which agents of a hub that is gone may come back */
    } limits;
};

extern const struct conf_table hub_conf_table;
