/*
 * A cluster on virtual time: five hubs, fifty agents, twenty tunnels and a database, which follow
 * the rules of routes (tunnel_route.h) and of hubs' leases (peer/hub_lease.h).
 *
 * The database is a struct, and what it decides is written as in its SQL (tunnel_store_claim,
 * peers.c, fleet_session.c), but for one thing: a claim of a hub's earlier start that comes after
 * its next start is refused here, and the SQL relies on the order of its transactions. Hubs ask it
 * by messages that take their time, overtake each other, are carried out although their hub has
 * died, and whose answers may be lost. Its feed is seen late, by each hub in its own time but in
 * order.
 */
#pragma once

#include "peer/hub_lease.h"
#include "tunnel/tunnel_route.h"

#define HUBS         5
#define AGENTS       50
#define NETWORKS     10 /* agent a is of network a % NETWORKS, tunnel t of t % NETWORKS */
#define TUNNELS      20
#define STEP_MS      50
#define FEED_MAX     32768
#define MAIL_MAX     4096
#define DELAY_MAX_MS 2000 /* of a message to the database, and of its answer */

struct session {
    uint64_t epoch;
    int hub; /* -1: disconnected */
    uint64_t hub_epoch;
};

struct lease_row {
    uint64_t epoch, expires_ms;
};

/* What is committed. A change of the feed is the row as it was then, of a tunnel or an agent. */
struct change {
    bool is_agent;
    int id;
    struct tunnel_route route;
    struct session session;
};

struct db {
    struct lease_row hubs[HUBS];
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    struct change feed[FEED_MAX];
    size_t n_feed;
};

/* One hub: what it believes. */
struct hub {
    bool is_alive, is_frozen, is_cut; /* cut: from the database */
    bool is_draining;
    bool is_alone; /* it was cut from the database and a hub at once, and has not heard all since */
    uint64_t epoch;
    struct hub_lease lease;
    uint64_t renew_at_ms, started_ms, frozen_ms;
    size_t read; /* of the feed */
    struct session agents[AGENTS];
    struct tunnel_route tunnels[TUNNELS];
    bool is_claiming[TUNNELS];
    struct {
        uint64_t epoch, ends_ms;
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
    MAIL_READ,
    MAIL_LOGIN,
    MAIL_LOGOUT,
    MAIL_RENEW,
    MAIL_CLAIMED, /* with the row, whoever's it is */
    MAIL_LOGGED_IN,
    MAIL_RENEWED
};

struct mail {
    enum mail_kind kind;
    uint64_t due_ms;
    int hub, id; /* of a tunnel or an agent */
    uint64_t hub_epoch;
    uint64_t number; /* seen epoch, attempt, session, or when it was asked */
    uint64_t now_ms; /* the database's */
    bool is_answer_lost;
    struct tunnel_route route;
    struct lease_row leases[HUBS];
};

struct world {
    uint64_t now_ms;
    bool is_calm; /* agents stay where they are, and no answer is lost */
    struct db db;
    struct hub hubs[HUBS];
    struct agent agents[AGENTS];
    bool parted[HUBS][HUBS];   /* no link between them */
    uint64_t highest[TUNNELS]; /* epoch ever given */
    struct mail mail[MAIL_MAX];
    size_t n_mail;
    uint64_t random;
    struct {
        uint64_t claims, refused, in_doubt, of_the_dead, late_logins, moved;
    } seen; /* how often what is to be tested came up */
};

extern struct world w;

void world_start(uint64_t seed);
void world_step(void);
/* Whether all that was asked is answered, and all hubs have read the feed. */
bool world_is_quiet(void);

uint32_t draw(uint32_t n);
void hub_start(int i);
/* What follows from the route that the hub knows. */
enum route_duty hub_duty(int i, int tunnel, bool has_agent);
bool hub_reaches_db(const struct hub *h);
/* The hub's number in a route; -1: nobody serves. */
int hub_of_route(const struct tunnel_route *r);
/* Whether an agent takes streams under this route: the connection is there, and of that session. */
bool world_is_served_by(int hub, const struct tunnel_route *r);
/* Whether the route's agent has logged in once more since, wherever that is known. */
bool world_has_moved(const struct tunnel_route *r);
