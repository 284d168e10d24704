/* Between session.c and session_leg.c only. */
#pragma once

#include "base/backoff.h"
#include "fleet/comeback.h"
#include "fleet/hub_probe.h"
#include "fleet/session.h"

#include <protobuf-c/protobuf-c.h>

struct rpc_result;
struct tls_client;

/* A login at one hub: being made, the session itself, or left behind. */
struct leg {
    struct session *session; /* NULL: over, to be freed */
    struct hub_entry hub;
    char name[HOST_SIZE + 16]; /* as it is told to people */
    char hub_id[ID_SIZE];      /* after its welcome */
    struct tls_client *control, *reverse;
    struct dial *dial;
    struct rpc_client *rpc;
    struct reverse_pool *pool;
    struct shortcuts *shortcuts;
    struct timer timer; /* for its welcome; for what was left */
    struct leg *next_over;
};

struct session {
    struct session_config cfg;
    struct hub_list hubs;
    struct hub_probe *probe;
    struct leg *leg;  /* the session, or the attempt to have one; NULL: between attempts */
    struct leg *next; /* the attempt to have another one instead, which moves */
    struct leg *left; /* the one before, of which streams may go on */
    struct leg *over;
    struct defer bury;
    struct comeback comeback;
    struct backoff move_backoff;
    struct timer retry, move;
    uint64_t left_ends_ms; /* loop time */
    bool is_up;
    uint64_t epoch;
    bool wants_reverse;
    bool is_told_revoked; /* in the log */
    uint32_t n_reverse;   /* if any; as the hub says */
    char **allow;
    size_t n_allow;
    char status[256];
};

/* session.c */
void session_look_at_certificate(struct session *s, int err);
void session_leg_fail(struct leg *l, const struct diag *why, uint32_t delay_ms);
/* Of the leg's control stream. */
void session_on_message(void *leg, const ProtobufCMessage *msg);
void session_on_stream_end(void *leg, const struct rpc_result *r);
void session_on_rpc_close(void *leg, int err);

/* session_leg.c: a login, from the dial to the Connect that is sent. */
struct leg *session_leg_new(struct session *s, const struct hub_entry *e);
/* What its certificates are now: for connections from now on. */
int session_leg_load_tls(struct leg *l, struct diag *d);
int session_make_tls(const struct session *s, const char *server_name, const char *alpn,
                     struct tls_client **ret, struct diag *d);
int session_leg_dial(struct leg *l, struct diag *d);
void session_leg_free(struct leg *l); /* not from its callbacks */
