/*
 * One tunnel served by one agent: accepts clients on the tunnel's listening socket and relays each
 * over the agent's pool of reverse connections; a UDP client's datagrams in a flow (expose_udp.c).
 * Made and stopped by the main loop, works on the pool's worker.
 *
 *   main: exposure_start --post--> worker: listens on its own watch of the socket
 *   main: exposure_stop  --post--> worker: cuts every stream --post--> main: on_stopped, freed
 *
 * on_stopped is the proof that this exposure carries no byte any more; the lease waits for it.
 */
#pragma once

#include "base/addr.h"
#include "fleet/pool.h"
#include "net/pacer.h"
#include "net/relay.h"
#include "pki/ticket.h"
#include "tunnel/tunnel_model.h"

#define EXPOSURE_AUTHORITY_SIZE (HOST_SIZE + 8)
#define EXPOSURE_TICKET         "warren-ticket" /* request header to another hub */

struct conn;
struct exposure;
struct peer_clock;
struct proxy_trust;
struct relay_pair;

/* How a client's connection went, for the access log. */
struct exposure_record {
    char tunnel[ID_SIZE], agent[ID_SIZE];
    struct addr client;
    int64_t opened, closed; /* wall ms; closed 0: still open */
    uint64_t bytes_in, bytes_out;
    const char *end; /* a static text: api/openapi.yaml, connection.end */
    int error;       /* 0 or why the target was not reached; UDP: what it answered with, at last */
};

/* What a client of the proxy asked for. A stream goes to its target through a tunnel to a whole
 * network; other tunnels have a target of their own. */
struct exposure_goal {
    struct host_port target;
    bool is_udp;                /* it carries capsules */
    uint8_t ttl;                /* of what the agent sends to connect; 0: as usual */
    struct tunnel_ranges allow; /* of a target TUNNEL_ECHO: what may be pinged */
    char token[ID_SIZE];        /* the API token's id, see exposure_cut_token; "": none */
    char tag[RELAY_TAG_SIZE];   /* of another hub's client, for its shortcut; "": it wants none */
    /* NULL, or that of an extended CONNECT by which the agent itself is meant: a static text */
    const char *protocol;
};

/* A client whose stream did not reach the target through another hub, which does not serve the
 * tunnel (any more), or was lost on the way. Its bytes are all still to be read. One of the two
 * below, once. */
struct exposure_turned {
    char tunnel[ID_SIZE];
    uint64_t epoch; /* of the route that it went by */
    bool is_lost;   /* ... which may be right */
    bool is_shown;  /* in the access log, if it is not served in the end */
    int fd;
    struct addr peer;
    int64_t opened;               /* wall ms */
    struct exposure_dial *dial;   /* NULL: a client of a listener, or */
    struct exposure_retry *retry; /* of the proxy over HTTP/1.1 */
    /* Whoever keeps it meanwhile. */
    uint64_t ends_ms;
    struct exposure_turned *prev, *next;
    struct exposure_turned *same_prev, *same_next; /* of the same tunnel */
};
void exposure_try_again(struct exposure_turned *t, struct exposure *e); /* which serves; frees t */
void exposure_give_up(struct exposure_turned *t);                       /* frees t */

/* All on the main loop. */
struct exposure_ops {
    /* Connections that ended, in batches. */
    void (*on_records)(void *arg, const struct exposure_record *records, size_t n);
    /* The target could not be reached (err < 0), or again can be (0); told on change. */
    void (*on_target)(void *arg, const char *tunnel, uint64_t lease_epoch, int err);
    /* Only of a forwarding one, once for each client. */
    void (*on_turned)(void *arg, struct exposure_turned *t);
    /* After exposure_linger: the last stream has ended. It is to be stopped. */
    void (*on_drained)(void *arg, struct exposure *e);
    /* After exposure_stop. The exposure is freed when this returns. */
    void (*on_stopped)(void *arg, struct exposure *e);
};

/* How another hub is told that it may let our clients through (pki/ticket.h). */
struct exposure_forward {
    char hub[ID_SIZE]; /* this one */
    uint64_t hub_epoch;
    bool has_shortcuts; /* its agents may dial us */
    struct ticket_keys *_Atomic keys;
    const struct peer_clock *clock;
};

struct exposure_config {
    struct loop *main;
    struct fleet_pool *pool;                /* up */
    const char *agent;                      /* who serves */
    const struct exposure_forward *forward; /* the pool is to another hub; outlives the exposure */
    int listen_fd;                          /* duplicated; -1: no listener */
    const char *tunnel;
    uint64_t lease_epoch;
    const char *authority;     /* host:port of the target */
    int target_err;            /* as it is known, see on_target */
    enum proxy_version proxy;  /* a header that tells the target who its client is */
    struct proxy_trust *trust; /* load balancers before the listener; NULL: none */
    enum tunnel_protocol protocol;
    uint32_t flow_idle_ms;              /* UDP; 0: the default */
    struct exposure_index *index;       /* to be found in; outlives the exposure. NULL: not to be */
    const struct tunnel_access *who;    /* whose `sources` the listener admits; copied */
    struct meter *meters[PACER_METERS]; /* the tunnel's and its tenant's; outlive the exposure */
    const struct exposure_ops *ops;
    void *arg;
    void *owner; /* see exposure_owner */
};

/* ERR_LIMIT: out of descriptors. */
int exposure_start(const struct exposure_config *cfg, struct exposure **ret);
/* `err` says why: ERR_CANCELED (deleted), ERR_EXPIRED, ERR_REVOKED, ERR_UNAVAILABLE (lease lost).
 */
void exposure_stop(struct exposure *e, int err);
/* No new streams; those that are open go on until they end or it is stopped. */
void exposure_linger(struct exposure *e);
/* It began without a listener, whose socket (duplicated) is there now. ERR_LIMIT: out of
 * descriptors. */
int exposure_listen(struct exposure *e, int fd);
/* New streams go to another target, or with another header. */
void exposure_retarget(struct exposure *e, const char *authority, enum proxy_version proxy);
/* Another hub has seen how the target answers: to tell the opposite is news. */
void exposure_learn_target(struct exposure *e, int err);
/* New clients come from other sources. */
void exposure_set_sources(struct exposure *e, const struct tunnel_access *who);
/* Cuts the streams that this API token opened: it was revoked. */
void exposure_cut_token(struct exposure *e, const char *token);
/* No new clients; streams go on. */
void exposure_stop_accepting(struct exposure *e);

/* A client (`fd`, non-blocking, is taken) that the main loop has accepted for this one, or that
 * came by name. Only while serving. */
void exposure_give(struct exposure *e, int fd, const struct addr *peer);

/* A client of the proxy (net/conn.h: detached, HTTP/1.1) that asked for this tunnel's target: gets
 * the answer to its CONNECT (200, or the failure's status and Proxy-Status) and is then relayed
 * like a client of a listener. Only while serving. */
void exposure_take(struct exposure *e, const struct exposure_goal *goal, struct conn *c);

/* A stream to the target for somebody on the main loop, who keeps the other end of a socketpair: a
 * client like any other in the access log, the counters, and what a lost lease cuts. */
struct exposure_dial;
struct exposure_dial_ops {
    void (*on_open)(void *arg); /* the target is reached; bytes may have been written before */
    /* Last call, unless exposure_dial_done came before: 0: both directions ended properly; else why
     * the target was not reached (see proxy_status_format), or how the stream was cut. */
    void (*on_end)(void *arg, int err);
};

/* Takes `fd` (non-blocking), or in its place one end of a pair (net/relay.h), whose other end must
 * be on exposure_loop; not of one that is forwarding. Callbacks come later, on the main loop. The
 * caller owes one exposure_dial_done. Not when stopping. `is_other_hubs`: the client came in at
 * another hub, which has it in its access log, counters and limits; here it only passes. */
struct exposure_dial *exposure_dial(struct exposure *e, const struct exposure_goal *goal, int fd,
                                    struct relay_pair *pair, const struct addr *client,
                                    bool is_other_hubs, const struct exposure_dial_ops *ops,
                                    void *arg);
const struct loop *exposure_loop(const struct exposure *e); /* where its streams are */

/* What serves on one worker as that worker knows it, by tunnel and lease. Embedded,
 * zero-initialised. */
struct exposure_index {
    struct exposure *all;
};
struct exposure *exposure_find(const struct exposure_index *x, const char *tunnel,
                               uint64_t lease_epoch); /* NULL: none that serves */
/* The same as exposure_dial for another hub's client, all on the worker, without the main loop.
 * Callbacks come there, later. Negative: they do not, and the end of the pair is dropped. */
int exposure_dial_here(struct exposure *e, const struct exposure_goal *goal,
                       struct relay_pair *pair, const struct addr *client,
                       const struct exposure_dial_ops *ops, void *arg, struct exposure_dial **ret);
uint64_t exposure_passed_ms(
    const struct exposure *e); /* when, the last time; loop time; 0: never */

/* From within on_end of a target that was not reached: the ICMP error behind it; version 0: there
 * was none. */
const struct icmp_cause *exposure_dial_cause(const struct exposure_dial *d);
/* The caller is done with its end, of which it tells how it went just before it closes it: 0: its
 * bytes and their end are all written; else the target sees a reset. No callback follows. */
void exposure_dial_done(struct exposure_dial *d, int err);

/* What is open or on its way to be. */
uint64_t exposure_load(const struct exposure *e);

/* Adds what this exposure has carried. */
void exposure_traffic(const struct exposure *e, struct tunnel_traffic *sum);

/* Lists the open connections: `done` on the main loop, with records whose `closed` is 0. */
void exposure_list_open(struct exposure *e,
                        void (*done)(void *arg, const struct exposure_record *records, size_t n),
                        void *arg);

void *exposure_owner(const struct exposure *e);
struct fleet_pool *exposure_pool(const struct exposure *e);
bool exposure_is_stopping(const struct exposure *e);
bool exposure_is_serving(const struct exposure *e);    /* neither stopping nor lingering */
uint64_t exposure_epoch(const struct exposure *e);     /* of its lease */
const char *exposure_agent(const struct exposure *e);  /* who has it */
bool exposure_is_forwarding(const struct exposure *e); /* to another hub */

/* The owner's list (utlist, `prev` and `next` of the main loop). */
struct exposure *exposure_next(const struct exposure *e);
void exposure_list_add(struct exposure **head, struct exposure *e);
void exposure_list_remove(struct exposure **head, struct exposure *e);
