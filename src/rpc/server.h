/*
 * The gRPC server (grpc/doc/PROTOCOL-HTTP2.md): unary and server-streaming methods, served on
 * HTTP/2 connections that arrive already handshaked. Belongs to one loop.
 *
 * Whoever holds a call must finish it exactly once (rpc_reply, rpc_finish or rpc_fail), now or
 * later. A client that cancels, passes its deadline or disconnects changes nothing for the holder:
 * the call stays valid, it is told by rpc_on_cancel, and what it sends goes nowhere.
 */
#pragma once

#include "base/macro.h"
#include "rpc/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;
struct loop;
struct rpc_server;
struct rpc_session;
struct rpc_call;

#define RPC_MESSAGE_MAX (1024 * 1024) /* bytes of one message, either way */

enum rpc_kind { RPC_UNARY, RPC_SERVER_STREAM };

struct rpc_method {
    const char *path; /* "/warren.v1.AgentService/Connect" */
    enum rpc_kind kind;
    const ProtobufCMessageDescriptor *request;
    /* `request` is valid during the call of the handler only. */
    void (*handler)(struct rpc_call *call, const ProtobufCMessage *request, void *ctx);
};

struct rpc_server_config { /* limits: 0 takes the default */
    struct loop *loop;
    uint32_t sessions;          /* 65536 connections */
    uint32_t calls_per_session; /* 32 at once */
    size_t stream_backlog;      /* 1 MiB unsent per call */
    /* A connection came or went; both may be NULL. What `on_open` returns is the session's user
     * pointer. All calls of a session are told of the cancellation before on_close. */
    void *(*on_open)(struct rpc_session *s, void *arg);
    void (*on_close)(struct rpc_session *s, void *user, int err, void *arg);
    void *arg;
};

int rpc_server_new(const struct rpc_server_config *cfg, struct rpc_server **ret);
void rpc_server_add(struct rpc_server *s, const struct rpc_method *rows, size_t n, void *ctx);
/* Owns the connection from here: attached to the server's loop, handshaked. */
void rpc_server_take(struct rpc_server *s, struct conn *c);
/* GOAWAY to every session; they close when their calls are finished. */
void rpc_server_drain(struct rpc_server *s);
void rpc_server_free(struct rpc_server *s); /* aborts all; calls still held stay valid */

struct rpc_stats {
    uint64_t calls, failed; /* failed: status other than OK */
    uint32_t sessions, open_calls;
};
void rpc_server_stats(const struct rpc_server *s, struct rpc_stats *ret);

/* --- a session: one connection ---------------------------------------------------------------- */

struct conn *rpc_session_conn(const struct rpc_session *s); /* peer address and certificate */
void *rpc_session_user(const struct rpc_session *s);
/* Closes it now: every call is cancelled, the peer sees GOAWAY and the end. on_close comes later.
 */
void rpc_session_close(struct rpc_session *s);

/* --- a call ----------------------------------------------------------------------------------- */

struct rpc_session *rpc_call_session(const struct rpc_call *call); /* NULL once disconnected */
bool rpc_call_is_cancelled(const struct rpc_call *call);
/* At most once, when nobody waits for the answer any more. The call must still be finished, which
 * `fn` may do itself. */
void rpc_on_cancel(struct rpc_call *call, void (*fn)(struct rpc_call *call, void *arg), void *arg);

/* Unary: the message and OK. */
void rpc_reply(struct rpc_call *call, const ProtobufCMessage *msg);
/* Streaming: one more message. ERR_CLOSED when cancelled; ERR_LIMIT when the backlog is full, the
 * stream is then reset (RESOURCE_EXHAUSTED) and rpc_on_cancel's callback follows. */
int rpc_send(struct rpc_call *call, const ProtobufCMessage *msg);
void rpc_finish(struct rpc_call *call, enum rpc_status status, const char *message);
/* rpc_finish with the status of an ERR_* code. */
void rpc_fail(struct rpc_call *call, int code, const char *format, ...) PRINTF_LIKE(3, 4);
