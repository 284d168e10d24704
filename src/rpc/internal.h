/* Shared by the server's files only. */
#pragma once

#include "loop/loop.h"
#include "net/h2conn.h"
#include "rpc/message.h"
#include "rpc/server.h"
#include "wire/grpc.h"

#define RPC_CLOSE_MS 5000 /* for a client to take the last bytes of a finished call */

struct rpc_table {
    const struct rpc_method *rows;
    size_t n;
    void *ctx;
    struct rpc_table *next;
};

struct rpc_server {
    struct rpc_server_config cfg;
    struct rpc_table *tables;
    struct rpc_session *sessions;
    struct rpc_stats stats;
    bool is_draining;
};

struct rpc_session {
    struct rpc_server *server; /* NULL once the server is gone */
    struct h2conn *hc;
    void *user;
    struct rpc_call *calls;
    bool is_open; /* on_open was called, on_close not yet */
    struct rpc_session *prev, *next;
};

/* A call is freed when its stream is closed and its holder, if it ever had one, has finished it. */
struct rpc_call {
    struct rpc_session *session; /* NULL once disconnected */
    struct h2_stream *stream;    /* NULL once closed */
    struct loop *loop;
    const struct rpc_method *method;
    void *ctx;
    struct grpc_reader reader;
    ProtobufCMessage *request;
    struct rpc_outbox out;
    struct timer deadline;
    void (*on_cancel)(struct rpc_call *call, void *arg);
    void *on_cancel_arg;
    bool is_held; /* handed to its handler, not finished by it */
    bool is_cancelled;
    bool has_begun; /* response headers are out */
    bool is_ended;  /* the status is decided */
    struct rpc_call *prev, *next;
};

/* call.c: a stream of a session has a request for a call. */
void rpc_call_accept(struct rpc_session *s, struct h2_stream *stream, const struct h2_headers *h);
