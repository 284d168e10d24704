/*
 * The core of a hub (store, fleet, tunnels, two worker threads) and real agents, all in one
 * process: everything but identity and HTTP. The hub's main loop and the agents share the test's
 * loop.
 */
#pragma once

#include "../net/fixture.h"
#include "fleet/session.h"
#include "hub/worker.h"
#include "pki/ca.h"
#include "tunnel/internal.h"
#include "tunnel/tunnel_agent.h"

#define BENCH_CLIENTS_MAX 16
#define BENCH_WORKERS     2
#define AGENT_1           "agt_0000000000000001"
#define AGENT_2           "agt_0000000000000002"

struct bench {
    char dir[64];
    struct loop *loop;
    struct store *store;
    struct ca *ca;
    char *ca_pem;
    struct fleet *fleet;
    struct tunnels *tunnels;
    struct tls_server *tls;
    struct worker *workers[BENCH_WORKERS];
    struct addr address;
    char url[64];
    bool is_stopped;

    /* The target: what it accepted. */
    int target_fd;
    struct addr target_address;
    struct listener *target;
    int served[BENCH_CLIENTS_MAX];
    size_t n_served;
};

struct bench_agent {
    struct bench *bench;
    struct agent_identity identity;
    struct session *session;
    struct tunnel_agent *tunnels;
    int ups, downs;
};

int bench_set_up(void **state);
int bench_tear_down(void **state);

/* Makes the agent of that id, if it is not there yet, and runs it until it is logged in. */
void bench_agent_start(struct bench *b, struct bench_agent *a, const char *id);
void bench_agent_stop(struct bench_agent *a);

/* Creates a tunnel as the REST row does, to the bench's target; `listen` NULL: no endpoint. */
struct tunnel_object *bench_tunnel(struct bench *b, const char *name, const char *listen,
                                   int64_t ttl_ms);
/* Deletes it in the database and then here. */
void bench_delete(struct bench *b, struct tunnel_object *o);
/* Runs and waits. */
void bench_write(struct bench *b, int (*work)(struct tx *tx, void *arg), void *arg);
int64_t bench_query(struct bench *b, const char *sql);

/* A client of the tunnel, connected. */
int bench_connect(struct bench *b, struct tunnel_object *o);
/* Sends `text` into `from` and waits until it comes out of `to`. */
void bench_pass(struct bench *b, int from, int to, const char *text);
/* Whether the other side has ended or reset the connection by now. */
bool bench_is_ended(int fd);

void bench_wait_active(struct bench *b, const struct tunnel_object *o);
/* A tunnel "web" that AGENT_1, started here, serves. */
struct tunnel_object *bench_serve(struct bench *b, struct bench_agent *a, const char *listen,
                                  int64_t ttl_ms);
void bench_change_target(struct tunnel_object *o, uint16_t port);
/* What the main loop told the worker before has been done when this returns. */
void bench_settle_worker(struct bench *b, struct tunnel_object *o);
