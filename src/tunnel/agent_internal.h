/* Between tunnel_agent.c, tunnel_agent_lease.c and tunnel_agent_stream.c only. */
#pragma once

#include "base/id.h"
#include "net/dial_gate.h"
#include "net/flow_target.h"
#include "net/relay.h"
#include "scan/scan_stream.h"
#include "tunnel/tunnel_agent.h"
#include "tunnel/tunnel_check.h"
#include "warren/v1/agent.pb-c.h"

#include <uthash.h>

#define TUNNEL_AGENT_RPC_MS 10000 /* until a call is given up */

enum held_state {
    HELD_CHECKING, /* the target is being checked */
    HELD_QUEUED,   /* to be taken with the next call */
    HELD_ASKED,    /* by the call under way */
    HELD_TAKEN,
    HELD_LEFT, /* of the hub that we have moved away from: it serves until that one ends it */
    HELD_OVER, /* in no list any more; freed with its last relay */
    HELD_STATE_COUNT
};

struct held {
    struct tunnel_agent *owner; /* not followed once it is over, nor the tunnel */
    struct served *tunnel;
    struct loop *loop;
    char id[ID_SIZE]; /* of the tunnel */
    uint64_t epoch;
    enum held_state state;
    bool is_any;        /* a whole network: streams bring their targets */
    bool is_in_renewal; /* it was there when the renewal under way was asked for */
    uint32_t n_relays;
    struct relay_set relays;
    struct flow_set flows;
    struct scan_set scans;
    struct defer last_gone;
    struct held *prev, *next;     /* of the tunnel */
    struct held *all_prev, *more; /* of the agent */
};

struct served {
    struct tunnel_agent *owner;
    char id[ID_SIZE];
    bool is_any;
    struct held *leases;
    struct check_user check;
    bool is_reporting; /* in the owner's list `reports` */
    bool is_stale;     /* the hub that we have moved to has not named it so far */
    struct served *prev, *next;
    UT_hash_handle hh;
};

struct tunnel_agent {
    struct tunnel_agent_config cfg;
    struct addr_rule *allow;
    size_t n_allow;
    struct session *session;
    struct checker *checker;
    struct dial_gate *gate;       /* bounds dials */
    struct flow_devices *devices; /* read ahead for mounts; NULL: none are */
    struct served *tunnels;
    struct held *leases;
    size_t n_leases;
    struct held *left; /* those of the hub before */
    struct relay_tags tags;
    struct rpc_client_call *taking, *renewing, *reporting;
    struct defer take;
    struct served *reports; /* whose target's state is to be told */
    struct timer report_timer;
    bool is_leaving;
    bool is_to_call; /* to tell the hub that we are awake, though there may be nothing to renew */
    uint32_t grace_ms;
    uint64_t asked_ms;   /* loop time at which the renewal under way was asked for */
    uint64_t renewed_ms; /* the same of the last one that was answered: our leases live from then */
    uint32_t lease_ms, renew_ms;
    struct timer renew_timer;
};

/* tunnel_agent.c */
struct served *tunnel_agent_find(struct tunnel_agent *ta, const char *id);
struct held *tunnel_agent_find_lease(const struct served *t, uint64_t epoch);

/* tunnel_agent_lease.c */
void tunnel_agent_offered(struct tunnel_agent *ta, const Warren__V1__LeaseOffer *m);
void tunnel_agent_lease_lost(struct tunnel_agent *ta, const Warren__V1__Lease *m);
void tunnel_agent_on_take(struct defer *d); /* takes those that are queued */
void tunnel_agent_on_renew_timer(struct timer *timer);
void held_queue(struct held *h);                 /* to be taken */
void held_drop(struct held *h, const char *why); /* it is over, and its streams with it */
void served_note_holder(struct served *t);       /* for the target's check */

/* tunnel_agent_stream.c */
void held_cut_streams(struct held *h);    /* they end in the turns that follow */
void held_free_when_idle(struct held *h); /* if it is over, and its last stream has ended */
int tunnel_agent_check(void *agent, const struct addr *a); /* the ceiling: 0 or ERR_DENIED */
