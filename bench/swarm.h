/* Shared by the files of the swarm. One loop, one thread. */
#pragma once

#include "base/addr.h"
#include "fleet/comeback.h"
#include "fleet/hub_list.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "swarm_identity.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWARM_HUBS_MAX   HUB_LIST_CONFIGURED
#define SWARM_PLACES_MAX 64 /* bits of member.tried */
#define STORM_BIN_MS     100
#define STORM_BINS       6000

struct diag;
struct http_client;
struct hub_probe;
struct rpc_client;
struct swarm;
struct tls_client;

typedef struct Warren__V1__Hubs Warren__V1__Hubs;

/* Where a hub of the list is, and how it proves that it is that one. */
struct place {
    struct addr at;
    struct tls_client *tls;
    uint8_t number; /* of the hub in the order of --hub, by which hubs are told apart here */
};

/* As far as possible what an agent's `struct session` does, without its reverse connections. */
struct member {
    struct swarm *swarm;
    const struct identity_der *identity;
    struct rpc_client *rpc;
    struct timer timer; /* for the next dial; for its welcome */
    struct comeback comeback;
    uint64_t tried;   /* hub_entry.was_tried, a bit each */
    uint32_t lost_ms; /* loop time since the swarm's start at which its session ended */
    uint8_t place;    /* where it is, or dials */
    bool is_up, is_dialling, was_up;
    struct member *next; /* that waits for its turn to dial */
};

struct swarm {
    struct loop *loop;
    struct hub_list hubs; /* of all members: what they differ in is in `struct member` */
    struct place places[SWARM_PLACES_MAX]; /* of hubs.entries */
    size_t n_hubs;                         /* --hub */
    struct hub_probe *probe;
    char *ca_pem, *authorization;
    struct http_client *http;
    struct member *members;
    struct identity_der *enrolled_as; /* NULL: they come from a file */
    uint64_t start_ms;
    int size, first, parallel;
    int started, enrolled;              /* by EST */
    struct member *queue, **queue_tail; /* for a turn to dial */
    int dialling, up, alive[SWARM_HUBS_MAX];
    uint64_t logins, failed, refused, lost[SWARM_HUBS_MAX];
    bool stays, has_connected; /* they come back when their session ends; all were up once */
    uint32_t *away_ms;         /* of those that came back, until all have */
    int n_away;
    struct {               /* dials of those that come back, from the first loss on */
        uint64_t began_ms; /* loop time; 0: none is missing */
        uint32_t dials[STORM_BINS];
    } storm;
    struct timer tick;
    struct io input;
};

__attribute__((noreturn)) void swarm_fail(const char *what, const struct diag *d);
void swarm_report(const char *step, int count);

/* swarm_enrol.c: all get an identity from the first hub; swarm_connect follows. */
void swarm_enrol(struct swarm *s, const char *hub_url, const char *token_file);

/* swarm_hubs.c: which hub, as fleet/session.c has it. */
void swarm_hubs_add(struct swarm *s, const char *url);
void swarm_hubs_start(struct swarm *s); /* after they were added */
void swarm_hubs_told(struct swarm *s, const Warren__V1__Hubs *m);
void swarm_hubs_pass_over(struct member *m); /* others come first: its session has ended */
uint8_t swarm_hubs_next(struct member *m);
bool swarm_hubs_has_untried(struct member *m);

/* swarm_member.c */
void swarm_connect(struct swarm *s);    /* all of them, `parallel` at a time */
void swarm_tell(const struct swarm *s); /* a line about how many are where */
