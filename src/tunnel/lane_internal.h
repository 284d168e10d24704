/* Shared by tunnel_lane.c, lane_stream.c and lane_hub.c only. */
#pragma once

#include "net/h2conn.h"
#include "net/relay.h"
#include "tunnel/tunnel_lane.h"
#include "tunnel/tunnel_proxy.h"

#include <stdatomic.h>

#define LANE_WORKER_SIZE 16

struct tunnel_lane {
    struct tunnels *tunnels;
    struct loop *main, *loop;
    struct tunnel_forward *forward;
    struct tunnel_lane *prev, *next; /* of the tunnels'; main loop */

    /* The lane's loop's. */
    struct relay_set relays;
    struct exposure_index index; /* of what serves on the loop */
    struct h2_budget hubs_budget;
    struct client_conn *conns;
    _Atomic uint32_t n_conns;
    size_t n_strangers;
    bool is_draining, is_stopped;
    void (*done)(void *arg);
    void *done_arg;
};

struct client_conn {
    struct tunnel_lane *lane;
    struct h2conn *hc;
    struct timer deadline; /* of a stranger */
    bool is_known;
    char hub[ID_SIZE];             /* which hub it is, by its certificate; empty: a client */
    char worker[LANE_WORKER_SIZE]; /* of a hub: see lane_name_worker */
    struct client_conn *prev, *next;
};

struct lane_stream {
    _Atomic uint32_t refs;
    struct tunnel_lane *lane;
    struct tunnel_proxy_ask ask;              /* its strings are this stream's */
    char *credentials, *authority, *udp_path; /* no target: "OPTIONS *" */
    char *scope;
    char hub[ID_SIZE]; /* which forwards it; empty: a client's own */
    char *ticket;
    char tag[RELAY_TAG_SIZE];      /* see exposure_goal */
    bool is_bad;                   /* a header of it cannot be read */
    char worker[LANE_WORKER_SIZE]; /* the hub that forwards it is told; see RELAY_WORKER */
    bool is_scan;                  /* another hub's: the agent itself is meant */
    uint8_t ttl;                   /* of what reaches for the target; 0: as usual */
    struct tunnel_ranges allow;    /* of echoes that another hub forwards */

    /* What follows as the main loop's is the lane's: it was let in without asking there. */
    bool is_here;

    /* The lane's loop's. */
    struct relay *relay;      /* NULL: ended */
    struct client_conn *conn; /* NULL: not one of the lane's own, or gone */

    /* The main loop's. */
    struct tunnel_demand demand;
    struct tunnel_await await; /* while it waits, it has a reference */
    struct exposure_dial *dial;
    bool is_open; /* the target was reached */
};

/* tunnel_lane.c. The credentials were good; NULL: none of the lane's own. */
void lane_conn_meet(struct client_conn *c);
/* Which of how many workers has this loop: "1/2"; left alone if it is none's. */
void lane_name_worker(const struct tunnels *ts, const struct loop *l, char ret[LANE_WORKER_SIZE]);

/* lane_stream.c. The lane's loop. Neither authority nor path: "OPTIONS *". */
void lane_stream_start(struct tunnel_lane *lane, struct client_conn *conn, struct h2_stream *h2,
                       const struct h2_headers *h, const char *authority, const char *udp_path);
struct lane_stream *lane_stream_ref(struct lane_stream *s);
void lane_stream_unref(struct lane_stream *s);
/* Main loop: what a dial for it takes; then it is on its way, or it is not. */
struct tunnel_lane_dial lane_stream_dial(struct lane_stream *s, const struct exposure_goal *goal);
void lane_stream_begin(struct lane_stream *s, const struct tunnel_lane_dial *d);
void lane_stream_refuse(struct lane_stream *s, int err); /* ERR_STALE: the tunnel is not here */

/* lane_hub.c: a stream that another hub forwards. Main loop. */
void lane_hub_admit(struct lane_stream *s);
/* The lane's loop: if it can be let in there and then; else the main loop is to be asked. */
bool lane_hub_admit_here(struct lane_stream *s);
