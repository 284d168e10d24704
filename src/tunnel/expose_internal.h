/* Between expose*.c only. */
#pragma once

#include "net/listener.h"
#include "net/pacer.h"
#include "net/relay.h"
#include "tunnel/expose.h"

#include <uthash.h>

struct exposure_udp;

/* Zero where the texts are shorter. */
struct exposure_key {
    char tunnel[ID_SIZE];
    uint64_t lease_epoch;
};

#define EXPOSURE_HEADERS_MAX 3 /* which every request to the agent, or to its hub, has */

struct exposure {
    /* Constant. */
    struct loop *main, *worker;
    const struct exposure_ops *ops;
    void *arg, *owner;
    char tunnel[ID_SIZE], agent[ID_SIZE];
    uint64_t lease_epoch;
    char lease_text[24];
    const struct exposure_forward *forward; /* NULL: the pool is the agent's own */
    struct h2_header headers[EXPOSURE_HEADERS_MAX];
    size_t n_headers;
    struct exposure_udp *udp; /* NULL: clients are streams */

    struct fleet_pool *pool; /* as a name; followed on the worker only, until stop_on_worker */

    /* The worker's. */
    int listen_fd;
    struct listener *listener;
    struct pool_user pool_user;
    struct relay_set relays;        /* its counters are read by anyone */
    struct relay_set passing;       /* those of other hubs' clients */
    struct relay_worker far_worker; /* of the other hub, where the agent is; as it said last */
    uint64_t next_tag;
    char ticket[TICKET_TEXT_SIZE];
    int64_t ticket_ends_ms; /* database's clock */
    char authority[EXPOSURE_AUTHORITY_SIZE];
    bool is_any; /* a whole network: who asks names the target, and what fails is his own affair */
    enum proxy_version proxy;
    struct proxy_trust *trust;
    struct tunnel_access who;
    struct meter *meters[PACER_METERS];
    struct pacer read_pace, write_pace;
    uint64_t refused_since_ms; /* the second in which the last ones were refused */
    uint32_t n_refused;        /* in it */
    uint32_t n_clients;
    struct client *proxied;
    struct defer last_gone;
    int target_err;
    bool was_not_opened; /* a flow to it; else what is wrong with it is told by its answers */
    bool is_stopped, is_closed; /* cut; takes no new clients */
    _Atomic uint64_t n_arrived; /* of those that the main loop gave */
    _Atomic uint64_t passed_ms;
    struct exposure_index *index;
    bool is_indexed;
    struct exposure_key key;
    UT_hash_handle hh;
    struct exposure_record *records;
    size_t n_records;
    struct timer flush_timer;

    /* Set by the main loop as soon as it stops the exposure: an agent that is told so too may close
     * the streams before the worker hears of it. */
    _Atomic int stop_err;

    /* The main loop's. */
    bool is_stopping, is_lingering;
    uint64_t n_given;
    struct exposure *prev, *next;
};

bool exposure_admits(const struct exposure *e, const struct addr *client); /* by its sources */

/* Worker. expose_stream.c. */
void exposure_accept(void *arg, int fd, const struct addr *peer); /* a client of the listener */
void exposure_cut_proxied(
    struct exposure *e); /* whose relay has ended; they take their last bytes */
void exposure_end_watches(struct exposure *e);     /* flows to TUNNEL_LEASE */
int64_t exposure_opened_at(const struct relay *r); /* wall ms */
/* Relays `fd` or `pair` (taken) to the target for `d`; NULL: exposure_dial_ended was
 * called. */
struct relay *exposure_open_dial(struct exposure *e, struct exposure_dial *d,
                                 const struct exposure_goal *goal, int fd, struct relay_pair *pair,
                                 const struct addr *client, bool is_other_hubs);

/* Worker. expose_shortcut.c: what a client's stream has to do with one. */
struct exposure_shortcut {
    uint64_t tag;
    bool has_tag;
    uint8_t n_tries, n_waited;
};
/* By what it will be known to the agent, our own client or another hub's; false: by nothing. */
bool exposure_tag(struct exposure *e, struct exposure_shortcut *s,
                  const struct exposure_goal *asked, const struct exposure_goal *goal,
                  char out[RELAY_TAG_SIZE]);
/* It is busy: whether it goes past the other hub from now on, unless the agent refuses. */
bool exposure_take_shortcut(struct exposure *e, struct exposure_shortcut *s, struct relay *r,
                            bool is_bulk);

/* Worker. expose_index.c */
void exposure_index_add(struct exposure *e); /* if it is to be found */
void exposure_index_remove(struct exposure *e);

/* Worker. expose_dial.c is told: */
void exposure_dial_opened(struct exposure_dial *d);
void exposure_dial_ended(struct exposure_dial *d, int err,
                         const struct icmp_cause *cause);   /* of the relay; last */
bool exposure_dial_is_again(const struct exposure_dial *d); /* it was turned away once */

/* Worker. The client is off to the main loop, for another try; tunnel and epoch are filled in.
 * expose_turn.c */
void exposure_turn(struct exposure *e, const struct exposure_turned *t);
/* expose_retry.c: a client with a bridge, for which the main loop dials. Worker: begun before
 * exposure_turn, ended when the bridge has, which is told how. Main: one of the other two, once. */
struct client;
struct exposure_retry *exposure_retry_new(struct exposure *e, struct client *c,
                                          const struct exposure_goal *goal);
void exposure_retry_end(struct exposure_retry *r, int err);
bool exposure_retry_is_wanted(const struct exposure_retry *r);
void exposure_retry_dial(struct exposure_retry *r, struct exposure *e, int fd,
                         const struct addr *peer);
void exposure_retry_give_up(struct exposure_retry *r);
/* Worker. expose_stream.c is told how the dial goes. */
void exposure_client_opened(struct client *c);
void exposure_client_ended(struct client *c, int err);
/* Main. expose_dial.c: the worker's part begins anew, or is over. */
void exposure_dial_again(struct exposure_dial *d, struct exposure *e, int fd);
void exposure_dial_turned_away(struct exposure_dial *d);
bool exposure_dial_is_wanted(const struct exposure_dial *d);
/* Main. expose_stream.c: as exposure_give. */
void exposure_give_again(struct exposure *e, int fd, const struct addr *peer);

/* Worker. What those who serve clients need of expose.c. */
void exposure_record(struct exposure *e, const struct exposure_record *r); /* fills in the rest */
bool exposure_tell_target(struct exposure *e, int err); /* whether that is news */
/* The same of flows: that one opens says nothing of what its datagrams are answered with. */
void exposure_flow_opened(struct exposure *e);
void exposure_flow_refused(struct exposure *e, int err);
void exposure_log_not_reached(const struct exposure *e, const struct addr *client, int err);
/* One more stream or flow of this client: 0, ERR_LIMIT or ERR_RATE; then one exposure_leave. */
int exposure_enter(struct exposure *e, const struct addr *client);
void exposure_leave(struct exposure *e);
/* A refusal is counted, but of a flood not all are written down. */
bool exposure_shows_refusal(struct exposure *e, const struct addr *client, int err);
void exposure_name_record(const struct exposure *e, struct exposure_record *r);
void exposure_hold(struct exposure *e); /* a client more: it does not end before */
void exposure_release(struct exposure *e);
int exposure_stop_reason(const struct exposure *e); /* 0: it serves */
const char *exposure_cut_text(int err);             /* how streams end by that */
/* What every request bears; until the next call. */
const struct h2_header *exposure_headers(struct exposure *e, size_t *ret_n);

/* expose_udp.c: the clients of a UDP tunnel. Made and freed with the exposure (free on the worker),
 * works on the worker. */
struct exposure_udp *exposure_udp_new(struct exposure *e, uint32_t idle_ms);
int exposure_udp_start(struct exposure_udp *u, int fd); /* the owner closes it after free */
void exposure_udp_set_proxy(struct exposure_udp *u, enum proxy_version proxy);
void exposure_udp_refuse_new(struct exposure_udp *u);
void exposure_udp_linger(struct exposure_udp *u); /* stopped: answers may still come, for a while */
void exposure_udp_stop(struct exposure_udp *u, int err); /* cuts the flows; 0: only no more input */
void exposure_udp_done(struct exposure_udp *u);          /* worker: after the last flow */
void exposure_udp_free(struct exposure_udp *u);
void exposure_udp_traffic(const struct exposure_udp *u,
                          struct tunnel_traffic *sum); /* any thread */
size_t exposure_udp_list(const struct exposure_udp *u, struct exposure_record *ret, size_t room);
uint32_t exposure_udp_open(const struct exposure_udp *u);
