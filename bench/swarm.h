/* Shared by the files of the swarm. One loop, one thread. */
#pragma once

#include "base/addr.h"
#include "base/backoff.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "swarm_identity.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWARM_HUBS_MAX 16

struct diag;
struct http_client;
struct rpc_client;
struct swarm;
struct tls_client;

/* As far as possible what an agent's `struct session` does, without its reverse connections. */
struct member {
    struct swarm *swarm;
    const struct identity_der *identity;
    struct rpc_client *rpc;
    struct timer retry;
    struct backoff backoff;
    uint32_t lost_ms; /* loop time since the swarm's start at which its session ended */
    uint8_t hub;      /* of the swarm's list */
    bool is_up, is_dialling, was_up;
    struct member *next; /* that waits for its turn to dial */
};

struct swarm {
    struct loop *loop;
    struct host_port hubs[SWARM_HUBS_MAX];
    struct addr at[SWARM_HUBS_MAX];
    size_t n_hubs;
    char *ca_pem, *authorization;
    struct tls_client *tls[SWARM_HUBS_MAX];
    struct http_client *http;
    struct member *members;
    struct identity_der *enrolled_as; /* NULL: they come from a file */
    uint64_t start_ms;
    int size, first, parallel;
    int started, enrolled;              /* by EST */
    struct member *queue, **queue_tail; /* for a turn to dial */
    int dialling, up, alive[SWARM_HUBS_MAX];
    uint64_t logins, failed, lost[SWARM_HUBS_MAX];
    bool stays, has_connected; /* they come back when their session ends; all were up once */
    uint32_t *away_ms;         /* of those that came back, until all have */
    int n_away;
    struct timer tick;
    struct io input;
};

__attribute__((noreturn)) void swarm_fail(const char *what, const struct diag *d);
void swarm_report(const char *step, int count);

/* swarm_enrol.c: all get an identity from the first hub; swarm_connect follows. */
void swarm_enrol(struct swarm *s, const char *hub_url, const char *token_file);

/* swarm_member.c */
void swarm_connect(struct swarm *s);    /* all of them, `parallel` at a time */
void swarm_tell(const struct swarm *s); /* a line about how many are where */
