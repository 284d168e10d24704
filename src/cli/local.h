/*
 * Doors for local programs: listening sockets on this machine whose clients become streams into a
 * network, through the hub's proxy (cli/uplink.h). A door leads to one target, or asks its clients
 * where they want to go (SOCKS 5, 4a, HTTP).
 *
 * Everything on one loop. Which file has what: local.c the session, local_client.c a client's
 * stream, local_hello.c what a proxy's client says first, local_web.c its plain requests,
 * local_udp.c datagrams, local_status.c what the user sees.
 */
#pragma once

#include "cli/command.h"
#include "cli/uplink.h"
#include "loop/io.h"
#include "net/flow.h"
#include "net/relay.h"

#include <jansson.h>

#define LOCAL_CLIENTS_MAX 4096
#define LOCAL_USERS_MAX   1000
#define LOCAL_HELLO_MS    10000
#define LOCAL_HELLO_MAX   16384 /* bytes of an HTTP head */
#define LOCAL_TARGET_SIZE (HOST_SIZE + 8)

/* Who may use a proxy: "user:password" each. None: everyone who can reach it. */
struct local_users {
    char **lines;
    size_t n;
};

struct local_door {
    struct local *local;
    struct addr at;
    int fd;
    struct listener *listener;
    bool is_proxy, is_udp;
    struct host_port target; /* unless is_proxy */
    struct local_port *port; /* is_udp: local_udp.c's */
    struct local_door *prev, *next;
};

struct local {
    struct call *call;
    struct loop *loop;
    struct uplink *uplink;
    const struct http_client_config *http;
    const char *network;
    struct local_users users;
    struct relay_set relays;
    struct flow_set flows;
    struct local_door *doors;
    struct local_client *clients;
    size_t n_clients;
    struct local_web *web; /* NULL: not needed yet */
    bool is_stopping;
    struct diag diag; /* why it ends; code 0: because it was asked to */

    /* local_status.c's. */
    struct {
        bool is_json, is_line;
        struct timer tick;
        uint64_t bytes_before;
        char last[512]; /* the last note, and when it was given */
        uint64_t last_ms;
        enum uplink_state shown;
    } status;
};

/* ---- local.c ---- */

/* A door at "ADDRESS:PORT". Failures are in the call's diagnosis. */
int local_open(struct local *l, const char *at, uint16_t port, bool is_udp,
               const struct host_port *target);
/* Runs until a signal or a refusal by the hub, or fails; frees what `l` has. The command's result.
 */
int local_run(struct local *l, int rc); /* rc < 0: a door could not be opened: only frees */
/* Reads "user:password" lines. */
int local_users_read(struct call *c, const char *path, struct local_users *ret);
bool local_users_know(const struct local_users *u, const char *user, const char *password);

/* ---- local_client.c ---- */

enum local_style { LOCAL_PLAIN, LOCAL_SOCKS5, LOCAL_SOCKS4, LOCAL_HTTP_CONNECT };

struct local_client {
    struct local *local;
    struct local_door *door;
    struct addr peer;
    int fd;       /* -1: the relay's, or closed */
    struct io io; /* watches fd for the hello */
    enum local_style style;
    bool is_greeted, is_known; /* SOCKS 5: method chosen; password good */
    struct host_port target;
    struct timer deadline;
    struct uplink_waiter waiter;
    struct relay *relay;
    struct local_associate *associate;
    struct local_client *prev, *next;
};

void local_client_new(struct local_door *door, int fd, const struct addr *peer);
/* The hello is over: the target is known. */
void local_client_connect(struct local_client *c);
/* Says why not, in the client's own protocol, and ends it. */
void local_client_fail(struct local_client *c, int err);
void local_client_send(struct local_client *c, const void *data, size_t len); /* small answers */
void local_client_close(struct local_client *c, bool is_reset);
void local_clients_cut(struct local *l);

/* ---- local_hello.c ---- */

void local_hello_start(struct local_client *c);
/* By Proxy-Authorization; NULL: the client sent none. */
bool local_users_know_header(const struct local_users *u, const char *header);

/* ---- local_web.c: plain requests, "GET http://host/path" ---- */

void local_web_take(struct local_client *c); /* its socket; the client is freed */
void local_web_end(struct local *l);         /* no new requests, and the open ones are cut */
void local_web_free(struct local *l);        /* after local_web_end and the last relay */

/* ---- local_udp.c ---- */

int local_port_open(struct local_door *d);
void local_port_close(struct local_door *d);
/* SOCKS 5 UDP ASSOCIATE: lives as long as its client's connection. */
int local_associate_new(struct local_client *c, struct addr *ret_bound);
void local_associate_end(struct local_client *c);

/* ---- local_status.c ---- */

void local_status_start(struct local *l);
void local_status_end(struct local *l);
void local_status_state(struct local *l); /* the uplink's has changed */
void local_status_door(struct local *l, const struct local_door *d);
/* One line for the user; the same again within a few seconds is left out. */
void local_note(struct local *l, const char *format, ...) PRINTF_LIKE(2, 3);
