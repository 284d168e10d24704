/*
 * The gRPC client on one HTTP/2 connection that is already handshaked. Belongs to the connection's
 * loop. Callbacks always come later, never from inside the function that started the call.
 */
#pragma once

#include "base/diag.h"
#include "rpc/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct conn;
struct loop;
struct rpc_client;
struct rpc_client_call;

/* Takes the connection. `on_close` is called once when it is lost (or the peer said GOAWAY and the
 * last call has ended), after every open call was told; not after rpc_client_free(). */
int rpc_client_new(struct conn *c, const char *authority, void (*on_close)(void *arg, int err),
                   void *arg, struct rpc_client **ret);
void rpc_client_free(struct rpc_client *c); /* calls end without a callback */
struct conn *rpc_client_conn(const struct rpc_client *c);

/* How a call ended: d->code is 0 or ERR_* (of the status; ERR_CLOSED when the connection was lost),
 * d->text what the server said. */
struct rpc_result {
    enum rpc_status status;
    struct diag diag;
};

/* `reply` is NULL unless the result is OK; it is valid during the callback. `timeout_ms` 0: none;
 * it is also sent as grpc-timeout. */
typedef void rpc_unary_fn(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply);
struct rpc_client_call *rpc_call_unary(struct rpc_client *c, const char *path,
                                       const ProtobufCMessage *request,
                                       const ProtobufCMessageDescriptor *reply, uint32_t timeout_ms,
                                       rpc_unary_fn *done, void *arg);

typedef void rpc_message_fn(void *arg, const ProtobufCMessage *msg);
typedef void rpc_end_fn(void *arg, const struct rpc_result *r);
struct rpc_client_call *rpc_call_stream(struct rpc_client *c, const char *path,
                                        const ProtobufCMessage *request,
                                        const ProtobufCMessageDescriptor *reply,
                                        uint32_t timeout_ms, rpc_message_fn *on_message,
                                        rpc_end_fn *done, void *arg);
/* No callback follows. Not after `done` was called. */
void rpc_call_cancel(struct rpc_client_call *call);
