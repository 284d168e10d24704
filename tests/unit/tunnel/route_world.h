/*
 * A cluster on virtual time: five hubs, fifty agents, twenty tunnels and a database, which follow
 * the rules of routes (tunnel_route.h) and of hubs' leases (peer/hub_lease.h).
 *
 * The database (route_db.c) is a struct, and what it decides is written as in its SQL
 * (tunnel_store_route.c, peers.c, fleet_session.c). Hubs ask it by messages that take their time,
 * are carried out although their hub has died, fail, are carried out twice where the hub asks until
 * it is told, and whose answers may be lost. Each hub's are carried out in the order in which it
 * asked, as its store does; those of a dead start may come long after its next one. It fails over
 * to a replica that lacks the newest commits, and whose clock is another one.
 *
 * Its feed says what has changed, and no more: a hub follows it in its own time, in order, and
 * reads each row anew.
 */
#pragma once

#include "peer/hub_lease.h"
#include "tunnel/tunnel_route.h"

#include <stddef.h>

#define HUBS         5
#define AGENTS       50
#define NETWORKS     10 /* agent a is of network a % NETWORKS, tunnel t of t % NETWORKS */
#define TUNNELS      20
#define SHARED       4    /* each so many-th tunnel is held by all agents of its hub */
#define LINK_MS      2000 /* until two hubs that can reach each other do */
#define STEP_MS      50
#define FEED_MAX     32768
#define UNDO_MAX     2048
#define MAIL_MAX     8192
#define DELAY_MAX_MS 2000  /* of a message to the database, and of its answer */
#define LATE_MAX_MS  20000 /* of one that a process sends which has slept, and was replaced */
#define RETRY_MS     1000  /* of a renewal (peers.c) */
#define LOST_MAX_MS  3000  /* what a fail-over loses */

struct session {
    uint64_t epoch;
    int hub; /* -1: disconnected */
    uint64_t hub_epoch;
};

struct lease_row {
    uint64_t epoch, expires_ms; /* by the database's clock */
};

enum row_kind { ROW_TUNNEL, ROW_AGENT, ROW_HUB };

/* Of the feed: whose row, and which epoch it had then. */
struct change {
    enum row_kind kind;
    int id;
    uint64_t epoch;
};

/* What a commit has replaced. */
struct undo {
    enum row_kind kind;
    int id;
    uint64_t at_ms; /* the world's */
    size_t n_feed;
    struct tunnel_route route;
    struct session session;
    struct lease_row lease;
};

/* What is committed. */
struct db {
    struct lease_row hubs[HUBS];
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    struct change feed[FEED_MAX];
    size_t n_feed;
    struct undo undo[UNDO_MAX];
    size_t n_undo;
    uint64_t timeline; /* how often it failed over */
    int64_t ahead_ms;  /* its clock before the world's */
};

/* One hub: what it believes. Times of its own clock end in `_own`. */
struct hub {
    bool is_alive, is_frozen, is_cut; /* cut: from the database */
    bool is_draining;
    bool is_alone; /* it was cut from the database and a hub at once, and has not heard all since */
    bool is_behind;  /* the database has failed over, and it has not caught up with it */
    bool is_renewed; /* ... but for its lease */
    uint64_t epoch;
    uint64_t ahead_ms; /* its clock before the world's */
    uint64_t started_ms, died_ms, died_before_ms, frozen_ms, whole_ms; /* since when it is whole */
    struct hub_lease lease;
    uint64_t renew_at_own;
    bool is_renewing;
    uint64_t asked_until_ms, answered_until_ms; /* no message overtakes the one before */
    size_t read;                                /* of the feed */
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    bool is_claiming[TUNNELS], is_in_doubt[TUNNELS], is_releasing[TUNNELS];
    size_t n_asked;                                   /* rows and restored rows under way */
    size_t reading_agent[AGENTS], reading[TUNNELS];   /* ... of them: rows */
    uint64_t heard_agent[AGENTS], heard[TUNNELS];     /* the highest epoch that the feed told of */
    bool is_agent_undone[AGENTS], is_undone[TUNNELS]; /* a fail-over has lost what it was told */
    struct {
        uint64_t epoch, expires_ms, ends_own;
    } others[HUBS];
};

struct agent {
    int hub; /* -1: none */
    uint64_t epoch;
    int dials; /* the hub that it logs in at; -1: none */
    uint64_t attempt, dial_at_ms, give_up_ms;
};

/* To the database, and its answers. */
enum mail_kind {
    MAIL_CLAIM,
    MAIL_RELEASE,
    MAIL_RESTORE, /* what a fail-over has lost */
    MAIL_READ,
    MAIL_LOGIN,
    MAIL_LOGOUT,
    MAIL_RESTORE_SESSION,
    MAIL_READ_AGENT,
    MAIL_RENEW,
    MAIL_CLAIMED, /* the first of the answers: with the row, whoever's it is */
    MAIL_RELEASED,
    MAIL_ROW,
    MAIL_LOGGED_IN,
    MAIL_AGENT_ROW,
    MAIL_RESTORED,
    MAIL_RENEWED
};

struct mail {
    enum mail_kind kind;
    uint64_t due_ms, number; /* the order in which they were sent */
    int hub, id;             /* of a tunnel or an agent */
    uint64_t hub_epoch;
    uint64_t value;  /* seen epoch, attempt, session, or when it was asked */
    uint64_t now_ms; /* the database's */
    bool is_answer_lost, is_failed, is_patient, is_again, is_silent, is_undone;
    struct tunnel_route route;
    struct session session;
    struct lease_row leases[HUBS];
};

/* What is to be tested, of which is counted how often it came up. */
enum seen {
    SEEN_CLAIMED,
    SEEN_REFUSED,
    SEEN_IN_DOUBT,
    SEEN_FAILED,
    SEEN_OF_THE_DEAD,
    SEEN_LATE_LOGIN,
    SEEN_MOVED,
    SEEN_RELEASED,
    SEEN_TWICE,
    SEEN_FAIL_OVER,
    SEEN_LOST,
    SEEN_RESTORED,
    SEEN_LEFT_AGAIN,
    SEEN_REWRITTEN,
    SEEN_COUNT
};

struct world {
    uint64_t now_ms;
    bool is_calm; /* agents stay where they are, and no message fails */
    struct db db;
    struct hub hubs[HUBS];
    struct agent agents[AGENTS];
    bool parted[HUBS][HUBS];       /* no link between them, */
    uint64_t links_ms[HUBS][HUBS]; /* since when there can be one */
    uint64_t highest[TUNNELS];     /* epoch ever given */
    uint64_t failed_over_ms;       /* when the database did last; 0: never */
    struct mail mail[MAIL_MAX];
    size_t n_mail;
    uint64_t n_sent;
    uint64_t random;
    uint64_t seen[SEEN_COUNT];
};

extern struct world w;

void world_start(uint64_t seed);
void world_step(void);
/* Whether all that was asked is answered, and all hubs have read the feed. */
bool world_is_quiet(void);

const char *world_seen_name(enum seen s);

uint32_t draw(uint32_t n);
void hub_start(int i);
void hub_die(int i);
/* What follows from the route that the hub knows. */
enum route_duty hub_duty(int i, int tunnel, bool has_agent);
bool hub_reaches_db(const struct hub *h);
/* The hub's number in a route; -1: nobody serves. */
int hub_of_route(const struct tunnel_route *r);
int agent_of_route(const struct tunnel_route *r);
/* Whether an agent takes streams under this route: the connection is there, and of that session. */
bool world_is_served_by(int hub, int tunnel, const struct tunnel_route *r);
/* An agent of the tunnel's network whose connection ends there; -1: none. */
int world_own_agent(int hub, int tunnel);
bool world_is_linked(int a, int b);
/* Whether the route's agent has logged in once more since, wherever that is known. */
bool world_has_moved(const struct tunnel_route *r);

/* route_mail.c: messages of hubs to the database, and its answers. */
bool world_chance(uint32_t one_in); /* never in a calm world */
struct mail mail_from(int hub, struct mail m);
void mail_post(struct mail m, uint64_t due_ms);
void mail_ask(int hub, struct mail m);            /* it may fail, or nobody hears how it went */
void mail_ask_until_done(int hub, struct mail m); /* store_run_patient, store_reread */
/* Those that are due, in the order in which they were sent; false: again in the next step. */
void mail_deliver(bool (*deliver)(struct mail *m));

/* route_db.c: what is asked, carried out; it is answered by world_answer. */
void db_carry_out(const struct mail *m);
void db_start_hub(int hub); /* the row of a new start */
/* To a replica that has all but the commits of the last `lost_ms`. */
void db_fail_over(uint64_t lost_ms, int64_t clock_ms);
uint64_t db_now_ms(void);
void world_answer(const struct mail *to, enum mail_kind kind);
